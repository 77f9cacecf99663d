#include "program/ops.h"

namespace plait {
namespace {

InputRows rows_of(const Array& x, int count) { return {x.row(0), static_cast<std::size_t>(x.width), nullptr, count}; }

class Linear final : public Op {
  public:
    Linear(Array x, std::vector<LinearPart> parts) : x_(x), parts_(std::move(parts)) {}
    std::size_t scratch(const Counts&) const override { return linear_scratch(x_.width); }
    // All parts in one phase.
    void run(Worker& worker, const Context& c) override {
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
            c.kernels.linear({rows_of(x_, c.rows(x_)), part.weight, part.bias, part.out.row(0),
                              static_cast<std::size_t>(part.out.width), first,
                              std::min(first + piece, part.weight.rows), c.scratch_of(worker)});
        });
    }

  private:
    Array x_;
    std::vector<LinearPart> parts_;
};

class GatedMlp final : public Op {
  public:
    explicit GatedMlp(const GatedMlpSpec& s) : s_(s), ff_(static_cast<std::size_t>(s.gate.rows)) {}
    void reserve(const Counts& counts) override {
        hidden_.reserve(ff_ * static_cast<std::size_t>(counts.of(s_.x.rows)));
    }
    std::size_t scratch(const Counts& counts) const override {
        return std::max(gated_scratch(s_.x.width, counts.of(s_.x.rows)), linear_scratch(s_.down.columns));
    }
    void run(Worker& worker, const Context& c) override {
        const int rows = c.rows(s_.x);
        const int piece = columns_per_task(s_.gate.rows, worker.threads());
        worker.each(tasks_of(s_.gate.rows, piece), [&](int task) {
            const std::int64_t first = std::int64_t{task} * piece, last = std::min(first + piece, s_.gate.rows);
            c.kernels.gated({rows_of(s_.x, rows), s_.gate, s_.up, s_.gate_bias, s_.up_bias, s_.activation,
                             hidden_.data(), ff_, first, last, c.scratch_of(worker)});
        });
        const int down_piece = columns_per_task(s_.down.rows, worker.threads());
        worker.each(tasks_of(s_.down.rows, down_piece), [&](int task) {
            const std::int64_t first = std::int64_t{task} * down_piece,
                               last = std::min(first + down_piece, s_.down.rows);
            c.kernels.linear({{hidden_.data(), ff_, nullptr, rows},
                              s_.down,
                              s_.down_bias,
                              s_.out.row(0),
                              static_cast<std::size_t>(s_.out.width),
                              first,
                              last,
                              c.scratch_of(worker)});
        });
    }

  private:
    GatedMlpSpec s_;
    std::size_t ff_;
    Growing<float> hidden_;
};

}  // namespace

std::unique_ptr<Op> make_linear(Array x, std::vector<LinearPart> parts) {
    return std::make_unique<Linear>(x, std::move(parts));
}
std::unique_ptr<Op> make_gated_mlp(const GatedMlpSpec& spec) { return std::make_unique<GatedMlp>(spec); }

}  // namespace plait
