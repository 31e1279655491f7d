#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels.h"

namespace {
struct Vec {
    static constexpr int width = 16;
    __m512 value;
    static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
    static Vec broadcast(float x) { return {_mm512_set1_ps(x)}; }
    void store(float* p) const { _mm512_storeu_ps(p, value); }
    Vec operator+(Vec other) const { return {_mm512_add_ps(value, other.value)}; }
    Vec operator*(Vec other) const { return {_mm512_mul_ps(value, other.value)}; }
};
}  // namespace

#include "kernels.inl"

const everyitem::Kernels everyitem::avx512_kernels{"avx512", score_table, dots};
#endif
