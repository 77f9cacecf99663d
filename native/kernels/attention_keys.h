// Scores of a block of keys: tiles of queries by keys in registers, the keys in the vectors' lanes. A score is the sum
// over the dimensions in ascending order, in its own lane: the same bits from every tile and every vector width.
#pragma once

#include "kernels/attention_ahead.h"
#include "kernels/kv_rows.h"

namespace plait::PLAIT_PATH {
namespace {

// Queries and vectors of a tile: 16 sums where there are 32 registers, else at most 8.
constexpr int kTileQueries = kManyRegisters || kWidth == 8 ? 4 : 2;
constexpr int kKeyVectors = kManyRegisters ? 4 : 2;
constexpr int kTileKeys = kKeyVectors * kWidth;
static_assert(kKeyBlock % kTileKeys == 0 && kKeyGroup % kWidth == 0);

// 16 keys that lie next to each other in a panel.
struct KeyGroup {
    const std::uint8_t* panel;
    std::size_t stride, slot;
};

struct KeyGroups {
    int count;
    KeyGroup group[kKeyBlock / kKeyGroup];
};

inline const std::uint8_t* key_panel(const AttentionArgs& a, int key, std::size_t* slot) {
    const std::size_t page = static_cast<std::size_t>(a.page_size);
    const std::size_t row = static_cast<std::size_t>(a.key_rows[key]);
    *slot = row % page;
    return a.k + (row - *slot + static_cast<std::size_t>(a.kv_head) * page) * kv_row_bytes(a.kv_type, a.head_dim);
}

// Whether the keys' vector can be read in its page. What else it holds is no key of the block, and masked.
inline bool in_one_page(const AttentionArgs& a, int first, int count, std::size_t slot) {
    const std::int32_t* rows = a.key_rows + first;
    std::int32_t apart = slot + kKeyGroup > static_cast<std::size_t>(a.page_size) ? 1 : 0;
    for (int i = 1; i < count; ++i) apart |= rows[i] ^ (rows[0] + i);
    return apart == 0;
}

// Keys first..first+count-1 as groups of 16, in place or gathered into `scratch`. `together`: which are in place.
inline KeyGroups key_groups(const AttentionArgs& a, int first, int count, std::uint8_t* scratch, bool* together) {
    KeyGroups groups{(count + kKeyGroup - 1) / kKeyGroup, {}};
    const std::size_t bytes = kKeyGroup * kv_row_bytes(a.kv_type, a.head_dim);
    for (int g = 0; g < groups.count; ++g) {
        const int key = first + g * kKeyGroup, left = first + count - key, n = left < kKeyGroup ? left : kKeyGroup;
        KeyGroup& group = groups.group[g];
        group.panel = key_panel(a, key, &group.slot);
        group.stride = static_cast<std::size_t>(a.page_size);
        together[g] = in_one_page(a, key, n, group.slot);
        if (together[g]) continue;
        std::uint8_t* gathered = scratch + static_cast<std::size_t>(g) * bytes;
        for (int i = 0; i < n; ++i) {
            std::size_t slot;
            const std::uint8_t* panel = key_panel(a, key + i, &slot);
            move_row(a.kv_type, a.head_dim, {const_cast<std::uint8_t*>(panel), group.stride, slot},
                     {gathered, kKeyGroup, static_cast<std::size_t>(i)});
        }
        group = {gathered, kKeyGroup, 0};
    }
    return groups;
}

template <class Keys>
inline Keys keys_at(const KeyGroups& groups, int lane) {
    const KeyGroup& g = groups.group[lane / kKeyGroup];
    return Keys(g.panel, g.stride, g.slot + static_cast<std::size_t>(lane % kKeyGroup));
}

// scores[r * kKeyBlock + c] of QUERIES queries with the VECTORS vectors of keys from lane `lane` of the block on.
template <class Keys, int QUERIES, int VECTORS, class Fetch>
inline void score_tile(const float* const* q, const KeyGroups& groups, int lane, int dim, float* scores,
                       const Fetch& ahead) {
    Keys keys[VECTORS];
    for (int c = 0; c < VECTORS; ++c) keys[c] = keys_at<Keys>(groups, lane + c * kWidth);
    V sum[QUERIES][VECTORS] = {};
    for (int d = 0; d < dim;) {
        for (int c = 0; c < VECTORS; ++c) keys[c].start();
        for (const int end = d + Keys::span(dim); d < end; ++d) {
            V key[VECTORS];
            for (int c = 0; c < VECTORS; ++c) key[c] = keys[c].next();
            ahead.template fetch_keys<Keys::bytes>(d);
            for (int r = 0; r < QUERIES; ++r) {
                const V x = broadcast(q[r][d]);
                for (int c = 0; c < VECTORS; ++c) sum[r][c] += x * key[c];
            }
        }
    }
    for (int r = 0; r < QUERIES; ++r) {
        for (int c = 0; c < VECTORS; ++c) store(scores + r * kKeyBlock + lane + c * kWidth, sum[r][c]);
    }
}

// The block's first `lanes` keys; the first tile fetches ahead.
template <class Keys, int QUERIES, class Fetch>
inline void score_tiles(const float* const* q, const KeyGroups& groups, int lanes, int dim, float* scores,
                        const Fetch& ahead) {
    const NoKeysAhead nothing;
    int lane = 0;
    if (lanes >= kTileKeys) {
        score_tile<Keys, QUERIES, kKeyVectors>(q, groups, 0, dim, scores, ahead);
        lane = kTileKeys;
    } else {
        score_tile<Keys, QUERIES, 1>(q, groups, 0, dim, scores, ahead);
        lane = kWidth;
    }
    for (; lane + kTileKeys <= lanes; lane += kTileKeys) {
        score_tile<Keys, QUERIES, kKeyVectors>(q, groups, lane, dim, scores, nothing);
    }
    for (; lane < lanes; lane += kWidth) score_tile<Keys, QUERIES, 1>(q, groups, lane, dim, scores, nothing);
}

constexpr std::uint64_t kAllKeys = ~std::uint64_t{0};

// A query's part of a block. What becomes of its partial output: out = out * old + partial * fresh, or out = partial.
struct Weighted {
    const float* weights;  // (kKeyBlock,)
    std::uint64_t seen;    // bit j: key j; not 0
    float* out;
    float old, fresh;
};

// Groups of keys, from the first on, of which n queries see any.
inline int seen_groups(const Weighted* w, int n) {
    std::uint64_t any = w[0].seen;
    for (int r = 1; r < n; ++r) any |= w[r].seen;
    return (kKeyBlock - __builtin_clzll(any) + kKeyGroup - 1) / kKeyGroup;
}

// Scores of n queries, (n, kKeyBlock), as far as they see keys.
template <class Keys, class Fetch>
inline void score(const float* const* q, const Weighted* w, int n, const KeyGroups& groups, int dim, float* scores,
                  const Fetch& ahead) {
    for (int i = 0; i < n; i += kTileQueries) {
        const int lanes = kKeyGroup * seen_groups(w + i, n - i < kTileQueries ? n - i : kTileQueries);
        switch (n - i) {
            case 1: score_tiles<Keys, 1>(q + i, groups, lanes, dim, scores + i * kKeyBlock, ahead); break;
            case 2: score_tiles<Keys, 2>(q + i, groups, lanes, dim, scores + i * kKeyBlock, ahead); break;
            case 3:
                if constexpr (kTileQueries > 3) {
                    score_tiles<Keys, 3>(q + i, groups, lanes, dim, scores + i * kKeyBlock, ahead);
                    break;
                }
                [[fallthrough]];
            default: score_tiles<Keys, kTileQueries>(q + i, groups, lanes, dim, scores + i * kKeyBlock, ahead);
        }
    }
}

// The block in float32, (dim, kKeyBlock), and where it lies then.
template <class Keys>
inline KeyGroups convert_keys(const KeyGroups& groups, int dim, float* out) {
    KeyGroups converted{groups.count, {}};
    for (int lane = 0; lane < groups.count * kKeyGroup; lane += kWidth) {
        Keys keys = keys_at<Keys>(groups, lane);
        for (int d = 0; d < dim;) {
            keys.start();
            for (const int end = d + Keys::span(dim); d < end; ++d) store(out + d * kKeyBlock + lane, keys.next());
        }
    }
    for (int g = 0; g < groups.count; ++g) {
        converted.group[g] = {reinterpret_cast<const std::uint8_t*>(out), kKeyBlock,
                              static_cast<std::size_t>(g * kKeyGroup)};
    }
    return converted;
}

}  // namespace
}  // namespace plait::PLAIT_PATH
