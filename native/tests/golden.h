// Checksums of what the kernels compute from fixed inputs (cases.h), made by `native_tests --golden` on x86-64 with
// GCC 12. Every machine and compiler must reproduce them. A new kernel or format adds lines; a line that changes means
// that answers change.
#pragma once

#include <cstdint>

namespace plait::test {

struct Golden {
    const char* name;
    std::uint64_t checksum;
};

constexpr Golden kGolden[] = {
    {"linear F32, 100 inputs", 0x78b032e308b5974a},
    {"linear F32, 7 inputs", 0x404cdb2e71a0a450},
    {"linear Q5_K", 0xedad71415c4386c4},
    {"gated silu", 0xb48c9f14623c5dda},
    {"gated gelu", 0x008e9efc55856836},
    {"gated gelu_tanh", 0x88ff43f60dc21925},
    {"quantise", 0x044246aa2ef4eb1e},
    {"quantise, a scale for 256", 0xc5a1b92a132d3cd2},
    {"rms_norm", 0xea414009d7e2ee6a},
    {"layer_norm", 0x4cdba86b628ca9e5},
    {"layer_norm, groups", 0x6816d666a641803b},
    {"rotate", 0x8a6c7fbb791fde3f},
    {"clamp", 0xed0227991035aec2},
    {"elementwise", 0x3f92b892c5bd5ca1},
    {"sampling", 0x080eee7e93a3ec33},
    {"silu", 0xf519c060440bae81},
    {"gelu", 0xf2b40c37347eb1a0},
    {"gelu_tanh", 0x303b06fee8e04143},
    {"dequantise F32", 0xcc00e656ffdeba5f},
    {"dequantise F16", 0xb9b137ecbee03ce4},
    {"dequantise BF16", 0x25d854bf12ef06d9},
    {"dequantise Q8_0", 0x1d99eb7079f40312},
    {"linear_packed Q8_0", 0x072cf2c6e8e7ca0a},
    {"dequantise Q4_0", 0xa8bdcf31165536a5},
    {"linear_packed Q4_0", 0xa73eea39b8c7981e},
    {"dequantise Q4_1", 0xa4dbe37dec165496},
    {"linear_packed Q4_1", 0xc456c6e36a302eb4},
    {"dequantise Q5_0", 0x30ce8dbc64c70606},
    {"linear_packed Q5_0", 0xc55a87e019631e33},
    {"dequantise Q5_1", 0xcf9ef129250f8949},
    {"linear_packed Q5_1", 0xb25e087548387c1b},
    {"dequantise Q2_K", 0xee93fcb9db63ef3c},
    {"linear_packed Q2_K", 0x2e560252f7bcf688},
    {"dequantise Q3_K", 0xf6f0d31264223890},
    {"linear_packed Q3_K", 0x226cf51252798c64},
    {"dequantise Q4_K", 0x4bebf9bb03433b5b},
    {"linear_packed Q4_K", 0x2fd6c440dda2a6ad},
    {"dequantise Q5_K", 0xdf5ad3dbfcf39ccc},
    {"linear_packed Q5_K", 0xbd1de0501459e7b5},
    {"dequantise Q6_K", 0xec0432b684c2139e},
    {"linear_packed Q6_K", 0xb92d3560713ddc1a},
    {"dequantise IQ4_NL", 0x4e6d60671f61f04d},
    {"linear_packed IQ4_NL", 0x1c4bf47e1717985a},
    {"dequantise IQ4_XS", 0x75a82b44660eb481},
    {"linear_packed IQ4_XS", 0x9c8ed62e1c28d5e5},
    {"store and load F32", 0x7d399bfb515d6745},
    {"attention F32", 0x05d124f0d563ba48},
    {"attention, slopes, pieces F32", 0x1e87c5bf4320e1f2},
    {"attention, odd, window, softcap, sinks, pieces F32", 0x4ba53a74190a6ec9},
    {"store and load F16", 0x6076d3df6520a4ee},
    {"attention F16", 0x4cc7de57a3a2a721},
    {"attention, slopes, pieces F16", 0x12a9360a29e71ee2},
    {"attention, odd, window, softcap, sinks, pieces F16", 0x154d5db4c5e8bf8f},
    {"store and load BF16", 0x49b7561b4f406d31},
    {"attention BF16", 0x437789a01b0f38f6},
    {"attention, slopes, pieces BF16", 0x8eb973443e81b961},
    {"attention, odd, window, softcap, sinks, pieces BF16", 0xcaae1b0c9e6c6a57},
    {"store and load Q8_0", 0x6f1e6a2b314e4968},
    {"attention Q8_0", 0x97d0fb6abc28d4de},
    {"attention, slopes, pieces Q8_0", 0x734967c82fa5a914},
    {"attention, odd, window, softcap, sinks, pieces Q8_0", 0xd84cd9e600e5d2e2},
};

}  // namespace plait::test
