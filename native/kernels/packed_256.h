// Tiles of formats with blocks of 256 inputs, with rows that have one scale for as many: sums of 32 or 16 inputs times
// their whole scales are added up in float32, in ascending order of the inputs; only then come the block's scale and the
// row's. (In 32-bit integers, too, they would be exact; that multiplication is slower.) Minimums, and sums that need no
// scale, are whole numbers over all 256.
#pragma once

#include <type_traits>

#include "kernels/packed_formats_256.h"
#include "kernels/tiles.h"

namespace plait::PLAIT_PATH {
namespace {

constexpr int kBlocks256 = 8;

// Adds the products of a block's part times its scale.
template <class P, int ROWS, int VECTORS>
[[gnu::always_inline]] inline void add_part(const PanelBlock* x, const std::uint8_t* head, const std::uint8_t* at,
                                            int column, int block, int part, V (&total)[ROWS][VECTORS]) {
    I sum[ROWS][VECTORS];
    for (int r = 0; r < ROWS; ++r) {
        for (int v = 0; v < VECTORS; ++v) sum[r][v] = spread(P::start(x[r], part));
    }
    add_products<P, 8 / P::parts>(x, at, column, part, sum);
    for (int v = 0; v < VECTORS; ++v) {
        const V scale = to_float(P::part_scale(head, at, column + v * kWidth, block, part));
        for (int r = 0; r < ROWS; ++r) total[r][v] += to_float(sum[r][v]) * scale;
    }
}

template <class P, int ROWS, int VECTORS>
[[gnu::always_inline]] inline void add_block_256(const PanelBlock* x, const std::uint8_t* head,
                                                 const std::uint8_t* at, int column, int block,
                                                 V (&total)[ROWS][VECTORS]) {
    add_part<P>(x, head, at, column, block, 0, total);
    if constexpr (P::parts == 2) add_part<P>(x, head, at, column, block, 1, total);
}

// Sums that are not scaled: what they begin at is added up before.
template <class P, int ROWS, int VECTORS>
[[gnu::always_inline]] inline void add_block_256(const PanelBlock* x, const std::uint8_t*, const std::uint8_t* at,
                                                 int column, int, I (&total)[ROWS][VECTORS]) {
    add_products<P, 8>(x, at, column, 0, total);
}

template <class P, int ROWS, int VECTORS>
[[gnu::always_inline]] inline void begin(const PanelBlock*, V (&total)[ROWS][VECTORS]) {
    for (int r = 0; r < ROWS; ++r) {
        for (int v = 0; v < VECTORS; ++v) total[r][v] = V{};
    }
}

template <class P, int ROWS, int VECTORS>
[[gnu::always_inline]] inline void begin(const PanelBlock* x, I (&total)[ROWS][VECTORS]) {
    for (int r = 0; r < ROWS; ++r) {
        std::int32_t start = 0;
        for (int b = 0; b < kBlocks256; ++b) start += P::start(x[b * ROWS + r], 0);
        for (int v = 0; v < VECTORS; ++v) total[r][v] = spread(start);
    }
}

inline V in_float(V x) { return x; }
inline V in_float(I x) { return to_float(x); }

// The minimums times the sums of their inputs, over 256 inputs.
template <class P, int ROWS, int VECTORS>
[[gnu::always_inline]] inline void sum_minimums(const PanelBlock* x, const std::uint8_t* head, int column,
                                                I (&sum)[ROWS][VECTORS]) {
    constexpr int step = P::minimums == Minimums::Of32 ? 2 : 1;
    for (int r = 0; r < ROWS; ++r) {
        for (int v = 0; v < VECTORS; ++v) sum[r][v] = I{};
    }
    for (int b = 0; b < kBlocks256; b += step) {
        for (int v = 0; v < VECTORS; ++v) {
            S pairs;
            if constexpr (P::minimums == Minimums::Of32) {
                pairs = P::minimum_pairs(head, column + v * kWidth, b / 2);
            } else {
                pairs = P::minimum_pairs(head + P::bytes.head + b * (P::bytes.weights + P::bytes.scales),
                                         column + v * kWidth);
            }
            for (int r = 0; r < ROWS; ++r) {
                const PanelBlock& block = x[b * ROWS + r];
                sum[r][v] = dot_pairs(sum[r][v], pairs, P::minimums == Minimums::Of32 ? block.pair_sums : block.half_sums);
            }
        }
    }
}

template <class P, int ROWS, int VECTORS>
[[gnu::always_inline]] inline void take_minimums_256(const PanelBlock* x, const std::uint8_t* head, int column,
                                                     V (&total)[ROWS][VECTORS]) {
    I sum[ROWS][VECTORS];
    sum_minimums<P>(x, head, column, sum);
    for (int v = 0; v < VECTORS; ++v) {
        const V scale = P::scale_of_minimums(head, column + v * kWidth);
        for (int r = 0; r < ROWS; ++r) total[r][v] -= to_float(sum[r][v]) * (scale * x[r].scale);
    }
}

// Adds the products of 256 inputs, column..., to the totals.
template <class P, int ROWS, int VECTORS>
[[gnu::always_inline]] inline void add_256(const PanelBlock* x, const std::uint8_t* head, int column, Ahead& ahead,
                                           V (&total)[ROWS][VECTORS]) {
    std::conditional_t<P::parts == 0, I, V> sum[ROWS][VECTORS];
    begin<P>(x, sum);
    const std::uint8_t* at = head + P::bytes.head;
    if (ahead.near != 0) fetch(head, ahead);
    for (int b = 0; b < kBlocks256; ++b, at += P::bytes.weights + P::bytes.scales) {
        fetch(at, ahead);
        add_block_256<P>(x + b * ROWS, head, at, column, b, sum);
    }
    for (int v = 0; v < VECTORS; ++v) {
        const V scale = P::scale(head, column + v * kWidth);
        for (int r = 0; r < ROWS; ++r) total[r][v] += in_float(sum[r][v]) * (scale * x[r].scale);
    }
    if constexpr (P::minimums != Minimums::None) take_minimums_256<P>(x, head, column, total);
}

template <class P, int ROWS>
struct Pass256 {
    static void run(const PanelBlock* x, const std::uint8_t* tile, int blocks, int pass, Ahead ahead, float* out) {
        constexpr int VECTORS = tile_vectors(ROWS);
        constexpr std::ptrdiff_t bytes = P::bytes.head + kBlocks256 * (P::bytes.weights + P::bytes.scales);
        const int column = pass * VECTORS * kWidth;
        V total[ROWS][VECTORS] = {};
        for (int b = 0; b < blocks; b += kBlocks256, x += kBlocks256 * ROWS, tile += bytes) {
            add_256<P>(x, tile, column, ahead, total);
        }
        store_totals(total, column, out);
    }
};

}  // namespace
}  // namespace plait::PLAIT_PATH
