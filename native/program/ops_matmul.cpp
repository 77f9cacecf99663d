#include <optional>

#include "program/pack.h"
#include "program/products.h"

namespace plait {
namespace {

// Weights that are dequantised each time would be for each portion of rows: too many for that.
std::size_t bytes_of(const Matrix& weight) {
    if (weight.packed != nullptr) return packed_size(weight);
    const std::size_t bytes = static_cast<std::size_t>(weight.rows) * weight.row_bytes;
    return weight.format == Format::F32 ? bytes : std::size_t{1} << 40;
}

// Where a worker goes on after the piece that begins at `first`, if all keep pace.
std::int64_t likely_next(std::int64_t first, int piece, const Worker& worker) {
    return first + std::int64_t{piece} * worker.threads();
}

class Linear final : public Op {
  public:
    Linear(Array x, std::vector<LinearPart> parts, bool normed) : x_(x), parts_(std::move(parts)), normed_(normed) {
        scale_inputs_ = scale_inputs_of(parts_);
        packed_ = scale_inputs_ != 0;
    }
    bool by_rows() const override { return x_.rows == Rows::Tokens; }
    std::size_t weight_bytes() const override {
        std::size_t bytes = 0;
        for (const LinearPart& part : parts_) bytes += bytes_of(part.weight);
        return bytes;
    }
    void reserve(const Counts& counts, Shared& shared) override {
        if (packed_ && !normed_) shared.rows.reserve(panel_blocks(counts.of(x_.rows), x_.width));
    }
    std::size_t scratch(const Counts& counts) const override {
        return linear_scratch(x_.width) + (packed_ && !normed_ ? quantise_scratch(counts.of(x_.rows), x_.width) : 0);
    }
    // All parts in one phase.
    void run(Worker& worker, const Context& c) override {
        const InputRows x = c.input_rows(x_);
        const int wanted = c.rows(parts_[0].out);
        float* scratch = c.scratch_of(worker);
        std::optional<QuantisedRows> panels;
        if (packed_ && !normed_) {
            panels.emplace(worker, c, x, x_.width, scale_inputs_, scratch + linear_scratch(x_.width));
        }
        std::int64_t columns = 0;
        for (const LinearPart& part : parts_) columns += part.weight.rows;
        const int piece = columns_per_task(columns, worker.threads());
        int tasks = 0;
        for (const LinearPart& part : parts_) tasks += tasks_of(part.weight.rows, piece);
        worker.each(tasks, [&](int task) {
            std::size_t p = 0;
            for (int n; task >= (n = tasks_of(parts_[p].weight.rows, piece)); ++p) task -= n;
            const LinearPart& part = parts_[p];
            const std::int64_t first = std::int64_t{task} * piece;
            multiply(c.kernels,
                     {x, panels ? panels->get() : c.shared.normed.data(), part.weight, part.bias, c.row(part.out, 0),
                      static_cast<std::size_t>(part.out.width), wanted},
                     first, std::min(first + piece, part.weight.rows), likely_next(first, piece, worker), scratch);
        });
    }

