// Rows in portions: where the weights of neighbouring instructions are few, a worker takes some rows through all of them, up
// to where a row depends on others. So rows stay in its core's caches, and the team waits once, not once or twice for each
// instruction; each worker goes through all the weights, which is why they must be few. Decision 36 has the figures.
#include <algorithm>

#include "program/program.h"

namespace plait {
namespace {

constexpr std::size_t kFewWeights = std::size_t{8} << 20;  // bytes, of a stretch
constexpr int kFewestRows = 24;                            // for each worker; with fewer, nothing was gained for sure
constexpr int kMostInPortion = 6 * kPanelRows, kLeastInPortion = 2 * kPanelRows;

// A portion for each worker, or more that become smaller towards the end, so that workers end together.
std::vector<int> divide(int rows, int threads) {
    std::vector<int> starts{0};
    const bool few = rows <= kMostInPortion * threads;
    for (int i = 1; few && i <= threads; ++i) {
        starts.push_back(static_cast<int>(std::int64_t{rows} * i / threads));
    }
    for (int left; (left = rows - starts.back()) > 0;) {
        const int even = left / (2 * threads) / kPanelRows * kPanelRows;
        starts.push_back(starts.back() + std::min(left, std::clamp(even, kLeastInPortion, kMostInPortion)));
    }
    return starts;
}

}  // namespace

void Program::find_stretches() {
    stretches_.clear();
    for (std::size_t i = 0; i < ops_.size(); ++i) {
        const bool by_rows = ops_[i]->by_rows();
        if (stretches_.empty() || stretches_.back().by_rows != by_rows) stretches_.push_back({i, i, by_rows});
        stretches_.back().last = i + 1;
    }
    for (const Stretch& stretch : stretches_) {
        if (!stretch.by_rows) continue;
        std::size_t bytes = 0;
        for (std::size_t i = stretch.first; i < stretch.last; ++i) bytes += ops_[i]->weight_bytes();
        stretch_bytes_ = std::max(stretch_bytes_, bytes);
        for (const auto& place : places_) {
            if (place->first >= stretch.first && place->last < stretch.last) place->passing = true;
        }
    }
}

std::vector<int> Program::portions_of(const StepInputs& inputs) const {
    const int rows = static_cast<int>(inputs.tokens.size());
    if (rows / threads_ < kFewestRows || stretch_bytes_ > kFewWeights) return {};
    for (const GroupInputs& group : inputs.groups) {
        if (!std::is_sorted(group.store_row.begin(), group.store_row.end())) return {};
    }
    return divide(rows, threads_);
}

std::size_t Program::reserve_portions() {
    Counts most;
    for (std::size_t i = 0; i + 1 < portions_.size(); ++i) {
        most.tokens = std::max(most.tokens, portions_[i + 1] - portions_[i]);
    }
    own_.resize(static_cast<std::size_t>(threads_));
    std::size_t scratch = 0;
    for (const auto& op : ops_) {
        if (!op->by_rows()) continue;
        for (Shared& own : own_) op->reserve(most, own);
        scratch = std::max(scratch, op->scratch(most));
    }
    for (const Array& value : values_) {
        if (!value.place->passing) continue;
        std::vector<Growing<float>>& own = value.place->storage->own;
        own.resize(static_cast<std::size_t>(threads_));
        const std::size_t rows = static_cast<std::size_t>(most.tokens);
        for (auto& memory : own) memory.reserve(rows * static_cast<std::size_t>(value.width));
    }
    return scratch;
}

}  // namespace plait
