// Attention of some rows of one sequence with the query heads of one KV head.
//
// Partials over blocks of 64 keys by index in the sequence, merged in ascending order. A masked key takes part in
// no arithmetic that reaches the result, so what its slot holds (even NaN) does not matter. A block's K and V
// are brought to float32 once for all rows and heads of the task.
#pragma once

#include "kernels/dots.h"
#include "kernels/rowwise.h"

namespace plait::PLAIT_PATH {
namespace {

// What a task keeps in its scratch. A query is a (row, head) pair.
struct Attending {
    int heads;           // query heads of the KV head
    float *q, *out;      // (queries, head_dim), (queries, v_head_dim): the running weighted sum
    float *top, *total;  // (queries,): the running maximum and sum
    float* scores;       // (queries, kKeyBlock)
    float *k, *v;        // (kKeyBlock, head_dim), (kKeyBlock, v_head_dim)
    float* partial;      // (v_head_dim,)
    const float *key[kKeyBlock], *value[kKeyBlock];
};

inline Attending attending(const AttentionArgs& a) {
    Attending t;
    t.heads = a.n_heads / a.n_kv_heads;
    const std::size_t queries = static_cast<std::size_t>(t.heads * (a.last_row - a.first_row));
    const std::size_t dim = static_cast<std::size_t>(a.head_dim), v_dim = static_cast<std::size_t>(a.v_head_dim);
    t.q = a.scratch;
    t.out = t.q + queries * dim;
    t.scores = t.out + queries * v_dim;
    t.top = t.scores + queries * kKeyBlock;
    t.total = t.top + queries;
    t.k = t.total + queries;
    t.v = t.k + kKeyBlock * dim;
    t.partial = t.v + kKeyBlock * v_dim;
    return t;
}

// Which of a block's keys a row attends to.
enum class Seen { None, All, Some };

struct Block {
    int first, count;
    std::int64_t lowest, highest;  // key positions
};

inline Block block_at(const AttentionArgs& a, int first) {
    const int left = a.keys - first, count = left < kKeyBlock ? left : kKeyBlock;
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

inline Seen seen_of(const AttentionArgs& a, const Block& b, std::int64_t row) {
    if (b.lowest > row || (a.window != 0 && row - b.highest >= a.window)) return Seen::None;
    return visible(a, row, b.lowest) && visible(a, row, b.highest) ? Seen::All : Seen::Some;
}

inline const float* key_floats(const AttentionArgs& a, const std::uint8_t* base, int key, int dim, float* scratch) {
    const std::size_t row = static_cast<std::size_t>(a.key_rows[key]) +
                            static_cast<std::size_t>(a.kv_head) * static_cast<std::size_t>(a.page_size);
    const std::size_t at = row * static_cast<std::size_t>(dim);
    if (a.kv_type == KvType::F32) return reinterpret_cast<const float*>(base) + at;
    load_kv(a.kv_type, base + 2 * at, scratch, dim);
    return scratch;
}

// The visible keys of the block by index, ascending. Returns how many.
inline int visible_keys(const AttentionArgs& a, const Block& b, Seen seen, std::int64_t row, int* index) {
    int n = 0;
    for (int j = 0; j < b.count; ++j) {
        index[n] = j;
        n += seen == Seen::All || visible(a, row, a.key_positions[b.first + j]) ? 1 : 0;
    }
    return n;
}

// out[d] = sum over the visible keys, in order, of p * value[d], for `VECTORS` vectors from d.
template <int VECTORS>
inline void weigh_values(const float* p, const float* const* value, const int* index, int n, int d, float* out) {
    V sum[VECTORS] = {};
    for (int i = 0; i < n; ++i) {
        const V weight = broadcast(p[index[i]]);
        const float* at = value[index[i]] + d;
        for (int c = 0; c < VECTORS; ++c) sum[c] += weight * load(at + c * kWidth);
    }
    for (int c = 0; c < VECTORS; ++c) store(out + d + c * kWidth, sum[c]);
}

inline void weigh_values(const float* p, const float* const* value, const int* index, int n, int dim, float* out) {
    int d = 0;
    for (; d + 4 * kWidth <= dim; d += 4 * kWidth) weigh_values<4>(p, value, index, n, d, out);
    for (; d + kWidth <= dim; d += kWidth) weigh_values<1>(p, value, index, n, d, out);
    for (; d < dim; ++d) {
        float sum = 0.0f;
        for (int i = 0; i < n; ++i) sum += p[index[i]] * value[index[i]][d];
        out[d] = sum;
    }
}

// Merges (top, total, partial) into query q's running state, which the first partial starts.
inline void merge(const Attending& t, std::size_t q, float top, float total, const float* partial, int dim) {
    float* out = t.out + q * static_cast<std::size_t>(dim);
    if (t.total[q] == 0.0f) {
        t.top[q] = top;
        t.total[q] = total;
        for (int d = 0; d < dim; ++d) out[d] = partial[d];
        return;
    }
    const float peak = t.top[q] < top ? top : t.top[q];
    const float old = exponential(t.top[q] - peak), fresh = exponential(top - peak);
    t.top[q] = peak;
    t.total[q] = t.total[q] * old + total * fresh;
    for (int d = 0; d < dim; ++d) out[d] = out[d] * old + partial[d] * fresh;
}

// The partial of query q over the block's visible keys, merged.
inline void attend_block(const AttentionArgs& a, const Attending& t, std::size_t q, const int* index, int n) {
    float* s = t.scores + q * kKeyBlock;
    for (int j = 0; j < kKeyBlock; ++j) s[j] = s[j] * a.scale;
    if (a.softcap != 0.0f) softcap(s, a.softcap, s, kKeyBlock);
    float top = s[index[0]];
    for (int i = 1; i < n; ++i) top = s[index[i]] > top ? s[index[i]] : top;
    // A masked key adds zero to its lane: the sum is the same whether it is masked or not there at all.
    alignas(64) float p[kKeyBlock], weights[kKeyBlock] = {};
    for (int j = 0; j < kKeyBlock; ++j) p[j] = exponential(s[j] - top);
    for (int i = 0; i < n; ++i) weights[index[i]] = p[index[i]];
    const float total = sum_of(kKeyBlock, [&weights](int j) { return weights[j]; });
    weigh_values(p, t.value, index, n, a.v_head_dim, t.partial);
    merge(t, q, top, total, t.partial, a.v_head_dim);
}

inline void score_block(const AttentionArgs& a, const Attending& t, const Block& b, int queries) {
    for (int i = 0; i < queries; i += 4) {
        const float* rows[4];
        const int count = queries - i < 4 ? queries - i : 4;
        for (int r = 0; r < count; ++r) rows[r] = t.q + (i + r) * a.head_dim;
        dot_rows(count, rows, t.key, b.count, a.head_dim, t.scores + i * kKeyBlock, kKeyBlock);
    }
}

inline void attend_rows(const AttentionArgs& a, Attending& t, const Block& b) {
    bool any = false;
    for (int r = a.first_row; r < a.last_row; ++r) any = any || seen_of(a, b, a.row_positions[r]) != Seen::None;
    if (!any) return;
    for (int j = 0; j < b.count; ++j) {
        t.key[j] = key_floats(a, a.k, b.first + j, a.head_dim, t.k + j * a.head_dim);
        t.value[j] = key_floats(a, a.v, b.first + j, a.v_head_dim, t.v + j * a.v_head_dim);
    }
    score_block(a, t, b, t.heads * (a.last_row - a.first_row));
    for (int r = a.first_row; r < a.last_row; ++r) {
        const Seen seen = seen_of(a, b, a.row_positions[r]);
        int index[kKeyBlock + 1];
        const int n = seen == Seen::None ? 0 : visible_keys(a, b, seen, a.row_positions[r], index);
        if (n == 0) continue;
        for (int h = 0; h < t.heads; ++h) {
            attend_block(a, t, static_cast<std::size_t>((r - a.first_row) * t.heads + h), index, n);
        }
    }
}

// The sink is a logit without a value, merged last; no key at all gives zeros.
inline void finish_query(const AttentionArgs& a, const Attending& t, std::size_t q, int head, float* out) {
    if (a.sinks != nullptr) {
        for (int d = 0; d < a.v_head_dim; ++d) t.partial[d] = 0.0f;
        merge(t, q, a.sinks[head], 1.0f, t.partial, a.v_head_dim);
    }
    const float total = t.total[q];
    const float* sum = t.out + q * static_cast<std::size_t>(a.v_head_dim);
    for (int d = 0; d < a.v_head_dim; ++d) out[d] = total == 0.0f ? 0.0f : sum[d] / total;
}

inline void attention(const AttentionArgs& a) {
    Attending t = attending(a);
    const std::size_t width = static_cast<std::size_t>(a.n_heads) * static_cast<std::size_t>(a.head_dim);
    const std::size_t out_width = static_cast<std::size_t>(a.n_heads) * static_cast<std::size_t>(a.v_head_dim);
    const int rows = a.last_row - a.first_row, first_head = a.kv_head * t.heads;
    const std::size_t q_bytes = static_cast<std::size_t>(t.heads * a.head_dim) * sizeof(float);
    for (int r = 0; r < rows; ++r) {
        const float* q = a.q + static_cast<std::size_t>(a.first_row + r) * width + first_head * a.head_dim;
        __builtin_memcpy(t.q + r * t.heads * a.head_dim, q, q_bytes);
    }
    for (int i = 0; i < rows * t.heads; ++i) t.total[i] = 0.0f;
    // Scores past the last key are computed upon, then dropped: let them be numbers.
    for (int i = 0; i < rows * t.heads * kKeyBlock; ++i) t.scores[i] = 0.0f;
    for (int first = 0; first < a.keys; first += kKeyBlock) attend_rows(a, t, block_at(a, first));
    for (int r = 0; r < rows; ++r) {
        float* out = a.out + static_cast<std::size_t>(a.first_row + r) * out_width + first_head * a.v_head_dim;
        for (int h = 0; h < t.heads; ++h) {
            finish_query(a, t, static_cast<std::size_t>(r * t.heads + h), first_head + h, out + h * a.v_head_dim);
        }
    }
}

}  // namespace
}  // namespace plait::PLAIT_PATH
