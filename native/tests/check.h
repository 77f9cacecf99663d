// A small test harness: TEST(name) { CHECK(...); } registers itself; main runs all and counts failures.
#pragma once

#include <cstdio>
#include <vector>

namespace plait::test {

struct Test {
    const char* name;
    void (*run)();
};

inline std::vector<Test>& tests() {
    static std::vector<Test> all;
    return all;
}

inline int& failures() {
    static int count = 0;
    return count;
}

struct Register {
    Register(const char* name, void (*run)()) { tests().push_back({name, run}); }
};

}  // namespace plait::test

#define TEST(name)                                                       \
    static void name();                                                  \
    static const ::plait::test::Register registered_##name(#name, name); \
    static void name()

#define CHECK(condition)                                                          \
    do {                                                                          \
        if (!(condition)) {                                                       \
            ++::plait::test::failures();                                          \
            std::printf("%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
        }                                                                         \
    } while (false)

#define CHECK_THROWS(expression)                                                   \
    do {                                                                           \
        bool threw = false;                                                        \
        try {                                                                      \
            expression;                                                            \
        } catch (const std::invalid_argument&) {                                   \
            threw = true;                                                          \
        }                                                                          \
        if (!threw) {                                                              \
            ++::plait::test::failures();                                           \
            std::printf("%s:%d: accepted: %s\n", __FILE__, __LINE__, #expression); \
        }                                                                          \
    } while (false)
