#include "program/memory.h"

#include <sys/mman.h>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace plait {
namespace {

constexpr std::size_t kHuge = std::size_t{2} << 20;
constexpr std::size_t kRegion = 16 * kHuge;  // of address space: what is not touched costs nothing
constexpr std::size_t kLine = 64;

}  // namespace

void trim_heap() {
#if defined(__GLIBC__)
    malloc_trim(0);
#endif
}

// Refusals cost speed only. MADV_COLLAPSE is in Linux since 6.1.
void huge_pages([[maybe_unused]] void* at, [[maybe_unused]] std::size_t bytes, [[maybe_unused]] std::size_t used) {
#if defined(MADV_HUGEPAGE)
    madvise(at, bytes, MADV_HUGEPAGE);
    constexpr int kCollapse = 25;
    madvise(at, (used + kHuge - 1) / kHuge * kHuge, kCollapse);
#endif
}

HugePages::~HugePages() {
    for (const Region& region : regions_) munmap(region.at, region.bytes);
}

std::uint8_t* HugePages::take(std::size_t bytes) {
    bytes = (bytes + kLine - 1) / kLine * kLine;
    if (bytes > left_) {
        const std::size_t size = (std::max(bytes, kRegion) + kHuge - 1) / kHuge * kHuge;
        void* at = mmap(nullptr, size + kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED) throw std::bad_alloc();
        regions_.push_back({at, size + kHuge});
        const std::uintptr_t start = (reinterpret_cast<std::uintptr_t>(at) + kHuge - 1) / kHuge * kHuge;
        next_ = reinterpret_cast<std::uint8_t*>(start);
        left_ = size;
#if defined(MADV_HUGEPAGE)
        if (at_once_) madvise(next_, size, MADV_HUGEPAGE);  // a refusal costs speed only
#endif
    }
    std::uint8_t* taken = next_;
    next_ += bytes;
    left_ -= bytes;
    taken_ += bytes;
    return taken;
}

}  // namespace plait
