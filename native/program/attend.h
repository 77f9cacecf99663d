// How a step's attention is divided into pieces of work, once for each KV group.
//
// Sequences whose tables begin with the same blocks of keys attend to those together; long ranges of keys are divided
// over the workers. Neither changes a bit (see kernels/attention.h). Knows tables and rows; does no arithmetic.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/kernels.h"

namespace plait {

struct Step;
struct KvShape;

// A piece for each KV head: rows rows[first_row..] of the plan against keys of a sequence. A piece without `partials`
// (-1) begins at key 0 and merges into the state; it finishes its rows when nothing is left to do for them. Else its
// partials begin `partials` floats into the step's, KV head by KV head.
struct AttentionPiece {
    int first_row, n_rows, sequence;
    int first_key, last_key;
    std::int64_t partials;
    bool finishes;
    double cost;

    int blocks() const { return (last_key - first_key + kKeyBlock - 1) / kKeyBlock; }
};

// What is left for some rows when all pieces are done, in this order: partials of shared keys, keys of their own,
// partials of those. Pieces are given as ranges of their numbers; `shared_row` is the rows' place in the shared ones.
struct AttentionRest {
    int first_row, n_rows, sequence;
    int shared_begin, shared_end, shared_row;
    int first_key, last_key;  // the same: none
    int own_begin, own_end;
};

struct AttentionPlan {
    std::vector<std::int32_t> rows;
    std::vector<AttentionPiece> pieces;
    std::vector<int> order;  // of the pieces: the costly ones first
    std::vector<AttentionRest> rests;
    std::int64_t partials;  // floats that the pieces write

    // For the planner alone; kept so that a step allocates nothing.
    std::vector<int> first_row, sharers;
};

// Plans the step's attention in every KV group, for so many threads. step.keys must have their starts.
void plan_attention(Step& step, const KvShape& shape, int threads);

}  // namespace plait
