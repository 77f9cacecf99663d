// Sampling for Python: arrays in without a copy; tokens, failures and log-probabilities out as lists.
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "bindings.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace plait {
namespace {

using Rows2d = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Tokens = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Doubles = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Words = nb::ndarray<const std::uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

using Failure = std::tuple<int, int, int, std::int64_t, std::int64_t>;  // row, error, point, bad, total
using Logprobs = std::pair<int, std::vector<std::pair<int, double>>>;   // row, tokens with log-probabilities
using States = std::vector<std::pair<int, double>>;                     // row, Mirostat's mu
using Result = std::tuple<std::vector<int>, std::vector<Failure>, std::vector<Logprobs>, States>;

Result to_lists(const std::vector<Drawn>& drawn) {
    Result result;
    auto& [tokens, failures, logprobs, states] = result;
    tokens.reserve(drawn.size());
    for (const Drawn& row : drawn) {
        const int index = static_cast<int>(tokens.size());
        tokens.push_back(row.token);
        if (row.error != SampleError::None) {
            failures.emplace_back(index, static_cast<int>(row.error), static_cast<int>(row.point), row.bad, row.total);
        }
        if (row.mu) states.emplace_back(index, *row.mu);
        if (row.logprobs.empty()) continue;
        logprobs.emplace_back(index, std::vector<std::pair<int, double>>());
        for (const TokenLogprob& entry : row.logprobs) logprobs.back().second.emplace_back(entry.token, entry.logprob);
    }
    return result;
}

Result sample(Program& program, const Rows2d& logits, const nb::bytes& records, const Tokens& tokens,
              const Doubles& values, const std::vector<Words>& masks) {
    if (logits.shape(0) > 0x7fffffff || logits.shape(1) > 0x7fffffff || logits.shape(1) == 0) {
        throw std::invalid_argument("logits of an impossible shape");
    }
    SampleCall call{logits.data(),
                    static_cast<int>(logits.shape(0)),
                    static_cast<int>(logits.shape(1)),
                    {static_cast<const std::uint8_t*>(records.data()), records.size()},
                    {tokens.data(), tokens.size()},
                    {values.data(), values.size()},
                    {}};
    for (const Words& mask : masks) call.masks.emplace_back(mask.data(), mask.size());
    std::vector<Drawn> drawn;
    {
        nb::gil_scoped_release release;
        drawn = program.sample(call);
    }
    return to_lists(drawn);
}

}  // namespace

void bind_sampling(nb::class_<Program> program) {
    program.def("sample", sample, "logits"_a.noconvert(), "records"_a, "tokens"_a.noconvert(), "values"_a.noconvert(),
                "masks"_a);
}

}  // namespace plait
