// A step program: recorded once, then run a step at a time by one team of threads.
//
// The recording methods take and return small numbers (of storages, values, weights, vectors; -1 is none) and throw
// std::invalid_argument for sizes that do not fit. Matrix bytes are the caller's and must outlive the program.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "program/kept.h"
#include "program/kv.h"
#include "program/ops.h"
#include "program/sample.h"

namespace plait {

// Rows of logits in memory that stays alive as long as `memory` is held, and valid until the next run.
struct Logits {
    std::shared_ptr<float> memory;
    int rows, width;
};

class Program {
  public:
    // Throws std::invalid_argument for sizes that cannot be, and for fewer threads than one.
    Program(const Kernels& kernels, KvShape shape, int threads);
    ~Program();

    // `from_file`: the matrix's bytes are a mapped file's, whose pages may be given back once they are repacked.
    int add_matrix(Matrix matrix, bool from_file = false);
    // From here on weights get their places, but nothing is repacked: a program to be asked, not to be run.
    void plan_only() { plan_only_ = true; }
    // Bytes of all repacked weights.
    std::size_t packed_total() const { return packed_.taken(); }
    // Where the matrix, should it be repacked, may be had in that form. Before the instruction that multiplies with it.
    void offer(int id, const Kept& kept);
    // Whether it was had from there.
    bool took_offer(int id) const;
    // The bytes of a matrix that was repacked, and their sum.
    std::span<const std::uint8_t> packed_bytes(int id) const;
    std::uint64_t packed_sum(int id);
    // Whether the matrix was repacked: an instruction that multiplies with it made a copy in another layout, and its
    // bytes are read for embeddings only.
    bool packed(int id) const;
    // How products with the matrix are taken, for people: "int8, repacked", "float32 as stored" or "float32,
    // dequantised per tile".
    std::string kernel_of(int id) const;
    int add_vector(std::vector<float> values);
    int add_value(int storage, Rows rows, int width);

    void embed(int table, int out, bool by_position);
    void linear(int x, const std::vector<int>& weights, const std::vector<int>& biases, const std::vector<int>& outs);
    void rms_norm(int x, int residual, int weight, float eps, float offset, int groups, int out, int total);
    void layer_norm(int x, int weight, int bias, float eps, int groups, int out);
    void rope_and_store(int q, int k, int v, int layer, RopeLayout layout, const std::vector<double>& inv_freq,
                        float scale, int out);
    void attention(int q, int layer, float scale, float softcap, int sinks, const std::vector<float>& slopes, int out);
    void gated_mlp(int x, const std::vector<int>& weights, const std::vector<int>& biases, Activation activation,
                   int out);
    void moe(int x, const std::vector<int>& weights, int top_k, bool normalise, Activation activation, int out);
    void add(int a, int b, int out);
    void scale(int x, float factor, int out);
    void softcap(int x, float cap, int out);
    void clamp(int x, float limit, int out);
    void activate(int x, Activation activation, int out);
    void take_rows(int x, int out);
    // `hidden` are the rows that the logits are made from: those may be asked for.
    void finish(int logits, int hidden = -1);

    // Throws std::invalid_argument for a step that does not fit, before anything has changed.
    Logits run(const StepInputs& step);
    // The hidden states of the output rows of the last step, as `Logits`. Throws std::invalid_argument for a program
    // that has none.
    Logits hidden() const;
    // Chooses tokens, from logits of any program. Throws std::invalid_argument for a call that does not fit.
    std::vector<Drawn> sample(const SampleCall& call);
    // Starts (from zero) or stops the measuring of instructions; not while a step runs.
    void measure(bool on);
    // Wall time, in seconds, of each kind of instruction in the steps measured so far; where rows are taken by portions,
    // the first worker's, and "wait" is its waiting for the others.
    const std::map<std::string, double>& measured() const { return measured_; }

