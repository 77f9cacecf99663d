// The weighted sum of a block's values: tiles of queries by dimensions in registers, over the keys in ascending order.
// A key that a query does not see is left out of that query's sum altogether.
#pragma once

#include "kernels/attention_keys.h"

namespace plait::PLAIT_PATH {
namespace {

// Calls run(first, end) for keys that all queries see and one(j) for those that some do, in ascending order.
template <int QUERIES, class Run, class One>
inline void each_key(const Weighted* w, Run run, One one) {
    std::uint64_t common = w[0].seen, any = w[0].seen;
    for (int r = 1; r < QUERIES; ++r) {
        common &= w[r].seen;
        any |= w[r].seen;
    }
    while (any != 0) {
        const int j = __builtin_ctzll(any);
        const std::uint64_t others = ~common >> j << j;
        if ((common >> j & 1) != 0) {
            const int end = others == 0 ? kKeyBlock : __builtin_ctzll(others);
            run(j, end);
            any = end == kKeyBlock ? 0 : any >> end << end;
        } else {
            one(j);
            any &= any - 1;
        }
    }
}

// `merges` or not is the same for all.
inline void put(const Weighted& w, bool merges, int d, int v_dim, V partial) {
    alignas(64) float part[kWidth];
    float* out = w.out + d;
    if (d + kWidth <= v_dim) {
        store(out, merges ? load(out) * broadcast(w.old) + partial * broadcast(w.fresh) : partial);
        return;
    }
    store(part, partial);
    for (int i = 0; i < v_dim - d; ++i) out[i] = merges ? out[i] * w.old + part[i] * w.fresh : part[i];
}

// Dimensions d to d + VECTORS * kWidth - 1, of which those from v_dim on are dropped.
template <class Values, int QUERIES, int VECTORS, class Fetch>
inline void value_tile(const Weighted* w, const std::uint8_t* const* rows, int d, int v_dim, bool merges,
                       const Fetch& ahead) {
    V sum[QUERIES][VECTORS] = {};
    const auto run = [&](int first, int end) {
        for (int j = first; j < end; ++j) {
            V value[VECTORS];
            for (int c = 0; c < VECTORS; ++c) value[c] = Values::read(rows[j], d + c * kWidth);
            ahead.template fetch_value<VECTORS * kWidth * Values::bytes>(j, static_cast<std::size_t>(d) * Values::bytes);
            for (int r = 0; r < QUERIES; ++r) {
                const V weight = broadcast(w[r].weights[j]);
                for (int c = 0; c < VECTORS; ++c) sum[r][c] += weight * value[c];
            }
        }
    };
    const auto one = [&](int j) {
        for (int r = 0; r < QUERIES; ++r) {
            if ((w[r].seen >> j & 1) == 0) continue;
            const V weight = broadcast(w[r].weights[j]);
            for (int c = 0; c < VECTORS; ++c) sum[r][c] += weight * Values::read(rows[j], d + c * kWidth);
        }
    };
    each_key<QUERIES>(w, run, one);
    for (int r = 0; r < QUERIES; ++r) {
        for (int c = 0; c < VECTORS; ++c) put(w[r], merges, d + c * kWidth, v_dim, sum[r][c]);
    }
}

template <class Values, int QUERIES, class Fetch>
inline void value_tiles(const Weighted* w, const std::uint8_t* const* rows, int v_dim, bool merges, const Fetch& ahead) {
    int d = 0;
    for (; d + kTileKeys <= v_dim; d += kTileKeys) {
        value_tile<Values, QUERIES, kKeyVectors>(w, rows, d, v_dim, merges, ahead);
    }
    for (; d < v_dim; d += kWidth) value_tile<Values, QUERIES, 1>(w, rows, d, v_dim, merges, ahead);
}

// `rows` are the block's rows of V. Where v_dim is no multiple of kWidth, they must go on to one.
template <class Values, class Fetch>
inline void weigh_values(const Weighted* w, int n, const std::uint8_t* const* rows, int v_dim, bool merges,
                         const Fetch& ahead) {
    for (int i = 0; i < n; i += kTileQueries) {
        switch (n - i) {
            case 1: value_tiles<Values, 1>(w + i, rows, v_dim, merges, ahead); break;
            case 2: value_tiles<Values, 2>(w + i, rows, v_dim, merges, ahead); break;
            case 3:
                if constexpr (kTileQueries > 3) {
                    value_tiles<Values, 3>(w + i, rows, v_dim, merges, ahead);
                    break;
                }
                [[fallthrough]];
            default: value_tiles<Values, kTileQueries>(w + i, rows, v_dim, merges, ahead);
        }
    }
}

inline const std::uint8_t* value_row(const AttentionArgs& a, int key) {
    const std::size_t row = static_cast<std::size_t>(a.key_rows[key]) +
                            static_cast<std::size_t>(a.kv_head) * static_cast<std::size_t>(a.page_size);
    return a.v + row * kv_row_bytes(a.kv_type, a.state.v_head_dim);
}

// Where the V of keys first..first+n-1 lies, which are a group; they may lie side by side.
inline void value_rows(const AttentionArgs& a, int first, int n, bool together, const std::uint8_t** rows) {
    if (!together) {
        for (int i = 0; i < n; ++i) rows[i] = value_row(a, first + i);
        return;
    }
    const std::size_t bytes = kv_row_bytes(a.kv_type, a.state.v_head_dim);
    const std::uint8_t* row = value_row(a, first);
    for (int i = 0; i < n; ++i, row += bytes) rows[i] = row;
}

}  // namespace
}  // namespace plait::PLAIT_PATH
