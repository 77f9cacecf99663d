// Products with weights, repacked or not, as the instructions use them: rows quantised once for all workers, row groups
// in portions that stay in a core's cache.
#pragma once

#include "program/ops.h"

namespace plait {

// Up to so many values each worker quantises for itself: quicker than waiting for each other.
constexpr int kQuantisedAlone = 2048;

// Inputs that share a scale in the rows that these repacked weights are multiplied with: as many as any of them asks.
// 0: no weight is repacked.
int scale_inputs_of(const std::vector<LinearPart>& parts);
int scale_inputs(const Matrix& gate, const Matrix& up);

// Floats of a worker's scratch that `quantise_rows` may need.
std::size_t quantise_scratch(int rows, int columns);

// Rows that lie one after another, as panels, for one worker: made by all workers, which construct this in the same
// phase, in Shared::rows, which has room for them; or, few as they are, by each worker in `own`.
class QuantisedRows {
  public:
    QuantisedRows(Worker& worker, const Context& c, const InputRows& x, int columns, int scale_inputs, float* own);
    // Called inside a piece of work: only then are the rows sure to stay as they are.
    const PanelBlock* get();

  private:
    const Kernels& kernels_;
    InputRows x_;
    int columns_, scale_inputs_;
    const PanelBlock* panels_ = nullptr;
    float* own_;
};

// A weight, its bias, and rows as floats or, for a repacked weight, as panels. The first `wanted` rows are multiplied,
// and of a repacked weight what shares a panel with them.
struct Product {
    InputRows x;
    const PanelBlock* panels;
    Matrix weight;
    const float* bias;
    float* out;
    std::size_t out_stride;
    int wanted;
};

// Columns first..last-1; `next` is where this worker will probably go on. `scratch` holds linear_scratch(columns) floats.
void multiply(const Kernels& kernels, const Product& product, std::int64_t first, std::int64_t last, std::int64_t next,
              float* scratch);

// The gated half of a feed-forward network with repacked gate and up: act(x gate + bias) * (x up + bias), to floats,
// or to panels where `panels` is not null.
struct GatedProduct {
    const PanelBlock* x;
    int rows;
    Matrix gate, up;
    const float *gate_bias, *up_bias;
    Activation activation;
    float* out;
    PanelBlock* panels;
    int scale_inputs;  // of `panels`
};

// Columns of a piece of it: no run of inputs of the next product that share a scale is divided.
constexpr int gated_columns(int columns, int scale_inputs) {
    return (columns + scale_inputs - 1) / scale_inputs * scale_inputs;
}

// Floats of scratch for that.
constexpr std::size_t gated_product_scratch() { return std::size_t{2} * 8 * kPanelRows * kMostColumns; }

// Columns first..last-1, at most 2 kMostColumns.
void multiply_gated(const Kernels& kernels, const GatedProduct& product, std::int64_t first, std::int64_t last,
                    std::int64_t next, float* scratch);

}  // namespace plait