    void set_threads(int threads);
    // From the next step on. Throws std::invalid_argument for a CPU that the process may not use, and where more threads
    // than CPUs are to have one each.
    void bind(Binding binding);
    int threads() const { return threads_; }
    KvMemory& kv() { return kv_; }
    const Kernels& kernels() const { return kernels_; }

  private:
    // Where the bytes of a matrix, and its repacked ones, come from.
    struct Origin {
        bool from_file;
        Kept kept;
        bool taken;
    };

    const Matrix& matrix(int id) const;
    // A matrix with `columns` inputs; with any number of them when that is 0.
    const Matrix& matrix(int id, std::int64_t rows, std::int64_t columns) const;
    const float* vector(int id, std::int64_t length) const;  // null for -1
    const Array& value(int id) const;
    const Array& value(int id, std::int64_t width, Rows rows) const;
    // Whether the matrix can be repacked so that parts of `rows_each` rows can be taken from it.
    bool packable(int id, std::int64_t rows_each) const;
    void pack(int id);
    void pack_experts(int gate, int up, int down, std::int64_t ff, std::int64_t width);
    int rope_table(const std::vector<double>& inv_freq, float scale);
    void add_op(const char* kind, std::unique_ptr<Op> op, int makes = -1);
    // Whether the instruction that is about to be recorded finds value x as panels, because its maker makes them, too.
    bool claim_panels(int x, int scale_inputs);
    void reserve(const StepInputs& inputs);
    // Room for portions; returns the floats of scratch that a worker needs.
    std::size_t reserve_portions();

    // Instructions first..last-1. With `by_rows` a worker can take a portion of the rows through all of them.
    struct Stretch {
        std::size_t first, last;
        bool by_rows;
    };
    // After the last instruction.
    void find_stretches();
    // Where each portion of this step's rows begins, and the end of the last; empty: rows are not divided.
    std::vector<int> portions_of(const StepInputs& inputs) const;
    Context whole();
    Context portion(int number, int worker);
    // Runs a stretch; calls done(instruction) after each, and after a wait for other workers with the number of ops.
    template <class Done>
    void run_stretch(const Stretch& stretch, Worker& worker, Done done);
    void run_rope_tables(Worker& worker);
    void execute(Worker& worker);
    void execute_measured(Worker& worker);
    void ensure_team();

    const Kernels& kernels_;
    KvMemory kv_;
    int threads_;
    std::unique_ptr<Team> team_;
    Binding binding_;
    std::vector<Matrix> matrices_;
    bool plan_only_ = false;
    std::vector<Origin> origins_;  // of the matrices
    HugePages packed_;
    std::vector<std::vector<float>> vectors_;
    std::vector<std::unique_ptr<std::vector<float>>> slopes_;  // of attention; moving one would leave it behind
    // By number and width: rows that one portion is done with must not lie where those of another, of another width, do.
    std::map<std::pair<int, int>, std::unique_ptr<Storage>> storages_;
    int storages_named_ = 0;
    std::vector<std::unique_ptr<Place>> places_;  // of the values
    std::vector<Array> values_;
    std::vector<RopeTable> ropes_;
    std::vector<std::unique_ptr<Op>> ops_;
    std::vector<std::string> kinds_;  // of the ops
    std::vector<int> made_by_;        // by value: the op whose panels of it may be had, or -1
    int panels_scale_inputs_ = 0;
    int panels_maker_ = -1, panels_user_ = -1;  // the last op that makes panels, and the last that looks at them
    bool measuring_ = false;
    std::map<std::string, double> measured_;
    std::int64_t vocabulary_ = 0;
    int logits_ = -1, hidden_ = -1;
    Step step_;
    Shared shared_;
    std::vector<Stretch> stretches_;
    std::size_t stretch_bytes_ = 0;  // the most repacked weights of a stretch
    std::vector<int> portions_;      // of this step
    std::vector<Shared> own_;        // per worker, for portions
    std::vector<Growing<float>> scratch_;
    std::vector<SampleScratch> sample_scratch_;  // per worker
    std::atomic_flag running_ = ATOMIC_FLAG_INIT;
};

}  // namespace plait
