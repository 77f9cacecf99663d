// Attention: the same bits on every path, from every layout of the keys, and however rows and keys are put into pieces.
#include <cmath>
#include <cstring>
#include <random>

#include "cpu/paths.h"
#include "tests/check.h"

using namespace plait;

namespace {

using Floats = std::vector<float>;
using Bytes = std::vector<std::uint8_t>;

std::size_t size(int n) { return static_cast<std::size_t>(n); }

Floats random_floats(int n, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    Floats values(size(n));
    for (float& value : values) value = normal(random);
    return values;
}

bool same_bits(const Floats& a, const Floats& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

constexpr int kHeads = 3, kDim = 32, kValueDim = 64;

// Some rows of one sequence and its keys, one KV head.
struct Attended {
    int keys, rows, window = 0;
    KvType type = KvType::F32;
    int page_size = 16;
    bool shuffled = false, poisoned = false;

    std::int32_t key_row(int i) const { return shuffled ? (i % 2 == 0 ? i : keys + keys % 2 + i) : i; }
    int slots() const { return (2 * keys + 2 + page_size) / page_size * page_size; }

    Bytes stored(int dim, unsigned seed, bool transposed) const {
        const std::size_t bytes = kv_row_bytes(type, dim);
        const Floats values = random_floats(keys * dim, seed), nothing(size(dim), NAN);
        Bytes out(size(slots()) * bytes), row(bytes);
        for (int i = 0; i < slots() + keys; ++i) {
            const int slot = i < slots() ? i : key_row(i - slots());
            const bool known = i >= slots() && !(poisoned && i - slots() >= keys - 50);
            scalar_kernels().store(type, known ? values.data() + (i - slots()) * dim : nothing.data(), row.data(), dim);
            const std::size_t page = size(slot / page_size * page_size) * bytes;
            const KvPlace to = transposed ? KvPlace{out.data() + page, size(page_size), size(slot % page_size)}
                                          : KvPlace{out.data() + size(slot) * bytes, 1, 0};
            move_row(type, dim, {row.data(), 1, 0}, to);
        }
        return out;
    }

    // The rows first..last-1, with the keys in pieces that begin at these; those after the first leave partials.
    Floats run(const Kernels& kernels, int first, int last, std::vector<int> begins = {0}) const {
        const Floats q = random_floats(rows * kHeads * kDim, 6);
        const Bytes k = stored(kDim, 7, true), v = stored(kValueDim, 8, false);
        Floats out(size(rows * kHeads * kValueDim), NAN), top(size(rows * kHeads)), total(top),
            scratch(attention_scratch(kDim, kValueDim));
        std::vector<std::int32_t> numbers, positions, key_rows, key_positions;
        for (int r = 0; r < rows; ++r) {
            numbers.push_back(r);
            positions.push_back((poisoned ? keys - 50 : keys) - rows + r);
        }
        for (int i = 0; i < keys; ++i) {
            key_rows.push_back(key_row(i));
            key_positions.push_back(i);
        }
        AttentionArgs a{};
        a.state = {top.data(), total.data(), out.data(), kHeads, kValueDim, nullptr};
        a.q = q.data();
        a.n_kv_heads = 1;
        a.head_dim = kDim;
        a.rows = numbers.data() + first;
        a.n_rows = last - first;
        a.row_positions = positions.data();
        a.key_rows = key_rows.data();
        a.key_positions = key_positions.data();
        a.k = k.data();
        a.v = v.data();
        a.kv_type = type;
        a.page_size = page_size;
        a.scale = 0.3f;
        a.window = window;
        a.scratch = scratch.data();
        std::vector<Floats> partials(begins.size());
        // The last piece first: they are independent.
        for (std::size_t i = begins.size(); i-- > 0;) {
            a.first_key = begins[i];
            a.last_key = i + 1 < begins.size() ? begins[i + 1] : keys;
            partials[i].assign(size((keys / kKeyBlock + 1) * (last - first) * kHeads) * partial_floats(kValueDim), NAN);
            a.partials = i == 0 ? nullptr : partials[i].data();
            a.starts = i == 0;
            a.finishes = begins.size() == 1;
            kernels.attention(a);
        }
        for (std::size_t i = 1; i < begins.size(); ++i) {
            const int end = i + 1 < begins.size() ? begins[i + 1] : keys, blocks = (end - begins[i] + 63) / 64;
            // Row by row, so that a row's place among the partials counts.
            for (int r = 0; r < last - first; ++r) {
                kernels.merge_attention({a.state, 1, 0, a.rows + r, 1, partials[i].data(), blocks, last - first, r,
                                         i + 1 == begins.size()});
            }
        }
        const auto at = [&](int r) { return out.begin() + r * kHeads * kValueDim; };
        return {at(first), at(last)};
    }
};

constexpr KvType kTypes[] = {KvType::F32, KvType::F16, KvType::BF16, KvType::Q8_0};

TEST(attention_of_a_row_does_not_depend_on_the_others_or_the_path) {
    for (const KvType type : kTypes) {
        for (const int window : {0, 40}) {
            const Attended a{150, 25, window, type};
            const Floats want = a.run(scalar_kernels(), 0, 25);
            for (const std::string& path : usable_paths()) {
                CHECK(same_bits(a.run(kernels_of(path), 0, 25), want));
                for (int r = 0; r < 25; r += 6) {
                    const int width = kHeads * kValueDim;
                    CHECK(same_bits(a.run(kernels_of(path), r, r + 1),
                                    Floats(want.begin() + r * width, want.begin() + (r + 1) * width)));
                }
            }
        }
    }
}

TEST(keys_in_pieces_give_the_bits_of_the_whole) {
    for (const int window : {0, 90}) {
        const Attended a{400, 7, window, KvType::F16};
        const Floats want = a.run(scalar_kernels(), 0, 7);
        for (const std::string& path : usable_paths()) {
            for (const std::vector<int>& begins :
                 {std::vector<int>{0, 64}, {0, 128, 192}, {0, 64, 128, 192, 256, 320, 384}}) {
                CHECK(same_bits(a.run(kernels_of(path), 0, 7, begins), want));
                CHECK(same_bits(a.run(kernels_of(path), 3, 4, begins),
                                Floats(want.begin() + 3 * kHeads * kValueDim, want.begin() + 4 * kHeads * kValueDim)));
            }
        }
    }
}

TEST(keys_may_lie_anywhere) {
    for (const KvType type : kTypes) {
        const Attended plain{150, 5, 0, type};
        const Floats want = plain.run(scalar_kernels(), 0, 5);
        for (const std::string& path : usable_paths()) {
            for (const int page_size : {1, 5, 16, 24, 64}) {
                for (const bool shuffled : {false, true}) {
                    const Attended a{150, 5, 0, type, page_size, shuffled};
                    CHECK(same_bits(a.run(kernels_of(path), 0, 5), want));
                }
            }
        }
    }
}

TEST(masked_keys_may_hold_anything_and_need_not_be_there) {
    for (const KvType type : kTypes) {
        Attended a{150, 4, 0, type, 16, false, true};
        const Floats want = a.run(scalar_kernels(), 0, 4);
        for (const float value : want) CHECK(std::isfinite(value));
        for (const std::string& path : usable_paths()) {
            CHECK(same_bits(a.run(kernels_of(path), 0, 4), want));
            CHECK(same_bits(a.run(kernels_of(path), 0, 4, {0, 64, 128}), want));
        }
    }
    const Attended empty{0, 4};
    for (const float value : empty.run(scalar_kernels(), 0, 4)) CHECK(value == 0.0f);
}

}  // namespace
