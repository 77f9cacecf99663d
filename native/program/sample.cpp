#include "program/sample.h"

#include <cstring>
#include <stdexcept>
#include <string>

#include "program/sample_chain.h"

namespace plait {
namespace {

constexpr int kSlack = 16;  // floats that gather_logits may write behind the last

template <class T>
std::span<const T> part(std::span<const T> all, std::size_t& first, std::int32_t count) {
    const std::size_t from = first;
    first += static_cast<std::size_t>(count);
    return all.subspan(from, static_cast<std::size_t>(count));
}

std::vector<SampleRecord> read_records(std::span<const std::uint8_t> bytes) {
    if (bytes.size() % sizeof(SampleRecord) != 0) throw std::invalid_argument("the records are not whole ones");
    std::vector<SampleRecord> records(bytes.size() / sizeof(SampleRecord));
    if (!records.empty()) std::memcpy(records.data(), bytes.data(), bytes.size());
    return records;
}

}  // namespace

void SampleScratch::reserve(int vocabulary) {
    const auto n = static_cast<std::size_t>(vocabulary);
    for (Growing<float>* floats : {&row, &found, &copy}) floats->reserve(std::max<std::size_t>(n, kMostScanColumns) + kSlack);
    maxima.reserve(kMostScanColumns);
    found_ids.reserve(n + kSlack);
    ids.reserve(n);
    touched.reserve(n + 1);
    for (Growing<double>* doubles : {&values, &weights, &keys}) doubles->reserve(std::max<std::size_t>(n, kSumBlock));
    sums.reserve(n / kSumBlock + 1);
    masses.reserve(kMassBins);
    ranked.reserve(n);
    if (counts.size() < n) counts.resize(n);
}

Sampler::Sampler(const SampleCall& call, const Kernels& kernels, std::vector<SampleScratch>& scratch)
    : call_(call), kernels_(kernels), scratch_(scratch), records_(read_records(call.records)), drawn_(records_.size()) {
    std::size_t tokens = 0, values = 0;
    for (const SampleRecord& record : records_) {
        if (record.biases < 0 || record.window < 0 || record.dry < 0) throw std::invalid_argument("a negative count");
        first_token_.push_back(tokens);
        first_value_.push_back(values);
        values += static_cast<std::size_t>(record.biases) + static_cast<std::size_t>(record.dry);
        tokens += static_cast<std::size_t>(record.biases) + static_cast<std::size_t>(record.dry) +
                  static_cast<std::size_t>(record.window);
    }
    if (tokens != call.tokens.size() || values != call.values.size()) {
        throw std::invalid_argument("the records count " + std::to_string(tokens) + " tokens and " +
                                    std::to_string(values) + " values; there are " + std::to_string(call.tokens.size()) +
                                    " and " + std::to_string(call.values.size()));
    }
    check();
    for (std::size_t i = 0; i < records_.size(); ++i) {
        if (records_[i].logprobs >= 0) drawn_[i].logprobs.reserve(static_cast<std::size_t>(records_[i].logprobs) + 1);
    }
    for (SampleScratch& memory : scratch_) memory.reserve(call.vocabulary);
}

void Sampler::check() const {
    for (const SampleRecord& record : records_) {
        if (record.pick < 0 || record.pick >= call_.rows) {
            throw std::invalid_argument("row " + std::to_string(record.pick) + " of " + std::to_string(call_.rows) +
                                        " rows of logits");
        }
        if (record.mask < -1 || record.mask >= static_cast<std::int64_t>(call_.masks.size())) {
            throw std::invalid_argument("there is no mask " + std::to_string(record.mask));
        }
        if (record.stages[sizeof record.stages - 1] != Stage::End) throw std::invalid_argument("a chain without an end");
    }
}

void Sampler::run(int row, int worker) {
    const auto r = static_cast<std::size_t>(row);
    const SampleRecord& record = records_[r];
    std::size_t token = first_token_[r], value = first_value_[r];
    const auto bias_tokens = part(call_.tokens, token, record.biases);
    const auto window = part(call_.tokens, token, record.window);
    const auto dry_tokens = part(call_.tokens, token, record.dry);
    const auto biases = part(call_.values, value, record.biases);
    const auto dry_penalties = part(call_.values, value, record.dry);
    const float* logits = call_.logits + static_cast<std::size_t>(record.pick) * static_cast<std::size_t>(call_.vocabulary);
    const auto* mask = record.mask < 0 ? nullptr : &call_.masks[static_cast<std::size_t>(record.mask)];
    const RowInputs in{logits,     call_.vocabulary, record, bias_tokens,   window,
                       dry_tokens, biases,           dry_penalties, mask};
    Chain(kernels_, scratch_[static_cast<std::size_t>(worker)], in).run(drawn_[r]);
}

}  // namespace plait
