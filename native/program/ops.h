// The instructions of a step program, each run by all workers of the team together; ops/api.py says what they mean.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/kernels.h"
#include "program/kv.h"
#include "program/step.h"
#include "program/team.h"

namespace plait {

// What values of one width whose lives do not meet share: room for all rows, and for each worker's portion of them.
struct Storage {
    Growing<float> all;
    std::vector<Growing<float>> own;
};

constexpr std::size_t kNoOp = static_cast<std::size_t>(-1);

// Where a value lies, and the first and the last instruction that names it.
struct Place {
    Storage* storage;
    std::size_t first, last;
    bool passing = false;  // only instructions of one stretch name it: a portion of it is its worker's alone
};

// A value of the program, (rows, width).
struct Array {
    Rows rows;
    int width;
    Place* place;
    float* row(int r) const { return at(place->storage->all, r); }
    float* own_row(int worker, int r) const { return at(place->storage->own[static_cast<std::size_t>(worker)], r); }

  private:
    float* at(const Growing<float>& memory, int r) const {
        return memory.data() + static_cast<std::size_t>(r) * static_cast<std::size_t>(width);
    }
};

using Panels = Growing<PanelBlock>;

inline std::size_t panel_blocks(int rows, int columns) {
    return static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns / kPackedInputs);
}

// What instructions need for themselves, one after the other. Only pieces of work look into it, so a late worker cannot
// mistake the next instruction's for its own.
struct Shared {
    Panels normed;  // see Op::make_panels
    Panels rows, hidden;
    Growing<float> hidden_floats;
};

// What an instruction works with during a step: all rows, or a worker's portion of the token rows.
struct Context {
    const Kernels& kernels;
    Shared& shared;
    Step& step;
    KvMemory& kv;
    const std::vector<RopeTable>& ropes;
    std::vector<Growing<float>>& scratch;  // per worker
    Counts counts;                         // of the portion
    int first = 0;                         // its first token row
    int owner = -1;                        // its worker; -1: all rows

    int rows(const Array& array) const { return counts.of(array.rows); }
    // Row r of the portion.
    float* row(const Array& array, int r) const {
        return owner >= 0 && array.place->passing ? array.own_row(owner, r) : array.row(first + r);
    }
    InputRows input_rows(const Array& x) const {
        return {row(x, 0), static_cast<std::size_t>(x.width), nullptr, rows(x)};
    }
    float* scratch_of(const Worker& worker) const { return scratch[static_cast<std::size_t>(worker.index())].data(); }
};

class Op {
  public:
    virtual ~Op() = default;
    // From now on also makes its result's panels, in Shared::normed, with a scale for each so many inputs. False: it cannot.
    virtual bool make_panels(int /*scale_inputs*/) { return false; }
    // Whether it can run with a portion of the token rows, since no row of its result depends on other rows.
    virtual bool by_rows() const { return false; }
    // Bytes of weights that it goes through each time it runs.
    virtual std::size_t weight_bytes() const { return 0; }
    // Makes room for a step of that many rows. Called by one thread, before `run`.
    virtual void reserve(const Counts&, Shared&) {}
    // Floats of scratch that each worker needs.
    virtual std::size_t scratch(const Counts&) const { return 0; }
    virtual void run(Worker& worker, const Context& context) = 0;
};

// A weight matrix, its bias (null: none) and where the product goes.
struct LinearPart {
    Matrix weight;
    const float* bias;
    Array out;
};

// `by_position`: the table's rows go by the row's position, not by its token.
std::unique_ptr<Op> make_embed(Matrix table, bool by_position, Array out);
// `normed`: x's panels are in Shared::normed.
std::unique_ptr<Op> make_linear(Array x, std::vector<LinearPart> parts, bool normed);

struct RmsNormSpec {
    Array x;
    const Array *residual, *total;  // both null, or neither
    const float* weight;
    float eps, offset;
    int groups;
    Array out;
};
std::unique_ptr<Op> make_rms_norm(const RmsNormSpec& spec);
struct LayerNormSpec {
    Array x;
    const float *weight, *bias;
    float eps;
    int groups, stride;  // see LayerNormArgs
    Array out;
};
std::unique_ptr<Op> make_layer_norm(const LayerNormSpec& spec);

struct RopeAndStoreSpec {
    Array q, k, v, out;
    KvLayer* layer;
    bool rotates;
    LayerRope rope;
};
std::unique_ptr<Op> make_rope_and_store(const RopeAndStoreSpec& spec);

struct AttentionSpec {
    Array q, out;
    const KvLayer* layer;
    float scale, softcap;
    const float *sinks, *slopes;  // null: none
};
std::unique_ptr<Op> make_attention(const AttentionSpec& spec, const KvShape& shape);

struct GatedMlpSpec {
    Array x;
    Matrix gate, up, down;
    const float *gate_bias, *up_bias, *down_bias;
    Activation activation;
    Array out;
    bool normed;  // x's panels are in Shared::normed
};
std::unique_ptr<Op> make_gated_mlp(const GatedMlpSpec& spec);

struct MoeSpec {
    Array x;
    Matrix router, gate, up, down;  // gate, up (experts * ff, d), down (experts * d, ff)
    int top_k;
    bool normalise;
    Activation activation;
    Array out;
};
std::unique_ptr<Op> make_moe(const MoeSpec& spec);

std::unique_ptr<Op> make_add(Array a, Array b, Array out);
std::unique_ptr<Op> make_scale(Array x, float factor, Array out);
std::unique_ptr<Op> make_softcap(Array x, float cap, Array out);
std::unique_ptr<Op> make_clamp(Array x, float limit, Array out);
std::unique_ptr<Op> make_activate(Array x, Activation activation, Array out);
std::unique_ptr<Op> make_take_rows(Array x, Array out);

constexpr int kMostColumns = 4 * kPackedColumns;
static_assert(kPackedColumns % kColumnTile == 0);

// Columns that a worker takes at a time: whole tiles, some pieces for each worker.
inline int columns_per_task(std::int64_t columns, int threads) {
    const std::int64_t even = columns / (8 * threads) / kPackedColumns * kPackedColumns;
    return static_cast<int>(std::clamp<std::int64_t>(even, kPackedColumns, kMostColumns));
}

inline int tasks_of(std::int64_t n, int per_task) { return static_cast<int>((n + per_task - 1) / per_task); }

// Calls work(first, count) for pieces of n rows.
template <class Work>
void each_rows(Worker& worker, int n, Work work) {
    constexpr int piece = 8;
    worker.each(tasks_of(n, piece), [&](int i) { work(i * piece, std::min(piece, n - i * piece)); });
}

}  // namespace plait
