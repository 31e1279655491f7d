// The searches, and what they are asked. Whatever the algorithm, the answer is the same to the bit.
// Letters: U rows, I items, M splits, B sub-items per split, D dim, d = D / M, K results, E excluded items.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels.h"
#include "top_k.h"

namespace everyitem {

using Clock = std::chrono::steady_clock;

struct Codebooks {
    const float* values_MdB;
    int num_splits, split_dim, num_sub_items;
};

// Item codes as rows, for positions first .. first + count - 1.
struct Codes {
    const uint8_t* rows_IM;
    int64_t first, count;
};

// Inverted lists of one run: which items have a sub-item. 4 bytes per item and split.
class Postings {
  public:
    Postings(const Codes& run, int num_splits);
    std::span<const int32_t> items(int split, int sub_item) const {
        const int64_t first = starts_[split][sub_item], last = starts_[split][sub_item + 1];
        return std::span(items_[split]).subspan(static_cast<size_t>(first), static_cast<size_t>(last - first));
    }

  private:
    std::vector<std::vector<int64_t>> starts_;
    std::vector<std::vector<int32_t>> items_;
};

// What is known of the nodes of one height, each of which stands for 64 nodes (or blocks) below it: `codes` holds, in
// blocks like those of items, which of its split's covers spans all the codes below a node.
struct Level {
    const uint8_t* codes;
    std::vector<Covers> covers;  // one per split
    int64_t count;
};

// The same codes in blocks of 64 items, split by split inside a block, so that one instruction looks up 64 items. Items
// stand in slots; the last block repeats its last item.
struct Blocks {
    const uint8_t* codes;
    const int32_t* positions;  // of every slot, from `first` on; null: slot s holds position first + s
    int64_t first, num_slots;
    std::vector<Level> levels;  // levels[0] bounds blocks, levels[h + 1] bounds nodes of levels[h]

    int64_t count() const { return (num_slots + 63) / 64; }
    int32_t position(int64_t slot) const { return static_cast<int32_t>(first + (positions ? positions[slot] : slot)); }
    uint64_t valid(int64_t block) const {
        const int64_t left = num_slots - block * 64;
        return left >= 64 ? ~uint64_t{0} : (uint64_t{1} << left) - 1;
    }
};

// Both hold the whole catalogue: what was there when it was arranged, then what was added since.
struct PQ {
    Codebooks codebooks;
    std::vector<Codes> runs;
    std::vector<Blocks> parts;
    std::vector<Postings> postings;
    int64_t num_items;
    int64_t whole_level;  // most nodes of a level that are bounded all, instead of coming to them from above
    const uint8_t* recode = nullptr;  // (num_splits, 256): what blocks call a sub-item; null: as rows do
};

// A filter over all items, put in the order of the slots once for many searches.
struct SlotFilter {
    struct Part {
        std::vector<uint64_t> live;   // of every block: bit i tells whether the item of slot i is allowed
        std::vector<int32_t> blocks;  // those with any
    };

    SlotFilter(const PQ& index, const uint8_t* allow);

    std::vector<Part> parts;  // as the index has them
    int64_t allowed = 0;
};

struct Dense {
    const float* vectors_ID;
    int64_t num_items;
    int dim;
};

// What one call asks of any index.
struct Request {
    const float* query_UD;
    const float* table_UMB = nullptr;  // instead: what every sub-item adds to a score
    int64_t num_rows;
    int dim;
    int64_t k;
    const uint8_t* allow;               // packed bits, or null
    int64_t allow_stride;               // bytes from a row's bits to the next row's; 0 where all rows share them
    const SlotFilter* slots = nullptr;  // the same bits for all rows, compiled
    const uint8_t* removed;
    const int32_t* exclude_UE;  // every row ascending
    int64_t num_excluded;
    Clock::time_point deadline;
    int threads;
    double gap_factor = 1;  // below 1: items are dropped that might have entered, and the bound says so
    int batch_size = 8;     // sub-items that RecJPQPrune processes between two looks at the bound

    const float* query(int64_t row) const { return query_UD + row * dim; }
    Filter filter(int64_t row) const {
        return {allow ? allow + row * allow_stride : nullptr,
                removed,
                {exclude_UE + row * num_excluded, static_cast<size_t>(num_excluded)}};
    }
    bool expired() const { return deadline != Clock::time_point::max() && Clock::now() >= deadline; }
};

// One row each per query. bound: no eligible item outside the row scores above it.
struct Answer {
    int32_t* items_UK;
    float* scores_UK;
    float* bound_U;
    int64_t* scored_U;
    int64_t* steps_U = nullptr;  // batches of sub-items that RecJPQPrune processed, where asked for
};

// (num_splits, 256): what every sub-item adds to a row's score, -inf beyond the last.
const float* fill_table(const PQ& index, const Request& request, int64_t row, std::vector<float>& table);

// PQTopK (arXiv:2408.09992): score(i) = sum_m table[m, codes[i, m]], float32, m = 0..M-1, item by item.
void scan_pq(const PQ& index, const Request& request, Answer answer);
// RecJPQ (arXiv:2312.06165): the same sums split by split, into an accumulator as long as the catalogue.
void scan_pq_by_split(const PQ& index, const Request& request, Answer answer);
// RecJPQPrune (arXiv:2505.00560): the items of the best sub-items first, until no other can enter. Needs postings.
void recjpq_prune(const PQ& index, const Request& request, Answer answer);
// Every item in bytes, those that could enter in float32.
void bounded_scan(const PQ& index, const Request& request, Answer answer);
// Blocks by their bound, best first; then as above.
void block_prune(const PQ& index, const Request& request, Answer answer);
// Whichever of the last two, or scoring what is allowed, promises to be fastest for a row.
void planned(const PQ& index, const Request& request, Answer answer);
// How many items the last would look at in bytes for every row; it looks at no item of a large catalogue to tell.
void predict_items(const PQ& index, const Request& request, int64_t* items_U);

void scan_dense(const Dense& index, const Request& request, Answer answer);

}  // namespace everyitem
