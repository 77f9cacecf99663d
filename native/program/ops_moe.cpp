#include <algorithm>

#include "program/products.h"

namespace plait {
namespace {

std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

// Rows are sorted by expert, so that an expert's weights are dequantised once a step; each (row, rank) has a place of
// its own in the sorted order, and the sum over a row's experts runs by rank, whatever that order is.
class Moe final : public Op {
  public:
    explicit Moe(const MoeSpec& s)
        : s_(s), experts_(static_cast<int>(s.router.rows)), ff_(static_cast<int>(s.gate.rows / experts_)) {}

    void reserve(const Counts& counts, Shared&) override {
        const std::size_t rows = size(counts.of(s_.x.rows)), chosen = rows * size(s_.top_k);
        logits_.reserve(rows * size(experts_));
        hidden_.reserve(chosen * size(ff_));
        if (s_.gate.packed != nullptr) panels_.reserve(panel_blocks(static_cast<int>(chosen), s_.x.width));
        if (s_.down.packed != nullptr) hidden_panels_.reserve(panel_blocks(static_cast<int>(chosen), ff_));
        results_.reserve(chosen * size(s_.out.width));
        for (auto* ints : {&expert_, &place_, &source_}) ints->reserve(chosen);
        shares_.reserve(chosen);
        start_.resize(size(experts_) + 1);
        active_.reserve(size(experts_));
    }

    std::size_t scratch(const Counts& counts) const override {
        const int rows = counts.of(s_.x.rows);
        return std::max({gated_scratch(s_.x.width, rows), linear_scratch(ff_), gated_product_scratch()});
    }

    void run(Worker& worker, const Context& c) override {
        const int rows = c.rows(s_.x);
        const InputRows x{s_.x.row(0), size(s_.x.width), nullptr, rows};
        const int piece = columns_per_task(experts_, worker.threads());
        worker.each(tasks_of(experts_, piece), [&](int task) {
            const std::int64_t first = std::int64_t{task} * piece,
                               last = std::min<std::int64_t>(first + piece, experts_);
            c.kernels.linear(
                {x, s_.router, nullptr, logits_.data(), size(experts_), first, last, c.scratch_of(worker)});
        });
        each_rows(worker, rows, [&](int first, int count) {
            for (int r = first; r < first + count; ++r) choose(c.kernels, r);
        });
        worker.each(1, [&](int) { sort(rows); });
        if (s_.gate.packed != nullptr) {
            each_group(worker, [&](const Group& g) { 
                quantise(c, rows_of(g), s_.x.width, scale_inputs(s_.gate, s_.up), panels_of(g));
            });
        }
        each_expert(worker, ff_, gated_columns(kPiece, hidden_inputs()),
                    [&](const Group& g, int first, int last) { gate(worker, c, g, first, last); });
        if (s_.down.packed != nullptr && s_.gate.packed == nullptr) {
            each_group(worker, [&](const Group& g) { 
                quantise(c, hidden_of(g), ff_, hidden_inputs(), hidden_panels_of(g));
            });
        }
        each_expert(worker, s_.out.width, kPiece,
                    [&](const Group& g, int first, int last) { down(worker, c, g, first, last); });
        each_rows(worker, rows, [&](int first, int count) {
            for (int r = first; r < first + count; ++r) combine(c.kernels, r);
        });
    }

  private:
    struct Group {
        int expert, first, count;  // of the sorted places
    };

    // The top_k largest probabilities of a row in falling order, ties by lower index.
    void choose(const Kernels& kernels, int r) {
        float* p = logits_.data() + size(r) * size(experts_);
        kernels.softmax(p, p, experts_);
        std::int32_t* chosen = expert_.data() + size(r) * size(s_.top_k);
        float* shares = shares_.data() + size(r) * size(s_.top_k);
        float total = 0.0f;
        for (int rank = 0; rank < s_.top_k; ++rank) {
            int best = -1;
            for (int e = 0; e < experts_; ++e) {
                const bool taken = std::find(chosen, chosen + rank, e) != chosen + rank;
                if (!taken && (best < 0 || p[e] > p[best])) best = e;
            }
            chosen[rank] = best;
            shares[rank] = p[best];
            total += p[best];
        }
        for (int rank = 0; s_.normalise && rank < s_.top_k; ++rank) shares[rank] = shares[rank] / total;
    }

    void sort(int rows) {
        std::fill(start_.begin(), start_.end(), 0);
        const int n = rows * s_.top_k;
        for (int i = 0; i < n; ++i) ++start_[size(expert_.data()[i]) + 1];
        active_.clear();
        for (int e = 0; e < experts_; ++e) {
            if (start_[size(e) + 1] > 0) active_.push_back({e, start_[size(e)], start_[size(e) + 1]});
            start_[size(e) + 1] += start_[size(e)];
        }
        for (int i = 0; i < n; ++i) {
            const int place = start_[size(expert_.data()[i])]++;
            place_.data()[i] = place;
            source_.data()[place] = i / s_.top_k;
        }
    }

