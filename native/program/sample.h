// Choosing tokens from rows of logits. ops/sampling.py says what every stage and error means; it is computed here
// without sorting the vocabulary.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "kernels/kernels.h"
#include "program/memory.h"

namespace plait {

// 0 ends a chain. A chain holds only what changes something: no stage that is switched off.
enum class Stage : std::uint8_t { End, Penalties, Dry, TopK, TypicalP, TopP, MinP, Temperature, TopNSigma, Xtc };

// How to sample one row, as plait.ops.cpu.sampling packs it.
struct SampleRecord {
    double temperature, top_p, typical_p, log_min_p;
    double repeat, frequency, presence;
    double top_n_sigma, xtc_probability, xtc_threshold, mirostat_tau, mirostat_eta;
    std::uint64_t seed;
    std::int32_t top_k, logprobs;  // -1: no log-probabilities
    Stage stages[12];
    std::uint8_t greedy, seeded, mirostat, unused;  // mirostat: its version, and then the chain is a temperature alone
    // From here on, what differs from step to step.
    std::int32_t pick;  // row of the logits
    std::uint32_t sample_index;
    std::uint64_t position;
    std::int32_t biases, window, dry;  // entries of SampleCall's tokens and values; see there
    std::int32_t mask;                 // index of the mask; -1: none
    double mu;                         // Mirostat's
};
static_assert(sizeof(SampleRecord) == 168);

// All rows of a step. For each record in order, `tokens` holds those with a bias, then the last tokens that penalties
// look at, then those that DRY penalises; `values` the biases, then DRY's penalties. A mask's word w has bit b set for
// an allowed token 32 w + b.
struct SampleCall {
    const float* logits;
    int rows, vocabulary;
    std::span<const std::uint8_t> records;
    std::span<const std::int64_t> tokens;
    std::span<const double> values;
    std::vector<std::span<const std::uint32_t>> masks;
};

enum class SampleError : int { None, NotFinite, AllMinusInfinity, UnknownBias, WrongMask, NoSeed };
enum class SamplePoint : int { Model, Mask, Bias, Penalties, Dry };

struct TokenLogprob {
    std::int32_t token;
    double logprob;
};

// What one row yields: a token, or an error (then the token is -1). `point` is where logits went bad, `bad` how many of
// `total` are NaN or +inf. `mu` is for the next token, where Mirostat drew this one.
struct Drawn {
    std::int32_t token = -1;
    SampleError error = SampleError::None;
    SamplePoint point = SamplePoint::Model;
    std::int64_t bad = 0, total = 0;
    std::optional<double> mu;
    std::vector<TokenLogprob> logprobs;  // the chosen token, then the most likely ones
};

// An entry of the candidates with the key it is ranked by.
struct Ranked {
    double key;
    int index;
};

// A worker's memory; `reserve` makes room for a vocabulary, so that sampling allocates nothing.
struct SampleScratch {
    Growing<float> row, maxima, found, copy;
    Growing<std::int32_t> found_ids, ids, touched;
    Growing<double> values, weights, keys, sums, masses;
    Growing<Ranked> ranked;
    std::vector<std::int32_t> counts;  // of tokens; all 0 between rows

    void reserve(int vocabulary);
};

constexpr int kMostScanColumns = 8192;
constexpr int kLeastScanColumns = 256;
constexpr int kSumBlock = 512;  // logits whose weights are summed at a time
constexpr int kMassBins = 2048;

// All rows of a step, on any worker each.
class Sampler {
  public:
    // Throws std::invalid_argument for records, tokens, values and masks that do not fit together, or a row that is not
    // there. `call` must outlive this.
    Sampler(const SampleCall& call, const Kernels& kernels, std::vector<SampleScratch>& scratch);

    int count() const { return static_cast<int>(records_.size()); }
    // With the scratch of that worker.
    void run(int row, int worker);
    std::vector<Drawn> take() { return std::move(drawn_); }

  private:
    void check() const;

    const SampleCall& call_;
    const Kernels& kernels_;
    std::vector<SampleScratch>& scratch_;
    std::vector<SampleRecord> records_;
    std::vector<std::size_t> first_token_, first_value_;
    std::vector<Drawn> drawn_;
};

}  // namespace plait
