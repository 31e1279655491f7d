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

void look_up(const uint8_t* table, const uint8_t* codes, uint8_t* out) {
    for (int i = 0; i < 64; ++i) out[i] = table[codes[i]];
}

// Without a 256-entry lookup: the high nibble of a code names 16 codes, and the least of their gaps is what counts.
struct Split {
    __m256i minima;
    static Split load(const uint8_t*, const uint8_t* nibbles) {
        return {_mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(nibbles)))};
    }
};

struct Sums {
    static constexpr bool exact = false;
    __m256i value[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    void add(const Split& split, const uint8_t* codes) {
        for (int half = 0; half < 2; ++half) {
            const __m256i code = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + 32 * half));
            const __m256i nibble = _mm256_and_si256(_mm256_srli_epi16(code, 4), _mm256_set1_epi8(15));
            value[half] = _mm256_adds_epu8(value[half], _mm256_shuffle_epi8(split.minima, nibble));
        }
    }
    uint64_t at_most(uint8_t cut) const {
        const __m256i limit = _mm256_set1_epi8(static_cast<char>(cut));
        uint64_t mask = 0;
        for (int half = 0; half < 2; ++half) {
            const __m256i kept = _mm256_cmpeq_epi8(_mm256_min_epu8(value[half], limit), value[half]);
            mask |= uint64_t{static_cast<uint32_t>(_mm256_movemask_epi8(kept))} << (32 * half);
        }
        return mask;
    }
    void store(uint8_t*) const {}
};
constexpr int kTogether = 1;
}  // namespace

#include "kernels.inl"

const everyitem::Kernels everyitem::avx2_kernels{
    "avx2", score_table, dots, cap_logits, sum_exps, count_bits, extent, quantise, least_in_covers, find, nodes};
#endif
