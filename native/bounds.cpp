#include "bounds.h"

#include <algorithm>
#include <bit>

#include "dispatch.h"

namespace everyitem {
namespace {

constexpr int64_t kBoundsSampled = 16;  // one group of 64 bounds in so many tells whether the others pay
constexpr int64_t kSeedNodes = 8;
constexpr int64_t kMostSurviving = 3;  // where more than one block in so many survives, all are read

}  // namespace

void Bounds::find_best(const Gaps& gaps, const Blocks& part, const SlotFilter::Part* filter, int64_t wanted) {
    const auto& levels = part.levels;
    start_at(levels.back());
    for (auto height = std::ssize(levels) - 1; height >= 0; --height) {
        cover(levels[height], gaps);
        descend(levels[height], kLargestCut);
        if (height == 0 && filter) keep_live(*filter);
        height ? keep_best(kSeedNodes, 2 * kSeedNodes) : keep_best(wanted, 3 * wanted);
        if (height) groups_.swap(found_.nodes);
    }
    // the best first, so that the others meet a high threshold
    ranked_.clear();
    for (size_t n = 0; n < found_.nodes.size(); ++n) ranked_.emplace_back(found_.sums[n], found_.nodes[n]);
    std::sort(ranked_.begin(), ranked_.end());
    for (size_t n = 0; n < ranked_.size(); ++n) found_.nodes[n] = ranked_[n].second;
}

bool Bounds::find_within(const Gaps& gaps, const Blocks& part, const SlotFilter::Part* filter, int limit,
                         int64_t whole_level) {
    const auto& levels = part.levels;
    auto height = std::ssize(levels) - 1;
    while (height > 0 && levels[height - 1].count <= whole_level) --height;
    cover(levels[height], gaps);
    if (height == 0 && most_within(levels.front(), limit)) return false;
    start_at(levels[height]);
    descend(levels[height], limit);
    while (height > 0) {
        groups_.swap(found_.nodes);
        cover(levels[--height], gaps);
        descend(levels[height], limit);
    }
    if (filter) keep_live(*filter);
    return std::ssize(found_.nodes) * kMostSurviving <= (filter ? std::ssize(filter->blocks) : part.count());
}

// By a sample: a query that no bound can help should not pay for all of them.
bool Bounds::most_within(const Level& level, int limit) {
    if (level.count < 64 * kBoundsSampled) return false;
    start_at(level, kBoundsSampled);
    const int64_t asked = std::ssize(groups_) * 64;
    descend(level, limit);
    return std::ssize(found_.nodes) * kMostSurviving > asked;
}

// All groups of nodes of a level, or every step-th.
void Bounds::start_at(const Level& level, int64_t step) {
    groups_.clear();
    for (int64_t group = 0; group < (level.count + 63) / 64; group += step)
        groups_.push_back(static_cast<int32_t>(group));
}

// What the covers of a level lose at least.
void Bounds::cover(const Level& level, const Gaps& gaps) {
    num_splits_ = gaps.tables().num_splits;
    kernels().least_in_covers(gaps.tables().gaps, level.covers.data(), num_splits_, least_.data(), nibbles_.data());
}

// The nodes of these groups that lose at most `limit`, and what they lose: as much as the best item below them could
// lose at least.
void Bounds::descend(const Level& level, int limit) {
    sums_.resize(groups_.size() * 64);
    masks_.resize(std::max(masks_.size(), groups_.size()));
    const bool all = std::ssize(groups_) == (level.count + 63) / 64;
    kernels().sums({level.codes, all ? nullptr : groups_.data(), std::ssize(groups_), std::ssize(groups_)},
                   {least_.data(), nibbles_.data(), num_splits_}, static_cast<uint8_t>(limit), masks_.data(),
                   sums_.data());
    found_.nodes.resize(groups_.size() * 64);
    found_.sums.resize(groups_.size() * 64);
    int32_t* node = found_.nodes.data();
    uint8_t* sum = found_.sums.data();
    for (size_t g = 0; g < groups_.size(); ++g) {
        uint64_t mask = masks_[g];
        if (const int64_t left = level.count - groups_[g] * int64_t{64}; left < 64) mask &= (uint64_t{1} << left) - 1;
        for (; mask; mask &= mask - 1) {
            const int i = std::countr_zero(mask);
            *node++ = groups_[g] * 64 + i;
            *sum++ = sums_[g * 64 + i];
        }
    }
    found_.nodes.resize(static_cast<size_t>(node - found_.nodes.data()));
    found_.sums.resize(found_.nodes.size());
}

// Keeps the `wanted` best of what was found, or more where the last is tied, but at most `most`.
void Bounds::keep_best(int64_t wanted, int64_t most) {
    int64_t histogram[256] = {};
    for (const uint8_t sum : found_.sums) ++histogram[sum];
    int limit = 0;
    for (int64_t seen = histogram[0]; seen < wanted && limit < 255;) seen += histogram[++limit];
    int64_t kept = 0;
    for (size_t n = 0; n < found_.nodes.size() && kept < most; ++n)
        if (found_.sums[n] <= limit) {
            found_.nodes[kept] = found_.nodes[n];
            found_.sums[kept++] = found_.sums[n];
        }
    found_.nodes.resize(static_cast<size_t>(kept));
    found_.sums.resize(static_cast<size_t>(kept));
}

void Bounds::keep_live(const SlotFilter::Part& filter) {
    size_t kept = 0;
    for (size_t n = 0; n < found_.nodes.size(); ++n) {
        if (!filter.live[found_.nodes[n]]) continue;
        found_.nodes[kept] = found_.nodes[n];
        found_.sums[kept++] = found_.sums[n];
    }
    found_.nodes.resize(kept);
    found_.sums.resize(kept);
}

}  // namespace everyitem
