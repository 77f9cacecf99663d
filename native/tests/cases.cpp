#include "tests/cases.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>
#include <stdexcept>

#include "cpu/paths.h"
#include "program/formats.h"
#include "program/pack.h"
#include "tests/cases_support.h"
#include "tests/emulate.h"

namespace plait::test {
namespace {

static_assert(sizeof(Kernels) == 27 * sizeof(void*), "a kernel came or went: kernel_cases() must know it");

// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random {
    std::uint64_t state;
    std::uint64_t next() {
        std::uint64_t z = state += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return z ^ z >> 31;
    }
};

// Bytes of 256 weights: what make_matrix accepts.
std::size_t bytes_of_256(const std::string& format) {
    for (std::size_t n = 1;; ++n) {
        try {
            make_matrix(Bytes(n), format, 1, 256);
            return n;
        } catch (const std::invalid_argument&) {
            if (n > 4096) throw;
        }
    }
}

Bytes linear(const Kernels& k, const std::string& format, int outputs, int inputs) {
    const Bytes data = weight_bytes(format, outputs, inputs, 1);
    const Matrix weight = make_matrix(data, format, outputs, inputs);
    const Floats x = exact_floats(size(9 * inputs), 2), bias = exact_floats(size(outputs), 3);
    const std::int32_t index[] = {8, 0, 3};
    Floats scratch(linear_scratch(inputs));
    Bytes all;
    for (int rows = 1; rows <= 9; ++rows) {
        Floats out(size(rows * outputs));
        const std::int32_t* chosen = rows == 3 ? index : nullptr;
        k.linear({{x.data(), size(inputs), chosen, rows}, weight, rows % 2 ? bias.data() : nullptr, out.data(),
                  size(outputs), 0, outputs, scratch.data()});
        append(all, out);
    }
    return all;
}

Bytes gated(const Kernels& k, Activation activation) {
    constexpr int rows = 3, inputs = 64, outputs = 19;
    const Bytes gate = weight_bytes("Q8_0", outputs, inputs, 4), up = weight_bytes("F32", outputs, inputs, 5);
    const Floats x = exact_floats(rows * inputs, 6), bias = exact_floats(outputs, 7);
    Floats out(rows * outputs), scratch(gated_scratch(inputs, rows));
    k.gated({{x.data(), inputs, nullptr, rows}, make_matrix(gate, "Q8_0", outputs, inputs),
             make_matrix(up, "F32", outputs, inputs), bias.data(), nullptr, activation, out.data(), outputs, 0,
             outputs, scratch.data()});
    return bytes_of(out);
}

std::vector<PanelBlock> quantised(const Kernels& k, const Floats& x, int rows, int inputs, int scale_inputs) {
    std::vector<PanelBlock> panels(size(rows * inputs / kPackedInputs));
    k.quantise({{x.data(), size(inputs), nullptr, rows}, rows, inputs, 0, inputs, 0, row_groups(rows), scale_inputs,
                panels.data()});
    return panels;
}

// Panels of every height, one to three of them; 45 columns leave a ragged tile.
Bytes linear_packed(const Kernels& k, const std::string& format) {
    constexpr int inputs = 512, outputs = 45;
    const Bytes data = weight_bytes(format, outputs, inputs, 8);
    Matrix weight = make_matrix(data, format, outputs, inputs);
    Bytes tiles(packed_size(weight)), all;
    Team alone(1);
    pack(weight, false, alone, tiles.data());
    weight.packed = tiles.data();
    const Floats x = exact_floats(13 * inputs, 9), bias = exact_floats(outputs, 10);
    for (const int rows : {1, 2, 3, 4, 5, 6, 8, 13}) {
        const std::vector<PanelBlock> panels = quantised(k, x, rows, inputs, scale_inputs(weight.format));
        Floats out(size(rows * outputs));
        k.linear_packed({panels.data(), rows, 0, row_groups(rows), weight, rows % 2 ? bias.data() : nullptr,
                         out.data(), outputs, 0, 0, outputs, nullptr});
        append(all, out);
    }
    return all;
}

Bytes norms(const Kernels& k, bool layer) {
    constexpr int rows = 3, width = 84;
    const Floats x = exact_floats(rows * width, 11), residual = exact_floats(rows * width, 12);
    const Floats weight = exact_floats(width, 13), bias = exact_floats(width, 14);
    Bytes all;
    for (int way = 0; way < 2; ++way) {
        Floats out(x.size()), total(x.size());
        if (layer) {
            k.layer_norm({x.data(), weight.data(), way ? bias.data() : nullptr, out.data(), 1e-5f, 1, 0, width, rows});
        } else {
            const int groups = way + 1;
            k.rms_norm({x.data(), way ? residual.data() : nullptr, weight.data(), total.data(), out.data(), 1e-6f,
                        way ? 1.0f : 0.0f, groups, width, rows});
        }
        append(all, out);
        append(all, total);
    }
    return all;
}

// Four parts that share a weight, and six that have one each.
Bytes grouped_layer_norm(const Kernels& k) {
    constexpr int rows = 3, width = 84;
    const Floats x = exact_floats(rows * width, 32), weight = exact_floats(width, 33), bias = exact_floats(width, 34);
    Bytes all;
    for (const int groups : {4, 6}) {
        Floats out(x.size());
        k.layer_norm({x.data(), weight.data(), groups == 4 ? bias.data() : nullptr, out.data(), 1e-5f, groups,
                      groups == 6 ? width / groups : 0, width, rows});
        append(all, out);
    }
    return all;
}

Bytes clamped(const Kernels& k) {
    const Floats wild = every_float();
    Floats out(wild.size());
    k.clamp(wild.data(), 3.0f, out.data(), wild.size());
    return bytes_of(out);
}

Bytes rotate(const Kernels& k) {
    constexpr int heads = 3, head_dim = 26, pairs = 11;
    const Floats x = exact_floats(heads * head_dim, 15), cos = exact_floats(pairs, 16), sin = exact_floats(pairs, 17);
    Bytes all;
    for (const RopeLayout layout : {RopeLayout::Interleaved, RopeLayout::Half}) {
        Floats out(x.size());
        k.rotate({x.data(), cos.data(), sin.data(), out.data(), heads, head_dim, pairs, layout});
        append(all, out);
    }
    return all;
}

Bytes elementwise(const Kernels& k) {
    const Floats x = exact_floats(83, 23), y = exact_floats(83, 24), wild = every_float();
    const auto fresh = [](const Floats& like) { return Floats(like.size()); };
    Floats sum = fresh(x), scaled = fresh(x), capped = fresh(wild), shares = fresh(x), more = y, powers = fresh(wild);
    k.add(x.data(), y.data(), sum.data(), x.size());
    k.scale(x.data(), 0.3f, scaled.data(), x.size());
    k.softcap(wild.data(), 30.0f, capped.data(), wild.size());
    k.softmax(x.data(), shares.data(), static_cast<int>(x.size()));
    k.add_scaled(x.data(), 0.7f, more.data(), static_cast<int>(x.size()));
    k.exponential(wild.data(), powers.data(), static_cast<int>(wild.size()));
    Bytes all;
    for (const Floats& values : {sum, scaled, capped, shares, more, powers}) append(all, values);
    return all;
}

Bytes activations(const Kernels& k, Activation activation) {
    Floats x = exact_floats(301, 25);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::ldexp(x[i], static_cast<int>(i % 12) - 8);
    const Floats factor = exact_floats(x.size(), 26);
    Bytes all;
    for (const float* by : {static_cast<const float*>(nullptr), factor.data()}) {
        Floats out(x.size());
        k.activate(activation, x.data(), by, out.data(), static_cast<int>(x.size()));
        append(all, out);
    }
    return all;
}

// Two rows of logits as a sampler goes over them, the second with what is no number.
Bytes sampling(const Kernels& k) {
    constexpr int n = 1003, columns = 96;
    Floats x = exact_floats(n, 29), maxima(columns), kept(n + 16), masked(n);
    std::vector<std::int32_t> ids(n + 16);
    std::vector<double> weights(n), again(n);
    std::vector<std::uint32_t> words((n + 31) / 32);
    Random random{30};
    for (std::uint32_t& word : words) word = static_cast<std::uint32_t>(random.next());
    Bytes all;
    for (const float odd : {-INFINITY, NAN}) {
        x[517] = odd;
        const ScanResult found = k.scan_logits({x.data(), n, columns, maxima.data()});
        const int count = k.gather_logits(x.data(), n, 0.5f, ids.data(), kept.data());
        k.mask_logits(x.data(), words.data(), n, masked.data());
        append(all, std::vector<int>{found.nan, k.find_logit(x.data(), n, found.top), k.find_logit(x.data(), n, 9.0f)});
        append(all, maxima);
        append(all, std::vector<std::int32_t>(ids.begin(), ids.begin() + count));
        append(all, Floats(kept.begin(), kept.begin() + count));
        append(all, masked);
    }
    x[517] = -INFINITY;
    const double sum = k.weigh_logits(x.data(), n, 4.0, 1.25, weights.data());
    append(all, std::vector<double>{sum, k.weigh_doubles(weights.data(), n, 2.0, again.data())});
    append(all, weights);
    append(all, again);
    return all;
}

Bytes dequantised(const Kernels& k, const std::string& format) {
    const Bytes data = weight_bytes(format, 3, 512, 27);
    const Matrix matrix = make_matrix(data, format, 3, 512);
    Floats out(512);
    k.dequantise(matrix, 2, out.data());
    return bytes_of(out);
}

void add_formats(std::vector<Case>& cases) {
    for (const std::string& format : supported_formats()) {
        cases.push_back({"dequantise " + format, [format](const Kernels& k) { return dequantised(k, format); }});
        const Bytes data = weight_bytes(format, 1, 256, 0);
        if (!can_pack(make_matrix(data, format, 1, 256))) continue;
        cases.push_back({"linear_packed " + format, [format](const Kernels& k) { return linear_packed(k, format); }});
    }
}

}  // namespace

