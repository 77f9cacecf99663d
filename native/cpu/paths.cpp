#include "cpu/paths.h"

#include <stdexcept>

#if defined(PLAIT_X86)
#include <cpuid.h>
#endif

namespace plait {
namespace {

#if defined(PLAIT_X86)
// What the CPU has and the operating system saves on a switch of threads (Intel SDM, CPUID leaves 1 and 7, XCR0).
struct Features {
    bool avx2 = false, avx512 = false, vnni = false;
};

unsigned extended_control() {
    unsigned low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

Features detect() {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return {};
    const bool f16c = c & bit_F16C, avx = c & bit_AVX;
    const unsigned saved = extended_control();
    const bool ymm = (saved & 0x06) == 0x06, zmm = (saved & 0xe6) == 0xe6;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return {};
    const bool avx2 = ymm && avx && f16c && (b & bit_AVX2);
    const bool wide = (b & bit_AVX512F) && (b & bit_AVX512BW) && (b & bit_AVX512VL);
    const bool avx512 = avx2 && zmm && wide;
    return {avx2, avx512, avx512 && (c & bit_AVX512VNNI)};
}
#endif

}  // namespace

std::vector<std::string> usable_paths() {
    std::vector<std::string> paths;
#if defined(PLAIT_X86)
    const Features features = detect();
    if (features.vnni) paths.emplace_back("avx512_vnni");
    if (features.avx512) paths.emplace_back("avx512");
    if (features.avx2) paths.emplace_back("avx2");
#endif
    paths.emplace_back("scalar");
    return paths;
}

const Kernels& kernels_of(const std::string& path) {
    std::string usable;
    for (const std::string& name : usable_paths()) {
        if (name == path) {
#if defined(PLAIT_X86)
            if (path == "avx512_vnni") return avx512_vnni_kernels();
            if (path == "avx512") return avx512_kernels();
            if (path == "avx2") return avx2_kernels();
#endif
            return scalar_kernels();
        }
        usable += (usable.empty() ? "" : ", ") + name;
    }
    throw std::invalid_argument("this CPU cannot run the path '" + path + "'; choose one of " + usable);
}

}  // namespace plait
