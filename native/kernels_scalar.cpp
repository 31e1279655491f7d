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
}  // namespace

#include "kernels.inl"

const everyitem::Kernels everyitem::scalar_kernels{"scalar", score_table, dots};
