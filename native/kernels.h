// The table of kernels: what is worth writing per CPU. Every CPU returns the same bits, because a kernel vectorises
// across sub-items or items and fixes the order of every float32 sum.
#pragma once

#include <cstdint>

namespace everyitem {

struct Kernels {
    const char* name;

    // table[m * stride + b] = sum_t query[m * split_dim + t] * codebooks[m][t][b], over t in order.
    // codebooks is stored (num_splits, split_dim, num_sub_items), so that sub-items are neighbours.
    void (*score_table)(const float* query, const float* codebooks, int num_splits, int split_dim, int num_sub_items,
                        int stride, float* table);

    // out[i] = dot(query, vectors[i]) in 16 lanes, lane j adding elements j, j + 16, ... in order; then the lanes are
    // folded in halves: 8, 4, 2, 1.
    void (*dots)(const float* query, const float* vectors, int64_t num_vectors, int dim, float* out);
};

extern const Kernels scalar_kernels;
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
extern const Kernels neon_kernels;

}  // namespace everyitem
