// Tiles of formats with a scale for each 32 inputs.
#pragma once

#include "kernels/packed_formats.h"
#include "kernels/tiles.h"

namespace plait::PLAIT_PATH {
namespace {

// Adds the products of 32 inputs, column..., to the totals.
template <class P, int ROWS, int VECTORS>
[[gnu::always_inline]] inline void add_block(const PanelBlock* x, const std::uint8_t* at, int column,
                                             V (&total)[ROWS][VECTORS]) {
    I sum[ROWS][VECTORS];
    for (int r = 0; r < ROWS; ++r) {
        for (int v = 0; v < VECTORS; ++v) sum[r][v] = spread(P::start(x[r]));
    }
    add_products<P, 8>(x, at, column, 0, sum);
    for (int v = 0; v < VECTORS; ++v) {
        const V scale = P::scale(at, column + v * kWidth);
        for (int r = 0; r < ROWS; ++r) total[r][v] += to_float(sum[r][v]) * (scale * x[r].scale);
    }
    if constexpr (!P::minimums) return;
    for (int v = 0; v < VECTORS; ++v) {
        const V minimum = P::minimum(at, column + v * kWidth);
        for (int r = 0; r < ROWS; ++r) total[r][v] -= minimum * x[r].sum;
    }
}

// out[r * kPackedColumns + c] = the product of panel row r with column c of the tile, for one pass of columns.
template <class P, int ROWS>
struct Pass32 {
    static void run(const PanelBlock* x, const std::uint8_t* tile, int blocks, int pass, Ahead ahead, float* out) {
        constexpr int VECTORS = tile_vectors(ROWS);
        const int column = pass * VECTORS * kWidth;
        V total[ROWS][VECTORS] = {};
        for (int b = 0; b < blocks; ++b, x += ROWS, tile += P::bytes.weights + P::bytes.scales) {
            fetch(tile, ahead);
            add_block<P>(x, tile, column, total);
        }
        store_totals(total, column, out);
    }
};

}  // namespace
}  // namespace plait::PLAIT_PATH
