#include "program/sample_chain.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include "program/philox.h"
#include "program/sample_select.h"

namespace plait {
namespace {

constexpr double kLeastTemperature = 1e-200;  // keeps logit / temperature finite
constexpr double kLongestFall = 700;          // exp(-x) is a normal number up to here

template <class T>
bool not_finite(T x) {
    return !(x < std::numeric_limits<T>::infinity());
}

}  // namespace

bool Chain::fail(SampleError error, SamplePoint point, std::int64_t bad) {
    drawn_->error = error;
    drawn_->point = point;
    drawn_->bad = bad;
    drawn_->total = whole_ ? n_ : count_;
    return false;
}

void Chain::run(Drawn& drawn) {
    drawn_ = &drawn;
    if (!choose()) {
        drawn.logprobs.clear();
    } else if (record_.logprobs >= 0) {
        drawn.logprobs.front() = {drawn.token, (double{logits_[drawn.token]} - double{model_top_}) - log_sum_};
    }
}

bool Chain::choose() {
    if (!scan(logits_, std::max(record_.top_k, record_.logprobs), SamplePoint::Model)) return false;
    x_ = logits_;
    if (record_.logprobs >= 0) list_likely();
    if (!apply_mask() || !apply_biases()) return false;
    for (const Stage* stage = record_.stages; *stage != Stage::End; ++stage) {
        if (!apply(*stage)) return false;
    }
    if (!record_.greedy && !record_.seeded) return fail(SampleError::NoSeed);
    drawn_->token = record_.greedy ? kernels_.find_logit(x_, n_, top_) : record_.mirostat ? draw_mirostat() : draw();
    return true;
}

bool Chain::apply(Stage stage) {
    switch (stage) {
        case Stage::Penalties: return penalise();
        case Stage::Dry: return dry();
        case Stage::TopK: top_k(); break;
        case Stage::TypicalP: typical_p(); break;
        case Stage::TopP: top_p(); break;
        case Stage::MinP: min_p(); break;
        case Stage::Temperature: divide(); break;
        case Stage::TopNSigma: top_n_sigma(); break;
        case Stage::Xtc: return xtc();
        case Stage::End: break;
    }
    return true;
}

// --- the whole vocabulary ---------------------------------------------------------------------------------------

// Finds the largest of x, and for each of some columns the largest in it: `most` candidates or fewer will be asked for.
bool Chain::scan(const float* x, int most, SamplePoint point) {
    const auto wanted = static_cast<unsigned>(std::clamp(2 * std::min(most, kMostScanColumns), kLeastScanColumns,
                                                         kMostScanColumns));
    columns_ = static_cast<int>(std::bit_ceil(wanted));
    const ScanResult found = kernels_.scan_logits({x, n_, columns_, scratch_.maxima.data()});
    top_ = found.top;
    if (found.nan || top_ == kInfinity) {
        return fail(SampleError::NotFinite, point, std::count_if(x, x + n_, not_finite<float>));
    }
    if (top_ == -kInfinity) return fail(SampleError::AllMinusInfinity, point);
    return true;
}

float* Chain::writable() {
    if (x_ == logits_) {
        std::memcpy(scratch_.row.data(), logits_, static_cast<std::size_t>(n_) * sizeof(float));
        x_ = scratch_.row.data();
    }
    return scratch_.row.data();
}

bool Chain::apply_mask() {
    if (in_.mask == nullptr) return true;
    const std::size_t words = (static_cast<std::size_t>(n_) + 31) / 32;
    if (in_.mask->size() != words) return fail(SampleError::WrongMask);
    kernels_.mask_logits(x_, in_.mask->data(), n_, scratch_.row.data());
    x_ = scratch_.row.data();
    return scan(x_, record_.top_k, SamplePoint::Mask);
}

bool Chain::apply_biases() {
    if (in_.biases.empty()) return true;
    float* x = writable();
    for (std::size_t i = 0; i < in_.biases.size(); ++i) {
        const std::int64_t token = in_.bias_tokens[i];
        if (token < 0 || token >= n_) return fail(SampleError::UnknownBias);
        x[token] += static_cast<float>(in_.biases[i]);
    }
    return scan(x_, record_.top_k, SamplePoint::Bias);
}

int Chain::gather(const float* x, float bound) const {
    return kernels_.gather_logits(x, n_, bound, scratch_.found_ids.data(), scratch_.found.data());
}

// To `found`: the `count` largest of x above -inf, by index; `maxima` is that of x. Returns how many there are.
int Chain::gather_largest(const float* x, int count) const {
    // As many columns as wanted have a logit that reaches the bound; hardly more logits do.
    const bool narrows = count <= columns_ && columns_ < n_;
    float* copy = scratch_.copy.data();
    const float bound = narrows ? nth_largest(scratch_.maxima.data(), columns_, count, copy) : -kInfinity;
    // A mask may leave fewer than that: what is -inf would be most of the vocabulary.
    const int near = gather(x, std::max(bound, std::numeric_limits<float>::lowest()));
    std::int32_t* ids = scratch_.found_ids.data();
    float* found = scratch_.found.data();
    int kept = 0;
    each_largest(found, near, std::min(count, near), copy, [&](int i) {
        ids[kept] = ids[i];
        found[kept++] = found[i];
    });
    return kept;
}

// The sum of exp((x - top) / temperature); `sums` has that of each block.
double Chain::total_weight(const float* x, float top, double temperature) const {
    double total = 0;
    for (int first = 0; first < n_; first += kSumBlock) {
        const int count = std::min(kSumBlock, n_ - first);
        const double sum = kernels_.weigh_logits(x + first, count, top, 1.0 / temperature, scratch_.weights.data());
        scratch_.sums.data()[first / kSumBlock] = sum;
        total += sum;
    }
    return total;
}

void Chain::take_found(int count) {
    std::copy_n(scratch_.found_ids.data(), count, scratch_.ids.data());
    for (int i = 0; i < count; ++i) {
        const double value = scratch_.found.data()[i];
        scratch_.values.data()[i] = temperature_ == 1 ? value : value / temperature_;
    }
    list_top_ = temperature_ == 1 ? top_ : top_ / temperature_;
    count_ = count;
    whole_ = false;
}

void Chain::expand() {
    if (whole_) take_found(gather(x_, -kInfinity));
}

// --- lists ------------------------------------------------------------------------------------------------------

bool Chain::check_list(SamplePoint point) {
    const double* values = scratch_.values.data();
    const auto bad = std::count_if(values, values + count_, not_finite<double>);
    if (bad != 0) return fail(SampleError::NotFinite, point, bad);
    find_list_top();
    if (list_top_ == -kInfinity) return fail(SampleError::AllMinusInfinity, point);
    return true;
}

void Chain::find_list_top() { list_top_ = *std::max_element(scratch_.values.data(), scratch_.values.data() + count_); }

int Chain::place(std::int64_t token) const {
    const std::int32_t *ids = scratch_.ids.data(), *end = ids + count_;
    const std::int32_t* at = std::lower_bound(ids, end, token);
    return at != end && *at == token ? static_cast<int>(at - ids) : -1;
}

// --- stages -----------------------------------------------------------------------------------------------------

template <class Change>
void Chain::change(std::int64_t token, Change change) {
    if (whole_) {
        if (token >= 0 && token < n_) scratch_.row.data()[token] = change(scratch_.row.data()[token]);
        return;
    }
    const int i = place(token);
    if (i < 0) return;
    double& value = scratch_.values.data()[i];
    value = wide_ ? change(value) : static_cast<double>(change(static_cast<float>(value)));
}

// Of tokens in the vocabulary. Which ones those are is in `touched`, whose end is a -1.
void Chain::count_window() {
    std::int32_t* touched = scratch_.touched.data();
    for (const std::int64_t token : in_.window) {
        if (token < 0 || token >= n_) continue;
        if (scratch_.counts[static_cast<std::size_t>(token)]++ == 0) *touched++ = static_cast<std::int32_t>(token);
    }
    *touched = -1;
}

bool Chain::penalise() {
    if (in_.window.empty()) return true;
    if (wide_) expand();
    if (whole_) writable();
    count_window();
    for (const std::int32_t* token = scratch_.touched.data(); *token >= 0; ++token) {
        const int count = std::exchange(scratch_.counts[static_cast<std::size_t>(*token)], 0);
        change(*token, [&]<class T>(T old) {
            const T repeat = static_cast<T>(record_.repeat);
            const T rest = static_cast<T>(count) * static_cast<T>(record_.frequency) + static_cast<T>(record_.presence);
            return static_cast<T>((old <= 0 ? old * repeat : old / repeat) - rest);
        });
    }
    return whole_ ? scan(x_, record_.top_k, SamplePoint::Penalties) : check_list(SamplePoint::Penalties);
}

bool Chain::dry() {
    if (in_.dry_tokens.empty()) return true;
    if (wide_) expand();
    if (whole_) writable();
    for (std::size_t i = 0; i < in_.dry_tokens.size(); ++i) {
        change(in_.dry_tokens[i], [&]<class T>(T old) { return static_cast<T>(old - static_cast<T>(in_.dry_penalties[i])); });
    }
    return whole_ ? scan(x_, record_.top_k, SamplePoint::Dry) : check_list(SamplePoint::Dry);
}

void Chain::top_k() {
    const int k = record_.top_k;
    if (k >= (whole_ ? n_ : count_)) return;
    // A temperature changes neither the order nor which are equal: float64 tells float32's quotients apart.
    if (whole_) return take_found(gather_largest(x_, k));
    std::int32_t* ids = scratch_.ids.data();
    double* values = scratch_.values.data();
    int kept = 0;
    each_largest(values, count_, k, scratch_.weights.data(), [&](int i) {
        ids[kept] = ids[i];
        values[kept++] = values[i];
    });
    count_ = kept;
}

void Chain::top_p() {
    if (whole_) return top_p_of_whole();
    const double* values = scratch_.values.data();
    double *weights = scratch_.weights.data(), *keys = scratch_.keys.data();
    const double total = kernels_.weigh_doubles(values, count_, list_top_, weights);
    for (int i = 0; i < count_; ++i) keys[i] = -values[i];
    const Cut cut = cut_by_mass(keys, weights, count_, range_of(keys, count_), record_.top_p * total, false, scratch_);
    if (cut.reached) keep_if([&](int i) { return cut.keeps(keys[i], i); });
}

// Looks for the end of the cut in a head of the vocabulary, then gathers from the whole again.
void Chain::top_p_of_whole() {
    const double p = record_.top_p, total = total_weight(x_, top_, temperature_);
    // All logits below the bound together weigh at most half of what may be left out.
    const double fall = std::max(std::log(2.0 * n_ / ((1.0 - p) * total)), 0.0);
    const double exact = double{top_} - fall * temperature_;
    const bool bounds = fall < kLongestFall && exact > std::numeric_limits<float>::lowest();
    const float bound = bounds ? std::nextafter(static_cast<float>(exact), -kInfinity) : -kInfinity;
    const int head = gather(x_, bound);
    float* found = scratch_.found.data();
    std::int32_t* ids = scratch_.found_ids.data();
    double *weights = scratch_.weights.data(), *keys = scratch_.keys.data();
    kernels_.weigh_logits(found, head, top_, 1.0 / temperature_, weights);
    for (int i = 0; i < head; ++i) keys[i] = -double{found[i]};
    const KeyRange range{-double{top_}, bounds ? -double{bound} : -double{top_} + kKeySpan * temperature_};
    const Cut cut = cut_by_mass(keys, weights, head, range, p * total, false, scratch_);
    if (!cut.reached) return take_found(gather(x_, -kInfinity));  // p is so near to 1 that rounding keeps the sum below it
    const float least = found[cut.index];
    const std::int32_t last = ids[cut.index];
    const int reaching = gather(x_, least);
    int kept = 0;
    for (int i = 0; i < reaching; ++i) {
        if (found[i] == least && ids[i] > last) continue;
        ids[kept] = ids[i];
        found[kept++] = found[i];
    }
    take_found(kept);
}

void Chain::typical_p() {
    expand();
    double *values = scratch_.values.data(), *weights = scratch_.weights.data(), *keys = scratch_.keys.data();
    keep_if([&](int i) { return values[i] > -kInfinity; });
    const double top = list_top_;
    const double log_sum = std::log(kernels_.weigh_doubles(values, count_, top, weights));
    for (int i = 0; i < count_; ++i) keys[i] = (values[i] - top) - log_sum;
    kernels_.weigh_doubles(keys, count_, 0.0, weights);
    double entropy = 0;
    for (int i = 0; i < count_; ++i) entropy -= weights[i] * keys[i];
    for (int i = 0; i < count_; ++i) keys[i] = std::abs(-keys[i] - entropy);
    const Cut cut = cut_by_mass(keys, weights, count_, range_of(keys, count_), record_.typical_p, true, scratch_);
    if (cut.reached) keep_if([&](int i) { return cut.keeps(keys[i], i); });
    find_list_top();
}

void Chain::min_p() {
    if (whole_ && !wide_) return take_found(gather(x_, top_ + static_cast<float>(record_.log_min_p)));
    if (whole_) {
        // A little more than needed; what follows looks exactly.
        const double bound = static_cast<double>(top_) + record_.log_min_p * temperature_;
        const double lower = bound - 1e-6 * (std::abs(bound) + std::abs(static_cast<double>(top_)));
        take_found(gather(x_, lower > std::numeric_limits<float>::lowest() ? static_cast<float>(lower) : -kInfinity));
    }
    const double least = wide_ ? list_top_ + record_.log_min_p
                               : double{static_cast<float>(list_top_) + static_cast<float>(record_.log_min_p)};
    const double* values = scratch_.values.data();
    keep_if([&](int i) { return values[i] >= least; });
}

void Chain::divide() {
    wide_ = true;
    const double temperature = std::max(record_.temperature, kLeastTemperature);
    if (whole_) {
        temperature_ = temperature;
    } else {
        for (int i = 0; i < count_; ++i) scratch_.values.data()[i] /= temperature;
        list_top_ /= temperature;
    }
}

// --- the end ----------------------------------------------------------------------------------------------------

std::int32_t Chain::draw() {
    const double uniform = token_uniform(record_.seed, record_.sample_index, record_.position);
    return whole_ ? draw_whole(uniform) : draw_listed(uniform);
}

std::int32_t Chain::draw_listed(double uniform) {
    double* weights = scratch_.weights.data();
    const double target = uniform * kernels_.weigh_doubles(scratch_.values.data(), count_, list_top_, weights);
    double sum = 0;
    int last = 0;
    for (int i = 0; i < count_; ++i) {
        sum += weights[i];
        if (weights[i] > 0) last = i;
        if (sum > target) break;
    }
    return scratch_.ids.data()[last];
}

std::int32_t Chain::draw_whole(double uniform) {
    const double total = total_weight(x_, top_, temperature_), target = uniform * total;
    const double* sums = scratch_.sums.data();
    const int blocks = (n_ + kSumBlock - 1) / kSumBlock;
    double sum = 0;
    int block = 0;
    for (int next = 0; next < blocks; ++next) {
        if (sums[next] == 0) continue;
        block = next;
        if (sum + sums[next] > target) break;
        sum += sums[next];
    }
    const int first = block * kSumBlock, count = std::min(kSumBlock, n_ - first);
    double* weights = scratch_.weights.data();
    kernels_.weigh_logits(x_ + first, count, top_, 1.0 / temperature_, weights);
    int last = 0;
    for (int i = 0; i < count; ++i) {
        sum += weights[i];
        if (weights[i] > 0) last = i;
        if (weights[i] > 0 && sum > target) break;
    }
    return first + last;
}

// The most likely tokens of the model's own distribution; the first place is the chosen token's.
void Chain::list_likely() {
    model_top_ = top_;
    log_sum_ = std::log(total_weight(logits_, top_, 1.0));
    drawn_->logprobs.push_back({-1, 0});
    if (record_.logprobs == 0) return;
    const int count = gather_largest(logits_, std::min(record_.logprobs, n_));
    Ranked* ranked = scratch_.ranked.data();
    for (int i = 0; i < count; ++i) ranked[i] = {-double{scratch_.found.data()[i]}, i};
    sort_ranked(ranked, count);
    for (int i = 0; i < count && ranked[i].key < kInfinity; ++i) {
        drawn_->logprobs.push_back({scratch_.found_ids.data()[ranked[i].index], (-ranked[i].key - top_) - log_sum_});
    }
}

}  // namespace plait
