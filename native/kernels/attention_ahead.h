// Fetching the next block's K and V into the second-level cache while this one's are computed with: a page of one KV
// head is some 2 KB, too short a run for what the processor fetches by itself (docs/decisions/0037). Only hints: what
// they miss, or fetch in vain, costs time alone.
#pragma once

#include "kernels/attention_args.h"

namespace plait::PLAIT_PATH {
namespace {

constexpr std::size_t kLine = 64;
constexpr int kGroups = kKeyBlock / kKeyGroup;

// Where the next block's groups of 16 keys begin. As long as pages hold whole groups, a group's K takes as many bytes
// from there on as its V.
struct KeysAhead {
    const std::uint8_t *k[kGroups], *v[kGroups];
    std::size_t v_bytes;  // of a key's V
    int count;            // keys

    // Step d of head_dim of them: a share of the block's K.
    template <std::size_t BYTES>
    void fetch_keys(int d) const {
        const unsigned step = static_cast<unsigned>(d);
        const std::uint8_t* at = k[step % kGroups] + step / kGroups * BYTES * kLine;
        for (std::size_t i = 0; i < BYTES; ++i) fetch(at + i * kLine);
    }

    // BYTES of the V of key j, from byte `first` on.
    template <std::size_t BYTES>
    void fetch_value(int j, std::size_t first) const {
        const unsigned key = static_cast<unsigned>(j);
        const std::uint8_t* at = v[key / kKeyGroup] + key % kKeyGroup * v_bytes + first;
        for (std::size_t i = 0; i < BYTES; i += kLine) fetch(at + i);
    }

    // Where this block has fewer keys than the next one.
    void fetch_values_from(int j) const {
        for (; j < count; ++j) {
            for (std::size_t i = 0; i < v_bytes; i += kLine) fetch_value<1>(j, i);
        }
    }

  private:
    static void fetch(const std::uint8_t* at) { __builtin_prefetch(at, 0, 2); }
};

// Fetches nothing: for keys and values that are in the cache.
struct NoKeysAhead {
    template <std::size_t>
    void fetch_keys(int) const {}
    template <std::size_t>
    void fetch_value(int, std::size_t) const {}
};

inline KeysAhead ahead_of(const AttentionArgs& a, const NextKeys& next) {
    KeysAhead ahead;
    ahead.v_bytes = kv_row_bytes(a.kv_type, a.state.v_head_dim);
    ahead.count = next.count < kKeyBlock ? next.count : kKeyBlock;
    const std::size_t k_bytes = kv_row_bytes(a.kv_type, a.head_dim);
    for (int g = 0; g < kGroups; ++g) {
        const std::int32_t first = next.rows[g * kKeyGroup < next.count ? g * kKeyGroup : 0];
        const std::size_t row = static_cast<std::size_t>(first) +
                                static_cast<std::size_t>(next.kv_head) * static_cast<std::size_t>(a.page_size);
        ahead.k[g] = a.k + row * k_bytes;
        ahead.v[g] = a.v + row * ahead.v_bytes;
    }
    return ahead;
}

}  // namespace
}  // namespace plait::PLAIT_PATH
