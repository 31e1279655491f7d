// Searches that score every item.
// Letters: U rows, I items, M splits, B sub-items per split, D dim, d = D / M, K results, E excluded items.
#pragma once

#include <chrono>
#include <cstdint>

#include "top_k.h"

namespace everyitem {

using Clock = std::chrono::steady_clock;

struct Codebooks {
    const float* values_MdB;
    int num_splits, split_dim, num_sub_items;
};

struct PQ {
    Codebooks codebooks;
    const uint8_t* codes_IM;
    int64_t num_items;
};

struct Dense {
    const float* vectors_ID;
    int64_t num_items;
    int dim;
};

// What one call asks of any index.
struct Request {
    const float* query_UD;
    int64_t num_rows;
    int dim;
    int64_t k;
    const uint8_t* allow;  // packed bits, or null
    int64_t allow_stride;  // bytes from a row's bits to the next row's; 0 where all rows share them
    const uint8_t* removed;
    const int32_t* exclude_UE;  // every row ascending
    int64_t num_excluded;
    Clock::time_point deadline;
    int threads;

    const float* query(int64_t row) const { return query_UD + row * dim; }
    Filter filter(int64_t row) const {
        return {allow ? allow + row * allow_stride : nullptr,
                removed,
                {exclude_UE + row * num_excluded, static_cast<size_t>(num_excluded)}};
    }
    bool expired() const { return deadline != Clock::time_point::max() && Clock::now() >= deadline; }
};

// One row each per query; past the deadline scored < num_items, and the items scored are the first ones.
struct Answer {
    int32_t* items_UK;
    float* scores_UK;
    int64_t* scored_U;
};

// PQTopK (arXiv:2408.09992): score(i) = sum_m table[m, codes[i, m]], float32, m = 0..M-1.
void scan_pq(const PQ& index, const Request& request, Answer answer);
void scan_dense(const Dense& index, const Request& request, Answer answer);

}  // namespace everyitem