Floats exact_floats(std::size_t n, unsigned seed) {
    Random random{seed};
    Floats values(n);
    for (float& value : values) {
        const auto whole = static_cast<std::int32_t>(random.next() >> 32) >> 8;
        value = std::ldexp(static_cast<float>(whole), -21);
    }
    return values;
}

Bytes weight_bytes(const std::string& format, int rows, int columns, unsigned seed) {
    if (format == "F32") return bytes_of(exact_floats(size(rows * columns), seed));
    Random random{seed};
    Bytes data(bytes_of_256(format) * size(rows * columns) / 256);
    for (std::uint8_t& byte : data) byte = random.next() & 0x3f;  // keeps scales finite
    return data;
}

std::uint64_t checksum(const Bytes& bytes) {
    std::uint64_t hash = 0xcbf29ce484222325u;
    for (const std::uint8_t byte : bytes) hash = (hash ^ byte) * 0x100000001b3u;
    return hash;
}

std::vector<Case> kernel_cases() {
    std::vector<Case> cases = {
        {"linear F32, 100 inputs", [](const Kernels& k) { return linear(k, "F32", 21, 100); }},
        {"linear F32, 7 inputs", [](const Kernels& k) { return linear(k, "F32", 21, 7); }},
        {"linear Q5_K", [](const Kernels& k) { return linear(k, "Q5_K", 13, 256); }},
        {"gated silu", [](const Kernels& k) { return gated(k, Activation::Silu); }},
        {"gated gelu", [](const Kernels& k) { return gated(k, Activation::Gelu); }},
        {"gated gelu_tanh", [](const Kernels& k) { return gated(k, Activation::GeluTanh); }},
        {"quantise", [](const Kernels& k) { return bytes_of(quantised(k, exact_floats(13 * 96, 28), 13, 96, 32)); }},
        {"quantise, a scale for 256",
         [](const Kernels& k) { return bytes_of(quantised(k, exact_floats(7 * 512, 29), 7, 512, 256)); }},
        {"rms_norm", [](const Kernels& k) { return norms(k, false); }},
        {"layer_norm", [](const Kernels& k) { return norms(k, true); }},
        {"layer_norm, groups", grouped_layer_norm},
        {"rotate", rotate},
        {"clamp", clamped},
        {"elementwise", elementwise},
        {"sampling", sampling},
        {"silu", [](const Kernels& k) { return activations(k, Activation::Silu); }},
        {"gelu", [](const Kernels& k) { return activations(k, Activation::Gelu); }},
        {"gelu_tanh", [](const Kernels& k) { return activations(k, Activation::GeluTanh); }},
    };
    add_formats(cases);
    add_attention(cases);
    return cases;
}

std::vector<const Kernels*> tested_paths() {
    std::vector<const Kernels*> paths;
    for (const std::string& name : usable_paths()) paths.push_back(&kernels_of(name));
    if (const Kernels* emulated = emulated_path()) paths.push_back(emulated);
    return paths;
}

}  // namespace plait::test
