#include "program/attend.h"

#include <algorithm>
#include <cstring>

#include "program/kv.h"
#include "program/step.h"

namespace plait {
namespace {

// Pieces for each worker, where keys are divided at all; and the fewest blocks of such a piece.
constexpr int kPiecesPerThread = 4, kFewestBlocks = 8;
// Reads of a block that sharing must save, or it is not worth a second phase.
constexpr std::size_t kFewestSaved = 4;
// Floats of partials that a range of keys may need; a larger one is not divided.
constexpr std::int64_t kMostPartials = std::int64_t{1} << 24;

std::size_t at(int i) { return static_cast<std::size_t>(i); }
int blocks_of(int keys) { return (keys + kKeyBlock - 1) / kKeyBlock; }

class Planner {
  public:
    Planner(Step& step, const KvShape& shape, std::size_t group, int threads)
        : step_(step), inputs_(step.inputs->groups[group]), starts_(step.keys[group].start), plan_(step.plans[group]),
          shape_(shape), threads_(threads), heads_(shape.n_heads / shape.n_kv_heads),
          most_rows_(rows_per_attention_piece(heads_)) {}

    void run() {
        plan_.rows.clear();
        plan_.pieces.clear();
        plan_.rests.clear();
        plan_.partials = 0;
        find_rows();
        find_sharers();
        share();
        for (int s = 0; s < sequences(); ++s) {
            if (plan_.first_row[at(s)] >= 0) attend_alone(s);
        }
        sort();
    }

  private:
    int sequences() const { return static_cast<int>(starts_.size()) - 1; }
    int keys(int sequence) const { return static_cast<int>(starts_[at(sequence) + 1] - starts_[at(sequence)]); }
    int rows(int sequence) const { return ends_row(sequence) - plan_.first_row[at(sequence)]; }
    int ends_row(int sequence) const {
        const Ints& of = step_.inputs->row_seq;
        return static_cast<int>(std::upper_bound(of.begin(), of.end(), sequence) - of.begin());
    }
    double cost(int n_rows, int blocks) const { return blocks * (1.0 + (n_rows * heads_ + 3) / 4); }

    // first_row: of each sequence, -1 when it has none or they are planned already.
    void find_rows() {
        const Ints& of = step_.inputs->row_seq;
        plan_.first_row.assign(at(sequences()), -1);
        double total = 0;
        for (int r = static_cast<int>(of.size()); r-- > 0;) plan_.first_row[at(of[at(r)])] = r;
        for (int s = 0; s < sequences(); ++s) {
            if (plan_.first_row[at(s)] >= 0) total += cost(rows(s), blocks_of(keys(s)));
        }
        dearest_ = total * shape_.n_kv_heads / (kPiecesPerThread * threads_);
    }

    std::span<const TableEntry> table(int sequence) const {
        const int first = inputs_.entry_start[at(sequence)], last = inputs_.entry_start[at(sequence) + 1];
        return inputs_.entries.subspan(at(first), at(last - first));
    }

    // Sequences of few rows, those with equal beginnings next to each other.
    void find_sharers() {
        plan_.sharers.clear();
        for (int s = 0; s < sequences(); ++s) {
            if (plan_.first_row[at(s)] >= 0 && 2 * rows(s) <= most_rows_ && keys(s) >= kKeyBlock) plan_.sharers.push_back(s);
        }
        std::sort(plan_.sharers.begin(), plan_.sharers.end(), [this](int a, int b) {
            const auto x = table(a), y = table(b);
            const int order = std::memcmp(x.data(), y.data(), std::min(x.size_bytes(), y.size_bytes()));
            return order != 0 ? order < 0 : x.size() != y.size() ? x.size() < y.size() : a < b;
        });
    }

    // Keys of whole blocks that the sequences have in common from the first on.
    int common_keys(int a, int b) const {
        const auto x = table(a), y = table(b);
        std::int64_t common = 0;
        for (std::size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
            if (x[i].page != y[i].page || x[i].first != y[i].first) break;
            common += std::min(x[i].count, y[i].count);
            if (x[i].count != y[i].count) break;
        }
        return static_cast<int>(common / kKeyBlock * kKeyBlock);
    }

    // A group of neighbours grows as long as the keys that are read once instead of often do not become fewer.
    void share() {
        for (std::size_t first = 0; first < plan_.sharers.size();) {
            std::size_t last = first + 1;
            int common = 0;
            for (; last < plan_.sharers.size(); ++last) {
                const std::int64_t members = static_cast<std::int64_t>(last - first);
                const int next = common_keys(plan_.sharers[last - 1], plan_.sharers[last]);
                const int together = common == 0 ? next : std::min(common, next);
                if (together == 0 || members * together < (members - 1) * common) break;
                common = together;
            }
            const std::size_t saved = (last - first - 1) * at(blocks_of(common));
            while (saved >= kFewestSaved && first < last) first = attend_shared(first, last, common);
            first = last;
        }
    }

