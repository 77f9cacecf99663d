// The recording half of Program: checks that sizes fit, and makes the instructions.
#include <limits>
#include <stdexcept>

#include "program/pack.h"
#include "program/products.h"
#include "program/program.h"

namespace plait {
namespace {

void expect(bool fits, const std::string& what) {
    if (!fits) throw std::invalid_argument(what);
}

template <class T>
const T& at(const std::vector<T>& all, int id, const char* what) {
    expect(id >= 0 && static_cast<std::size_t>(id) < all.size(),
           std::string("there is no ") + what + " " + std::to_string(id));
    return all[static_cast<std::size_t>(id)];
}

}  // namespace

int Program::add_matrix(Matrix matrix, bool from_file) {
    expect(matrix.rows > 0 && matrix.columns > 0, "a matrix is empty");
    matrices_.push_back(matrix);
    origins_.push_back({from_file, {}, false});
    return static_cast<int>(matrices_.size()) - 1;
}

bool Program::packed(int id) const { return matrix(id).packed != nullptr; }

std::string Program::kernel_of(int id) const {
    if (packed(id)) return "int8, repacked";
    const bool blocks = plait::packed_bytes(matrix(id).format).weights != 0;
    return blocks ? "float32, dequantised per tile" : "float32 as stored";
}

bool Program::packable(int id, std::int64_t rows_each) const {
    return can_pack(matrix(id)) && matrix(id).rows % rows_each == 0 &&
           (matrix(id).rows == rows_each || rows_each % kPackedColumns == 0);
}

void Program::pack(int id) {
    Matrix& m = matrices_[static_cast<std::size_t>(id)];
    if (!can_pack(m) || m.packed != nullptr) return;
    Origin& origin = origins_[static_cast<std::size_t>(id)];
    const std::size_t bytes = packed_size(m);
    std::uint8_t* out = packed_.take(bytes);
    if (plan_only_) {
        m.packed = out;
        return;
    }
    ensure_team();
    origin.taken = origin.kept.bytes == bytes && read_kept(origin.kept, *team_, out);
    if (!origin.taken) plait::pack(m, origin.from_file, *team_, out);
    m.packed = out;
}

void Program::offer(int id, const Kept& kept) {
    static_cast<void>(matrix(id));
    origins_[static_cast<std::size_t>(id)].kept = kept;
}

bool Program::took_offer(int id) const {
    static_cast<void>(matrix(id));
    return origins_[static_cast<std::size_t>(id)].taken;
}

std::span<const std::uint8_t> Program::packed_bytes(int id) const {
    expect(packed(id), "the matrix is not repacked");
    return {matrix(id).packed, packed_size(matrix(id))};
}

std::uint64_t Program::packed_sum(int id) {
    ensure_team();
    return sum_of(packed_bytes(id), *team_);
}

void Program::add_op(const char* kind, std::unique_ptr<Op> op, int makes) {
    if (makes >= 0) made_by_[static_cast<std::size_t>(makes)] = static_cast<int>(ops_.size());
    ops_.push_back(std::move(op));
    kinds_.emplace_back(kind);
}

// There is one place for them, of one kind: a maker may use it once all who look at the last one's have been recorded.
bool Program::claim_panels(int x, int scale_inputs) {
    const int maker = made_by_[static_cast<std::size_t>(x)];
    if (maker < 0 || (maker != panels_maker_ && maker <= panels_user_)) return false;
    // A portion's panels are gone when its stretch is over.
    for (std::size_t i = static_cast<std::size_t>(maker); i < ops_.size(); ++i) {
        if (!ops_[i]->by_rows()) return false;
    }
    if (maker == panels_maker_ && scale_inputs != panels_scale_inputs_) return false;
    if (maker != panels_maker_ && !ops_[static_cast<std::size_t>(maker)]->make_panels(scale_inputs)) return false;
    panels_maker_ = maker;
    panels_scale_inputs_ = scale_inputs;
    panels_user_ = static_cast<int>(ops_.size());
    return true;
}

int Program::add_vector(std::vector<float> values) {
    vectors_.push_back(std::move(values));
    return static_cast<int>(vectors_.size()) - 1;
}

int Program::add_value(int storage, Rows rows, int width) {
    expect(storage >= 0 && storage <= storages_named_, "storages are numbered without gaps");
    expect(width > 0, "a value is empty");
    storages_named_ = std::max(storages_named_, storage + 1);
    auto& memory = storages_[{storage, width}];
    if (!memory) memory = std::make_unique<Storage>();
    places_.push_back(std::make_unique<Place>(Place{memory.get(), kNoOp, 0}));
    made_by_.push_back(-1);
    values_.push_back({rows, width, places_.back().get()});
    return static_cast<int>(values_.size()) - 1;
}

const Matrix& Program::matrix(int id) const { return at(matrices_, id, "matrix"); }

const Matrix& Program::matrix(int id, std::int64_t rows, std::int64_t columns) const {
    const Matrix& m = matrix(id);
    expect(m.rows == rows && m.columns == columns, "a matrix is " + std::to_string(m.rows) + " x " +
                                                       std::to_string(m.columns) + "; it must be " +
                                                       std::to_string(rows) + " x " + std::to_string(columns));
    return m;
}

const float* Program::vector(int id, std::int64_t length) const {
    if (id == -1) return nullptr;
    const std::vector<float>& v = at(vectors_, id, "vector");
    expect(static_cast<std::int64_t>(v.size()) == length,
           "a vector has " + std::to_string(v.size()) + " values; it must have " + std::to_string(length));
    return v.data();
}

const Array& Program::value(int id) const {
    const Array& found = at(values_, id, "value");
    found.place->first = std::min(found.place->first, ops_.size());
    found.place->last = std::max(found.place->last, ops_.size());
    return found;
}

const Array& Program::value(int id, std::int64_t width, Rows rows) const {
    const Array& v = value(id);
    expect(v.width == width, "a value is " + std::to_string(v.width) + " wide; it must be " + std::to_string(width));
    expect(v.rows == rows, "token rows and output rows are mixed");
    return v;
}

void Program::embed(int table, int out, bool by_position) {
    const Matrix& m = matrix(table);
    if (!by_position) vocabulary_ = vocabulary_ == 0 ? m.rows : std::min(vocabulary_, m.rows);
    add_op("embed", make_embed(m, by_position, value(out, m.columns, Rows::Tokens)));
}

void Program::linear(int x, const std::vector<int>& weights, const std::vector<int>& biases,
                     const std::vector<int>& outs) {
    expect(weights.size() == biases.size() && weights.size() == outs.size(), "as many biases and outputs as weights");
    std::vector<LinearPart> parts;
    for (std::size_t i = 0; i < weights.size(); ++i) {
        matrix(weights[i], value(outs[i]).width, value(x).width);
        pack(weights[i]);
        const bool last = value(x).rows == Rows::Outputs && value(outs[i]).rows == Rows::Logits;
        const Array& out = value(outs[i], value(outs[i]).width, last ? Rows::Logits : value(x).rows);
        parts.push_back({matrix(weights[i], out.width, value(x).width), vector(biases[i], out.width), out});
    }
    const int scale_inputs = scale_inputs_of(parts);
    add_op("linear", make_linear(value(x), std::move(parts), scale_inputs != 0 && claim_panels(x, scale_inputs)));
}

void Program::rms_norm(int x, int residual, int weight, float eps, float offset, int groups, int out, int total) {
    const int width = value(x).width;
    const Rows rows = value(x).rows;
    expect(groups > 0 && width % groups == 0, "a row divides into its norm groups");
    expect((residual == -1) == (total == -1), "a residual and a total go together");
    const Array* added = residual == -1 ? nullptr : &value(residual, width, rows);
    const Array* sum = total == -1 ? nullptr : &value(total, width, rows);
    add_op("rms_norm", make_rms_norm(
        {value(x), added, sum, vector(weight, width / groups), eps, offset, groups, value(out, width, rows)}), out);
}

void Program::layer_norm(int x, int weight, int bias, float eps, int groups, int out) {
    const int width = value(x).width;
    const Array& normed = value(out, width, value(x).rows);
    expect(groups > 0 && width % groups == 0, "a row divides into its norm groups");
    const int part = width / groups;
    const bool own = static_cast<std::int64_t>(at(vectors_, weight, "vector").size()) == width;
    const int length = own ? width : part;
    add_op("layer_norm", make_layer_norm({value(x), vector(weight, length), vector(bias, length), eps, groups,
                                          own ? part : 0, normed}));
}

int Program::rope_table(const std::vector<double>& inv_freq, float scale) {
    expect(2 * inv_freq.size() <= static_cast<std::size_t>(kv_.shape().head_dim), "a rope is wider than its head");
    for (std::size_t i = 0; i < ropes_.size(); ++i) {
        if (ropes_[i].inv_freq == inv_freq && ropes_[i].scale == scale) return static_cast<int>(i);
    }
    RopeTable& table = ropes_.emplace_back();
    table.inv_freq = inv_freq;
    table.scale = scale;
    return static_cast<int>(ropes_.size()) - 1;
}

void Program::rope_and_store(int q, int k, int v, int layer, RopeLayout layout, const std::vector<double>& inv_freq,
                             float scale, int out) {
    const KvShape& s = kv_.shape();
    const Array& rotated = value(q, s.n_heads * s.head_dim, Rows::Tokens);
    RopeAndStoreSpec spec{rotated,
                          value(k, s.n_kv_heads * s.head_dim, Rows::Tokens),
                          value(v, s.n_kv_heads * s.v_head_dim, Rows::Tokens),
                          value(out, rotated.width, Rows::Tokens),
                          &kv_.layer(layer),
                          !inv_freq.empty(),
                          {-1, layout}};
    if (spec.rotates) {
        spec.rope.table = rope_table(inv_freq, scale);
        spec.layer->rope = spec.rope;
    }
    add_op("rope_and_store", make_rope_and_store(spec));
}

void Program::attention(int q, int layer, float scale, float softcap, int sinks, const std::vector<float>& slopes,
                        int out) {
    const KvShape& s = kv_.shape();
    expect(slopes.empty() || slopes.size() == static_cast<std::size_t>(s.n_heads), "a slope for each head");
    const float* slope = nullptr;
    if (!slopes.empty()) slope = slopes_.emplace_back(std::make_unique<std::vector<float>>(slopes))->data();
    const AttentionSpec spec{value(q, s.n_heads * s.head_dim, Rows::Tokens),
                             value(out, s.n_heads * s.v_head_dim, Rows::Tokens),
                             &kv_.layer(layer),
                             scale,
                             softcap,
                             vector(sinks, s.n_heads),
                             slope};
    add_op("attention", make_attention(spec, s));
}

// Gate and up go together.
void Program::pack_experts(int gate, int up, int down, std::int64_t ff, std::int64_t width) {
    if (packable(gate, ff) && packable(up, ff)) {
        pack(gate);
        pack(up);
    }
    if (packable(down, width)) pack(down);
}

void Program::gated_mlp(int x, const std::vector<int>& weights, const std::vector<int>& biases, Activation activation,
                        int out) {
    expect(weights.size() == 3 && biases.size() == 3, "gate, up and down");
    const int width = value(x).width, out_width = value(out).width;
    const std::int64_t ff = matrix(weights[0]).rows;
    pack_experts(weights[0], weights[1], weights[2], ff, matrix(weights[2]).rows);
    const bool normed = packed(weights[0]) && claim_panels(x, scale_inputs(matrix(weights[0]), matrix(weights[1])));
    add_op("gated_mlp", make_gated_mlp({value(x), matrix(weights[0], ff, width), matrix(weights[1], ff, width),
                                   matrix(weights[2], out_width, ff), vector(biases[0], ff), vector(biases[1], ff),
                                   vector(biases[2], out_width), activation, value(out, out_width, value(x).rows), normed}));
}

void Program::moe(int x, const std::vector<int>& weights, int top_k, bool normalise, Activation activation, int out) {
    expect(weights.size() == 4, "router, gate, up and down");
    const int width = value(x).width;
    const std::int64_t experts = matrix(weights[0]).rows, ff = matrix(weights[1]).rows / experts;
    expect(top_k > 0 && top_k <= experts, "top_k is between 1 and the number of experts");
    pack_experts(weights[1], weights[2], weights[3], ff, width);
    add_op("moe", make_moe({value(x), matrix(weights[0], experts, width), matrix(weights[1], experts * ff, width),
                             matrix(weights[2], experts * ff, width), matrix(weights[3], experts * width, ff), top_k,
                             normalise, activation, value(out, width, value(x).rows)}));
}

void Program::add(int a, int b, int out) {
    const Array& sum = value(out);
    add_op("add", make_add(value(a, sum.width, sum.rows), value(b, sum.width, sum.rows), sum));
}

void Program::scale(int x, float factor, int out) {
    add_op("scale", make_scale(value(x, value(out).width, value(out).rows), factor, value(out)));
}

void Program::softcap(int x, float cap, int out) {
    add_op("softcap", make_softcap(value(x, value(out).width, value(out).rows), cap, value(out)));
}

void Program::clamp(int x, float limit, int out) {
    expect(limit >= 0.0f, "a limit is not negative");
    add_op("clamp", make_clamp(value(x, value(out).width, value(out).rows), limit, value(out)));
}

void Program::activate(int x, Activation activation, int out) {
    add_op("activate", make_activate(value(x, value(out).width, value(out).rows), activation, value(out)));
}

void Program::take_rows(int x, int out) {
    const int width = value(x).width;
    add_op("take_rows", make_take_rows(value(x, width, Rows::Tokens), value(out, width, Rows::Outputs)));
}

void Program::finish(int logits, int hidden) {
    expect(value(logits).rows != Rows::Tokens, "logits are of output rows");
    expect(hidden == -1 || value(hidden).rows == Rows::Outputs, "hidden states are of output rows");
    logits_ = logits;
    hidden_ = hidden;
    find_stretches();
}

}  // namespace plait
