// The formats whose values are levels: a table of up to 16 whole numbers, times an odd whole scale for 16 or 32 weights,
// times a half-precision scale and a power of two. How each of the IQ1, IQ2 and IQ3 blocks (256 weights) of a file is
// read as such. Plain integers; for all paths alike.
#pragma once

#include <cstdint>
#include <cstring>

#include "quant/grids.h"

namespace plait {
namespace {

// IQ2's: rank, 4 added for a minus; IQ1's: 8 and the rank, 4 added where an eighth is taken off instead of added.
constexpr std::int8_t kIq12Levels[16] = {8, 25, 43, 0, -8, -25, -43, 0, -7, 1, 9, 0, -9, -1, 7, 0};
// The rank, 8 added for a minus.
constexpr std::int8_t kIq3XxsLevels[16] = {4, 12, 20, 28, 36, 44, 52, 62, -4, -12, -20, -28, -36, -44, -52, -62};
constexpr std::int8_t kIq3SLevels[16] = {1, 3, 5, 7, 9, 11, 13, 15, -1, -3, -5, -7, -9, -11, -13, -15};

// 32 weights: indices of their levels, and the scales of each half.
struct LevelRun {
    std::uint8_t index[32];
    int scale[2];
};

inline unsigned word_at(const std::uint8_t* p) { return p[0] | static_cast<unsigned>(p[1]) << 8; }

inline std::uint32_t long_at(const std::uint8_t* p) { return word_at(p) | word_at(p + 2) << 16; }

inline int odd(unsigned s) { return static_cast<int>(2 * s + 1); }

// Seven signs, and the one that makes their number even. By hand: a count of bits is a call to the compiler's library.
inline unsigned even_signs(unsigned seven) {
    unsigned parity = seven ^ seven >> 4;
    parity ^= parity >> 2;
    parity ^= parity >> 1;
    return seven | (parity & 1u) << 7;
}

// Weights 8 i..., from a code of eight ranks of two bits.
inline void put_eight(LevelRun& run, int i, unsigned ranks, unsigned signs) {
    for (int j = 0; j < 8; ++j) {
        run.index[8 * i + j] = static_cast<std::uint8_t>((ranks >> 2 * j & 3u) | (signs >> j & 1u) << 2);
    }
}

// Weights 8 i..., from two codes of four ranks of three bits.
inline void put_two_fours(LevelRun& run, int i, unsigned first, unsigned second, unsigned signs) {
    const unsigned ranks = first | second << 12;
    for (int j = 0; j < 8; ++j) {
        run.index[8 * i + j] = static_cast<std::uint8_t>((ranks >> 3 * j & 7u) | (signs >> j & 1u) << 3);
    }
}

// IQ1's: one sign for all eight.
inline void put_moved(LevelRun& run, int i, unsigned ranks, bool less) {
    for (int j = 0; j < 8; ++j) {
        run.index[8 * i + j] = static_cast<std::uint8_t>((ranks >> 2 * j & 3u) | (less ? 12u : 8u));
    }
}

struct Iq1S {
    static constexpr int bytes = 50;
    static constexpr float factor = 0.125f;
    static constexpr const std::int8_t (&levels)[16] = kIq12Levels;
    static unsigned half(const std::uint8_t* in) { return word_at(in); }
    static void read(const std::uint8_t* in, int part, LevelRun& run) {
        const unsigned high = word_at(in + 34 + 2 * part);
        run.scale[0] = run.scale[1] = odd(high >> 12 & 7u);
        for (int i = 0; i < 4; ++i) {
            put_moved(run, i, kIq1Grid[in[2 + 4 * part + i] | (high >> 3 * i & 7u) << 8], (high & 0x8000u) != 0);
        }
    }
};

struct Iq1M {
    static constexpr int bytes = 56;
    static constexpr float factor = 0.125f;
    static constexpr const std::int8_t (&levels)[16] = kIq12Levels;
    static unsigned half(const std::uint8_t* in) {
        unsigned bits = 0;
        for (int i = 0; i < 4; ++i) bits |= word_at(in + 48 + 2 * i) >> 12 << 4 * i;
        return bits;
    }
    static void read(const std::uint8_t* in, int part, LevelRun& run) {
        const unsigned scales = word_at(in + 48 + part / 2 * 2) >> part % 2 * 6;
        run.scale[0] = odd(scales & 7u);
        run.scale[1] = odd(scales >> 3 & 7u);
        for (int i = 0; i < 4; ++i) {
            const unsigned high = static_cast<unsigned>(in[32 + 2 * part + i / 2]) >> i % 2 * 4;
            put_moved(run, i, kIq1Grid[in[4 * part + i] | (high & 7u) << 8], (high & 8u) != 0);
        }
    }
};

struct Iq2Xxs {
    static constexpr int bytes = 66;
    static constexpr float factor = 0.125f;
    static constexpr const std::int8_t (&levels)[16] = kIq12Levels;
    static unsigned half(const std::uint8_t* in) { return word_at(in); }
    static void read(const std::uint8_t* in, int part, LevelRun& run) {
        const std::uint8_t* codes = in + 2 + 8 * part;
        const std::uint32_t signs = long_at(codes + 4);
        run.scale[0] = run.scale[1] = odd(signs >> 28);
        for (int i = 0; i < 4; ++i) put_eight(run, i, kIq2XxsGrid[codes[i]], even_signs(signs >> 7 * i & 127u));
    }
};

struct Iq2Xs {
    static constexpr int bytes = 74;
    static constexpr float factor = 0.125f;
    static constexpr const std::int8_t (&levels)[16] = kIq12Levels;
    static unsigned half(const std::uint8_t* in) { return word_at(in); }
    static void read(const std::uint8_t* in, int part, LevelRun& run) {
        for (int i = 0; i < 2; ++i) run.scale[i] = odd(in[66 + part] >> 4 * i & 15u);
        for (int i = 0; i < 4; ++i) {
            const unsigned code = word_at(in + 2 + 8 * part + 2 * i);
            put_eight(run, i, kIq2XsGrid[code & 511u], even_signs(code >> 9));
        }
    }
};

struct Iq2S {
    static constexpr int bytes = 82;
    static constexpr float factor = 0.125f;
    static constexpr const std::int8_t (&levels)[16] = kIq12Levels;
    static unsigned half(const std::uint8_t* in) { return word_at(in); }
    static void read(const std::uint8_t* in, int part, LevelRun& run) {
        for (int i = 0; i < 2; ++i) run.scale[i] = odd(in[74 + part] >> 4 * i & 15u);
        for (int i = 0; i < 4; ++i) {
            const unsigned high = in[66 + part] >> 2 * i & 3u;
            put_eight(run, i, kIq2SGrid[in[2 + 4 * part + i] | high << 8], in[34 + 4 * part + i]);
        }
    }
};

struct Iq3Xxs {
    static constexpr int bytes = 98;
    static constexpr float factor = 0.25f;
    static constexpr const std::int8_t (&levels)[16] = kIq3XxsLevels;
    static unsigned half(const std::uint8_t* in) { return word_at(in); }
    static void read(const std::uint8_t* in, int part, LevelRun& run) {
        const std::uint32_t signs = long_at(in + 66 + 4 * part);
        const std::uint8_t* codes = in + 2 + 8 * part;
        run.scale[0] = run.scale[1] = odd(signs >> 28);
        for (int i = 0; i < 4; ++i) {
            put_two_fours(run, i, kIq3XxsGrid[codes[2 * i]], kIq3XxsGrid[codes[2 * i + 1]],
                          even_signs(signs >> 7 * i & 127u));
        }
    }
};

struct Iq3S {
    static constexpr int bytes = 110;
    static constexpr float factor = 1.0f;
    static constexpr const std::int8_t (&levels)[16] = kIq3SLevels;
    static unsigned half(const std::uint8_t* in) { return word_at(in); }
    static void read(const std::uint8_t* in, int part, LevelRun& run) {
        const std::uint8_t* codes = in + 2 + 8 * part;
        const unsigned high = in[66 + part];
        run.scale[0] = run.scale[1] = odd(in[106 + part / 2] >> part % 2 * 4 & 15u);
        for (int i = 0; i < 4; ++i) {
            put_two_fours(run, i, kIq3SGrid[codes[2 * i] | (high >> 2 * i & 1u) << 8],
                          kIq3SGrid[codes[2 * i + 1] | (high >> (2 * i + 1) & 1u) << 8], in[74 + 4 * part + i]);
        }
    }
};

// The ternary formats: 32 numbers from 0 to 3, which stand for -1 to 2.
inline void read_tq1_0(const std::uint8_t* in, int part, std::uint8_t (&out)[32]) {
    constexpr unsigned powers[5] = {1, 3, 9, 27, 81};
    for (int j = 0; j < 32; ++j) {
        const int i = 32 * part + j;
        const int byte = i < 160 ? i % 32 : i < 240 ? 32 + i % 16 : 48 + i % 4;
        const int digit = i < 160 ? i / 32 : i < 240 ? (i - 160) / 16 : (i - 240) / 4;
        out[j] = static_cast<std::uint8_t>((in[byte] * powers[digit] & 255u) * 3u >> 8);
    }
}

inline void read_tq2_0(const std::uint8_t* in, int part, std::uint8_t (&out)[32]) {
    for (int j = 0; j < 32; ++j) out[j] = in[part / 4 * 32 + j] >> part % 4 * 2 & 3;
}

// MXFP4: the levels of its 4-bit floats, doubled, and half of its scale as the upper half of a float32: 2^(e - 128).
constexpr std::int8_t kMxfp4Levels[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

inline std::uint16_t mxfp4_scale(std::uint8_t e) {
    return static_cast<std::uint16_t>(e < 2 ? 0x20 << e : (e - 1) << 7);
}

}  // namespace
}  // namespace plait
