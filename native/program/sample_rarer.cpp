// The stages that few ask for: top-n-sigma, XTC, Mirostat. ops/candidates.py and ops/mirostat.py say what they mean.
#include <algorithm>
#include <cmath>
#include <functional>

#include "program/philox.h"
#include "program/sample_chain.h"

namespace plait {
namespace {

constexpr int kEstimatedFrom = 100;  // most likely tokens that Mirostat 1 looks at

// Standard deviation of the values above -inf.
template <class T>
double deviation_of(const T* values, int n) {
    double sum = 0, squares = 0;
    int possible = 0;
    for (int i = 0; i < n; ++i) {
        if (values[i] == -std::numeric_limits<T>::infinity()) continue;
        sum += values[i];
        ++possible;
    }
    const double mean = sum / possible;
    for (int i = 0; i < n; ++i) {
        if (values[i] == -std::numeric_limits<T>::infinity()) continue;
        squares += (values[i] - mean) * (values[i] - mean);
    }
    return std::sqrt(squares / possible);
}

float not_above(double x) {
    if (!(x > std::numeric_limits<float>::lowest())) return -kInfinity;
    return std::nextafter(static_cast<float>(x), -kInfinity);
}

// How many tokens Mirostat 1 keeps; `head` are the largest values above -inf, in descending order.
double rank_of(const double* head, int n, double mu, double vocabulary) {
    double products = 0, squares = 0;
    for (int i = 0; i + 1 < n; ++i) {
        const double ratio = std::log((i + 2.0) / (i + 1.0));
        products += ratio * (head[i] - head[i + 1]);
        squares += ratio * ratio;
    }
    const double exponent = squares == 0 ? 0 : products / squares;
    if (exponent == 0) return 1;
    const double excess = exponent - 1;
    const double k = std::pow(excess * std::exp2(mu) / (1 - std::pow(vocabulary, -excess)), 1 / exponent);
    return std::isnan(k) ? 1 : std::clamp(k, 1.0, vocabulary);
}

}  // namespace

void Chain::top_n_sigma() {
    if (whole_) {
        // A temperature scales the deviation as it does the logits.
        const double least = top_ - record_.top_n_sigma * deviation_of(x_, n_);
        const int reaching = gather(x_, not_above(least));
        float* found = scratch_.found.data();
        std::int32_t* ids = scratch_.found_ids.data();
        int kept = 0;
        for (int i = 0; i < reaching; ++i) {
            if (!(found[i] >= least)) continue;
            ids[kept] = ids[i];
            found[kept++] = found[i];
        }
        return take_found(kept);
    }
    const double* values = scratch_.values.data();
    const double least = list_top_ - record_.top_n_sigma * deviation_of(values, count_);
    keep_if([&](int i) { return values[i] >= least; });
}

bool Chain::xtc() {
    if (!record_.seeded) return fail(SampleError::NoSeed);
    const double chance = token_uniform(record_.seed, record_.sample_index, record_.position, kXtcStream);
    if (chance > record_.xtc_probability || record_.xtc_threshold > 0.5) return true;
    expand();
    double *values = scratch_.values.data(), *weights = scratch_.weights.data();
    const double least = record_.xtc_threshold * kernels_.weigh_doubles(values, count_, list_top_, weights);
    int likely = 0, stays = 0;
    for (int i = 0; i < count_; ++i) {
        if (!(weights[i] >= least && weights[i] > 0)) continue;
        if (likely++ == 0 || values[i] <= values[stays]) stays = i;
    }
    if (likely < 2) return true;
    keep_if([&](int i) { return i == stays || !(weights[i] >= least && weights[i] > 0); });
    find_list_top();
    return true;
}

std::int32_t Chain::draw_mirostat() {
    record_.mirostat == 1 ? thin_by_rank() : thin_by_surprise();
    const std::int32_t token = draw_listed(token_uniform(record_.seed, record_.sample_index, record_.position));
    const double* weights = scratch_.weights.data();
    const double total = kernels_.weigh_doubles(scratch_.values.data(), count_, list_top_, scratch_.weights.data());
    const double surprise = -std::log2(weights[place(token)] / total);
    drawn_->mu = record_.mu - record_.mirostat_eta * (surprise - record_.mirostat_tau);
    return token;
}

// The candidates are the whole vocabulary still, as a temperature leaves none out.
void Chain::thin_by_rank() {
    double* head = scratch_.keys.data();
    int size = gather_largest(x_, std::min(kEstimatedFrom, n_));
    for (int i = 0; i < size; ++i) head[i] = scratch_.found.data()[i] / temperature_;
    std::sort(head, head + size, std::greater<double>());
    size = static_cast<int>(std::find(head, head + size, -std::numeric_limits<double>::infinity()) - head);
    const int k = static_cast<int>(rank_of(head, size, record_.mu, n_));
    take_found(k >= n_ ? gather(x_, -kInfinity) : gather_largest(x_, k));
}

void Chain::thin_by_surprise() {
    const double total = total_weight(x_, top_, temperature_), least = total * std::exp2(-record_.mu);
    const double exact = top_ + temperature_ * (std::log(least) - 1e-9);
    take_found(gather(x_, std::min(not_above(exact), top_)));
    double* weights = scratch_.weights.data();
    kernels_.weigh_doubles(scratch_.values.data(), count_, list_top_, weights);
    const double* values = scratch_.values.data();
    const int best = static_cast<int>(std::max_element(values, values + count_) - values);
    keep_if([&](int i) { return i == best || weights[i] >= least; });
    find_list_top();
}

}  // namespace plait
