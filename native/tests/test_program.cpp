// A small program, whole: any threads and any path give the same bits; bad steps and bad recordings are refused.
#include <algorithm>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>

#include "cpu/paths.h"
#include "program/formats.h"
#include "program/program.h"
#include "tests/check.h"

using namespace plait;

namespace {

constexpr int kWidth = 32, kVocabulary = 11, kPage = 4, kPages = 36;

// One layer of attention, a gated MLP and experts, over random weights that it owns; those of the products before the
// experts are of `format`.
class Model {
  public:
    Model(const std::string& path, int threads, const char* format = "F32")
        : format_(format), program_(kernels_of(path), {4, 2, 8, 8, kPage, KvType::F16, {{{0}, 0, kPages}}}, threads) {
        Program& p = program_;
        const int x = value(kWidth), h = value(kWidth), q = value(32), k = value(16), v = value(16), r = value(32);
        const int a = value(32), n = value(kWidth), t = value(kWidth), m = value(kWidth), e = value(kWidth);
        const int last = p.add_value(storages_++, Rows::Outputs, kWidth),
                  logits = p.add_value(storages_++, Rows::Outputs, kVocabulary);
        const int table = matrix(kVocabulary, kWidth), norm = p.add_vector(std::vector<float>(kWidth, 1.0f));
        p.embed(table, x, false);
        p.rms_norm(x, -1, norm, 1e-5f, 0.0f, 1, h, -1);
        p.linear(h, {weight(32, kWidth), weight(16, kWidth), weight(16, kWidth)}, {-1, -1, -1}, {q, k, v});
        p.rope_and_store(q, k, v, 0, RopeLayout::Half, {1.0, 0.1, 0.01, 0.001}, 1.0f, r);
        p.attention(r, 0, 0.35f, 0.0f, -1, {}, a);
        p.rms_norm(a, x, norm, 1e-5f, 0.0f, 1, n, t);
        const int ff = format_ == "F32" ? 40 : 64;
        p.gated_mlp(n, {weight(ff, kWidth), weight(ff, kWidth), weight(kWidth, ff)}, {-1, -1, -1}, Activation::Silu, m);
        p.moe(m, {matrix(3, kWidth), matrix(3 * 24, kWidth), matrix(3 * 24, kWidth), matrix(3 * kWidth, 24)}, 2, true,
              Activation::Gelu, e);
        p.take_rows(e, last);
        p.linear(last, {table}, {-1}, {logits});
        p.finish(logits);
    }

    Program& program() { return program_; }

  private:
    int value(int width) { return program_.add_value(storages_++, Rows::Tokens, width); }
    int matrix(int rows, int columns) {
        std::normal_distribution<float> normal(0.0f, 0.3f);
        auto& data = weights_.emplace_back(std::make_unique<std::vector<float>>());
        for (int i = 0; i < rows * columns; ++i) data->push_back(normal(random_));
        const auto* bytes = reinterpret_cast<const std::uint8_t*>(data->data());
        return program_.add_matrix(make_matrix({bytes, data->size() * sizeof(float)}, "F32", rows, columns));
    }
    int weight(int rows, int columns) {
        if (format_ == "F32") return matrix(rows, columns);
        auto& data = blocks_.emplace_back(std::make_unique<std::vector<std::uint8_t>>());
        for (int block = 0; block < rows * columns / 32; ++block) {
            data->insert(data->end(), {0, 0x18});  // the half 2^-9
            for (int i = 0; i < 32; ++i) data->push_back(static_cast<std::uint8_t>(random_()));
        }
        return program_.add_matrix(make_matrix({data->data(), data->size()}, format_, rows, columns));
    }

    std::mt19937 random_{1};
    std::string format_;
    std::vector<std::unique_ptr<std::vector<float>>> weights_;
    std::vector<std::unique_ptr<std::vector<std::uint8_t>>> blocks_;
    int storages_ = 0;
    Program program_;
};

// Two sequences of 9 and 3 tokens, logits for every row.
struct Inputs {
    std::vector<std::int32_t> tokens, positions, row_seq, out_rows, store_row, store_slot, entry_start{0, 3, 4};
    std::vector<TableEntry> entries{{5, 0, 4}, {2, 0, 4}, {7, 0, 1}, {3, 0, 3}};
    std::vector<CopyEdit> copies;
    std::vector<RepositionEdit> repositions;

    Inputs() {
        const std::vector<std::int32_t> slots = {20, 21, 22, 23, 8, 9, 10, 11, 28, 12, 13, 14};
        for (int i = 0; i < 12; ++i) {
            tokens.push_back(i * 5 % kVocabulary);
            positions.push_back(i < 9 ? i : i - 9);
            row_seq.push_back(i < 9 ? 0 : 1);
            out_rows.push_back(i);
            store_row.push_back(i);
            store_slot.push_back(slots[static_cast<std::size_t>(i)]);
        }
    }

