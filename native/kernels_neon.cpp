#if defined(__aarch64__)
#include <arm_neon.h>

#include "kernels.h"

namespace {
struct Vec {
    static constexpr int width = 4;
    float32x4_t value;
    static Vec load(const float* p) { return {vld1q_f32(p)}; }
    static Vec broadcast(float x) { return {vdupq_n_f32(x)}; }
    void store(float* p) const { vst1q_f32(p, value); }
    Vec operator+(Vec other) const { return {vaddq_f32(value, other.value)}; }
    Vec operator*(Vec other) const { return {vmulq_f32(value, other.value)}; }
};
}  // namespace

#include "kernels.inl"

const everyitem::Kernels everyitem::neon_kernels{"neon", score_table, dots};
#endif
