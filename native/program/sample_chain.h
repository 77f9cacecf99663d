// The sampler chain of one row: from its logits to a token or an error.
#pragma once

#include <limits>

#include "program/sample.h"

namespace plait {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// What one row looks at; the spans are its own parts of SampleCall's. `mask` is null for none.
struct RowInputs {
    const float* logits;
    int vocabulary;
    const SampleRecord& record;
    std::span<const std::int64_t> bias_tokens, window, dry_tokens;
    std::span<const double> biases, dry_penalties;
    const std::span<const std::uint32_t>* mask;
};

// Candidates are the whole vocabulary, in float32 (perhaps to be divided by a temperature), until a stage leaves
// something out; then they are lists of ids, ascending, and values. Values are held in float64, and are those of float32
// until a temperature has divided them: `wide_` says which precision a change is made in.
class Chain {
  public:
    Chain(const Kernels& kernels, SampleScratch& scratch, const RowInputs& in)
        : kernels_(kernels), scratch_(scratch), in_(in), record_(in.record), logits_(in.logits), n_(in.vocabulary) {}

    // Allocates nothing where `drawn` has room for the log-probabilities.
    void run(Drawn& drawn);

  private:
    bool choose();
    bool fail(SampleError error, SamplePoint point = SamplePoint::Model, std::int64_t bad = 0);
    bool scan(const float* x, int most, SamplePoint point);
    bool apply_mask();
    bool apply_biases();
    bool apply(Stage stage);

    bool penalise();
    bool dry();
    void top_k();
    void top_p();
    void top_p_of_whole();
    void typical_p();
    void min_p();
    void divide();
    // In sample_rarer.cpp:
    void top_n_sigma();
    bool xtc();
    std::int32_t draw_mirostat();
    void thin_by_rank();
    void thin_by_surprise();

    std::int32_t draw();
    std::int32_t draw_listed(double uniform);
    std::int32_t draw_whole(double uniform);
    void list_likely();

    // While the candidates are the whole vocabulary:
    int gather(const float* x, float bound) const;
    int gather_largest(const float* x, int count) const;
    double total_weight(const float* x, float top, double temperature) const;
    float* writable();
    void expand();
    void take_found(int count);
    // Once they are lists:
    template <class Keep>
    void keep_if(Keep keep);
    bool check_list(SamplePoint point);
    void find_list_top();
    int place(std::int64_t token) const;
    // Calls change(value) for the candidate `token`, if it is one.
    template <class Change>
    void change(std::int64_t token, Change change);
    void count_window();

    const Kernels& kernels_;
    SampleScratch& scratch_;
    const RowInputs& in_;
    const SampleRecord& record_;
    const float* logits_;
    const int n_;
    Drawn* drawn_ = nullptr;
    float model_top_ = 0;
    double log_sum_ = 0;  // of the model's weights

    bool whole_ = true, wide_ = false;
    const float* x_ = nullptr;  // the whole vocabulary
    float top_ = 0;
    int columns_ = 0;  // of scratch_.maxima
    double temperature_ = 1;
    int count_ = 0;  // of the lists
    double list_top_ = 0;
};

template <class Keep>
void Chain::keep_if(Keep keep) {
    std::int32_t* ids = scratch_.ids.data();
    double* values = scratch_.values.data();
    int kept = 0;
    for (int i = 0; i < count_; ++i) {
        if (!keep(i)) continue;
        ids[kept] = ids[i];
        values[kept++] = values[i];
    }
    count_ = kept;
}

}  // namespace plait
