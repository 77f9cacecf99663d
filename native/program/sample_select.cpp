#include "program/sample_select.h"

namespace plait {
namespace {

constexpr int kFewEntries = 128;  // sorted at once

// Monotonic in the key, so that divisions in ascending order hold keys in ascending order.
class Divisions {
  public:
    Divisions(KeyRange range, int n) : lowest_(range.lowest) {
        const double span = range.highest - range.lowest;
        if (n <= kFewEntries || !(span > 0)) return;
        count_ = kMassBins;
        scale_ = kMassBins / span;
    }
    int count() const { return count_; }
    int of(double key) const {
        return static_cast<int>(std::min((key - lowest_) * scale_, static_cast<double>(count_ - 1)));
    }

  private:
    double lowest_, scale_ = 0;
    int count_ = 1;
};

}  // namespace

Cut cut_by_mass(const double* keys, const double* weights, int n, KeyRange range, double wanted, bool strictly,
                SampleScratch& scratch) {
    const auto enough = [&](double sum) { return strictly ? sum > wanted : sum >= wanted; };
    const Divisions divisions(range, n);
    double* masses = scratch.masses.data();
    std::fill(masses, masses + divisions.count(), 0.0);
    if (divisions.count() > 1) {
        for (int i = 0; i < n; ++i) masses[divisions.of(keys[i])] += weights[i];
    }
    int division = 0;
    double sum = 0;
    while (division + 1 < divisions.count() && !enough(sum + masses[division])) sum += masses[division++];

    Ranked* ranked = scratch.ranked.data();
    int count = 0;
    for (int i = 0; i < n; ++i) {
        if (divisions.count() == 1 || divisions.of(keys[i]) == division) ranked[count++] = {keys[i], i};
    }
    sort_ranked(ranked, count);
    for (int i = 0; i < count; ++i) {
        sum += weights[ranked[i].index];
        if (enough(sum)) return {true, ranked[i].key, ranked[i].index};
    }
    if (division + 1 == divisions.count()) return {false, 0, 0};
    return {true, ranked[count - 1].key, ranked[count - 1].index};  // rounding kept this order of the sum below
}

}  // namespace plait
