// What the attention kernels take. Work is a piece: some rows of a step (of one sequence, or of several that share the
// keys), the query heads of one KV head, and a range of whole key blocks. Plain data only, as in kernels/kernels.h.
#pragma once

#include "kernels/kv_layout.h"

namespace plait {

// Keys in one attention partial, by index in the sequence.
constexpr int kKeyBlock = 64;
// Keys in a vector of K.
constexpr int kKeyGroup = 16;
// Queries, (row, head) pairs, that a piece best has at most: they share one read of K and V.
constexpr int kQueriesPerPiece = 64;

// The running maximum, sum and output of each (row, head): `top` and `total` are (rows, n_heads), `out` is
// (rows, n_heads * v_head_dim). `sinks` may be null.
struct AttentionState {
    float *top, *total, *out;
    int n_heads, v_head_dim;
    const float* sinks;
};

// Keys, as in AttentionArgs. A count of 0: none.
struct NextKeys {
    const std::int32_t* rows;
    int count, kv_head;
};

// `slopes` is null, or has each head's: a score grows by slope * (key position - row position).
//
// Rows rows[0..n_rows-1] against the keys first_key..last_key-1 of a sequence, for the query heads of one KV head.
// Key i lies at slot key_rows[i] % page_size of its page; its row would be number key_rows[i] + kv_head * page_size if
// K lay as V does. `window` 0 is none. first_key is a multiple of kKeyBlock.
//
// Without `partials` the blocks are merged into the state, in ascending order. Else each block's partial is written
// there, (blocks, n_rows, heads, 2 + v_head_dim): maximum, sum (0: no key was visible, the rest is undefined), output.
struct AttentionArgs {
    AttentionState state;
    const float* q;
    int n_kv_heads, head_dim, kv_head;
    const std::int32_t* rows;
    int n_rows;
    const std::int32_t *row_positions, *key_rows, *key_positions;
    int first_key, last_key;
    const std::uint8_t *k, *v;
    KvType kv_type;
    int page_size;
    float scale, softcap;
    const float* slopes;
    int window;
    float* partials;
    bool starts, finishes;  // sets the state to nothing before, divides by the sum after
    float* scratch;         // attention_scratch(...) floats
    NextKeys next;          // what is probably attended to after this, to be fetched ahead
};

// Merges the partials of `blocks` blocks into the state of rows[0..n_rows-1], which are partial_row and the following
// of the partial_rows rows that the partials are of; then divides by the sum if that finishes them.
struct MergeArgs {
    AttentionState state;
    int n_kv_heads, kv_head;
    const std::int32_t* rows;
    int n_rows;
    const float* partials;
    int blocks, partial_rows, partial_row;
    bool finishes;
};

static constexpr int rows_per_attention_piece(int heads_per_kv_head) {
    return heads_per_kv_head >= kQueriesPerPiece ? 1 : kQueriesPerPiece / heads_per_kv_head;
}

// Floats between the rows of V in scratch: whole vectors.
static constexpr int padded_value(int v_head_dim) { return (v_head_dim + kKeyGroup - 1) / kKeyGroup * kKeyGroup; }

// A block's K as it lies in pages and in float32, its V in float32.
static constexpr std::size_t attention_scratch(int head_dim, int v_head_dim) {
    return static_cast<std::size_t>(kKeyBlock) * static_cast<std::size_t>(2 * head_dim + padded_value(v_head_dim));
}

static constexpr std::size_t partial_floats(int v_head_dim) { return static_cast<std::size_t>(v_head_dim) + 2; }

}  // namespace plait
