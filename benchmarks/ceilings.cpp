// What the machine can do at most: reading memory, int8 dot products, float32 multiply-adds. Compiled for this very CPU.
//
//   ceilings THREADS SECONDS MIB
//
// prints lines "name value", the best of several rounds, all threads together: read_gb_s, int8_gop_s, f32_gflop_s.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
constexpr int kChains = 12;  // independent sums: as many as latency times throughput asks for, and registers hold
constexpr int kRounds = 5;

using Words = std::uint64_t __attribute__((vector_size(kBytes)));
using Floats = float __attribute__((vector_size(kBytes)));

volatile std::uint64_t sink;

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Runs `work(thread)` on every thread until `seconds` are over; returns the units per second of the best round.
double best(int threads, double seconds, const std::function<double(int)>& work) {
    double most = 0;
    for (int round = 0; round < kRounds; ++round) {
        std::vector<double> units(threads, 0.0);
        std::vector<std::thread> team;
        double start = now();
        for (int t = 0; t < threads; ++t)
            team.emplace_back([&, t] {
                do units[t] += work(t);
                while (now() - start < seconds);
            });
        for (auto& member : team) member.join();
        double taken = now() - start, sum = 0;
        for (double u : units) sum += u;
        if (sum / taken > most) most = sum / taken;
    }
    return most;
}

struct Buffer {
    std::size_t bytes;
    void* data;

    explicit Buffer(std::size_t size) : bytes(size), data(std::aligned_alloc(2 << 20, size)) {
        if (!data) std::exit(3);
#if defined(__linux__)
        madvise(data, bytes, MADV_HUGEPAGE);
#endif
        auto* words = static_cast<std::uint64_t*>(data);
        for (std::size_t i = 0; i < bytes / 8; ++i) words[i] = i;
    }
    ~Buffer() { std::free(data); }
    Buffer(const Buffer&) = delete;
};

// Bytes read in one pass over a quarter of the buffer, the quarters in turn.
double read_some(const Buffer& buffer, std::size_t& place) {
    std::size_t length = buffer.bytes / 4;
    const char* from = static_cast<const char*>(buffer.data) + place % 4 * length;
    ++place;
    Words sums[4] = {};
    for (std::size_t i = 0; i < length; i += 4 * kBytes) {
        __builtin_prefetch(from + i + 2048);
        if (kBytes > 16) __builtin_prefetch(from + i + 2048 + 64);
        if (kBytes > 32) __builtin_prefetch(from + i + 2048 + 128), __builtin_prefetch(from + i + 2048 + 192);
        for (int k = 0; k < 4; ++k) sums[k] ^= *reinterpret_cast<const Words*>(from + i + k * kBytes);
    }
    Words all = sums[0] ^ sums[1] ^ sums[2] ^ sums[3];
    sink = sink + all[0];
    return static_cast<double>(length);
}

constexpr int kRepeat = 100000;

double fma_some() {
    Floats sums[kChains] = {}, a, b;
    for (unsigned i = 0; i < kBytes / 4; ++i) a[i] = 0.999f, b[i] = 0.001f * static_cast<float>(sink % 7);
    for (auto& sum : sums) sum[0] = static_cast<float>(sink % 5);  // equal chains would be computed once
    for (int n = 0; n < kRepeat; ++n) {
#pragma GCC unroll 12
        for (int k = 0; k < kChains; ++k) sums[k] = sums[k] * a + b;
    }
    float all = 0;
    for (auto& sum : sums) all += sum[0];
    sink = sink + static_cast<std::uint64_t>(all);
    return 2.0 * (kBytes / 4) * kChains * kRepeat;
}

#if defined(__AVX512VNNI__)
using Ints = __m512i;
Ints dot(Ints sum, Ints a, Ints b) { return _mm512_dpbusd_epi32(sum, a, b); }
#define HAS_INT8 1
#elif defined(__AVXVNNI__)
using Ints = __m256i;
Ints dot(Ints sum, Ints a, Ints b) { return _mm256_dpbusd_avx_epi32(sum, a, b); }
#define HAS_INT8 1
#elif defined(__ARM_FEATURE_DOTPROD)
using Ints = int32x4_t;
Ints dot(Ints sum, Ints a, Ints b) { return vdotq_s32(sum, vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b)); }
#define HAS_INT8 1
#endif

#if defined(HAS_INT8)
double int8_some() {
    Ints sums[kChains], a, b;
    for (auto& sum : sums) __builtin_memset(&sum, static_cast<int>(sink % 5), sizeof sum);  // not known to be equal
    __builtin_memset(&a, static_cast<int>(sink % 3), sizeof a);
    __builtin_memset(&b, 1, sizeof b);
    for (int n = 0; n < kRepeat; ++n) {
#pragma GCC unroll 12
        for (int k = 0; k < kChains; ++k) sums[k] = dot(sums[k], a, b);
    }
    std::uint64_t all = 0, word = 0;
    for (auto& sum : sums) {
        __builtin_memcpy(&word, &sum, sizeof word);
        all += word;
    }
    sink = sink + all;
    return 2.0 * sizeof(Ints) * kChains * kRepeat;
}
#endif

}  // namespace

int main(int argc, char** argv) {
    if (argc != 4) return 2;
    int threads = std::atoi(argv[1]);
    double seconds = std::atof(argv[2]);
    std::size_t bytes = static_cast<std::size_t>(std::atol(argv[3])) << 20;
    if (threads < 1 || seconds <= 0 || bytes == 0) return 2;
    {
        std::vector<Buffer*> buffers;
        for (int t = 0; t < threads; ++t) buffers.push_back(new Buffer(bytes));
        std::vector<std::size_t> places(threads * 16, 0);  // a cache line each
        std::printf("read_gb_s %.3f\n", best(threads, seconds, [&](int t) {
                                            return read_some(*buffers[t], places[t * 16]);
                                        }) / 1e9);
        for (auto* buffer : buffers) delete buffer;
    }
#if defined(HAS_INT8)
    std::printf("int8_gop_s %.3f\n", best(threads, seconds, [](int) { return int8_some(); }) / 1e9);
#endif
    std::printf("f32_gflop_s %.3f\n", best(threads, seconds, [](int) { return fma_some(); }) / 1e9);
}
