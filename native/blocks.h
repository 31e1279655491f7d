// One row's search over blocks: bytes first, float32 for what could enter.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "bounds.h"
#include "gaps.h"
#include "search.h"
#include "top_k.h"

namespace everyitem {

enum class Plan { flat, pruned, best };

// Memory that outlives a row, so that a search allocates nothing.
struct Work {
    std::vector<float> table, recoded;
    std::vector<Hit> hits;
    Bounds bounds;
    Ranked ranked, below;
};

class BlockSearch {
  public:
    BlockSearch(const PQ& index, const Request& request, int64_t row, Work& work);

    // Finds a first threshold, reads what was added since the catalogue was arranged, and of the arrangement the blocks
    // that could matter. True if these are so many that all of it is left to `scan`.
    bool start(Plan plan, int threads);
    // Blocks of the arrangement to be read in order.
    int64_t num_blocks() const { return num_blocks(index_.parts.front()); }
    // Some of them. `fresh`: nobody has just brought them into the cache.
    void scan(int64_t first, int64_t last, int threads, bool fresh);
    void write(int64_t row, Answer answer);

    // How many items `start` and `scan` would look at.
    int64_t predict();

  private:
    BlockSearch(const BlockSearch& whole, Work& work, std::atomic<float>& reached);

    bool prunes(Plan plan) const;
    void seed(bool by_bounds);
    void seed_by_bounds(const Blocks& part);
    void seed_by_sampling();
    int64_t count_allowed() const;
    bool few_allowed() const;
    void score_allowed();
    void score_listed(const Codes& run, const int32_t* listed, int64_t count);
    bool find_promising(const Blocks& part);
    void scan_in_order(const Blocks& part, int64_t first, int64_t last, bool fresh);
    void visit_best_first(const Blocks& part, int threads);
    void visit_blocks(const Blocks& part, const Ranked& ranked, std::atomic<int64_t>& next);
    void visit_below(const Blocks& part, const Ranked& ranked, std::atomic<int64_t>& next);
    template <class Search>
    void share_out(int threads, Search search);
    void find(const Blocks& part, const int32_t* chosen, int64_t first, int64_t count, int64_t known);
    void rescore(const Blocks& part, int64_t block, uint64_t mask);
    // A file that changes under its map must not lead outside the filters' bits.
    bool in_catalogue(int32_t position) const { return static_cast<uint32_t>(position) < index_.num_items; }
    bool allowed(int32_t position) const { return in_catalogue(position) && bit_is_set(filter_.allow, position); }
    // Whether candidates are held against a filter's bits before they are scored.
    bool asks_first() const { return filter_.allow && !request_.slots; }
    void stop(float bound);
    int cut();
    float threshold() const { return std::max(floor_, best_.threshold()); }

    const SlotFilter::Part* filter_of(const Blocks& part) const {
        return request_.slots ? &request_.slots->parts[static_cast<size_t>(&part - index_.parts.data())] : nullptr;
    }
    int64_t num_blocks(const Blocks& part) const {
        const SlotFilter::Part* filter = filter_of(part);
        return filter ? std::ssize(filter->blocks) : part.count();
    }

    const PQ& index_;
    const Request& request_;
    Work& work_;
    const float* table_;    // as rows of codes ask it
    const float* recoded_;  // as blocks do
    Filter filter_;
    Gaps gaps_;
    TopK best_;
    std::atomic<float>* reached_ = nullptr;  // what the threads that share this row have as their floor
    float floor_ = kNothing;                 // a score that k eligible items are known to reach
    float unseen_ = kNothing;                // no item that was dropped without proof scores more
    bool stopped_ = false;
    int64_t scored_ = 0;
};

}  // namespace everyitem
