// Puts similar items into the same block, and says of every block and node which codes lie below it.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"

namespace everyitem {

// Score tables of queries such as will be asked, sub-items in order: (num_splits, 256, count), the queries innermost.
struct Samples {
    const float* tables;
    int num_splits;
    int count;
};

// Recursive bisection: halves that lower the bound of the samples most. positions gets every slot's item.
// Tables are asked for what `recode`, (num_splits, 256), calls a sub-item.
void order_items(const uint8_t* codes_IM, int64_t num_items, const uint8_t* recode, const Samples& samples, int threads,
                 int32_t* positions);

// Item rows to blocks of 64, split by split; the last block repeats its last item. positions may be null.
void fill_blocks(const uint8_t* codes_IM, const int32_t* positions, const uint8_t* recode, int64_t num_items,
                 int num_splits, uint8_t* blocks);

// First and last code of every split below a block or node: (count, num_splits) each.
struct Ranges {
    std::vector<uint8_t> low, high;
    int64_t count;
};
Ranges block_ranges(const uint8_t* blocks, int64_t num_items, int num_splits);
Ranges node_ranges(const Ranges& below, int num_splits);

// A library of 256 covers per split, (num_splits, 256) low and high, and which of them every node takes, in blocks.
void cover_ranges(const Ranges& ranges, const Samples& samples, int threads, uint8_t* low, uint8_t* high,
                  uint8_t* codes);

// A split's library as the kernels ask it. Throws std::invalid_argument where a cover ends before it starts or is
// shorter than the one before it.
Covers covers_of(const uint8_t* low, const uint8_t* high);

}  // namespace everyitem
