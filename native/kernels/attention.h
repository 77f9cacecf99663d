// Attention of a piece: some rows with the query heads of one KV head, over a range of key blocks.
//
// Partials (maximum, sum, output) over blocks of 64 keys by index in the sequence, merged in ascending order. A masked
// key takes part in no arithmetic that reaches the result, so what its slot holds (even NaN) does not matter. Which
// rows share a piece, and where the keys are divided, changes no bit.
#pragma once

#include "kernels/attention_values.h"
#include "kernels/rowwise.h"

namespace plait::PLAIT_PATH {
namespace {

struct Block {
    int first, count;
    std::int64_t lowest, highest;  // key positions
};

inline Block block_at(const AttentionArgs& a, int first) {
    const int left = a.last_key - first, count = left < kKeyBlock ? left : kKeyBlock;
    std::int32_t lowest = a.key_positions[first], highest = lowest;
    for (int j = 1; j < count; ++j) {
        const std::int32_t p = a.key_positions[first + j];
        lowest = p < lowest ? p : lowest;
        highest = p > highest ? p : highest;
    }
    return {first, count, lowest, highest};
}

inline bool visible(const AttentionArgs& a, std::int64_t row, std::int64_t key) {
    return key <= row && (a.window == 0 || row - key < a.window);
}

// The keys of the block that a row sees, as bits.
inline std::uint64_t seen_of(const AttentionArgs& a, const Block& b, std::int64_t row) {
    if (b.lowest > row || (a.window != 0 && row - b.highest >= a.window)) return 0;
    const std::uint64_t all = kAllKeys >> (kKeyBlock - b.count);
    if (visible(a, row, b.lowest) && visible(a, row, b.highest)) return all;
    std::uint64_t seen = 0;
    for (int j = 0; j < b.count; ++j) {
        seen |= std::uint64_t{visible(a, row, a.key_positions[b.first + j])} << j;
    }
    return seen;
}

// What a query's scores grow by for each position that its key lies ahead of the row.
struct Bias {
    float slope;
    std::int32_t row_position;
};

// Queries that see something of a block.
struct Queries {
    int n = 0;
    const float* q[kQueriesPerPiece];
    float *top[kQueriesPerPiece], *total[kQueriesPerPiece];  // where they are kept
    Weighted weighted[kQueriesPerPiece];
    Bias bias[kQueriesPerPiece];
    alignas(64) float block_top[kQueriesPerPiece] = {}, block_total[kQueriesPerPiece];
    alignas(64) float scores[kQueriesPerPiece * kKeyBlock];
};

// Where a block's K and V lie, for all queries of the piece.
struct BlockKeys {
    KeyGroups keys;
    const std::int32_t* positions;
    int count;
    const std::uint8_t* values[kKeyBlock];
    bool keys_converted, values_converted, together[kKeyBlock / kKeyGroup];
    KeysAhead ahead;
};

inline void hide(float* scores, std::uint64_t seen) {
    constexpr std::int32_t bit[kKeyGroup] = {1,     2,     4,      8,      0x10,   0x20,   0x40,   0x80,
                                             0x100, 0x200, 0x400, 0x800, 0x1000, 0x2000, 0x4000, 0x8000};
    for (int g = 0; g < kKeyBlock; g += kKeyGroup) {
        const std::int32_t bits = static_cast<std::int32_t>(seen >> g & 0xffff);
        for (int l = 0; l < kKeyGroup; ++l) {
            scores[g + l] = (bits & bit[l]) != 0 ? scores[g + l] : -__builtin_inff();
        }
    }
}

// Queries that are weighed together: what each waits for, the others fill.
constexpr int kWeighed = 4;

inline void lane_maxima(const float* s, int n, float* lanes) {
    for (int l = 0; l < kLanes; l += kWidth) {
        V most = load(s + l);
        for (int j = l + kLanes; j < n; j += kLanes) most = larger(most, load(s + j));
        store(lanes + l, most);
    }
}

// The library's order of summing (simd/vector.h), as far as the lanes.
inline void lane_sums(const float* s, int n, float* lanes) {
    for (int l = 0; l < kLanes; l += kWidth) {
        V sum = load(s + l);
        for (int j = l + kLanes; j < n; j += kLanes) sum += load(s + j);
        store(lanes + l, sum);
    }
}

inline void add_bias(float* s, const BlockKeys& block, const Bias& bias) {
    for (int j = 0; j < block.count; ++j) {
        s[j] = s[j] + bias.slope * static_cast<float>(block.positions[j] - bias.row_position);
    }
}

// Turns scores of queries i..i+kWeighed-1 into weights, with their maxima and sums. exp(-infinity) is 0: a hidden key
// adds nothing to its lane of the sum. They see none of the keys from KEYS on, whose weights are left as they are.
template <int KEYS>
inline void weigh_keys(const AttentionArgs& a, const BlockKeys& block, Queries& t, int i, int n) {
    alignas(64) float lanes[kWeighed * kLanes] = {};
    float* const scores = t.scores + i * kKeyBlock;
    for (int r = 0; r < n; ++r) {
        float* const s = scores + r * kKeyBlock;
        for (int j = 0; j < KEYS; ++j) s[j] = s[j] * a.scale;
        if (a.softcap != 0.0f) softcap(s, a.softcap, s, KEYS);
        if (a.slopes != nullptr) add_bias(s, block, t.bias[i + r]);
        if (t.weighted[i + r].seen != kAllKeys) hide(s, t.weighted[i + r].seen);
        lane_maxima(s, KEYS, lanes + r * kLanes);
    }
    store4(t.block_top + i, max_lanes4(lanes));
    for (int r = 0; r < n; ++r) {
        float* const s = scores + r * kKeyBlock;
        const float peak = t.block_top[i + r];
        for (int j = 0; j < KEYS; ++j) s[j] = exponential(s[j] - peak);
        lane_sums(s, KEYS, lanes + r * kLanes);
    }
    store4(t.block_total + i, sum_lanes4(lanes));
}

inline void weigh(const AttentionArgs& a, const BlockKeys& block, Queries& t, int i) {
    const int n = t.n - i < kWeighed ? t.n - i : kWeighed;
    switch (seen_groups(t.weighted + i, n)) {
        case 1: return weigh_keys<kKeyGroup>(a, block, t, i, n);
        case 2: return weigh_keys<2 * kKeyGroup>(a, block, t, i, n);
        case 3: return weigh_keys<3 * kKeyGroup>(a, block, t, i, n);
        default: return weigh_keys<kKeyBlock>(a, block, t, i, n);
    }
}

// Merges the block's maxima and sums into the state; leaves the factors for the outputs.
inline void merge_sums(Queries& t) {
    alignas(64) float top[kQueriesPerPiece], old[kQueriesPerPiece], fresh[kQueriesPerPiece];
    for (int i = 0; i < t.n; i += kKeyGroup) {
        for (int j = i; j < i + kKeyGroup; ++j) top[j] = j < t.n ? *t.top[j] : 0.0f;
        for (int j = i; j < i + kKeyGroup; ++j) {
            const float peak = top[j] < t.block_top[j] ? t.block_top[j] : top[j];
            old[j] = exponential(top[j] - peak);
            fresh[j] = exponential(t.block_top[j] - peak);
            top[j] = peak;
        }
    }
    for (int i = 0; i < t.n; ++i) {
        *t.top[i] = top[i];
        *t.total[i] = *t.total[i] * old[i] + t.block_total[i] * fresh[i];
        t.weighted[i].old = old[i];
        t.weighted[i].fresh = fresh[i];
    }
}

template <class Keys, class Values>
inline void attend(const AttentionArgs& a, const BlockKeys& block, Queries& t) {
    if (block.keys_converted) {
        score<PlainKeys<Singles>>(t.q, t.weighted, t.n, block.keys, a.head_dim, t.scores, NoKeysAhead());
    } else {
        score<Keys>(t.q, t.weighted, t.n, block.keys, a.head_dim, t.scores, block.ahead);
    }
    for (int i = 0; i < t.n; i += kWeighed) weigh(a, block, t, i);
    if (a.partials == nullptr) {
        merge_sums(t);
    } else {
        for (int i = 0; i < t.n; ++i) {
            *t.top[i] = t.block_top[i];
            *t.total[i] = t.block_total[i];
        }
    }
    const bool merges = a.partials == nullptr;
    if (block.values_converted) {
        weigh_values<PlainValues<Singles>>(t.weighted, t.n, block.values, a.state.v_head_dim, merges, NoKeysAhead());
    } else {
        weigh_values<Values>(t.weighted, t.n, block.values, a.state.v_head_dim, merges, block.ahead);
        block.ahead.fetch_values_from(block.count);
    }
    t.n = 0;
}

// The next block of the piece, else that of the next piece; else this block, which is in the cache.
inline NextKeys next_keys(const AttentionArgs& a, const Block& b) {
    const int next = b.first + kKeyBlock;
    if (next < a.last_key) return {a.key_rows + next, a.last_key - next, a.kv_head};
    return a.next.count > 0 ? a.next : NextKeys{a.key_rows + b.first, b.count, a.kv_head};
}

// Where many queries use them, keys and values are converted once. `queries` are those of the piece.
template <class Keys, class Values>
inline void find_block(const AttentionArgs& a, const Block& b, int queries, BlockKeys& block) {
    float* const raw = a.scratch;
    float* const k = raw + kKeyBlock * a.head_dim;
    float* const v = k + kKeyBlock * a.head_dim;
    block.positions = a.key_positions + b.first;
    block.count = b.count;
    block.ahead = ahead_of(a, next_keys(a, b));
    block.keys = key_groups(a, b.first, b.count, reinterpret_cast<std::uint8_t*>(raw), block.together);
    const bool many = a.kv_type != KvType::F32 && queries > 2 * kTileQueries;
    block.keys_converted = many;
    if (many) block.keys = convert_keys<Keys>(block.keys, a.head_dim, k);
    const int v_dim = a.state.v_head_dim, padded = padded_value(v_dim);
    block.values_converted = many || v_dim % kWidth != 0;
    for (int g = 0, j = 0; j < b.count; ++g, j += kKeyGroup) {
        const int left = b.count - j, n = left < kKeyGroup ? left : kKeyGroup;
        value_rows(a, b.first + j, n, block.together[g], block.values + j);
    }
    if (!block.values_converted) return;
    for (int j = 0; j < b.count; ++j) {
        float* row = v + j * padded;
        load_kv(a.kv_type, block.values[j], row, v_dim);
        for (int d = v_dim; d < padded; ++d) row[d] = 0.0f;
        block.values[j] = reinterpret_cast<const std::uint8_t*>(row);
    }
}

inline std::size_t state_at(const AttentionState& s, std::int32_t row, int head) {
    return static_cast<std::size_t>(row) * static_cast<std::size_t>(s.n_heads) + static_cast<std::size_t>(head);
}

inline float* out_at(const AttentionState& s, std::int32_t row, int head) {
    return s.out + state_at(s, row, head) * static_cast<std::size_t>(s.v_head_dim);
}

// Adds the query of the piece's row number `i` and head number `h` of its KV head.
inline void add_query(const AttentionArgs& a, Queries& t, int block, int i, int h, std::uint64_t seen) {
    const int heads = a.state.n_heads / a.n_kv_heads, head = a.kv_head * heads + h, n = t.n++;
    const std::int32_t row = a.rows[i];
    t.q[n] = a.q + state_at(a.state, row, head) * static_cast<std::size_t>(a.head_dim);
    float* out = out_at(a.state, row, head);
    if (a.slopes != nullptr) t.bias[n] = {a.slopes[head], a.row_positions[row]};
    t.top[n] = a.state.top + state_at(a.state, row, head);
    t.total[n] = a.state.total + state_at(a.state, row, head);
    if (a.partials != nullptr) {
        const std::size_t number = static_cast<std::size_t>((block * a.n_rows + i) * heads + h);
        t.top[n] = a.partials + number * partial_floats(a.state.v_head_dim);
        t.total[n] = t.top[n] + 1;
        out = t.top[n] + 2;
    }
    t.weighted[n] = {t.scores + n * kKeyBlock, seen, out, 0.0f, 0.0f};
}

inline void mark_unseen(const AttentionArgs& a, int block, int i) {
    const int heads = a.state.n_heads / a.n_kv_heads;
    for (int h = 0; h < heads; ++h) {
        const std::size_t number = static_cast<std::size_t>((block * a.n_rows + i) * heads + h);
        a.partials[number * partial_floats(a.state.v_head_dim) + 1] = 0.0f;
    }
}

template <class Keys, class Values>
inline void attend_block(const AttentionArgs& a, Queries& t, int number) {
    const Block b = block_at(a, a.first_key + number * kKeyBlock);
    const int heads = a.state.n_heads / a.n_kv_heads;
    BlockKeys block;
    bool found = false;
    for (int i = 0; i < a.n_rows; ++i) {
        const std::uint64_t seen = seen_of(a, b, a.row_positions[a.rows[i]]);
        if (seen == 0) {
            if (a.partials != nullptr) mark_unseen(a, number, i);
            continue;
        }
        if (!found) find_block<Keys, Values>(a, b, heads * (a.n_rows - i), block);
        found = true;
        for (int h = 0; h < heads; ++h) {
            add_query(a, t, number, i, h, seen);
            if (t.n == kQueriesPerPiece) attend<Keys, Values>(a, block, t);
        }
    }
    if (t.n > 0) attend<Keys, Values>(a, block, t);
}

// The sink is a logit without a value, merged last; no key at all gives zeros.
inline void finish_query(const AttentionState& s, std::int32_t row, int head) {
    float top = s.top[state_at(s, row, head)], total = s.total[state_at(s, row, head)];
    float* out = out_at(s, row, head);
    if (s.sinks != nullptr) {
        const float sink = s.sinks[head], peak = top < sink ? sink : top, old = exponential(top - peak);
        total = total * old + exponential(sink - peak);
        for (int d = 0; d < s.v_head_dim; ++d) out[d] = out[d] * old;
    }
    for (int d = 0; d < s.v_head_dim; ++d) out[d] = total == 0.0f ? 0.0f : out[d] / total;
}

template <class Visit>
inline void each_query(const AttentionState& s, int n_kv_heads, int kv_head, const std::int32_t* rows, int n, Visit visit) {
    const int heads = s.n_heads / n_kv_heads;
    for (int i = 0; i < n; ++i) {
        for (int h = 0; h < heads; ++h) visit(i, h, rows[i], kv_head * heads + h);
    }
}

inline void start_queries(const AttentionArgs& a) {
    const AttentionState& s = a.state;
    each_query(s, a.n_kv_heads, a.kv_head, a.rows, a.n_rows, [&s](int, int, std::int32_t row, int head) {
        s.top[state_at(s, row, head)] = -__builtin_inff();
        s.total[state_at(s, row, head)] = 0.0f;
        float* out = out_at(s, row, head);
        for (int d = 0; d < s.v_head_dim; ++d) out[d] = 0.0f;
    });
}

template <class Keys, class Values>
inline void attend_piece(const AttentionArgs& a) {
    Queries t;
    const int blocks = (a.last_key - a.first_key + kKeyBlock - 1) / kKeyBlock;
    for (int i = 0; i < blocks; ++i) attend_block<Keys, Values>(a, t, i);
}

inline void attention(const AttentionArgs& a) {
    if (a.starts) start_queries(a);
    switch (a.kv_type) {
        case KvType::F32: attend_piece<PlainKeys<Singles>, PlainValues<Singles>>(a); break;
        case KvType::F16: attend_piece<PlainKeys<Halves>, PlainValues<Halves>>(a); break;
        case KvType::BF16: attend_piece<PlainKeys<Brains>, PlainValues<Brains>>(a); break;
        case KvType::Q8_0: attend_piece<ScaledKeys, ScaledValues>(a); break;
    }
    if (!a.finishes) return;
    each_query(a.state, a.n_kv_heads, a.kv_head, a.rows, a.n_rows,
               [&a](int, int, std::int32_t row, int head) { finish_query(a.state, row, head); });
}

// One partial into the state of a query, as merge_sums and value_tile do it.
inline void merge_partial(const AttentionState& s, std::int32_t row, int head, const float* partial) {
    if (partial[1] == 0.0f) return;
    float& top = s.top[state_at(s, row, head)];
    float& total = s.total[state_at(s, row, head)];
    const float peak = top < partial[0] ? partial[0] : top;
    const float old = exponential(top - peak), fresh = exponential(partial[0] - peak);
    top = peak;
    total = total * old + partial[1] * fresh;
    float* out = out_at(s, row, head);
    for (int d = 0; d < s.v_head_dim; ++d) out[d] = out[d] * old + partial[2 + d] * fresh;
}

inline void merge_attention(const MergeArgs& a) {
    const int heads = a.state.n_heads / a.n_kv_heads;
    each_query(a.state, a.n_kv_heads, a.kv_head, a.rows, a.n_rows, [&](int i, int h, std::int32_t row, int head) {
        for (int b = 0; b < a.blocks; ++b) {
            const std::size_t number = static_cast<std::size_t>((b * a.partial_rows + a.partial_row + i) * heads + h);
            merge_partial(a.state, row, head, a.partials + number * partial_floats(a.state.v_head_dim));
        }
        if (a.finishes) finish_query(a.state, row, head);
    });
}

}  // namespace
}  // namespace plait::PLAIT_PATH
