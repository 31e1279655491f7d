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

struct Split {
    uint8x16x4_t part[4];
    static Split load(const uint8_t* gaps, const uint8_t*) {
        return {{vld1q_u8_x4(gaps), vld1q_u8_x4(gaps + 64), vld1q_u8_x4(gaps + 128), vld1q_u8_x4(gaps + 192)}};
    }
};

// A code beyond a part's 64 entries finds 0 there.
inline uint8x16_t look_up(const Split& split, uint8x16_t code) {
    uint8x16_t found = vqtbl4q_u8(split.part[0], code);
    for (int p = 1; p < 4; ++p)
        found = vorrq_u8(found, vqtbl4q_u8(split.part[p], vsubq_u8(code, vdupq_n_u8(static_cast<uint8_t>(64 * p)))));
    return found;
}

void look_up(const uint8_t* table, const uint8_t* codes, uint8_t* out) {
    const Split split = Split::load(table, nullptr);
    for (int i = 0; i < 64; i += 16) vst1q_u8(out + i, look_up(split, vld1q_u8(codes + i)));
}

struct Sums {
    static constexpr bool exact = true;
    uint8x16_t value[4] = {vdupq_n_u8(0), vdupq_n_u8(0), vdupq_n_u8(0), vdupq_n_u8(0)};
    void add(const Split& split, const uint8_t* codes) {
        for (int quarter = 0; quarter < 4; ++quarter)
            value[quarter] = vqaddq_u8(value[quarter], look_up(split, vld1q_u8(codes + 16 * quarter)));
    }
    uint64_t at_most(uint8_t cut) const {
        uint64_t mask = 0;
        for (int quarter = 0; quarter < 4; ++quarter) {
            constexpr uint8_t kBits[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
            const uint8x16_t kept = vandq_u8(vcleq_u8(value[quarter], vdupq_n_u8(cut)), vld1q_u8(kBits));
            const uint64_t low = vaddv_u8(vget_low_u8(kept)), high = vaddv_u8(vget_high_u8(kept));
            mask |= (low | high << 8) << (16 * quarter);
        }
        return mask;
    }
    void store(uint8_t* out) const {
        for (int quarter = 0; quarter < 4; ++quarter) vst1q_u8(out + 16 * quarter, value[quarter]);
    }
};
constexpr int kTogether = 1;
}  // namespace

#include "kernels.inl"

const everyitem::Kernels everyitem::neon_kernels{
    "neon", score_table, dots, cap_logits, sum_exps, count_bits, extent, quantise, least_in_covers, find, nodes};
#endif
