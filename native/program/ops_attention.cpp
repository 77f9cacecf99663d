#include <cstring>

#include "program/ops.h"

namespace plait {
namespace {

class RopeAndStore final : public Op {
  public:
    explicit RopeAndStore(const RopeAndStoreSpec& s) : s_(s) {}
    // A row of k, and a head of it as it is stored.
    std::size_t scratch(const Counts&) const override { return 2 * static_cast<std::size_t>(s_.k.width); }
    bool by_rows() const override { return true; }
    // Rows of q and stored rows are independent pieces of one phase.
    void run(Worker& worker, const Context& c) override {
        const GroupInputs& inputs = c.step.inputs->groups[s_.layer->group];
        const int rows = c.counts.tokens;
        const auto [before, stores] = stores_of(c, inputs.store_row);
        const int row_tasks = tasks_of(rows, kPiece);
        worker.each(row_tasks + tasks_of(stores, kPiece), [&](int task) {
            if (task < row_tasks) {
                const int first = task * kPiece, last = std::min(first + kPiece, rows);
                for (int r = first; r < last; ++r) rotate(c, c.row(s_.q, r), c.first + r, s_.q.width, c.row(s_.out, r));
                return;
            }
            const int first = (task - row_tasks) * kPiece, last = std::min(first + kPiece, stores);
            for (int i = before + first; i < before + last; ++i) {
                store(c, inputs.store_row[static_cast<std::size_t>(i)], inputs.store_slot[static_cast<std::size_t>(i)],
                      c.scratch_of(worker));
            }
        });
    }

  private:
    static constexpr int kPiece = 8;

    // The portion's first stored row, and how many there are. They are in order where rows are taken by portions.
    static std::pair<int, int> stores_of(const Context& c, Ints rows) {
        if (c.counts.tokens == c.step.counts.tokens) return {0, static_cast<int>(rows.size())};
        const auto before = [&](int row) {
            return static_cast<int>(std::lower_bound(rows.begin(), rows.end(), row) - rows.begin());
        };
        return {before(c.first), before(c.first + c.counts.tokens) - before(c.first)};
    }

    void rotate(const Context& c, const float* in, int row, int width, float* out) const {
        if (!s_.rotates) {
            std::memcpy(out, in, static_cast<std::size_t>(width) * sizeof(float));
            return;
        }
        const RopeTable& table = c.ropes[static_cast<std::size_t>(s_.rope.table)];
        const std::size_t at = static_cast<std::size_t>(row) * table.inv_freq.size();
        const int dim = c.kv.shape().head_dim;
        c.kernels.rotate(
            {in, table.cos.data() + at, table.sin.data() + at, out, width / dim, dim, table.pairs(), s_.rope.layout});
    }

    void store(const Context& c, int row, int slot, float* scratch) const {
        rotate(c, c.row(s_.k, row - c.first), row, s_.k.width, scratch);
        c.kv.store_k(*s_.layer, slot, scratch, scratch + s_.k.width);
        c.kv.store_v(*s_.layer, slot, c.row(s_.v, row - c.first));
    }

    RopeAndStoreSpec s_;
};

// The step's plan says what the pieces are (program/attend.h).
class Attention final : public Op {
  public:
    Attention(const AttentionSpec& s, const KvShape& shape) : s_(s), shape_(shape) {}
    std::size_t scratch(const Counts&) const override { return attention_scratch(shape_.head_dim, shape_.v_head_dim); }
    void run(Worker& worker, const Context& c) override {
        const AttentionPlan& plan = c.step.plans[s_.layer->group];
        const int heads = shape_.n_kv_heads;
        worker.each(static_cast<int>(plan.pieces.size()) * heads, [&](int task) {
            const int number = plan.order[static_cast<std::size_t>(task / heads)];
            // The other workers are in the midst of theirs: so many pieces on is what this one probably takes next.
            attend(worker, c, plan.pieces[static_cast<std::size_t>(number)], task % heads, keys_of(c, task + worker.threads()));
        });
        worker.each(static_cast<int>(plan.rests.size()) * heads, [&](int task) {
            finish(worker, c, plan.rests[static_cast<std::size_t>(task / heads)], task % heads);
        });
    }

  private:
    AttentionState state(const Context& c) const {
        return {c.step.top.data(), c.step.total.data(), s_.out.row(0), shape_.n_heads, shape_.v_head_dim, s_.sinks};
    }

    float* partials(const Context& c, const AttentionPiece& piece, int kv_head) const {
        const std::size_t queries = static_cast<std::size_t>(piece.n_rows * (shape_.n_heads / shape_.n_kv_heads));
        const std::size_t floats = static_cast<std::size_t>(piece.blocks()) * queries * partial_floats(shape_.v_head_dim);
        return c.step.partials.data() + piece.partials + static_cast<std::size_t>(kv_head) * floats;
    }

