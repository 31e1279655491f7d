// Which blocks of a part could hold an item worth having: from the highest level of nodes down to the blocks.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "gaps.h"
#include "search.h"

namespace everyitem {

// Nodes of one height, or blocks, and what they lose at least, in bytes.
struct Promising {
    std::vector<int32_t> nodes;
    std::vector<uint8_t> sums;
};

class Bounds {
  public:
    // The `wanted` most promising blocks, best first; more where the last ties, at most three times as many.
    void find_best(const Gaps& gaps, const Blocks& part, const SlotFilter::Part* filter, int64_t wanted);
    // All blocks that lose at most `limit`, in storage order; or false, if they are so many that reading all is faster.
    // A level of at most `whole_level` nodes is bounded all.
    bool find_within(const Gaps& gaps, const Blocks& part, const SlotFilter::Part* filter, int limit,
                     int64_t whole_level);

    const Promising& found() const { return found_; }

  private:
    bool most_within(const Level& level, int limit);
    void start_at(const Level& level, int64_t step = 1);
    void cover(const Level& level, const Gaps& gaps);
    void descend(const Level& level, int limit);
    void keep_best(int64_t wanted, int64_t most);
    void keep_live(const SlotFilter::Part& filter);

    std::vector<int32_t> groups_;  // of 64 nodes each, to be asked
    Promising found_;
    std::vector<std::pair<uint8_t, int32_t>> ranked_;
    Lines least_{64 * 256}, nibbles_{64 * 16};  // of the covers of a level, at most 64 splits
    int num_splits_ = 0;
    std::vector<uint8_t> sums_;
    std::vector<uint64_t> masks_;
};

}  // namespace everyitem
