#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels.h"

namespace {
struct Vec {
    static constexpr int width = 8;
    __m256 value;
    static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
    static Vec broadcast(float x) { return {_mm256_set1_ps(x)}; }
    void store(float* p) const { _mm256_storeu_ps(p, value); }
    Vec operator+(Vec other) const { return {_mm256_add_ps(value, other.value)}; }
    Vec operator*(Vec other) const { return {_mm256_mul_ps(value, other.value)}; }
};
}  // namespace

#include "kernels.inl"

const everyitem::Kernels everyitem::avx2_kernels{"avx2", score_table, dots};
#endif