    AttentionArgs args(const Worker& worker, const Context& c, int sequence, int kv_head) const {
        const GroupKeys& keys = c.step.keys[s_.layer->group];
        const std::int64_t first = keys.start[static_cast<std::size_t>(sequence)];
        AttentionArgs a{};
        a.state = state(c);
        a.q = s_.q.row(0);
        a.n_kv_heads = shape_.n_kv_heads;
        a.head_dim = shape_.head_dim;
        a.kv_head = kv_head;
        a.row_positions = c.step.inputs->positions.data();
        a.key_rows = keys.rows.data() + first;
        a.key_positions = keys.positions.data() + first;
        a.k = s_.layer->k.data();
        a.v = s_.layer->v.data();
        a.kv_type = shape_.type;
        a.page_size = shape_.page_size;
        a.scale = s_.scale;
        a.softcap = s_.softcap;
        a.slopes = s_.slopes;
        a.window = shape_.groups[s_.layer->group].window;
        a.scratch = c.scratch_of(worker);
        return a;
    }

    // Those of a task of the first phase.
    NextKeys keys_of(const Context& c, int task) const {
        const AttentionPlan& plan = c.step.plans[s_.layer->group];
        const std::size_t at = static_cast<std::size_t>(task / shape_.n_kv_heads);
        if (at >= plan.order.size()) return {nullptr, 0, 0};
        const AttentionPiece& piece = plan.pieces[static_cast<std::size_t>(plan.order[at])];
        const GroupKeys& keys = c.step.keys[s_.layer->group];
        const std::int64_t first = keys.start[static_cast<std::size_t>(piece.sequence)] + piece.first_key;
        return {keys.rows.data() + first, piece.last_key - piece.first_key, task % shape_.n_kv_heads};
    }

    void attend(const Worker& worker, const Context& c, const AttentionPiece& piece, int kv_head, NextKeys next) const {
        AttentionArgs a = args(worker, c, piece.sequence, kv_head);
        a.rows = c.step.plans[s_.layer->group].rows.data() + piece.first_row;
        a.n_rows = piece.n_rows;
        a.first_key = piece.first_key;
        a.last_key = piece.last_key;
        a.partials = piece.partials < 0 ? nullptr : partials(c, piece, kv_head);
        a.starts = a.partials == nullptr;
        a.finishes = piece.finishes;
        a.next = next;
        c.kernels.attention(a);
    }

    void finish(const Worker& worker, const Context& c, const AttentionRest& rest, int kv_head) const {
        merge(c, rest, rest.shared_begin, rest.shared_end, rest.shared_row, kv_head);
        AttentionArgs a = args(worker, c, rest.sequence, kv_head);
        a.rows = c.step.plans[s_.layer->group].rows.data() + rest.first_row;
        a.n_rows = rest.n_rows;
        a.first_key = rest.first_key;
        a.last_key = rest.last_key;
        c.kernels.attention(a);
        merge(c, rest, rest.own_begin, rest.own_end, 0, kv_head);
        c.kernels.merge_attention(merging(c, rest, kv_head));
    }

    // Without partials it only divides by the sum.
    MergeArgs merging(const Context& c, const AttentionRest& rest, int kv_head) const {
        const std::int32_t* rows = c.step.plans[s_.layer->group].rows.data() + rest.first_row;
        return {state(c), shape_.n_kv_heads, kv_head, rows, rest.n_rows, nullptr, 0, 0, 0, true};
    }

    void merge(const Context& c, const AttentionRest& rest, int first, int last, int row, int kv_head) const {
        for (int i = first; i < last; ++i) {
            const AttentionPiece& piece = c.step.plans[s_.layer->group].pieces[static_cast<std::size_t>(i)];
            MergeArgs a = merging(c, rest, kv_head);
            a.partials = partials(c, piece, kv_head);
            a.blocks = piece.blocks();
            a.partial_rows = piece.n_rows;
            a.partial_row = row;
            a.finishes = false;
            c.kernels.merge_attention(a);
        }
    }

    AttentionSpec s_;
    KvShape shape_;
};

}  // namespace

std::unique_ptr<Op> make_rope_and_store(const RopeAndStoreSpec& spec) { return std::make_unique<RopeAndStore>(spec); }
std::unique_ptr<Op> make_attention(const AttentionSpec& spec, const KvShape& shape) {
    return std::make_unique<Attention>(spec, shape);
}

}  // namespace plait