    // Calls work(group, first column, last column) for pieces of every active expert's `columns`.
    template <class Work>
    void each_expert(Worker& worker, int columns, int piece, Work work) {
        const int pieces = tasks_of(columns, piece);
        worker.each(static_cast<int>(active_.size()) * pieces, [&](int task) {
            const int first = task % pieces * piece;
            work(active_[size(task / pieces)], first, std::min(first + piece, columns));
        });
    }

    template <class Work>
    void each_group(Worker& worker, Work work) {
        worker.each(static_cast<int>(active_.size()), [&](int i) { work(active_[size(i)]); });
    }

    static Matrix of_expert(const Matrix& all, int expert, int rows) {
        Matrix one = all;
        const std::size_t skipped = size(expert) * size(rows);
        one.data += skipped * all.row_bytes;
        if (all.packed != nullptr) one.packed += skipped / kPackedColumns * packed_tile_bytes(all.format, all.columns);
        one.rows = rows;
        return one;
    }

    // An expert's rows: of x, and of the hidden values, as floats and as panels.
    InputRows rows_of(const Group& g) const {
        return {s_.x.row(0), size(s_.x.width), source_.data() + g.first, g.count};
    }
    InputRows hidden_of(const Group& g) const {
        return {hidden_.data() + size(g.first) * size(ff_), size(ff_), nullptr, g.count};
    }
    PanelBlock* panels_of(const Group& g) const { return panels_.data() + panel_blocks(g.first, s_.x.width); }
    PanelBlock* hidden_panels_of(const Group& g) const { return hidden_panels_.data() + panel_blocks(g.first, ff_); }

    int hidden_inputs() const { return s_.down.packed != nullptr ? scale_inputs(s_.down.format) : kPackedInputs; }

    static void quantise(const Context& c, const InputRows& x, int columns, int scale_inputs, PanelBlock* out) {
        c.kernels.quantise({x, x.count, columns, 0, columns, 0, row_groups(x.count), scale_inputs, out});
    }

    void gate(Worker& worker, const Context& c, const Group& g, int first, int last) {
        const Matrix gate = of_expert(s_.gate, g.expert, ff_), up = of_expert(s_.up, g.expert, ff_);
        float* hidden = hidden_.data() + size(g.first) * size(ff_);
        if (gate.packed != nullptr) {
            multiply_gated(c.kernels,
                           {panels_of(g), g.count, gate, up, nullptr, nullptr, s_.activation, hidden,
                            s_.down.packed != nullptr ? hidden_panels_of(g) : nullptr, hidden_inputs()},
                           first, last, last, c.scratch_of(worker));
            return;
        }
        c.kernels.gated({rows_of(g), gate, up, nullptr, nullptr, s_.activation, hidden, size(ff_), first, last,
                         c.scratch_of(worker)});
    }

    void down(Worker& worker, const Context& c, const Group& g, int first, int last) {
        const std::size_t width = size(s_.out.width);
        multiply(c.kernels,
                 {hidden_of(g), s_.down.packed != nullptr ? hidden_panels_of(g) : nullptr,
                  of_expert(s_.down, g.expert, s_.out.width), nullptr, results_.data() + size(g.first) * width, width,
                  g.count},
                 first, last, last, c.scratch_of(worker));
    }

    void combine(const Kernels& kernels, int r) {
        float* out = s_.out.row(r);
        std::fill_n(out, s_.out.width, 0.0f);
        for (int rank = 0; rank < s_.top_k; ++rank) {
            const std::size_t i = size(r) * size(s_.top_k) + size(rank);
            const float* result = results_.data() + size(place_.data()[i]) * size(s_.out.width);
            kernels.add_scaled(result, shares_.data()[i], out, s_.out.width);
        }
    }

    static constexpr int kPiece = 2 * kPackedColumns;

    MoeSpec s_;
    int experts_, ff_;
    Growing<float> logits_, hidden_, results_, shares_;  // shares by (row, rank)
    Growing<std::int32_t> expert_, place_;               // by (row, rank)
    Growing<std::int32_t> source_;                       // row of each sorted place
    Panels panels_, hidden_panels_;  // by sorted place, each expert's rows by themselves
    std::vector<int> start_;
    std::vector<Group> active_;
};

}  // namespace

std::unique_ptr<Op> make_moe(const MoeSpec& spec) { return std::make_unique<Moe>(spec); }

}  // namespace plait
