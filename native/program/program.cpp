#include "program/program.h"

#include <chrono>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace plait {
namespace {

// Holds a flag while it lives; refuses when somebody else holds it.
class Exclusive {
  public:
    explicit Exclusive(std::atomic_flag& flag) : flag_(flag) {
        if (flag_.test_and_set(std::memory_order_acquire)) {
            throw std::runtime_error("a step of this program is running already; run one step at a time");
        }
    }
    ~Exclusive() { flag_.clear(std::memory_order_release); }
    Exclusive(const Exclusive&) = delete;
    Exclusive& operator=(const Exclusive&) = delete;

  private:
    std::atomic_flag& flag_;
};

int check_threads(int threads) {
    if (threads < 1 || threads > 1024) {
        throw std::invalid_argument("threads is " + std::to_string(threads) + "; give 1 to 1024");
    }
    return threads;
}

// Less is sampled sooner by one thread than a team is woken up.
constexpr std::int64_t kFewLogits = 32768;

}  // namespace

Program::Program(const Kernels& kernels, KvShape shape, int threads)
    : kernels_(kernels), kv_(std::move(shape), kernels), threads_(check_threads(threads)) {
    trim_heap();  // before the weights come: what was read for them is read
}

Program::~Program() {
    // The threads of a forked-off parent are not here to be joined.
    if (team_ && !team_->here()) static_cast<void>(team_.release());
}

void Program::set_threads(int threads) {
    const Exclusive exclusive(running_);
    check_binding(binding_, threads);
    threads_ = check_threads(threads);
}

void Program::bind(Binding binding) {
    const Exclusive exclusive(running_);
    check_binding(binding, threads_);
    binding_ = std::move(binding);
    if (team_ && !team_->here()) static_cast<void>(team_.release());
    team_.reset();
}

void Program::ensure_team() {
    if (team_ && !team_->here()) static_cast<void>(team_.release());
    if (team_ && team_->threads() == threads_) return;
    team_.reset();
    team_ = std::make_unique<Team>(threads_, binding_);
}

void Program::reserve(const StepInputs& inputs) {
    step_.inputs = &inputs;
    const int outputs = static_cast<int>(inputs.out_rows.size());
    step_.counts = {static_cast<int>(inputs.tokens.size()), outputs, outputs - inputs.hidden_only};
    portions_ = portions_of(inputs);
    for (const Array& value : values_) {
        // Products are made for whole row groups.
        const int spare = value.rows == Rows::Logits ? std::min(kPanelRows, inputs.hidden_only) : 0;
        const std::size_t rows = static_cast<std::size_t>(step_.counts.of(value.rows) + spare);
        if (portions_.empty() || !value.place->passing) {
            value.place->storage->all.reserve(rows * static_cast<std::size_t>(value.width));
        }
    }
    std::size_t scratch = 0;
    scratch_.resize(static_cast<std::size_t>(threads_));
    for (const auto& op : ops_) {
        if (portions_.empty() || !op->by_rows()) op->reserve(step_.counts, shared_);
        scratch = std::max(scratch, op->scratch(step_.counts));
    }
    if (!portions_.empty()) scratch = std::max(scratch, reserve_portions());
    for (Growing<float>& memory : scratch_) memory.reserve(scratch);
    for (RopeTable& table : ropes_) {
        table.cos.reserve(inputs.tokens.size() * table.inv_freq.size());
        table.sin.reserve(inputs.tokens.size() * table.inv_freq.size());
    }
    kv_.reserve_keys(step_);
    kv_.choose_pages(step_);
    plan_attention(step_, kv_.shape(), threads_);
}

void Program::run_rope_tables(Worker& worker) {
    each_rows(worker, step_.counts.tokens, [&](int first, int count) {
        for (RopeTable& table : ropes_) {
            const std::size_t pairs = table.inv_freq.size();
            for (std::size_t r = static_cast<std::size_t>(first); r < static_cast<std::size_t>(first + count); ++r) {
                for (std::size_t i = 0; i < pairs; ++i) {
                    const double angle = static_cast<double>(step_.inputs->positions[r]) * table.inv_freq[i];
                    table.cos.data()[r * pairs + i] = static_cast<float>(std::cos(angle)) * table.scale;
                    table.sin.data()[r * pairs + i] = static_cast<float>(std::sin(angle)) * table.scale;
                }
            }
        }
    });
}

