// The table of kernels: what is worth writing per CPU. Every CPU returns the same bits, because a kernel vectorises
// across sub-items or items and fixes the order of every float32 sum; bytes are sums of whole numbers.
#pragma once

#include <cstdint>

namespace everyitem {

struct Extent {
    float largest, smallest, sum;
};

// What every code of a split costs, in bytes: (num_splits, 256), and the least cost of every 16 neighbouring codes,
// (num_splits, 16), which is all that a CPU without a 256-entry byte lookup can ask quickly; others do not fill it.
struct ByteTables {
    const uint8_t* gaps;
    const uint8_t* nibbles;
    int num_splits;
};

// Blocks hold the codes of 64 items, split by split: (num_splits, 64) bytes. The list is the `count` first blocks, or
// those that `chosen` names, which goes on for `known` entries: what will be asked next is fetched early.
struct BlockList {
    const uint8_t* blocks;
    const int32_t* chosen;
    int64_t count;
    int64_t known;
};

// A block of a list, by its place in the list, and which of its items were found: bit i is item i.
struct Hit {
    int64_t place;
    uint64_t items;
};

// 256 ranges of codes: cover c spans `first[c]` and the codes after it, and as many up to the end of `second[c]`; so
// many are 2^l for the covers from starts[l] on.
struct Covers {
    static constexpr int kLengths = 8;
    uint8_t first[256], second[256];
    int starts[kLengths + 1];
};

struct Kernels {
    const char* name;

    // table[m * stride + b] = sum_t query[m * split_dim + t] * codebooks[m][t][b], over t in order.
    // codebooks is stored (num_splits, split_dim, num_sub_items), so that sub-items are neighbours.
    void (*score_table)(const float* query, const float* codebooks, int num_splits, int split_dim, int num_sub_items,
                        int stride, float* table);

    // out[i] = dot(query, vectors[i]) in 16 lanes, lane j adding elements j, j + 16, ... in order; then the lanes are
    // folded in halves: 8, 4, 2, 1.
    void (*dots)(const float* query, const float* vectors, int64_t num_vectors, int dim, float* out);

    // x = cap * tanh(x / cap), element by element, in float32 arithmetic that is the same everywhere.
    void (*cap_logits)(float* x, int64_t count, float cap);

    // sum of exp(x - largest) for x <= largest, in 16 lanes as above; -inf adds nothing.
    float (*sum_exps)(const float* x, int64_t count, float largest);

    // How many of the bits of so many bytes are set.
    int64_t (*count_bits)(const uint8_t* bytes, int64_t count);

    // Largest, smallest and (in any order) the sum of finite values.
    Extent (*extent)(const float* values, int count);

    // gaps[m][b] = min(255, floor((maxima[m] - table[m][b]) * scale)), and the minima of every 16 of them.
    void (*quantise)(const float* table, const float* maxima, int num_splits, float scale, uint8_t* gaps,
                     uint8_t* nibbles);

    // least[m][c] = min of gaps[m] over the codes of cover c, and the minima of every 16 of them.
    void (*least_in_covers)(const uint8_t* gaps, const Covers* covers, int num_splits, uint8_t* least,
                            uint8_t* nibbles);

    // The items whose byte sum is at most `cut`: blocks that have any, their number is returned.
    int64_t (*find)(BlockList list, ByteTables tables, uint8_t cut, Hit* hits);

    // The nodes, and their byte sums, that are at most `cut`; their number is returned. Group g of the list holds nodes
    // 64 g to 64 g + 63, as far as there are so many. Both arrays have room for 64 more than the groups hold.
    int64_t (*nodes)(BlockList groups, int64_t num_nodes, ByteTables tables, uint8_t cut, int32_t* nodes,
                     uint8_t* sums);
};

extern const Kernels scalar_kernels;
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
extern const Kernels neon_kernels;

}  // namespace everyitem
