// Selection among candidates without sorting them all: the k largest, and the first in an order to reach a sum.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>

#include "program/sample.h"

namespace plait {

// The `count`-th largest of n; `copy` has room for n.
template <class T>
T nth_largest(const T* values, int n, int count, T* copy) {
    std::copy(values, values + n, copy);
    std::nth_element(copy, copy + (count - 1), copy + n, std::greater<T>());
    return copy[count - 1];
}

// Calls keep(i), ascending, for the `count` largest of n values, count <= n; among equals for the lowest i.
template <class T, class Keep>
void each_largest(const T* values, int n, int count, T* copy, Keep keep) {
    if (count >= n) {
        for (int i = 0; i < n; ++i) keep(i);
        return;
    }
    const T least = nth_largest(values, n, count, copy);
    int ties = count;
    for (int i = 0; i < n; ++i) ties -= values[i] > least;
    for (int i = 0; i < n; ++i) {
        if (values[i] > least || (values[i] == least && ties-- > 0)) keep(i);
    }
}

// In ascending order of keys and, among equals, of indices.
inline void sort_ranked(Ranked* ranked, int count) {
    std::sort(ranked, ranked + count,
              [](const Ranked& a, const Ranked& b) { return a.key < b.key || (a.key == b.key && a.index < b.index); });
}

// The end of a cut: entries with a smaller key are kept, and those with this key up to this index.
struct Cut {
    bool reached;
    double key;
    int index;
    bool keeps(double k, int i) const { return k < key || (k == key && i <= index); }
};

// Between which keys entries are told apart; those outside count with the nearest that is inside.
struct KeyRange {
    double lowest, highest;
};

constexpr double kKeySpan = 750;  // weights of exp(-key) are 0 beyond

// From the smallest key to the largest, or as far as weights reach.
inline KeyRange range_of(const double* keys, int n) {
    const double lowest = *std::min_element(keys, keys + n);
    return {lowest, std::min(*std::max_element(keys, keys + n), lowest + kKeySpan)};
}

// Where the sum of `weights` first reaches `wanted` (exceeds it, if `strictly`), over n entries in ascending order of
// keys and, among equals, of indices. Keys are not NaN, and none is below the range. The sum runs over equal divisions
// of the range (entries in order of index), then inside one in the order of keys.
Cut cut_by_mass(const double* keys, const double* weights, int n, KeyRange range, double wanted, bool strictly,
                SampleScratch& scratch);

}  // namespace plait