    StepInputs view() const {
        return {
            tokens, positions, row_seq, out_rows, {{entry_start, entries, store_row, store_slot, copies, repositions}}};
    }
};

std::vector<float> run(Model& model, const Inputs& inputs) {
    const Logits logits = model.program().run(inputs.view());
    const auto n = static_cast<std::size_t>(logits.rows) * static_cast<std::size_t>(logits.width);
    return {logits.memory.get(), logits.memory.get() + n};
}

TEST(any_threads_and_any_path_give_the_same_bits) {
    Model plain("scalar", 1);
    const std::vector<float> want = run(plain, Inputs());
    CHECK(want.size() == 12u * kVocabulary);
    for (const std::string& path : usable_paths()) {
        for (const int threads : {1, 2, 3, 4}) {
            Model model(path, threads);
            for (int again = 0; again < 2; ++again) {
                const std::vector<float> got = run(model, Inputs());
                CHECK(got.size() == want.size() &&
                      std::memcmp(got.data(), want.data(), want.size() * sizeof(float)) == 0);
            }
        }
    }
}

// Two sequences of 73 and 57 tokens.
Inputs many_rows() {
    Inputs inputs;
    for (auto* ints : {&inputs.tokens, &inputs.positions, &inputs.row_seq, &inputs.out_rows, &inputs.store_row,
                       &inputs.store_slot}) {
        ints->clear();
    }
    inputs.entry_start = {0, 19, 34};
    inputs.entries.clear();
    for (int i = 0; i < 34; ++i) inputs.entries.push_back({34 - i, 0, i == 18 || i == 33 ? 1 : kPage});
    for (int i = 0; i < 130; ++i) {
        const int seq = i < 73 ? 0 : 1, position = i - 73 * seq;
        inputs.tokens.push_back(i * 5 % kVocabulary);
        inputs.positions.push_back(position);
        inputs.row_seq.push_back(seq);
        inputs.out_rows.push_back(i);
        inputs.store_row.push_back(i);
        inputs.store_slot.push_back((34 - 19 * seq - position / kPage) * kPage + position % kPage);
    }
    return inputs;
}

// Rows whose storing is not in order are not divided.
TEST(rows_in_portions_give_the_bits_of_rows_that_are_not_divided) {
    const Inputs divided = many_rows();
    Inputs whole = divided;
    std::reverse(whole.store_row.begin(), whole.store_row.end());
    std::reverse(whole.store_slot.begin(), whole.store_slot.end());
    for (const char* format : {"F32", "Q8_0"}) {
        Model plain("scalar", 1, format);
        plain.program().measure(true);
        const std::vector<float> want = run(plain, whole);
        CHECK(plain.program().measured().count("wait") == 0);
        for (const std::string& path : usable_paths()) {
            for (const int threads : {1, 2, 3, 5}) {
                Model model(path, threads, format);
                model.program().measure(true);
                CHECK(run(model, divided) == want);
                CHECK(model.program().measured().count("wait") == 1);
                CHECK(run(model, whole) == want);
            }
        }
    }
}

TEST(steps_that_reach_outside_are_refused) {
    Model model("scalar", 1);
    const int huge = std::numeric_limits<std::int32_t>::max();
    const auto refused = [&](auto spoil) {
        Inputs inputs;
        spoil(inputs);
        CHECK_THROWS(run(model, inputs));
    };
    refused([](Inputs& i) { i.tokens[3] = kVocabulary; });
    refused([](Inputs& i) { i.tokens[3] = -1; });
    refused([](Inputs& i) { i.positions.pop_back(); });
    refused([](Inputs& i) { i.row_seq[0] = 1; });
    refused([](Inputs& i) { i.row_seq.back() = 2; });
    refused([](Inputs& i) { i.out_rows[0] = 12; });
    refused([](Inputs& i) { i.store_slot[0] = kPage * kPages; });
    refused([](Inputs& i) { i.store_slot[0] = 0; });
    refused([](Inputs& i) { i.store_slot[0] = i.store_slot[1]; });
    refused([](Inputs& i) { i.store_row[0] = -1; });
    refused([](Inputs& i) { i.store_row.pop_back(); });
    refused([&](Inputs& i) { i.entries[0] = {huge, 0, 1}; });
    refused([&](Inputs& i) { i.entries[0] = {1, huge, 1}; });
    refused([&](Inputs& i) { i.entries[0] = {1, 1, huge}; });
    refused([](Inputs& i) { i.entry_start[1] = 5; });
    refused([](Inputs& i) { i.entry_start.clear(); });
    refused([&](Inputs& i) { i.copies = {{4, huge, 1}}; });
    refused([&](Inputs& i) { i.copies = {{4, 8, huge}}; });
    refused([](Inputs& i) { i.copies = {{4, 6, 4}}; });
    refused([](Inputs& i) { i.copies = {{4, 8, 0}}; });
    refused([](Inputs& i) { i.repositions = {{-1, 0}}; });
    run(model, Inputs());
}

TEST(recordings_that_do_not_fit_are_refused) {
    Model model("scalar", 1);
    Program& p = model.program();
    CHECK_THROWS(p.add(0, 2000, 1));
    CHECK_THROWS(p.take_rows(0, 3));
    CHECK_THROWS(p.add_value(1000, Rows::Tokens, 4));
    CHECK_THROWS(p.attention(3, 0, 1.0f, 0.0f, -1, {}, 0));
    CHECK_THROWS(p.attention(2, 7, 1.0f, 0.0f, -1, {}, 6));
    CHECK_THROWS(p.set_threads(0));
    CHECK_THROWS(Program(scalar_kernels(), {4, 3, 8, 8, kPage, KvType::F16, {{{0}, 0, kPages}}}, 1));
    CHECK_THROWS(Program(scalar_kernels(), {4, 2, 8, 8, kPage, KvType::F16, {{{0}, 0, 1}, {{0}, 0, 1}}}, 1));
}

TEST(saved_slots_come_back) {
    Model model("scalar", 1);
    run(model, Inputs());
    const std::vector<std::int32_t> from = {20, 21, 8}, to = {40, 44, 45};
    KvMemory& kv = model.program().kv();
    std::vector<std::uint8_t> saved(from.size() * kv.slot_bytes(0)), again(saved.size());
    kv.read(0, from, saved.data());
    kv.write(0, to, saved.data());
    kv.read(0, to, again.data());
    CHECK(saved == again);
    CHECK(saved != std::vector<std::uint8_t>(saved.size()));
}

}  // namespace
