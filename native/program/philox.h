// The counter-based uniform number of ops/random.py: Philox4x32-10 (Salmon et al., SC 2011).
#pragma once

#include <cstdint>

namespace plait {

// What a number decides.
constexpr std::uint32_t kTokenStream = 0, kXtcStream = 1;

// In [0, 1), a multiple of 2^-53. Key: the seed. Counter: the position (two words), the sample index, the stream.
inline double token_uniform(std::uint64_t seed, std::uint32_t sample_index, std::uint64_t position,
                            std::uint32_t stream = kTokenStream) {
    const auto low = [](std::uint64_t x) { return static_cast<std::uint32_t>(x); };
    std::uint32_t c0 = low(position), c1 = low(position >> 32), c2 = sample_index, c3 = stream;
    std::uint32_t k0 = low(seed), k1 = low(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t p0 = std::uint64_t{c0} * 0xD2511F53u, p1 = std::uint64_t{c2} * 0xCD9E8D57u;
        c0 = low(p1 >> 32) ^ c1 ^ k0;
        c1 = low(p1);
        c2 = low(p0 >> 32) ^ c3 ^ k1;
        c3 = low(p0);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    // 27 and 26 bits, over 2^53.
    return (static_cast<double>(c0 >> 5) * 67108864.0 + static_cast<double>(c1 >> 6)) / 9007199254740992.0;
}

}  // namespace plait
