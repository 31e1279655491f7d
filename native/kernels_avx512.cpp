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

struct Split {
    __m512i part[4];
    static Split load(const uint8_t* gaps, const uint8_t*) {
        return {{_mm512_loadu_si512(gaps), _mm512_loadu_si512(gaps + 64), _mm512_loadu_si512(gaps + 128),
                 _mm512_loadu_si512(gaps + 192)}};
    }
};

// Bits 0 to 5 of a code pick a byte of a part, bit 6 one of two parts, bit 7 the pair.
inline __m512i look_up(const Split& split, __m512i code) {
    const __m512i low = _mm512_permutex2var_epi8(split.part[0], code, split.part[1]);
    const __m512i high = _mm512_permutex2var_epi8(split.part[2], code, split.part[3]);
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(code), low, high);
}

void look_up(const uint8_t* table, const uint8_t* codes, uint8_t* out) {
    _mm512_storeu_si512(out, look_up(Split::load(table, nullptr), _mm512_loadu_si512(codes)));
}

struct Sums {
    static constexpr bool exact = true;
    __m512i value = _mm512_setzero_si512();
    void add(const Split& split, const uint8_t* codes) {
        value = _mm512_adds_epu8(value, look_up(split, _mm512_loadu_si512(codes)));
    }
    uint64_t at_most(uint8_t cut) const {
        return _mm512_cmple_epu8_mask(value, _mm512_set1_epi8(static_cast<char>(cut)));
    }
    void compress(uint64_t mask, int32_t first, int32_t* nodes, uint8_t* sums) const {
        _mm512_storeu_si512(sums, _mm512_maskz_compress_epi8(mask, value));  // to a register: to memory it is slow
        const __m512i counted = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        for (int quarter = 0; quarter < 4; ++quarter, mask >>= 16) {
            const auto own = static_cast<__mmask16>(mask);
            const __m512i numbers = _mm512_add_epi32(counted, _mm512_set1_epi32(first + 16 * quarter));
            _mm512_storeu_si512(nodes, _mm512_maskz_compress_epi32(own, numbers));
            nodes += __builtin_popcount(own);
        }
    }
};
constexpr int kTogether = 4;
}  // namespace

#include "kernels.inl"

const everyitem::Kernels everyitem::avx512_kernels{
    "avx512", score_table, dots, cap_logits, sum_exps, count_bits, extent, quantise, least_in_covers, find, nodes};
#endif
