// What tiles of all packed formats have in common: their size in registers, the products, and what is fetched ahead.
#pragma once

#include "kernels/kernels.h"
#include "simd/bytes.h"

namespace plait::PLAIT_PATH {
namespace {

// Vectors of columns in a register tile of that many rows: one broadcast of activations serves them all. All 32 columns
// at once read each line of the weights once, as it comes from memory; with more passes only the first waits for
// memory, which rests while the others multiply.
// With 32 registers: vectors of 4 need four for one row, or sums wait for each other; from five rows on they spill.
// With 16: spilled sums cost less than further passes where a product takes several instructions (AVX2), up to 4 rows.
constexpr int tile_vectors(int rows) {
    constexpr bool one_instruction = SmallWeights<15>::quads_in_16 == 0;
    if (kManyRegisters) return kWidth == 16 || rows > 4 ? 2 : 4;
    if (kWidth == 4) return 1;
    return rows <= (one_instruction ? 2 : 4) ? 4 : 1;
}
constexpr int kNear = 2048, kFar = 8192;  // bytes
// Bytes of weights per row, in 32 inputs, that come while the rows are multiplied: with more, memory is what holds up.
constexpr int kBytesInTime = 150;

// What a pass over a tile fetches with each block, in cache lines: of the tile itself, kNear on into the first-level
// cache and kFar on into the second; and from `next` on, into the second.
struct Ahead {
    int near, far;
    const std::uint8_t* next;
    int next_lines;
};

inline void fetch(const std::uint8_t* tile, Ahead& ahead) {
    for (int line = 0; line < ahead.near; ++line) __builtin_prefetch(tile + kNear + 64 * line, 0, 3);
    for (int line = 0; line < ahead.far; ++line) __builtin_prefetch(tile + kFar + 64 * line, 0, 2);
    for (int line = 0; line < ahead.next_lines; ++line, ahead.next += 64) __builtin_prefetch(ahead.next, 0, 2);
}

// Adds the products of `QUADS` times four inputs, number `first`..., as pairs added up in 16 bits: exact.
template <class P, int QUADS, int ROWS, int VECTORS>
[[gnu::always_inline]] inline void add_products_in_16(const PanelBlock* x, const std::uint8_t* at, int column,
                                                      int first, I (&sum)[ROWS][VECTORS]) {
    S pairs[ROWS][VECTORS] = {};
#pragma GCC unroll 8
    for (int quad = first; quad < first + QUADS; ++quad) {
        for (int v = 0; v < VECTORS; ++v) {
            const typename P::Weights w(P::read(at, column + v * kWidth, quad));
            for (int r = 0; r < ROWS; ++r) pairs[r][v] += multiply_pairs(w.w, spread_quad(x[r].q, quad));
        }
    }
    for (int r = 0; r < ROWS; ++r) {
        for (int v = 0; v < VECTORS; ++v) sum[r][v] = widen_pairs(sum[r][v], pairs[r][v]);
    }
}

// Adds the products of `QUADS` times four inputs, part number `part` of the block, to the sums of column...: exact.
template <class P, int QUADS, int ROWS, int VECTORS>
[[gnu::always_inline]] inline void add_products(const PanelBlock* x, const std::uint8_t* at, int column, int part,
                                                I (&sum)[ROWS][VECTORS]) {
    constexpr int in_16 = P::Weights::quads_in_16 < QUADS ? P::Weights::quads_in_16 : QUADS;
    if constexpr (in_16 != 0) {
        static_assert(QUADS % in_16 == 0);
#pragma GCC unroll 8
        for (int i = 0; i < QUADS; i += in_16) add_products_in_16<P, in_16>(x, at, column, part * QUADS + i, sum);
    } else {
#pragma GCC unroll 8
        for (int i = 0; i < QUADS; ++i) {
            const int quad = part * QUADS + i;
            for (int v = 0; v < VECTORS; ++v) {
                const typename P::Weights w(P::read(at, column + v * kWidth, quad));
                for (int r = 0; r < ROWS; ++r) sum[r][v] = dot_quad(sum[r][v], w, x[r].q, quad);
            }
        }
    }
}

// out[r * kPackedColumns + column...] = the totals.
template <int ROWS, int VECTORS>
[[gnu::always_inline]] inline void store_totals(const V (&total)[ROWS][VECTORS], int column, float* out) {
    for (int r = 0; r < ROWS; ++r) {
        for (int v = 0; v < VECTORS; ++v) store(out + r * kPackedColumns + column + v * kWidth, total[r][v]);
    }
}

}  // namespace
}  // namespace plait::PLAIT_PATH
