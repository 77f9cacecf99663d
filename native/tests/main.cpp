#include "tests/check.h"

int main() {
    for (const plait::test::Test& test : plait::test::tests()) {
        const int before = plait::test::failures();
        test.run();
        std::printf("%s %s\n", plait::test::failures() == before ? "ok    " : "FAILED", test.name);
    }
    return plait::test::failures() == 0 ? 0 : 1;
}
