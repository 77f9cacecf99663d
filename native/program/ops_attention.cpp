#include <cstring>

#include "program/ops.h"

namespace plait {
namespace {

class RopeAndStore final : public Op {
  public:
    explicit RopeAndStore(const RopeAndStoreSpec& s) : s_(s) {}
    std::size_t scratch(const Counts&) const override { return static_cast<std::size_t>(s_.k.width); }
    // Rows of q and stored rows are independent pieces of one phase.
    void run(Worker& worker, const Context& c) override {
        const GroupInputs& inputs = c.step.inputs->groups[s_.layer->group];
        const int rows = c.step.counts.tokens, stores = static_cast<int>(inputs.store_row.size());
        const int row_tasks = tasks_of(rows, kPiece);
        worker.each(row_tasks + tasks_of(stores, kPiece), [&](int task) {
            if (task < row_tasks) {
                const int first = task * kPiece, last = std::min(first + kPiece, rows);
                for (int r = first; r < last; ++r) rotate(c, s_.q.row(r), r, s_.q.width, s_.out.row(r));
                return;
            }
            const int first = (task - row_tasks) * kPiece, last = std::min(first + kPiece, stores);
            for (int i = first; i < last; ++i) {
                store(c, inputs.store_row[static_cast<std::size_t>(i)], inputs.store_slot[static_cast<std::size_t>(i)],
                      c.scratch_of(worker));
            }
        });
    }

  private:
    static constexpr int kPiece = 8;

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
        rotate(c, s_.k.row(row), row, s_.k.width, scratch);
        c.kv.store_k(*s_.layer, slot, scratch);
        c.kv.store_v(*s_.layer, slot, s_.v.row(row));
    }

    RopeAndStoreSpec s_;
};

class Attention final : public Op {
  public:
    Attention(const AttentionSpec& s, const KvShape& shape) : s_(s), shape_(shape) {}
    std::size_t scratch(const Counts&) const override {
        return attention_scratch(shape_.n_heads / shape_.n_kv_heads, shape_.head_dim, shape_.v_head_dim);
    }
    void run(Worker& worker, const Context& c) override {
        const GroupKeys& keys = c.step.keys[s_.layer->group];
        const int heads = shape_.n_kv_heads;
        worker.each(static_cast<int>(c.step.ranges.size()) * heads, [&](int task) {
            const RowRange& range = c.step.ranges[static_cast<std::size_t>(task / heads)];
            const std::size_t sequence = static_cast<std::size_t>(range.sequence);
            const std::int64_t first = keys.start[sequence];
            c.kernels.attention({
                .q = s_.q.row(0),
                .out = s_.out.row(0),
                .n_heads = shape_.n_heads,
                .n_kv_heads = heads,
                .head_dim = shape_.head_dim,
                .v_head_dim = shape_.v_head_dim,
                .kv_head = task % heads,
                .first_row = range.first,
                .last_row = range.last,
                .row_positions = c.step.inputs->positions.data(),
                .key_rows = keys.rows.data() + first,
                .key_positions = keys.positions.data() + first,
                .keys = static_cast<int>(keys.start[sequence + 1] - first),
                .k = s_.layer->k.data(),
                .v = s_.layer->v.data(),
                .kv_type = shape_.type,
                .page_size = shape_.page_size,
                .scale = s_.scale,
                .softcap = s_.softcap,
                .window = shape_.groups[s_.layer->group].window,
                .sinks = s_.sinks,
                .scratch = c.scratch_of(worker),
            });
        });
    }

  private:
    AttentionSpec s_;
    KvShape shape_;
};

}  // namespace

std::unique_ptr<Op> make_rope_and_store(const RopeAndStoreSpec& spec) { return std::make_unique<RopeAndStore>(spec); }
std::unique_ptr<Op> make_attention(const AttentionSpec& spec, const KvShape& shape) {
    return std::make_unique<Attention>(spec, shape);
}

}  // namespace plait
