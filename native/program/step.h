// One step's inputs as they come from outside, and what the program makes of them once they are known to be sound.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "program/attend.h"
#include "program/memory.h"

namespace plait {

using Ints = std::span<const std::int32_t>;

struct CopyEdit {
    std::int32_t source, target, count;
};
struct RepositionEdit {
    std::int32_t slot, position;
};
struct TableEntry {
    std::int32_t page, first, count;
};

// One KV group's part of a step; see KVInputs in ops/api.py.
struct GroupInputs {
    Ints entry_start;
    std::span<const TableEntry> entries;
    Ints store_row, store_slot;
    std::span<const CopyEdit> copies;
    std::span<const RepositionEdit> repositions;
};

// See StepInputs in ops/api.py.
struct StepInputs {
    Ints tokens, positions, row_seq, out_rows;
    std::vector<GroupInputs> groups;
    int hidden_only = 0;  // of the output rows, the last so many want no logits
};

enum class Rows : int { Tokens, Outputs, Logits };  // the output rows that want logits are the first of all

struct Counts {
    int tokens = 0, outputs = 0, logits = 0;
    int of(Rows rows) const { return rows == Rows::Tokens ? tokens : rows == Rows::Outputs ? outputs : logits; }
};

// Every key of every sequence of the step in one group, in order: where it lies (see AttentionArgs) and its position.
struct GroupKeys {
    std::vector<std::int64_t> start;  // (sequences + 1,)
    Growing<std::int32_t> rows, positions;
};

// cos and sin of one rotary embedding at the step's rows, (tokens, pairs).
struct RopeTable {
    std::vector<double> inv_freq;
    float scale;
    Growing<float> cos, sin;
    int pairs() const { return static_cast<int>(inv_freq.size()); }
};

struct Step {
    const StepInputs* inputs = nullptr;
    Counts counts;
    std::vector<GroupKeys> keys;       // per group
    std::vector<AttentionPlan> plans;  // per group
    Growing<float> top, total;         // attention's state, (tokens, heads)
    Growing<float> partials;
};

struct KvShape;

// Throws std::invalid_argument, naming what is wrong, for a step that would read or write outside its arrays, the
// vocabulary or the KV memory.
void check_step(const StepInputs& step, const KvShape& shape, std::int64_t vocabulary);
void check_slots(const char* what, Ints slots, const KvShape& shape, std::size_t group);

}  // namespace plait
