// Memory of a program: buffers that grow and are reused, and large arrays that the system zeroes on first touch.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

namespace plait {

struct Free {
    void operator()(void* p) const { std::free(p); }
};

// An array of T, 64-byte aligned; what it held is lost when it grows. It grows by half at least, so that sizes that
// creep up do not allocate each time.
template <class T>
class Growing {
  public:
    T* data() const { return data_.get(); }

    void reserve(std::size_t size) {
        if (size <= size_ && data_) return;
        size = std::max({size, size_ + size_ / 2, std::size_t{64}});
        data_.reset();
        size_ = 0;
        const std::size_t bytes = (size * sizeof(T) + 63) / 64 * 64;
        data_.reset(static_cast<T*>(std::aligned_alloc(64, bytes)), Free());
        if (!data_) throw std::bad_alloc();
        size_ = size;
    }

    // Shares the memory with whoever looks at results in it: it outlives this buffer's growing.
    std::shared_ptr<T> share() const { return data_; }

  private:
    std::shared_ptr<T> data_;
    std::size_t size_ = 0;
};

// Gives back to the system what the heap holds and nobody uses: what loading took, some MiB for a large vocabulary.
void trim_heap();

// Asks for huge pages from `at` on, which is at the beginning of one, and exchanges those of the first `used` bytes.
void huge_pages(void* at, std::size_t bytes, std::size_t used);

// Memory handed out in pieces of whole cache lines that live as long as the arena; in huge pages where the system has
// them, taken from the system as they are touched.
class HugePages {
  public:
    // With `at_once` false it only leaves room for huge pages, for huge_pages() to ask for.
    explicit HugePages(bool at_once = true) : at_once_(at_once) {}
    ~HugePages();
    HugePages(const HugePages&) = delete;
    HugePages& operator=(const HugePages&) = delete;

    // Throws std::bad_alloc.
    std::uint8_t* take(std::size_t bytes);
    std::size_t taken() const { return taken_; }

  private:
    struct Region {
        void* at;
        std::size_t bytes;
    };
    const bool at_once_;
    std::vector<Region> regions_;
    std::uint8_t* next_ = nullptr;
    std::size_t left_ = 0, taken_ = 0;
};

// Zeroes. The system gives large ones their pages on first touch only.
template <class T>
class Zeroed {
  public:
    explicit Zeroed(std::size_t size) : size_(size) {
        if (bytes() >= kLarge) {
            pages_ = std::make_unique<HugePages>(false);
            data_ = reinterpret_cast<T*>(pages_->take(bytes()));
        } else {
            small_.reset(static_cast<T*>(std::calloc(size ? size : 1, sizeof(T))));
            if (!small_) throw std::bad_alloc();
            data_ = small_.get();
        }
    }
    T* data() const { return data_; }
    std::size_t bytes() const { return size_ * sizeof(T); }

    // Huge pages where the system has them; those that the first `used` bytes have are exchanged.
    void prefer_huge_pages(std::size_t used) {
        if (pages_) huge_pages(data_, bytes(), std::min(used, bytes()));
    }

  private:
    static constexpr std::size_t kLarge = std::size_t{2} << 20;
    std::unique_ptr<HugePages> pages_;
    std::unique_ptr<T, Free> small_;
    T* data_;
    std::size_t size_;
};

}  // namespace plait
