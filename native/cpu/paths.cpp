#include "cpu/paths.h"

#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace plait {
namespace {

// What the CPU has, and the operating system lets a thread use.
struct Features {
    bool avx2 = false, avx_vnni = false, avx512 = false, avx512_vnni = false, dotprod = false;
};

#if defined(__x86_64__)
unsigned extended_control() {
    unsigned low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

// Intel SDM: CPUID leaves 1 and 7, XCR0.
Features detect() {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return {};
    const bool f16c = c & bit_F16C, avx = c & bit_AVX;
    const unsigned saved = extended_control();
    const bool ymm = (saved & 0x06) == 0x06, zmm = (saved & 0xe6) == 0xe6;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return {};
    const unsigned subleaves = a;
    const bool wide = (b & bit_AVX512F) && (b & bit_AVX512BW) && (b & bit_AVX512VL);
    Features has;
    has.avx2 = ymm && avx && f16c && (b & bit_AVX2);
    has.avx512 = has.avx2 && zmm && wide;
    has.avx512_vnni = has.avx512 && (c & bit_AVX512VNNI);
    if (subleaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) has.avx_vnni = has.avx2 && (a & 1u << 4);
    return has;
}
#elif defined(__aarch64__) && defined(__linux__)
Features detect() {
    Features has;
    has.dotprod = getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
    return has;
}
#elif defined(__aarch64__) && defined(__APPLE__)
Features detect() {
    Features has;
    has.dotprod = true;  // since the first of Apple's own
    return has;
}
#else
Features detect() { return {}; }
#endif

struct Path {
    const Kernels& (*kernels)();
    bool usable;
};

// Those that are built, fastest first. One 256-bit vpdpbusd does 32 products where 512 bits without it take three
// instructions for 64; hence avx_vnni before avx512.
std::vector<Path> built_paths() {
    [[maybe_unused]] const Features has = detect();
    return {
#if defined(PLAIT_HAS_AVX512_VNNI)
        {avx512_vnni_kernels, has.avx512_vnni},
#endif
#if defined(PLAIT_HAS_AVX_VNNI)
        {avx_vnni_kernels, has.avx_vnni},
#endif
#if defined(PLAIT_HAS_AVX512)
        {avx512_kernels, has.avx512},
#endif
#if defined(PLAIT_HAS_AVX2)
        {avx2_kernels, has.avx2},
#endif
#if defined(PLAIT_HAS_NEON_DOTPROD)
        {neon_dotprod_kernels, has.dotprod},
#endif
#if defined(PLAIT_HAS_NEON)
        {neon_kernels, true},
#endif
        {scalar_kernels, true},
    };
}

}  // namespace

std::vector<std::string> usable_paths() {
    std::vector<std::string> names;
    for (const Path& path : built_paths()) {
        // The accessor is of the path's unit: not even that is called where the CPU cannot run it.
        if (path.usable) names.emplace_back(path.kernels().name);
    }
    return names;
}

const Kernels& kernels_of(const std::string& name) {
    std::string usable;
    for (const Path& path : built_paths()) {
        if (!path.usable) continue;
        const Kernels& kernels = path.kernels();
        if (kernels.name == name) return kernels;
        usable += (usable.empty() ? "" : ", ") + std::string(kernels.name);
    }
    throw std::invalid_argument("this CPU cannot run the path '" + name + "'; choose one of " + usable);
}

}  // namespace plait
