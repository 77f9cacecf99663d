// The table of kernels that every SIMD path offers, and the plain structs they take.
//
// A path's functions are compiled with that path's target flags, so nothing here may have code of its own: plain data
// and pointers only. All matrices are row-major; strides and widths count floats. No kernel allocates or throws, and
// every row's result depends on that row alone, in an order of operations that is the same in all paths.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention_args.h"
#include "kernels/layout.h"

namespace plait {

enum class Activation : int { Silu, Gelu, GeluTanh };
enum class RopeLayout : int { Interleaved, Half };

// Columns that `linear` and `gated` work on at a time; ranges given to them are best multiples of it.
constexpr int kColumnTile = 16;

// A weight as it lies in the file: `rows` output columns of `columns` inputs, in blocks along the inputs. `packed` is
// null, or the same weight as kernels/layout.h lays it out.
struct Matrix {
    const std::uint8_t* data = nullptr;
    const std::uint8_t* packed = nullptr;
    std::size_t row_bytes = 0;
    std::int64_t rows = 0;
    int columns = 0;
    Format format = Format::F32;
};

// Input rows: row i is at base + stride * (index ? index[i] : i).
struct InputRows {
    const float* base;
    std::size_t stride;
    const std::int32_t* index;
    int count;
};

// out[i * out_stride + c] = x[i] . weight[c] + bias[c] for first <= c < last. `bias` may be null.
// `scratch` holds linear_scratch(columns) floats.
struct LinearArgs {
    InputRows x;
    Matrix weight;
    const float* bias;
    float* out;
    std::size_t out_stride;
    std::int64_t first, last;
    float* scratch;
};

// Quantises the row groups first_group..last_group-1 of `rows` rows, and of them the columns first..last-1, in whole runs
// of `scale_inputs` values (32 or 256) that share a scale. x begins there; `out` is the panels of all the rows, of
// `columns` columns.
struct QuantiseArgs {
    InputRows x;
    int rows, columns, first, last, first_group, last_group, scale_inputs;
    PanelBlock* out;
};

// The product of the row groups first_group..last_group-1 of `rows` rows with columns first..last-1 of a repacked
// weight; row 0 of `out` is the first group's first, its column 0 is out_first. `first` is a multiple of
// kPackedColumns, and `last`, too, or the weight's last column. `bias` may be null. `next` is the tile that the caller
// will probably want after the last one, or null: it is fetched meanwhile.
struct PackedArgs {
    const PanelBlock* x;
    int rows, first_group, last_group;
    Matrix weight;
    const float* bias;
    float* out;
    std::size_t out_stride;
    std::int64_t out_first, first, last;
    const std::uint8_t* next;
};

// out[i * out_stride + c] = act(x[i] . gate[c] + gate_bias[c]) * (x[i] . up[c] + up_bias[c]).
// `scratch` holds gated_scratch(columns, rows) floats.
struct GatedArgs {
    InputRows x;
    Matrix gate, up;
    const float *gate_bias, *up_bias;
    Activation activation;
    float* out;
    std::size_t out_stride;
    std::int64_t first, last;
    float* scratch;
};

// `total` = x + residual when there is a residual; each of `groups` parts of the row is normed by itself.
struct RmsNormArgs {
    const float *x, *residual, *weight;
    float *total, *out;
    float eps, offset;
    int groups, width, rows;
};

// Each of `groups` parts of the row is normed by itself. From one part to the next, weight and bias go on by `stride`.
struct LayerNormArgs {
    const float *x, *weight, *bias;
    float* out;
    float eps;
    int groups, stride, width, rows;
};

// Rotates the first 2 * pairs elements of each of `heads` heads; the others are copied.
struct RotateArgs {
    const float *in, *cos, *sin;
    float* out;
    int heads, head_dim, pairs;
    RopeLayout layout;
};

// One row of n logits. Column c of `maxima` becomes the largest of x[c], x[c + columns], ...; -inf if there is none.
// `columns` is a multiple of 16.
struct ScanArgs {
    const float* x;
    int n, columns;
    float* maxima;
};
struct ScanResult {
    float top;  // of those that are numbers
    bool nan;   // whether one is not
};

static constexpr std::size_t linear_scratch(int columns) {
    return static_cast<std::size_t>(kColumnTile) * (static_cast<std::size_t>(columns) + 16);
}

static constexpr std::size_t gated_scratch(int columns, int rows) {
    return linear_scratch(columns) + static_cast<std::size_t>(kColumnTile) * static_cast<std::size_t>(rows);
}

struct Kernels {
    const char* name;
    void (*dequantise)(const Matrix& weight, std::int64_t row, float* out);
    void (*linear)(const LinearArgs&);
    void (*gated)(const GatedArgs&);
    void (*quantise)(const QuantiseArgs&);
    void (*linear_packed)(const PackedArgs&);
    void (*rms_norm)(const RmsNormArgs&);
    void (*layer_norm)(const LayerNormArgs&);
    void (*rotate)(const RotateArgs&);
    void (*attention)(const AttentionArgs&);
    void (*merge_attention)(const MergeArgs&);
    // Rows of K or V by themselves; n numbers, for Q8_0 whole blocks.
    void (*store)(KvType type, const float* in, std::uint8_t* out, int n);
    void (*load)(KvType type, const std::uint8_t* in, float* out, int n);
    void (*add)(const float* a, const float* b, float* out, std::size_t n);
    void (*scale)(const float* x, float factor, float* out, std::size_t n);
    void (*softcap)(const float* x, float cap, float* out, std::size_t n);
    void (*clamp)(const float* x, float limit, float* out, std::size_t n);
    void (*softmax)(const float* x, float* out, int n);
    void (*add_scaled)(const float* x, float factor, float* sum, int n);  // sum += factor * x
    void (*exponential)(const float* x, float* out, int n);
    // out = act(x) * factor; `factor` may be null.
    void (*activate)(Activation activation, const float* x, const float* factor, float* out, int n);
    // Passes of the sampler over a row of logits: kernels/sampling.h.
    ScanResult (*scan_logits)(const ScanArgs&);
    int (*find_logit)(const float* x, int n, float value);
    int (*gather_logits)(const float* x, int n, float bound, std::int32_t* ids, float* values);
    double (*weigh_logits)(const float* x, int n, double top, double scale, double* out);
    double (*weigh_doubles)(const double* x, int n, double top, double* out);
    void (*mask_logits)(const float* x, const std::uint32_t* words, int n, float* out);
};

// Defined where PLAIT_HAS_... says that the path is built (CMakeLists.txt).
const Kernels& scalar_kernels();
const Kernels& avx2_kernels();
const Kernels& avx_vnni_kernels();
const Kernels& avx512_kernels();
const Kernels& avx512_vnni_kernels();
const Kernels& neon_kernels();
const Kernels& neon_dotprod_kernels();

}  // namespace plait
