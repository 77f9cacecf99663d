#include <stdexcept>
#include <string>

#include "program/kv.h"
#include "program/step.h"

namespace plait {
namespace {

using std::to_string;

[[noreturn]] void refuse(const std::string& reason) { throw std::invalid_argument(reason); }

void check_range(const std::string& what, Ints values, std::int64_t limit) {
    for (const std::int32_t value : values) {
        if (value < 0 || value >= limit) {
            refuse(what + ": " + to_string(value) + " is outside 0.." + to_string(limit - 1));
        }
    }
}

void check_slot(const std::string& what, std::int64_t slot, const KvShape& shape, std::size_t group) {
    const std::int64_t first = shape.page_size, end = first * shape.groups[group].num_pages;
    if (slot < first || slot >= end) {
        refuse(what + ": slot " + to_string(slot) + " is outside the pages 1.." +
               to_string(shape.groups[group].num_pages - 1) + " of " + to_string(first) + " slots (slots " +
               to_string(first) + ".." + to_string(end - 1) + ")");
    }
}

void check_tables(const std::string& what, const GroupInputs& group, const KvShape& shape, int num_pages) {
    const Ints starts = group.entry_start;
    bool rising = !starts.empty() && starts.front() == 0;
    for (std::size_t i = 1; rising && i < starts.size(); ++i) rising = starts[i - 1] <= starts[i];
    if (!rising || static_cast<std::size_t>(starts.back()) != group.entries.size()) {
        refuse(what + ": entry_start must rise from 0 to the number of entries, " + to_string(group.entries.size()));
    }
    for (const TableEntry& entry : group.entries) {
        if (entry.page < 1 || entry.page >= num_pages) {
            refuse(what + ": a page table names a page outside 1.." + to_string(num_pages - 1) + ": " +
                   to_string(entry.page));
        }
        // Without adding, which might overflow.
        if (entry.first < 0 || entry.count < 0 || entry.count > shape.page_size ||
            entry.first > shape.page_size - entry.count) {
            refuse(what + ": a page table entry reaches outside its page of " + to_string(shape.page_size) + " slots");
        }
    }
}

void check_edits(const std::string& what, const GroupInputs& inputs, const KvShape& shape, std::size_t group) {
    for (const CopyEdit& copy : inputs.copies) {
        const std::int64_t apart = static_cast<std::int64_t>(copy.source) - copy.target;
        if (copy.count < 1 || (apart < 0 ? -apart : apart) < copy.count) {
            refuse(what + ": a copy from slot " + to_string(copy.source) + " to " + to_string(copy.target) + " of " +
                   to_string(copy.count) + " slots is empty, or its source and destination overlap");
        }
        for (const std::int64_t slot : {copy.source, copy.target}) {
            check_slot(what + ": copy", slot, shape, group);
            check_slot(what + ": copy", slot + copy.count - 1, shape, group);
        }
    }
    for (const RepositionEdit& edit : inputs.repositions) check_slot(what + ": reposition", edit.slot, shape, group);
}

void check_group(const StepInputs& step, const KvShape& shape, std::size_t group) {
    const std::string what = "group " + to_string(group);
    const GroupInputs& inputs = step.groups[group];
    check_tables(what, inputs, shape, shape.groups[group].num_pages);
    check_range("row_seq", step.row_seq, static_cast<std::int64_t>(inputs.entry_start.size()) - 1);
    if (inputs.store_row.size() != inputs.store_slot.size()) {
        refuse(what + ": store_row and store_slot have " + to_string(inputs.store_row.size()) + " and " +
               to_string(inputs.store_slot.size()) + " values; they must be of one length");
    }
    check_range(what + ": store_row", inputs.store_row, static_cast<std::int64_t>(step.tokens.size()));
    check_slots((what + ": store_slot").c_str(), inputs.store_slot, shape, group);
    check_edits(what, inputs, shape, group);
}

}  // namespace

void check_slots(const char* what, Ints slots, const KvShape& shape, std::size_t group) {
    for (const std::int32_t slot : slots) check_slot(what, slot, shape, group);
}

void check_step(const StepInputs& step, const KvShape& shape, std::int64_t vocabulary) {
    const std::size_t rows = step.tokens.size();
    if (step.positions.size() != rows || step.row_seq.size() != rows) {
        refuse("positions and row_seq have " + to_string(step.positions.size()) + " and " +
               to_string(step.row_seq.size()) + " values; there are " + to_string(rows) + " tokens");
    }
    check_range("token", step.tokens, vocabulary);
    check_range("out_rows", step.out_rows, static_cast<std::int64_t>(rows));
    if (step.hidden_only < 0 || static_cast<std::size_t>(step.hidden_only) > step.out_rows.size()) {
        refuse("hidden_only is " + to_string(step.hidden_only) + "; there are " + to_string(step.out_rows.size()) +
               " output rows");
    }
    for (std::size_t i = 1; i < rows; ++i) {
        if (step.row_seq[i] < step.row_seq[i - 1]) {
            refuse("row_seq falls; rows of one sequence are adjacent, sequences in ascending order");
        }
    }
    if (step.groups.size() != shape.groups.size()) {
        refuse("the step has " + to_string(step.groups.size()) + " KV groups; the memory has " +
               to_string(shape.groups.size()));
    }
    for (std::size_t group = 0; group < step.groups.size(); ++group) check_group(step, shape, group);
}

}  // namespace plait
