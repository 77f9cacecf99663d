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
    bool together = slot + kKeyGroup <= static_cast<std::size_t>(a.page_size);
    for (int i = 1; i < count; ++i) together &= rows[i] == rows[0] + i;
    return together;
}

// Keys first..first+count-1 as groups of 16, in place or gathered into `scratch`.
inline KeyGroups key_groups(const AttentionArgs& a, int first, int count, std::uint8_t* scratch) {
    KeyGroups groups{(count + kKeyGroup - 1) / kKeyGroup, {}};
    const std::size_t bytes = kKeyGroup * kv_row_bytes(a.kv_type, a.head_dim);
    for (int g = 0; g < groups.count; ++g) {
        const int key = first + g * kKeyGroup, left = first + count - key, n = left < kKeyGroup ? left : kKeyGroup;
        KeyGroup& group = groups.group[g];
        group.panel = key_panel(a, key, &group.slot);
        group.stride = static_cast<std::size_t>(a.page_size);
        if (in_one_page(a, key, n, group.slot)) continue;
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

// The first tile fetches ahead.
template <class Keys, int QUERIES, class Fetch>
inline void score_tiles(const float* const* q, const KeyGroups& groups, int dim, float* scores, const Fetch& ahead) {
    const int lanes = groups.count * kKeyGroup;
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

// Scores of n queries, (n, kKeyBlock).
template <class Keys, class Fetch>
inline void score(const float* const* q, int n, const KeyGroups& groups, int dim, float* scores, const Fetch& ahead) {
    for (int i = 0; i < n; i += kTileQueries) {
        switch (n - i) {
            case 1: score_tiles<Keys, 1>(q + i, groups, dim, scores + i * kKeyBlock, ahead); break;
            case 2: score_tiles<Keys, 2>(q + i, groups, dim, scores + i * kKeyBlock, ahead); break;
            case 3:
                if constexpr (kTileQueries > 3) {
                    score_tiles<Keys, 3>(q + i, groups, dim, scores + i * kKeyBlock, ahead);
                    break;
                }
                [[fallthrough]];
            default: score_tiles<Keys, kTileQueries>(q + i, groups, dim, scores + i * kKeyBlock, ahead);
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