    // As many of the sharers as a piece's rows can be of. Returns the first one that is left.
    std::size_t attend_shared(std::size_t first, std::size_t last, int common) {
        const int first_row = static_cast<int>(plan_.rows.size()), leader = plan_.sharers[first];
        std::size_t end = first;
        int count = 0;
        for (; end < last && count + rows(plan_.sharers[end]) <= most_rows_; ++end) count += rows(plan_.sharers[end]);
        if (end - first < 2) return end;
        for (std::size_t i = first; i < end; ++i) add_rows(plan_.sharers[i]);
        const int begin = static_cast<int>(plan_.pieces.size());
        divide({first_row, count, leader, 0, common, -1, false, 0});
        const int shared_end = static_cast<int>(plan_.pieces.size());
        for (int row = 0; first < end; ++first) {
            const int s = plan_.sharers[first], n = rows(s);
            AttentionRest rest{first_row + row, n, s, begin + 1, shared_end, row, common, keys(s), 0, 0};
            attend_own(rest);
            row += n;
            plan_.first_row[at(s)] = -1;
        }
        return end;
    }

    // What follows the shared keys is left for after them, or divided at once.
    void attend_own(AttentionRest rest) {
        rest.own_begin = static_cast<int>(plan_.pieces.size());
        const AttentionPiece own{rest.first_row, rest.n_rows, rest.sequence, rest.first_key, rest.last_key, -1, false, 0};
        if (parts(own) > 1) {
            divide(own);
            rest.last_key = rest.first_key;
        }
        rest.own_end = static_cast<int>(plan_.pieces.size());
        plan_.rests.push_back(rest);
    }

    void attend_alone(int sequence) {
        const int n = rows(sequence), start = static_cast<int>(plan_.rows.size());
        add_rows(sequence);
        for (int row = 0; row < n; row += most_rows_) {
            const int first_row = start + row, count = std::min(most_rows_, n - row);
            const int begin = static_cast<int>(plan_.pieces.size());
            // The last keys are most often those of the rows that follow: they cost nothing.
            const int unseen = std::min(keys(sequence), n - row - count);
            divide({first_row, count, sequence, 0, keys(sequence), -1, true, cost(count, blocks_of(keys(sequence) - unseen))});
            const int end = static_cast<int>(plan_.pieces.size());
            if (end - begin > 1) plan_.rests.push_back({first_row, count, sequence, 0, 0, 0, 0, 0, begin + 1, end});
        }
    }

    void add_rows(int sequence) {
        const int first = plan_.first_row[at(sequence)], last = ends_row(sequence);
        for (int r = first; r < last; ++r) plan_.rows.push_back(r);
    }

    std::int64_t partials_of(const AttentionPiece& piece) const {
        return std::int64_t{piece.blocks()} * piece.n_rows * shape_.n_heads *
               static_cast<std::int64_t>(partial_floats(shape_.v_head_dim));
    }

    int parts(const AttentionPiece& piece) const {
        const int most = piece.blocks() / kFewestBlocks;
        if (threads_ == 1 || most < 2 || partials_of(piece) > kMostPartials) return 1;
        return std::clamp(static_cast<int>(cost(piece.n_rows, piece.blocks()) / dearest_ + 0.5), 1, most);
    }

    // Adds the piece in parts. The first one of those that begin at key 0 needs no partials.
    void divide(AttentionPiece piece) {
        const int n = parts(piece), blocks = piece.blocks(), first_key = piece.first_key, last_key = piece.last_key;
        piece.finishes = piece.finishes && n == 1;
        for (int i = 0; i < n; ++i) {
            AttentionPiece part = piece;
            part.first_key = first_key + kKeyBlock * (blocks * i / n);
            part.last_key = i == n - 1 ? last_key : first_key + kKeyBlock * (blocks * (i + 1) / n);
            if (n > 1 || part.cost == 0) part.cost = cost(part.n_rows, part.blocks());
            part.partials = part.first_key == 0 ? -1 : plan_.partials;
            if (part.first_key != 0) plan_.partials += partials_of(part);
            plan_.pieces.push_back(part);
        }
    }

    void sort() {
        plan_.order.resize(plan_.pieces.size());
        for (std::size_t i = 0; i < plan_.order.size(); ++i) plan_.order[i] = static_cast<int>(i);
        std::sort(plan_.order.begin(), plan_.order.end(), [this](int a, int b) {
            const double x = plan_.pieces[at(a)].cost, y = plan_.pieces[at(b)].cost;
            return x != y ? x > y : a < b;
        });
    }

    Step& step_;
    const GroupInputs& inputs_;
    const std::vector<std::int64_t>& starts_;
    AttentionPlan& plan_;
    const KvShape& shape_;
    const int threads_, heads_, most_rows_;
    double dearest_ = 0;  // cost that a part should not exceed
};

}  // namespace

void plan_attention(Step& step, const KvShape& shape, int threads) {
    step.plans.resize(step.keys.size());
    std::size_t partials = 0;
    for (std::size_t g = 0; g < step.plans.size(); ++g) {
        Planner(step, shape, g, threads).run();
        partials = std::max(partials, static_cast<std::size_t>(step.plans[g].partials));
    }
    const std::size_t queries = at(step.counts.tokens) * at(shape.n_heads);
    step.top.reserve(queries);
    step.total.reserve(queries);
    step.partials.reserve(partials);
}

}  // namespace plait
