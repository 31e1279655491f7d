// Which blocks of a part could hold an item worth having: from the highest level of nodes down to the blocks.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "gaps.h"
#include "search.h"

namespace everyitem {

// Nodes of one height, or blocks, and what they lose at least, in bytes. Memory is kept for the next that are found.
class Promising {
  public:
    std::span<const int32_t> nodes() const { return {nodes_.data(), count_}; }
    std::span<const uint8_t> sums() const { return {sums_.data(), count_}; }

    // Those of a level that lose at most `limit`: in these groups of 64, or in the first `num_groups`.
    void find(const Level& level, const int32_t* groups, int64_t num_groups, ByteTables least, int limit);
    // Drops all but `most` that are wanted.
    template <class Wanted>
    void keep(Wanted wanted, size_t most = SIZE_MAX) {
        size_t kept = 0;
        for (size_t n = 0; n < count_ && kept < most; ++n)
            if (wanted(nodes_[n], sums_[n])) nodes_[kept] = nodes_[n], sums_[kept++] = sums_[n];
        count_ = kept;
    }

  private:
    std::vector<int32_t> nodes_;
    std::vector<uint8_t> sums_;
    size_t count_ = 0;
};

// The same by what they lose, the least first, and as they were found where they lose as much.
class Ranked {
  public:
    void rank(const Promising& found);
    std::span<const int32_t> nodes() const { return {nodes_.data(), static_cast<size_t>(ends_[255])}; }
    int64_t count_within(int limit) const { return ends_[limit]; }
    int sum(int64_t n) const;

  private:
    std::vector<int32_t> nodes_;
    int64_t ends_[256] = {};  // how many lose so much or less
};

class Bounds {
  public:
    // The `wanted` most promising blocks; more where the last ties, at most three times as many.
    void find_best(const Gaps& gaps, const Blocks& part, const SlotFilter::Part* filter, int64_t wanted);
    // What loses at most `limit`, in storage order: blocks, or nodes of 64 blocks where there are more than
    // `whole_level` blocks. Or false, if so many blocks do that reading all is faster.
    bool find_within(const Gaps& gaps, const Blocks& part, const SlotFilter::Part* filter, int limit,
                     int64_t whole_level);
    bool found_blocks() const { return height_ == 0; }
    // Blocks that lose at most `limit`, below nodes of 64. `cover` of the lowest level comes first.
    void find_below(const Blocks& part, const SlotFilter::Part* filter, std::span<const int32_t> nodes, int limit);
    // Whether so many do that reading all is faster: by a sample, taken where most of the nodes are promising.
    bool most_below(const Blocks& part, const SlotFilter::Part* filter, std::span<const int32_t> nodes, int limit);
    // What the covers of a level lose at least.
    void cover(const Level& level, const Gaps& gaps);

    const Promising& found() const { return found_; }

  private:
    bool most_within(const Level& level, int limit);
    void find_all(const Level& level, int limit);
    void descend(const Level& level, const Gaps& gaps, int limit);
    void keep_best(int64_t wanted, int64_t most);
    void keep_live(const SlotFilter::Part* filter);
    ByteTables least() const { return {least_.data(), nibbles_.data(), num_splits_}; }

    Promising found_, above_;
    std::ptrdiff_t height_ = 0;  // of what was found
    std::vector<int32_t> sample_;
    Lines least_{64 * 256}, nibbles_{64 * 16};  // of the covers of a level, at most 64 splits
    int num_splits_ = 0;
};

}  // namespace everyitem
