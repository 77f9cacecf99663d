#include <cstring>

#include "program/ops.h"

namespace plait {
namespace {

class Embed final : public Op {
  public:
    Embed(Matrix table, bool by_position, Array out) : table_(table), by_position_(by_position), out_(out) {}
    bool by_rows() const override { return true; }
    void run(Worker& worker, const Context& c) override {
        each_rows(worker, c.counts.tokens, [&](int first, int count) {
            for (int r = first; r < first + count; ++r) {
                c.kernels.dequantise(table_, row_of(*c.step.inputs, static_cast<std::size_t>(c.first + r)), c.row(out_, r));
            }
        });
    }

  private:
    std::int64_t row_of(const StepInputs& step, std::size_t r) const {
        if (!by_position_) return step.tokens[r];
        return std::clamp<std::int64_t>(step.positions[r], 0, table_.rows - 1);
    }

    Matrix table_;
    bool by_position_;
    Array out_;
};

class RmsNorm final : public Op {
  public:
    explicit RmsNorm(const RmsNormSpec& s)
        : x_(s.x),
          out_(s.out),
          residual_(s.residual ? *s.residual : s.x),
          total_(s.total ? *s.total : s.out),
          adds_(s.residual != nullptr),
          weight_(s.weight),
          eps_(s.eps),
          offset_(s.offset),
          groups_(s.groups) {}
    bool make_panels(int scale_inputs) override {
        if (x_.width % scale_inputs != 0 || (panels_ && scale_inputs != scale_inputs_)) return false;
        scale_inputs_ = scale_inputs;
        return panels_ = true;
    }
    bool by_rows() const override { return x_.rows == Rows::Tokens; }
    void reserve(const Counts& counts, Shared& shared) override {
        if (panels_) shared.normed.reserve(panel_blocks(counts.of(x_.rows), x_.width));
    }
    void run(Worker& worker, const Context& c) override {
        const int rows = c.rows(x_);
        if (!panels_) return each_rows(worker, rows, [&](int first, int count) { norm(c, first, count); });
        worker.each(row_groups(rows), [&](int g) {
            const int first = group_start(rows, g), count = group_start(rows, g + 1) - first;
            norm(c, first, count);
            const InputRows normed{c.row(out_, first), static_cast<std::size_t>(out_.width), nullptr, count};
            c.kernels.quantise({normed, rows, out_.width, 0, out_.width, g, g + 1, scale_inputs_,
                                c.shared.normed.data()});
        });
    }

  private:
    void norm(const Context& c, int first, int count) const {
        c.kernels.rms_norm({c.row(x_, first), adds_ ? c.row(residual_, first) : nullptr, weight_,
                            adds_ ? c.row(total_, first) : nullptr, c.row(out_, first), eps_, offset_, groups_,
                            x_.width, count});
    }

    Array x_, out_, residual_, total_;
    bool adds_, panels_ = false;
    const float* weight_;
    float eps_, offset_;
    int groups_, scale_inputs_ = kPackedInputs;
};

class LayerNorm final : public Op {
  public:
    explicit LayerNorm(const LayerNormSpec& s) : s_(s) {}
    bool by_rows() const override { return s_.x.rows == Rows::Tokens; }
    void run(Worker& worker, const Context& c) override {
        each_rows(worker, c.rows(s_.x), [&](int first, int count) {
            c.kernels.layer_norm({c.row(s_.x, first), s_.weight, s_.bias, c.row(s_.out, first), s_.eps, s_.groups, s_.stride,
                                  s_.x.width, count});
        });
    }

  private:
    LayerNormSpec s_;
};

class TakeRows final : public Op {
  public:
    TakeRows(Array x, Array out) : x_(x), out_(out) {}
    void run(Worker& worker, const Context& c) override {
        each_rows(worker, c.counts.outputs, [&](int first, int count) {
            for (int r = first; r < first + count; ++r) {
                const float* row = x_.row(c.step.inputs->out_rows[static_cast<std::size_t>(r)]);
                std::memcpy(out_.row(r), row, static_cast<std::size_t>(x_.width) * sizeof(float));
            }
        });
    }

  private:
    Array x_, out_;
};

// apply(first element, count, context) over pieces of all elements of `shape`.
template <class Apply>
class Elementwise final : public Op {
  public:
    Elementwise(Array shape, Apply apply) : shape_(shape), apply_(apply) {}
    bool by_rows() const override { return shape_.rows == Rows::Tokens; }
    void run(Worker& worker, const Context& c) override {
        constexpr std::int64_t piece = 8192;
        const std::int64_t n = std::int64_t{c.rows(shape_)} * shape_.width;
        worker.each(tasks_of(n, piece), [&](int i) {
            apply_(i * piece, static_cast<std::size_t>(std::min(piece, n - i * piece)), c);
        });
    }

  private:
    Array shape_;
    Apply apply_;
};

template <class Apply>
std::unique_ptr<Op> elementwise(Array shape, Apply apply) {
    return std::make_unique<Elementwise<Apply>>(shape, apply);
}

}  // namespace

std::unique_ptr<Op> make_embed(Matrix table, bool by_position, Array out) {
    return std::make_unique<Embed>(table, by_position, out);
}
std::unique_ptr<Op> make_rms_norm(const RmsNormSpec& spec) { return std::make_unique<RmsNorm>(spec); }
std::unique_ptr<Op> make_layer_norm(const LayerNormSpec& spec) { return std::make_unique<LayerNorm>(spec); }
std::unique_ptr<Op> make_take_rows(Array x, Array out) { return std::make_unique<TakeRows>(x, out); }

std::unique_ptr<Op> make_add(Array a, Array b, Array out) {
    return elementwise(out, [=](std::int64_t at, std::size_t n, const Context& c) {
        c.kernels.add(c.row(a, 0) + at, c.row(b, 0) + at, c.row(out, 0) + at, n);
    });
}
std::unique_ptr<Op> make_scale(Array x, float factor, Array out) {
    return elementwise(out, [=](std::int64_t at, std::size_t n, const Context& c) {
        c.kernels.scale(c.row(x, 0) + at, factor, c.row(out, 0) + at, n);
    });
}
std::unique_ptr<Op> make_softcap(Array x, float cap, Array out) {
    return elementwise(out, [=](std::int64_t at, std::size_t n, const Context& c) {
        c.kernels.softcap(c.row(x, 0) + at, cap, c.row(out, 0) + at, n);
    });
}
std::unique_ptr<Op> make_clamp(Array x, float limit, Array out) {
    return elementwise(out, [=](std::int64_t at, std::size_t n, const Context& c) {
        c.kernels.clamp(c.row(x, 0) + at, limit, c.row(out, 0) + at, n);
    });
}
std::unique_ptr<Op> make_activate(Array x, Activation activation, Array out) {
    return elementwise(out, [=](std::int64_t at, std::size_t n, const Context& c) {
        c.kernels.activate(activation, c.row(x, 0) + at, nullptr, c.row(out, 0) + at, static_cast<int>(n));
    });
}

}  // namespace plait
