#include "kernels.h"

namespace {
struct Vec {
    static constexpr int width = 1;
    float value;
    static Vec load(const float* p) { return {*p}; }
    static Vec broadcast(float x) { return {x}; }
    void store(float* p) const { *p = value; }
    Vec operator+(Vec other) const { return {value + other.value}; }
    Vec operator*(Vec other) const { return {value * other.value}; }
};

void look_up(const uint8_t* table, const uint8_t* codes, uint8_t* out) {
    for (int i = 0; i < 64; ++i) out[i] = table[codes[i]];
}

struct Split {
    const uint8_t* gaps;
    static Split load(const uint8_t* gaps, const uint8_t*) { return {gaps}; }
};

struct Sums {
    static constexpr bool exact = true;
    uint8_t value[64] = {};
    void add(const Split& split, const uint8_t* codes) {
        for (int i = 0; i < 64; ++i) {
            const int sum = value[i] + split.gaps[codes[i]];
            value[i] = static_cast<uint8_t>(sum < 255 ? sum : 255);
        }
    }
    uint64_t at_most(uint8_t cut) const {
        uint64_t mask = 0;
        for (int i = 0; i < 64; ++i) mask |= static_cast<uint64_t>(value[i] <= cut) << i;
        return mask;
    }
    void store(uint8_t* out) const {
        for (int i = 0; i < 64; ++i) out[i] = value[i];
    }
};
constexpr int kTogether = 1;
}  // namespace

#include "kernels.inl"

const everyitem::Kernels everyitem::scalar_kernels{
    "scalar", score_table, dots, cap_logits, sum_exps, count_bits, extent, quantise, least_in_covers, find, nodes};
