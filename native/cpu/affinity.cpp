#include "cpu/affinity.h"

#if defined(__linux__)
#include <sched.h>
#endif

#include <stdexcept>

namespace plait {

#if defined(__linux__)
namespace {

constexpr std::size_t kBits = 8 * sizeof(unsigned long);
constexpr std::size_t kWords = 8192 / kBits;  // Linux's most CPUs

using Mask = std::vector<unsigned long>;

cpu_set_t* set_of(Mask& mask) { return reinterpret_cast<cpu_set_t*>(mask.data()); }

std::size_t bytes_of(const Mask& mask) { return mask.size() * sizeof(unsigned long); }

Mask current() {
    Mask mask(kWords);
    return sched_getaffinity(0, bytes_of(mask), set_of(mask)) == 0 ? mask : Mask();
}

bool holds(const Mask& mask, int cpu) {
    const std::size_t at = static_cast<std::size_t>(cpu);
    return cpu >= 0 && at / kBits < mask.size() && (mask[at / kBits] >> at % kBits & 1) != 0;
}

void put(Mask& mask, int cpu) {
    const std::size_t at = static_cast<std::size_t>(cpu);
    mask[at / kBits] |= 1ul << at % kBits;
}

}  // namespace

void check_binding(const Binding& binding, int threads) {
    const Mask allowed = current();
    for (const int cpu : binding.cpus) {
        if (!holds(allowed, cpu)) {
            throw std::invalid_argument("CPU " + std::to_string(cpu) + " is not one that this process may use");
        }
    }
    if (binding.strict && static_cast<std::size_t>(threads) > binding.cpus.size()) {
        throw std::invalid_argument(std::to_string(threads) + " threads cannot have one each of " +
                                    std::to_string(binding.cpus.size()) + " CPUs");
    }
}

BoundHere::BoundHere(const Binding& binding, int thread) {
    if (binding.cpus.empty()) return;
    Mask wanted(kWords);
    if (binding.strict) {
        put(wanted, binding.cpus[static_cast<std::size_t>(thread)]);
    } else {
        for (const int cpu : binding.cpus) put(wanted, cpu);
    }
    Mask before = current();
    if (before.empty() || before == wanted) return;
    if (sched_setaffinity(0, bytes_of(wanted), set_of(wanted)) == 0) before_ = std::move(before);
}

BoundHere::~BoundHere() {
    if (!before_.empty()) sched_setaffinity(0, bytes_of(before_), set_of(before_));
}

#else  // macOS has no such masks

void check_binding(const Binding& binding, int) {
    if (!binding.cpus.empty()) throw std::invalid_argument("this system does not bind threads to CPUs");
}

BoundHere::BoundHere(const Binding&, int) {}
BoundHere::~BoundHere() = default;

#endif

}  // namespace plait
