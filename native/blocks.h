// One row's search over blocks: bytes first, float32 for what could enter.
#pragma once

#include <cstdint>
#include <vector>

#include "gaps.h"
#include "search.h"
#include "top_k.h"

namespace everyitem {

// Memory that outlives a row, so that a search allocates nothing.
struct Work {
    std::vector<float> table;
    std::vector<uint64_t> masks;
    Lines least{64 * 256}, nibbles{64 * 16};  // of the covers of a level, at most 64 splits
    std::vector<uint8_t> sums;                // of all nodes of a level, or of those asked
    std::vector<int32_t> nodes, found;        // groups of nodes to ask, and those to follow
    std::vector<uint8_t> bounds;              // byte sums of what was found
    std::vector<int32_t> sorted;
};

class BlockSearch {
  public:
    BlockSearch(const PQ& index, const Request& request, int64_t row, Work& work);

    // Search all parts; prune where a part has levels and `prune` says so.
    void run(bool prune);
    // Whatever promises to be fastest for this filter and k.
    void run_planned();
    void write(int64_t row, Answer answer);

  private:
    void seed_by_sampling();
    void scan(const Blocks& part);
    void prune(const Blocks& part);
    bool few_allowed() const;
    void score_allowed();
    bool most_survive(const Blocks& part);
    void seed_by_bounds(const Blocks& part);
    void collect(const Blocks& part);
    void visit_best_first(const Blocks& part);
    void start_at(const Level& level, int64_t step = 1);
    void bound(const Level& level, int limit);
    void keep_best(int64_t wanted, int64_t most);
    void find(const Blocks& part, const int32_t* chosen, int64_t first, int64_t count, int64_t known);
    void rescore(const Blocks& part, int64_t block, uint64_t mask);
    void stop(float bound);
    int cut();
    float threshold() const { return std::max(floor_, best_.threshold()); }

    const PQ& index_;
    const Request& request_;
    Work& work_;
    Filter filter_;
    Gaps gaps_;
    TopK best_;
    float floor_ = kNothing;   // a score that k eligible items are known to reach
    float unseen_ = kNothing;  // no item that was dropped without proof scores more
    bool stopped_ = false;
    int64_t scored_ = 0;
};

}  // namespace everyitem