Context Program::whole() { return {kernels_, shared_, step_, kv_, ropes_, scratch_, step_.counts}; }

Context Program::portion(int number, int worker) {
    const std::size_t i = static_cast<std::size_t>(number);
    Counts counts;
    counts.tokens = portions_[i + 1] - portions_[i];
    Shared& own = own_[static_cast<std::size_t>(worker)];
    return {kernels_, own, step_, kv_, ropes_, scratch_, counts, portions_[i], worker};
}

template <class Done>
void Program::run_stretch(const Stretch& stretch, Worker& worker, Done done) {
    const auto run_all = [&](Worker& self, const Context& context) {
        for (std::size_t i = stretch.first; i < stretch.last; ++i) {
            ops_[i]->run(self, context);
            done(i);
        }
    };
    if (portions_.empty() || !stretch.by_rows) return run_all(worker, whole());
    worker.each(static_cast<int>(portions_.size()) - 1, [&](int number) {
        Worker alone = worker.alone();
        run_all(alone, portion(number, worker.index()));
    });
    done(ops_.size());
}

void Program::execute(Worker& worker) {
    kv_.edit(worker, *step_.inputs, ropes_);
    kv_.list_keys(worker, step_);
    run_rope_tables(worker);
    for (const Stretch& stretch : stretches_) run_stretch(stretch, worker, [](std::size_t) {});
}

// An instruction ends for the first worker when it has ended for all.
void Program::execute_measured(Worker& worker) {
    auto before = std::chrono::steady_clock::now();
    const auto account = [&](const std::string& kind) {
        const auto now = std::chrono::steady_clock::now();
        if (worker.index() == 0) measured_[kind] += std::chrono::duration<double>(now - before).count();
        before = now;
    };
    kv_.edit(worker, *step_.inputs, ropes_);
    kv_.list_keys(worker, step_);
    run_rope_tables(worker);
    account("before");
    for (const Stretch& stretch : stretches_) {
        run_stretch(stretch, worker, [&](std::size_t op) { account(op < kinds_.size() ? kinds_[op] : "wait"); });
    }
}

void Program::measure(bool on) {
    const Exclusive exclusive(running_);
    measuring_ = on;
    if (on) measured_.clear();
}

Logits Program::run(const StepInputs& inputs) {
    const Exclusive exclusive(running_);
    if (logits_ < 0 || plan_only_) throw std::invalid_argument("the program is not finished");
    if (inputs.tokens.size() > std::numeric_limits<std::int32_t>::max() / 2)
        throw std::invalid_argument("too many tokens");
    check_step(inputs, kv_.shape(), vocabulary_);
    kv_.check_stores(inputs);
    ensure_team();
    reserve(inputs);
    const auto job = [this](Worker& worker) { measuring_ ? execute_measured(worker) : execute(worker); };
    team_->run(job);
    const Array& logits = values_[static_cast<std::size_t>(logits_)];
    return {logits.place->storage->all.share(), step_.counts.of(logits.rows), logits.width};
}

Logits Program::hidden() const {
    if (hidden_ < 0) throw std::invalid_argument("the program has no hidden states to show");
    const Array& hidden = values_[static_cast<std::size_t>(hidden_)];
    return {hidden.place->storage->all.share(), step_.counts.outputs, hidden.width};
}

std::vector<Drawn> Program::sample(const SampleCall& call) {
    const Exclusive exclusive(running_);
    sample_scratch_.resize(static_cast<std::size_t>(threads_));
    Sampler sampler(call, kernels_, sample_scratch_);
    if (threads_ == 1 || sampler.count() == 1 || sampler.count() * std::int64_t{call.vocabulary} <= kFewLogits) {
        for (int row = 0; row < sampler.count(); ++row) sampler.run(row, 0);
    } else {
        ensure_team();
        team_->run([&](Worker& worker) { worker.each(sampler.count(), [&](int row) { sampler.run(row, worker.index()); }); });
    }
    return sampler.take();
}

}  // namespace plait
