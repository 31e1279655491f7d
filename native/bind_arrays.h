// Arrays that come from Python and go there.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <vector>

#include "door.h"

#if __has_include(<sys/mman.h>)
#include <sys/mman.h>
#endif

namespace nb = nanobind;

namespace everyitem {

template <class T, int kDims>
using In = nb::ndarray<const T, nb::ndim<kDims>, nb::c_contig, nb::device::cpu>;
template <class T>
using Out = nb::ndarray<nb::numpy, T>;

// An array that C++ fills and Python then owns, aligned to cache lines; a large one in huge pages where there are any.
template <class T>
class Filled {
  public:
    T* values;

    explicit Filled(std::vector<size_t> dims) : shape_(std::move(dims)) {
        size_t size = sizeof(T);
        for (size_t length : shape_)
            if (__builtin_mul_overflow(size, length, &size)) throw std::bad_alloc();
        constexpr size_t kLine = 64, kHugePage = size_t{1} << 21;
        const size_t alignment = size >= kHugePage ? kHugePage : kLine;
        if (size > PTRDIFF_MAX - alignment) throw std::bad_alloc();
        memory_.reset(std::aligned_alloc(alignment, (size / alignment + 1) * alignment));
        if (!memory_) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
        if (alignment == kHugePage) madvise(memory_.get(), size, MADV_HUGEPAGE);
#endif
        values = static_cast<T*>(memory_.get());
    }
    Out<T> to_python() {
        nb::capsule owner(memory_.release(), [](void* p) noexcept { std::free(p); });
        return Out<T>(values, shape_.size(), shape_.data(), owner);
    }

  private:
    struct Free {
        void operator()(void* memory) const { std::free(memory); }
    };
    std::unique_ptr<void, Free> memory_;
    std::vector<size_t> shape_;
};

template <class T, class... Traits>
Array<T> as_array(const nb::ndarray<const T, Traits...>& array) {
    Array<T> made{array.data(), {}};
    for (size_t d = 0; d < array.ndim(); ++d) made.shape.push_back(static_cast<int64_t>(array.shape(d)));
    return made;
}

}  // namespace everyitem
