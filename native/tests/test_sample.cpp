#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>

#include "cpu/paths.h"
#include "program/sample.h"
#include "tests/check.h"

using namespace plait;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

SampleRecord record_of(std::vector<Stage> stages) {
    SampleRecord record{};
    record.temperature = 0.8;
    record.top_p = 0.9;
    record.typical_p = 0.9;
    record.log_min_p = std::log(0.05);
    record.repeat = 1.2;
    record.top_n_sigma = 1.5;
    record.xtc_probability = 0.6;
    record.xtc_threshold = 0.02;
    record.mirostat_tau = 5;
    record.mirostat_eta = 0.1;
    record.mu = 10;
    record.top_k = 40;
    record.logprobs = -1;
    record.seeded = 1;
    record.mask = -1;
    for (std::size_t i = 0; i < stages.size(); ++i) record.stages[i] = stages[i];
    return record;
}

struct Batch {
    std::vector<SampleRecord> records;
    std::vector<std::int64_t> tokens;
    std::vector<double> values;
    std::vector<std::vector<std::uint32_t>> masks;

    std::vector<Drawn> sample(const std::vector<float>& logits, const Kernels& kernels) const {
        const auto* bytes = reinterpret_cast<const std::uint8_t*>(records.data());
        SampleCall call{logits.data(), 1,      static_cast<int>(logits.size()), {bytes, records.size() * sizeof records[0]},
                        tokens,        values, {}};
        for (const auto& mask : masks) call.masks.emplace_back(mask);
        std::vector<SampleScratch> scratch(1);
        Sampler sampler(call, kernels, scratch);
        for (int row = 0; row < sampler.count(); ++row) sampler.run(row, 0);
        return sampler.take();
    }
};

std::vector<float> random_logits(int n, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, 3);
    std::vector<float> logits(static_cast<std::size_t>(n));
    for (float& x : logits) x = normal(random);
    return logits;
}

// Every stage by itself and all in several orders, with everything else that a row may have.
Batch many_rows(int n) {
    Batch rows;
    std::vector<Stage> chain;
    for (int s = 1; s <= 9; ++s) chain.push_back(static_cast<Stage>(s));
    std::vector<std::vector<Stage>> chains{{}, chain, {chain.rbegin(), chain.rend()}};
    for (const Stage stage : chain) chains.push_back({stage});
    rows.masks = {std::vector<std::uint32_t>(static_cast<std::size_t>(n + 31) / 32, 0x7f7f7f7fu)};
    for (const auto& stages : chains) {
        for (int variant = 0; variant < 3; ++variant) {
            SampleRecord record = record_of(stages);
            record.position = static_cast<std::uint64_t>(variant);
            record.top_k = variant == 1 ? 300 : 40;
            record.logprobs = variant == 1 ? 100 : -1;
            record.mask = variant - 1 > 0 ? 0 : -1;
            record.biases = 1;
            record.window = 3;
            record.dry = 1;
            rows.tokens.insert(rows.tokens.end(), {0, 0, 7, -1, n - 1});
            rows.values.insert(rows.values.end(), {0.5, 1.5});
            rows.records.push_back(record);
        }
    }
    for (const std::uint8_t version : {1, 2}) {
        SampleRecord record = record_of({Stage::Temperature});
        record.mirostat = version;
        rows.records.push_back(record);
    }
    return rows;
}

TEST(every_path_chooses_the_same_tokens) {
    for (const int n : {1, 15, 16, 33, 257, 1000, 20000}) {
        const std::vector<float> logits = random_logits(n, 1);
        const Batch rows = many_rows(n);
        const std::vector<Drawn> expected = rows.sample(logits, scalar_kernels());
        for (const std::string& path : usable_paths()) {
            const std::vector<Drawn> drawn = rows.sample(logits, kernels_of(path));
            for (std::size_t i = 0; i < drawn.size(); ++i) {
                CHECK(drawn[i].error == SampleError::None && drawn[i].token >= 0 && drawn[i].token < n);
                CHECK(drawn[i].token == expected[i].token && drawn[i].logprobs.size() == expected[i].logprobs.size());
                CHECK(drawn[i].mu == expected[i].mu && drawn[i].mu.has_value() == (rows.records[i].mirostat != 0));
            }
        }
    }
}

TEST(bad_logits_masks_and_biases_are_errors) {
    const auto error_of = [](const std::vector<float>& logits, const Batch& rows) {
        return rows.sample(logits, scalar_kernels())[0].error;
    };
    Batch rows;
    rows.records = {record_of({Stage::TopK})};
    CHECK(error_of({1, 2}, rows) == SampleError::None);
    CHECK(error_of({1, -std::nanf("")}, rows) == SampleError::NotFinite);
    CHECK(error_of({kInf, 1}, rows) == SampleError::NotFinite);
    CHECK(error_of({-kInf, -kInf}, rows) == SampleError::AllMinusInfinity);
    rows.records[0].mask = 0;
    rows.masks = {{0}};
    CHECK(error_of({1, 2}, rows) == SampleError::AllMinusInfinity);
    rows.masks = {{1, 1}};
    CHECK(error_of({1, 2}, rows) == SampleError::WrongMask);
    rows.records[0].mask = -1;
    rows.records[0].seeded = 0;
    CHECK(error_of({1, 2}, rows) == SampleError::NoSeed);
    rows.records[0].biases = 1;
    rows.tokens = {2};
    rows.values = {1};
    CHECK(error_of({1, 2}, rows) == SampleError::UnknownBias);
}

TEST(records_that_do_not_fit_are_refused) {
    Batch rows;
    rows.records = {record_of({Stage::TopK})};
    rows.records[0].window = 1;
    CHECK_THROWS(rows.sample({1, 2}, scalar_kernels()));
    rows.records[0].window = 0;
    rows.records[0].mask = 0;
    CHECK_THROWS(rows.sample({1, 2}, scalar_kernels()));
    rows.records[0].mask = -1;
    rows.records[0].pick = 1;
    CHECK_THROWS(rows.sample({1, 2}, scalar_kernels()));
}

}  // namespace
