#include "tests/emulate.h"

#include <algorithm>

#include "cpu/paths.h"

#if defined(PLAIT_HAS_AVX_VNNI) && defined(__linux__)
#include <signal.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#endif

namespace plait::test {

#if defined(PLAIT_HAS_AVX_VNNI) && defined(__linux__)
namespace {

using Byte = std::uint8_t;

// A register's halves in what the kernel saved (Intel SDM, volume 1, chapter 13): XMM in the legacy area, the rest in
// the AVX component, in the standard form at byte 576; the header's first word says which components it holds.
struct Registers {
    Byte* area;

    void read(int number, Byte* out) const {
        std::memcpy(out, area + 160 + 16 * number, 16);
        std::memset(out + 16, 0, 16);
        if (components() & 4) std::memcpy(out + 16, area + 576 + 16 * number, 16);
    }
    void write(int number, const Byte* in) const {
        if (!(components() & 4)) std::memset(area + 576, 0, 256);
        const std::uint64_t held = components() | 6;
        std::memcpy(area + 512, &held, sizeof held);
        std::memcpy(area + 160 + 16 * number, in, 16);
        std::memcpy(area + 576 + 16 * number, in + 16, 16);
    }

  private:
    std::uint64_t components() const {
        std::uint64_t held;
        std::memcpy(&held, area + 512, sizeof held);
        return held;
    }
};

constexpr int kGeneral[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                            REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

// `vpdpbusd ymm, ymm, ymm/m256` in VEX form at `at` (Intel SDM, volume 2, chapter 2).
struct Instruction {
    const Byte* at;
    bool is_vpdpbusd() const { return at[0] == 0xc4 && (at[1] & 0x1f) == 2 && (at[2] & 0x87) == 5 && at[3] == 0x50; }
    int mod() const { return at[4] >> 6; }
    int low() const { return at[4] & 7; }
    int base_bit() const { return at[1] & 0x20 ? 0 : 8; }  // prefix bits are inverted
    int index_bit() const { return at[1] & 0x40 ? 0 : 8; }
    int target() const { return (at[4] >> 3 & 7) | (at[1] & 0x80 ? 0 : 8); }
    int weights() const { return ~at[2] >> 3 & 15; }
    int activations() const { return low() | base_bit(); }
    bool has_sib() const { return mod() != 3 && low() == 4; }
    bool no_base() const { return mod() == 0 && (has_sib() ? at[5] & 7 : low()) == 5; }
    int displacement_bytes() const { return mod() == 1 ? 1 : mod() == 2 || no_base() ? 4 : 0; }
    int length() const { return 5 + (has_sib() ? 1 : 0) + displacement_bytes(); }

    const Byte* address(const greg_t* general) const {
        std::int64_t sum = 0;
        const Byte* displacement = at + length() - displacement_bytes();
        if (displacement_bytes() == 1) sum = static_cast<std::int8_t>(*displacement);
        if (displacement_bytes() == 4) {
            std::int32_t wide;
            std::memcpy(&wide, displacement, sizeof wide);
            sum = wide;
        }
        const int base = has_sib() ? at[5] & 7 : low(), index = has_sib() ? (at[5] >> 3 & 7) | index_bit() : 4;
        if (!no_base()) sum += general[kGeneral[base | base_bit()]];
        if (no_base() && !has_sib()) sum += reinterpret_cast<std::int64_t>(at) + length();
        if (index != 4) sum += general[kGeneral[index]] << (at[5] >> 6);
        return reinterpret_cast<const Byte*>(sum);
    }
};

void add_products(Byte* sums, const Byte* weights, const Byte* activations) {
    for (int lane = 0; lane < 8; ++lane) {
        std::int32_t sum;
        std::memcpy(&sum, sums + 4 * lane, sizeof sum);
        for (int i = 4 * lane; i < 4 * lane + 4; ++i) sum += weights[i] * static_cast<std::int8_t>(activations[i]);
        std::memcpy(sums + 4 * lane, &sum, sizeof sum);
    }
}

void on_illegal_instruction(int, siginfo_t*, void* context) {
    mcontext_t& machine = static_cast<ucontext_t*>(context)->uc_mcontext;
    const Instruction instruction{reinterpret_cast<const Byte*>(machine.gregs[REG_RIP])};
    if (!instruction.is_vpdpbusd()) std::abort();
    const Registers registers{reinterpret_cast<Byte*>(machine.fpregs)};
    Byte sums[32], weights[32], activations[32];
    registers.read(instruction.target(), sums);
    registers.read(instruction.weights(), weights);
    if (instruction.mod() == 3) {
        registers.read(instruction.activations(), activations);
    } else {
        std::memcpy(activations, instruction.address(machine.gregs), sizeof activations);
    }
    add_products(sums, weights, activations);
    registers.write(instruction.target(), sums);
    machine.gregs[REG_RIP] += instruction.length();
}

}  // namespace

const Kernels* emulated_path() {
    const std::vector<std::string> usable = usable_paths();
    const auto has = [&](const char* name) { return std::find(usable.begin(), usable.end(), name) != usable.end(); };
    if (!has("avx2") || has("avx_vnni")) return nullptr;
    struct sigaction action{};
    action.sa_sigaction = on_illegal_instruction;
    action.sa_flags = SA_SIGINFO;
    if (sigaction(SIGILL, &action, nullptr) != 0) std::abort();
    return &avx_vnni_kernels();
}

#else

const Kernels* emulated_path() { return nullptr; }

#endif

}  // namespace plait::test
