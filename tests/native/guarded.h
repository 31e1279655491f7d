// Arrays that end where memory ends, or start where it starts: one byte beyond them is a crash, without a sanitizer.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

#if __has_include(<sanitizer/asan_interface.h>)
#include <sanitizer/asan_interface.h>  // also marks the other side of the array; nothing without the sanitizer
#else
#define ASAN_POISON_MEMORY_REGION(start, size) (void)(start), (void)(size)
#define ASAN_UNPOISON_MEMORY_REGION(start, size) (void)(start), (void)(size)
#endif

// Pages between two that may not be touched. Returned ones are used again: mapping costs more than a search.
class Pages {
  public:
    Pages() = default;

    static Pages take(size_t bytes) {
        const int size = std::max(16, static_cast<int>(std::bit_width(bytes)));
        const std::lock_guard lock(mutex());
        std::vector<Pages>& free = returned()[size];
        if (free.empty()) return Pages(size);
        const Pages one = free.back();
        free.pop_back();
        return one;
    }
    void give_back() const {
        const std::lock_guard lock(mutex());
        returned()[size_].push_back(*this);
    }

    uint8_t* place(size_t bytes, bool at_end) const {
        const size_t all = size_t{1} << size_;
        ASAN_POISON_MEMORY_REGION(first_, all);
        uint8_t* start = at_end ? first_ + all - bytes : first_;
        ASAN_UNPOISON_MEMORY_REGION(start, bytes);
        return start;
    }

  private:
    explicit Pages(int size) : size_(size) {
        const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE)), all = size_t{1} << size;
        void* mapped = mmap(nullptr, all + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapped == MAP_FAILED) std::abort();
        first_ = static_cast<uint8_t*>(mapped) + page;
        if (mprotect(first_, all, PROT_READ | PROT_WRITE)) std::abort();
    }
    static std::mutex& mutex() {
        static std::mutex one;
        return one;
    }
    static std::vector<Pages>* returned() {
        static std::vector<Pages> lists[64];
        return lists;
    }

    uint8_t* first_ = nullptr;
    int size_ = 0;
};

template <class T>
class Guarded {
  public:
    Guarded() = default;
    Guarded(size_t count, bool at_end)
        : pages_(Pages::take(count * sizeof(T))),
          count_(count),
          values_(reinterpret_cast<T*>(pages_.place(count * sizeof(T), at_end))) {}
    Guarded(const std::vector<T>& values, bool at_end) : Guarded(values.size(), at_end) {
        if (count_) std::memcpy(values_, values.data(), count_ * sizeof(T));
    }
    Guarded(Guarded&& other) noexcept { swap(other); }
    Guarded& operator=(Guarded&& other) noexcept {
        swap(other);
        return *this;
    }
    ~Guarded() {
        if (values_) pages_.give_back();
    }

    T* data() const { return values_; }  // null: there is no such array
    size_t size() const { return count_; }
    T& operator[](size_t i) const { return values_[i]; }
    T* begin() const { return values_; }
    T* end() const { return values_ + count_; }

  private:
    void swap(Guarded& other) {
        std::swap(pages_, other.pages_);
        std::swap(count_, other.count_);
        std::swap(values_, other.values_);
    }

    Pages pages_;
    size_t count_ = 0;
    T* values_ = nullptr;
};
