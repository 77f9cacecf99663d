// Kernels of every path that this machine can run: the same bits, and bits that do not depend on other rows.
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>

#include "cpu/paths.h"
#include "program/formats.h"
#include "program/pack.h"
#include "tests/check.h"

using namespace plait;

namespace {

using Floats = std::vector<float>;

Floats random_floats(std::size_t n, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    Floats values(n);
    for (float& value : values) value = normal(random);
    return values;
}

bool same_bits(const Floats& a, const Floats& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

std::span<const std::uint8_t> bytes_of(const Floats& values) {
    return {reinterpret_cast<const std::uint8_t*>(values.data()), values.size() * sizeof(float)};
}

Floats product(const Kernels& kernels, const Floats& x, int rows, const Matrix& weight) {
    Floats out(static_cast<std::size_t>(rows) * static_cast<std::size_t>(weight.rows)),
        scratch(linear_scratch(weight.columns));
    kernels.linear({{x.data(), static_cast<std::size_t>(weight.columns), nullptr, rows},
                    weight,
                    nullptr,
                    out.data(),
                    static_cast<std::size_t>(weight.rows),
                    0,
                    weight.rows,
                    scratch.data()});
    return out;
}

TEST(products_are_near_the_exact_ones) {
    constexpr int rows = 5, inputs = 83, outputs = 13;
    const Floats x = random_floats(rows * inputs, 1), w = random_floats(outputs * inputs, 2);
    const Floats out = product(scalar_kernels(), x, rows, make_matrix(bytes_of(w), "F32", outputs, inputs));
    for (int r = 0; r < rows; ++r) {
        for (int c = 0; c < outputs; ++c) {
            double exact = 0;
            for (int k = 0; k < inputs; ++k) exact += double{x[r * inputs + k]} * double{w[c * inputs + k]};
            CHECK(std::abs(exact - double{out[r * outputs + c]}) < 1e-4);
        }
    }
}

TEST(products_have_the_same_bits_on_every_path_for_any_number_of_rows) {
    for (const int inputs : {1, 16, 31, 64, 100}) {
        const int outputs = 21, rows = 9;
        const Floats x = random_floats(static_cast<std::size_t>(rows * inputs), 3);
        const Floats w = random_floats(static_cast<std::size_t>(outputs * inputs), 4);
        const Matrix weight = make_matrix(bytes_of(w), "F32", outputs, inputs);
        const Floats want = product(scalar_kernels(), x, rows, weight);
        for (const std::string& path : usable_paths()) {
            for (int count = 1; count <= rows; ++count) {
                const Floats got = product(kernels_of(path), x, count, weight);
                CHECK(same_bits(got, Floats(want.begin(), want.begin() + count * outputs)));
            }
        }
    }
}

TEST(keys_and_values_are_stored_with_the_same_bits_on_every_path) {
    Floats values = random_floats(4096, 5);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::ldexp(values[i], static_cast<int>(i % 60) - 40);
    for (const float special :
         {0.0f, -0.0f, 65504.0f, 65519.9f, 65520.0f, 1e9f, 6.1e-5f, 5.9e-8f, 2.9e-8f, INFINITY, -INFINITY, NAN}) {
        values.push_back(special);
    }
    for (const KvType type : {KvType::F16, KvType::BF16, KvType::Q8_0}) {
        if (type == KvType::Q8_0) values.resize(values.size() / kKvBlock * kKvBlock);
        const int n = static_cast<int>(values.size());
        std::vector<std::uint8_t> want(kv_row_bytes(type, static_cast<int>(values.size())));
        scalar_kernels().store(type, values.data(), want.data(), n);
        Floats back(values.size());
        scalar_kernels().load(type, want.data(), back.data(), n);
        for (const std::string& path : usable_paths()) {
            std::vector<std::uint8_t> got(want.size());
            kernels_of(path).store(type, values.data(), got.data(), n);
            CHECK(got == want);
            Floats loaded(values.size());
            kernels_of(path).load(type, want.data(), loaded.data(), n);
            CHECK(same_bits(loaded, back));
        }
    }
}

TEST(halves_round_to_nearest_even) {
    // A unit in the last place of a half at 1 is 2^-10.
    const Floats in = {1.0f,      1.0f + 0x1p-11f, 1.0f + 0x3p-11f, 1.0f + 0x1.002p-11f,
                       65519.99f, 65520.0f,        0x1p-25f,        0x1.8p-25f};
    const Floats want = {1.0f, 1.0f, 1.0f + 0x1p-9f, 1.0f + 0x1p-10f, 65504.0f, INFINITY, 0.0f, 0x1p-24f};
    std::vector<std::uint8_t> stored(2 * in.size());
    Floats out(in.size());
    scalar_kernels().store(KvType::F16, in.data(), stored.data(), static_cast<int>(in.size()));
    scalar_kernels().load(KvType::F16, stored.data(), out.data(), static_cast<int>(in.size()));
    CHECK(out == want);
}

TEST(every_format_reads_its_own_bytes_only_and_the_same_on_every_path) {
    std::mt19937 random(9);
    for (const std::string& format : supported_formats()) {
        int bytes = 1;  // of 256 weights: what make_matrix accepts
        const auto accepted = [&](const std::vector<std::uint8_t>& data) {
            try {
                make_matrix(data, format, 1, 256);
                return true;
            } catch (const std::invalid_argument&) {
                return false;
            }
        };
        while (!accepted(std::vector<std::uint8_t>(static_cast<std::size_t>(bytes)))) ++bytes;
        std::vector<std::uint8_t> data(static_cast<std::size_t>(3 * bytes));
        for (std::uint8_t& byte : data) byte = random() & 0x3f;  // keeps scales finite
        const Matrix matrix = make_matrix(data, format, 3, 256);
        Floats want(256), got(256);
        scalar_kernels().dequantise(matrix, 2, want.data());
        CHECK(want != Floats(256));
        for (const std::string& path : usable_paths()) {
            kernels_of(path).dequantise(matrix, 2, got.data());
            CHECK(same_bits(got, want));
        }
    }
}

struct PackedFormat {
    const char* name;
    int block_bytes, block_inputs;
};

constexpr PackedFormat kPackedFormats[] = {
    {"Q8_0", 34, 32},   {"Q4_0", 18, 32},   {"Q4_1", 20, 32},   {"Q5_0", 22, 32},   {"Q5_1", 24, 32},
    {"IQ4_NL", 18, 32}, {"Q4_K", 144, 256}, {"Q5_K", 176, 256}, {"Q6_K", 210, 256}, {"IQ4_XS", 136, 256},
    {"Q2_K", 84, 256},  {"Q3_K", 110, 256}, {"IQ1_S", 50, 256}, {"IQ1_M", 56, 256}, {"IQ2_XXS", 66, 256},
    {"IQ2_XS", 74, 256}, {"IQ2_S", 82, 256}, {"IQ3_XXS", 98, 256}, {"IQ3_S", 110, 256}, {"TQ1_0", 54, 256},
    {"TQ2_0", 66, 256}, {"MXFP4", 17, 32},
};

// A repacked weight in memory of exactly its size.
struct Repacked {
    std::vector<std::uint8_t> data, tiles;
    Matrix weight;

    Repacked(const PackedFormat& format, int outputs, int inputs) {
        std::mt19937 random(10);
        const auto bytes = [&](std::size_t n) {
            data.resize(n);
            for (std::uint8_t& byte : data) byte = random() & 0x3f;  // keeps scales finite
            return std::span<const std::uint8_t>(data);
        };
        const int blocks = outputs * inputs / format.block_inputs;
        weight = make_matrix(bytes(static_cast<std::size_t>(blocks * format.block_bytes)), format.name, outputs, inputs);
        CHECK(can_pack(weight));
        tiles.resize(static_cast<std::size_t>(packed_tiles(weight)) * packed_tile_bytes(weight.format, inputs));
        Team team(1);
        pack(weight, false, team, tiles.data());
        weight.packed = tiles.data();
    }

    Floats product(const Kernels& kernels, const Floats& x, int rows) const {
        const int inputs = weight.columns, groups = row_groups(rows);
        std::vector<PanelBlock> panels(static_cast<std::size_t>(rows * inputs / kPackedInputs));
        kernels.quantise({{x.data(), static_cast<std::size_t>(inputs), nullptr, rows},
                          rows,
                          inputs,
                          0,
                          inputs,
                          0,
                          groups,
                          scale_inputs(weight.format),
                          panels.data()});
        Floats out(static_cast<std::size_t>(rows) * static_cast<std::size_t>(weight.rows));
        kernels.linear_packed({panels.data(), rows, 0, groups, weight, nullptr, out.data(),
                               static_cast<std::size_t>(weight.rows), 0, 0, weight.rows, nullptr});
        return out;
    }
};

TEST(integer_products_have_the_same_bits_on_every_path_for_any_number_of_rows) {
    constexpr int rows = 13, inputs = 512, outputs = 45;
    const Floats x = random_floats(rows * inputs, 11);
    for (const PackedFormat& format : kPackedFormats) {
        const Repacked repacked(format, outputs, inputs);
        const Floats want = repacked.product(scalar_kernels(), x, rows);
        CHECK(want != Floats(want.size()));
        const Floats exact = product(scalar_kernels(), x, rows, repacked.weight);
        double error = 0, size = 0;
        for (std::size_t i = 0; i < want.size(); ++i) {
            error += double{want[i] - exact[i]} * double{want[i] - exact[i]};
            size += double{exact[i]} * double{exact[i]};
        }
        CHECK(error < 0.01 * 0.01 * size);
        for (const std::string& path : usable_paths()) {
            for (int count = 1; count <= rows; ++count) {
                const Floats got = repacked.product(kernels_of(path), x, count);
                CHECK(same_bits(got, Floats(want.begin(), want.begin() + count * outputs)));
            }
        }
    }
}

TEST(matrices_that_do_not_fit_their_bytes_are_refused) {
    const Floats values(64);
    CHECK_THROWS(make_matrix(bytes_of(values), "F32", 3, 16));
    CHECK_THROWS(make_matrix(bytes_of(values), "Q8_0", 4, 20));
    CHECK_THROWS(make_matrix(bytes_of(values), "Q9_9", 4, 16));
    CHECK_THROWS(make_matrix(bytes_of(values).subspan(1, 128), "F32", 2, 16));
    CHECK_THROWS(make_matrix(bytes_of(values), "F32", 0, 16));
    CHECK_THROWS(kernels_of("sse9"));
}

}  // namespace