  private:
    Array x_;
    std::vector<LinearPart> parts_;
    int scale_inputs_ = 0;
    bool packed_ = false, normed_;
};

class GatedMlp final : public Op {
  public:
    explicit GatedMlp(const GatedMlpSpec& s) : s_(s), ff_(static_cast<std::size_t>(s.gate.rows)) {}
    bool by_rows() const override { return s_.x.rows == Rows::Tokens; }
    std::size_t weight_bytes() const override { return bytes_of(s_.gate) + bytes_of(s_.up) + bytes_of(s_.down); }
    void reserve(const Counts& counts, Shared& shared) override {
        const int rows = counts.of(s_.x.rows);
        if (gate_packed() && !s_.normed) shared.rows.reserve(panel_blocks(rows, s_.x.width));
        if (down_packed()) hidden_in(shared).reserve(panel_blocks(rows, s_.down.columns));
        if (!gate_packed() || !down_packed()) shared.hidden_floats.reserve(ff_ * static_cast<std::size_t>(rows));
    }
    std::size_t scratch(const Counts& counts) const override {
        const int rows = counts.of(s_.x.rows);
        const std::size_t gate = gate_packed() ? gated_product_scratch() + quantise_scratch(rows, s_.x.width)
                                               : gated_scratch(s_.x.width, rows);
        return std::max(gate, linear_scratch(s_.down.columns) + quantise_scratch(rows, s_.down.columns));
    }
    void run(Worker& worker, const Context& c) override {
        const int rows = c.rows(s_.x);
        if (gate_packed()) {
            gate_in_integers(worker, c, rows);
        } else {
            gate_in_floats(worker, c);
        }
        const InputRows hidden{c.shared.hidden_floats.data(), ff_, nullptr, rows};
        float* scratch = c.scratch_of(worker);
        std::optional<QuantisedRows> panels;
        if (down_packed() && !gate_packed()) {
            panels.emplace(worker, c, hidden, s_.down.columns, scale_inputs(s_.down.format),
                           scratch + linear_scratch(s_.down.columns));
        }
        const int piece = columns_per_task(s_.down.rows, worker.threads());
        worker.each(tasks_of(s_.down.rows, piece), [&](int task) {
            const std::int64_t first = std::int64_t{task} * piece;
            multiply(c.kernels,
                     {hidden, panels ? panels->get() : c.shared.hidden.data(), s_.down, s_.down_bias, c.row(s_.out, 0),
                      static_cast<std::size_t>(s_.out.width), rows},
                     first, std::min(first + piece, s_.down.rows), likely_next(first, piece, worker), scratch);
        });
    }

  private:
    bool gate_packed() const { return s_.gate.packed != nullptr; }
    bool down_packed() const { return s_.down.packed != nullptr; }
    // Hidden rows become panels as they are made where gate and up are products in integers, too.
    Panels& hidden_in(Shared& shared) const { return gate_packed() ? shared.hidden : shared.rows; }

    void gate_in_integers(Worker& worker, const Context& c, int rows) {
        float* scratch = c.scratch_of(worker);
        std::optional<QuantisedRows> x;
        if (!s_.normed) {
            x.emplace(worker, c, c.input_rows(s_.x), s_.x.width, scale_inputs(s_.gate, s_.up),
                      scratch + gated_product_scratch());
        }
        const int hidden_inputs = down_packed() ? scale_inputs(s_.down.format) : kPackedInputs;
        const int piece = gated_columns(columns_per_task(s_.gate.rows, worker.threads()), hidden_inputs);
        worker.each(tasks_of(s_.gate.rows, piece), [&](int task) {
            const std::int64_t first = std::int64_t{task} * piece;
            multiply_gated(c.kernels,
                           {x ? x->get() : c.shared.normed.data(), rows, s_.gate, s_.up, s_.gate_bias, s_.up_bias,
                            s_.activation, c.shared.hidden_floats.data(),
                            down_packed() ? c.shared.hidden.data() : nullptr, hidden_inputs},
                           first, std::min(first + piece, s_.gate.rows), likely_next(first, piece, worker), scratch);
        });
    }

    void gate_in_floats(Worker& worker, const Context& c) {
        const int piece = columns_per_task(s_.gate.rows, worker.threads());
        worker.each(tasks_of(s_.gate.rows, piece), [&](int task) {
            const std::int64_t first = std::int64_t{task} * piece, last = std::min(first + piece, s_.gate.rows);
            c.kernels.gated({c.input_rows(s_.x), s_.gate, s_.up, s_.gate_bias, s_.up_bias, s_.activation,
                             c.shared.hidden_floats.data(), ff_, first, last, c.scratch_of(worker)});
        });
    }

    GatedMlpSpec s_;
    std::size_t ff_;
};

}  // namespace

std::unique_ptr<Op> make_linear(Array x, std::vector<LinearPart> parts, bool normed) {
    return std::make_unique<Linear>(x, std::move(parts), normed);
}
std::unique_ptr<Op> make_gated_mlp(const GatedMlpSpec& spec) { return std::make_unique<GatedMlp>(spec); }

}  // namespace plait
