// Runs all tests, or with an argument those whose name contains it; `--golden` prints what golden.h holds,
// `--paths` the paths that are compared.
#include <cinttypes>
#include <cstring>

#include "tests/cases.h"
#include "tests/check.h"

using namespace plait::test;

namespace {

int print_golden() {
    for (const Case& one : kernel_cases()) {
        const std::uint64_t sum = checksum(one.run(plait::scalar_kernels()));
        std::printf("    {\"%s\", 0x%016" PRIx64 "},\n", one.name.c_str(), sum);
    }
    return 0;
}

int print_paths() {
    for (const plait::Kernels* path : tested_paths()) std::printf("%s\n", path->name);
    return 0;
}

int run_tests(const char* part) {
    for (const Test& test : tests()) {
        if (std::strstr(test.name, part) == nullptr) continue;
        const int before = failures();
        test.run();
        std::printf("%s %s\n", failures() == before ? "ok    " : "FAILED", test.name);
    }
    return failures() == 0 ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) {
    const char* argument = count > 1 ? arguments[1] : "";
    if (std::strcmp(argument, "--golden") == 0) return print_golden();
    if (std::strcmp(argument, "--paths") == 0) return print_paths();
    return run_tests(argument);
}
