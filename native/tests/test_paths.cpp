// Every kernel on every path: the bits of the scalar one, and those that are on record for all machines.
#include <cinttypes>
#include <cstring>

#include "tests/cases.h"
#include "tests/check.h"
#include "tests/golden.h"

using namespace plait;
using namespace plait::test;

namespace {

TEST(every_kernel_gives_the_bits_of_the_scalar_one_on_every_path) {
    for (const Case& one : kernel_cases()) {
        const Bytes want = one.run(scalar_kernels());
        CHECK(want != Bytes(want.size()));
        for (const Kernels* path : tested_paths()) {
            const bool equal = one.run(*path) == want;
            if (!equal) std::printf("%s: %s differs from scalar\n", path->name, one.name.c_str());
            CHECK(equal);
        }
    }
}

TEST(bits_are_those_on_record) {
    const std::vector<Case> cases = kernel_cases();
    CHECK(cases.size() == std::size(kGolden));
    for (const Case& one : cases) {
        const std::uint64_t sum = checksum(one.run(scalar_kernels()));
        bool found = false;
        for (const Golden& golden : kGolden) found = found || (one.name == golden.name && sum == golden.checksum);
        if (!found) std::printf("%s has the checksum 0x%016" PRIx64 ": see golden.h\n", one.name.c_str(), sum);
        CHECK(found);
    }
}

}  // namespace
