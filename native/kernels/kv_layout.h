// How K and V lie in their pages.
//
// A row is one KV head's K (or V) of one token: numbers, or for Q8_0 blocks of 32, each a half-precision scale and 32
// signed bytes (GGUF's block). V's rows lie one after another, (page, head, slot). K is transposed within its page:
// (page, head) is a panel in which all slots' first numbers lie together, then all second ones, and so on; for Q8_0
// block by block, first all scales. So a vector holds the same dimension of 16 neighbouring keys. A row by itself is a
// panel of one slot: one description does for both.
#pragma once

#include <cstddef>
#include <cstdint>

namespace plait {

enum class KvType : int { F32, F16, BF16, Q8_0 };

// Numbers that share a scale in Q8_0, and the bytes of such a block.
constexpr int kKvBlock = 32;
constexpr int kKvBlockBytes = 2 + kKvBlock;

static constexpr std::size_t kv_row_bytes(KvType type, int dim) {
    const std::size_t n = static_cast<std::size_t>(dim);
    if (type == KvType::Q8_0) return n / kKvBlock * kKvBlockBytes;
    return type == KvType::F32 ? 4 * n : 2 * n;
}

// A row in a panel of `stride` slots.
struct KvPlace {
    std::uint8_t* panel;
    std::size_t stride, slot;
};

// Copies n numbers of BYTES bytes from place to place, and moves both panels past them.
template <std::size_t BYTES>
static inline void move_numbers(int n, KvPlace& from, KvPlace& to) {
    for (int i = 0; i < n; ++i) {
        __builtin_memcpy(to.panel + to.slot * BYTES, from.panel + from.slot * BYTES, BYTES);
        from.panel += from.stride * BYTES;
        to.panel += to.stride * BYTES;
    }
}

// Copies a row of `dim` numbers.
static inline void move_row(KvType type, int dim, KvPlace from, KvPlace to) {
    switch (type) {
        case KvType::F32: return move_numbers<4>(dim, from, to);
        case KvType::F16:
        case KvType::BF16: return move_numbers<2>(dim, from, to);
        case KvType::Q8_0:
            for (int d = 0; d < dim; d += kKvBlock) {
                move_numbers<2>(1, from, to);
                move_numbers<1>(kKvBlock, from, to);
            }
    }
}

}  // namespace plait
