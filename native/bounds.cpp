#include "bounds.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "dispatch.h"

namespace everyitem {
namespace {

constexpr int64_t kSampleEvery = 16;  // one group of 64 bounds in so many tells whether the others pay

// Where more than two blocks in three survive, reading all is faster.
bool are_most(int64_t survive, int64_t of) { return 3 * survive > 2 * of; }

}  // namespace

void Promising::find(const Level& level, const int32_t* groups, int64_t num_groups, ByteTables least, int limit) {
    const auto room = static_cast<size_t>(num_groups + 1) * 64;
    if (nodes_.size() < room) nodes_.resize(room), sums_.resize(room);
    count_ = static_cast<size_t>(kernels().nodes({level.codes, groups, num_groups, num_groups}, level.count, least,
                                                 static_cast<uint8_t>(limit), nodes_.data(), sums_.data()));
}

void Ranked::rank(const Promising& found) {
    std::fill_n(ends_, 256, 0);
    for (const uint8_t sum : found.sums()) ++ends_[sum];
    int64_t next[256];
    std::exclusive_scan(ends_, ends_ + 256, next, int64_t{0});
    std::partial_sum(ends_, ends_ + 256, ends_);
    nodes_.resize(std::max(nodes_.size(), found.nodes().size()));
    for (size_t n = 0; n < found.nodes().size(); ++n) nodes_[next[found.sums()[n]]++] = found.nodes()[n];
}

int Ranked::sum(int64_t n) const { return static_cast<int>(std::upper_bound(ends_, ends_ + 256, n) - ends_); }

void Bounds::find_best(const Gaps& gaps, const Blocks& part, const SlotFilter::Part* filter, int64_t wanted) {
    const int64_t nodes = wanted / 2;  // of every height
    auto height = std::ssize(part.levels) - 1;
    cover(part.levels[height], gaps);
    find_all(part.levels[height], kLargestCut);
    while (height-- > 0) {
        keep_best(nodes, 2 * nodes);
        descend(part.levels[height], gaps, kLargestCut);
    }
    keep_live(filter);
    keep_best(wanted, 3 * wanted);
}

bool Bounds::find_within(const Gaps& gaps, const Blocks& part, const SlotFilter::Part* filter, int limit,
                         int64_t whole_level) {
    const auto& levels = part.levels;
    height_ = levels.size() > 1 && levels.front().count > whole_level ? 1 : 0;
    auto height = std::ssize(levels) - 1;
    while (height > height_ && levels[height - 1].count <= whole_level) --height;
    cover(levels[height], gaps);
    if (height == 0 && most_within(levels.front(), limit)) return false;
    find_all(levels[height], limit);
    while (height > height_) descend(levels[--height], gaps, limit);
    if (height_ > 0) return true;
    keep_live(filter);
    return !are_most(std::ssize(found_.nodes()), filter ? std::ssize(filter->blocks) : part.count());
}

// By a sample: a query that no bound can help should not pay for all of them.
bool Bounds::most_within(const Level& level, int limit) {
    if (level.count < 64 * kSampleEvery) return false;
    sample_.clear();
    for (int64_t group = 0; group < (level.count + 63) / 64; group += kSampleEvery)
        sample_.push_back(static_cast<int32_t>(group));
    found_.find(level, sample_.data(), std::ssize(sample_), least(), limit);
    return are_most(std::ssize(found_.nodes()), std::ssize(sample_) * 64);
}

bool Bounds::most_below(const Blocks& part, const SlotFilter::Part* filter, std::span<const int32_t> nodes, int limit) {
    if (2 * std::ssize(nodes) < part.levels[1].count) return false;
    sample_.clear();
    for (size_t n = 0; n < nodes.size(); n += kSampleEvery) sample_.push_back(nodes[n]);
    find_below(part, filter, sample_, limit);
    return are_most(std::ssize(found_.nodes()) * kSampleEvery, filter ? std::ssize(filter->blocks) : part.count());
}

void Bounds::find_below(const Blocks& part, const SlotFilter::Part* filter, std::span<const int32_t> nodes, int limit) {
    found_.find(part.levels.front(), nodes.data(), std::ssize(nodes), least(), limit);
    keep_live(filter);
}

void Bounds::cover(const Level& level, const Gaps& gaps) {
    num_splits_ = gaps.tables().num_splits;
    kernels().least_in_covers(gaps.tables().gaps, level.covers.data(), num_splits_, least_.data(), nibbles_.data());
}

void Bounds::find_all(const Level& level, int limit) {
    found_.find(level, nullptr, (level.count + 63) / 64, least(), limit);
}

// From the nodes that were found to those below them.
void Bounds::descend(const Level& level, const Gaps& gaps, int limit) {
    std::swap(above_, found_);
    cover(level, gaps);
    found_.find(level, above_.nodes().data(), std::ssize(above_.nodes()), least(), limit);
}

// Keeps the `wanted` best of what was found, or more where the last is tied, but at most `most`.
void Bounds::keep_best(int64_t wanted, int64_t most) {
    int64_t histogram[256] = {};
    for (const uint8_t sum : found_.sums()) ++histogram[sum];
    int limit = 0;
    for (int64_t seen = histogram[0]; seen < wanted && limit < 255;) seen += histogram[++limit];
    found_.keep([=](int32_t, uint8_t sum) { return sum <= limit; }, static_cast<size_t>(most));
}

void Bounds::keep_live(const SlotFilter::Part* filter) {
    if (filter) found_.keep([=](int32_t block, uint8_t) { return filter->live[block] != 0; });
}

}  // namespace everyitem
