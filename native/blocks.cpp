#include "blocks.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>

#include "dispatch.h"
#include "parallel.h"

namespace everyitem {
namespace {

constexpr int64_t kChunk = 256;                // blocks between two looks at the threshold and the clock
constexpr int64_t kCached = int64_t{1} << 24;  // bytes
constexpr int64_t kSampleEvery = 256;          // of so many blocks ...
constexpr int64_t kSampled = 4;                // ... so many tell a first threshold
constexpr int64_t kMostSamples = 1 << 13;
constexpr int64_t kBoundsSampled = 16;  // one group of 64 bounds in so many tells whether the others pay
constexpr int64_t kMostPruned = 512;    // results asked for, beyond which nearly all blocks survive
constexpr int64_t kWorthListing = 256;  // where one item in so many is allowed, looking at the others costs more
constexpr int64_t kSeedNodes = 8;
constexpr int64_t kSeedBlocks = 16;
constexpr int64_t kMostSurviving = 3;  // where more than one block in three survives, reading all in order is faster

const float* fill_table(const PQ& index, const float* query, std::vector<float>& table) {
    const auto& [values, num_splits, split_dim, num_sub_items] = index.codebooks;
    table.assign(static_cast<size_t>(num_splits) * kStride, kNothing);
    kernels().score_table(query, values, num_splits, split_dim, num_sub_items, kStride, table.data());
    return table.data();
}

}  // namespace

BlockSearch::BlockSearch(const PQ& index, const Request& request, int64_t row, Work& work)
    : index_(index),
      request_(request),
      work_(work),
      filter_(request.filter(row)),
      gaps_(fill_table(index, request.query(row), work.table), index.codebooks.num_splits,
            index.codebooks.num_sub_items),
      best_(request.k, filter_) {}

void BlockSearch::run(bool prune) {
    if (request_.expired()) return stop(gaps_.top());
    const bool by_bounds = prune && !index_.parts.front().levels.empty();
    gaps_.quantise_gap(gaps_.mean_gap());
    if (by_bounds)
        seed_by_bounds(index_.parts.front());
    else
        seed_by_sampling();
    if (by_bounds && best_.threshold() == kNothing) seed_by_sampling();
    floor_ = best_.threshold();
    best_.clear();  // what was found, and what was dropped, is met again
    unseen_ = kNothing;
    gaps_.quantise(floor_);
    for (const Blocks& part : index_.parts)
        if (prune && !part.levels.empty())
            this->prune(part);
        else
            scan(part);
}

void BlockSearch::run_planned() {
    if (request_.expired()) return stop(gaps_.top());
    if (filter_.allow && few_allowed()) return score_allowed();
    run(request_.k <= kMostPruned);
}

bool BlockSearch::few_allowed() const {
    constexpr int64_t kBytes = 4096;
    const int64_t bytes = (index_.num_items + 7) / 8, most = index_.num_items / kWorthListing;
    int64_t allowed = 0;
    for (int64_t first = 0; first < bytes && allowed <= most; first += kBytes)
        allowed += kernels().count_bits(filter_.allow + first, std::min(kBytes, bytes - first));
    return allowed <= most;
}

// Where few items are allowed, each of them is scored by itself.
void BlockSearch::score_allowed() {
    const int num_splits = index_.codebooks.num_splits;
    const auto score_one = [&](const Codes& run, int64_t i) {
        const auto position = static_cast<int32_t>(run.first + i);
        if (!bit_is_set(filter_.allow, position)) return;
        const uint8_t* code = run.rows_IM + i * num_splits;
        float score = work_.table[code[0]];
        for (int m = 1; m < num_splits; ++m) score += work_.table[m * kStride + code[m]];
        ++scored_;
        best_.offer(score, position);
    };
    for (const Codes& run : index_.runs)
        for (int64_t i = 0; i < run.count;) {
            const int64_t position = run.first + i;
            uint64_t word = 0;
            if (position % 64 == 0 && i + 64 <= run.count) {
                std::memcpy(&word, filter_.allow + position / 8, 8);
                if (word == 0) {
                    i += 64;
                    continue;
                }
            }
            score_one(run, i++);
            if (i % (1 << 15) == 0 && request_.expired()) return stop(gaps_.top());
        }
}

// A threshold from a few blocks all over the catalogue.
void BlockSearch::seed_by_sampling() {
    for (const Blocks& part : index_.parts) {
        const int64_t groups = std::min(part.count() / kSampleEvery, kMostSamples);
        for (int64_t g = 0; g < groups && !stopped_; ++g) find(part, nullptr, part.count() / groups * g, kSampled, 0);
    }
}

void BlockSearch::scan(const Blocks& part) {
    // from memory it pays to ask early, from a cache it only costs
    const bool beyond_cache = part.count() * 64 * index_.codebooks.num_splits > kCached;
    int64_t chunk = kSampled;  // until a threshold is known, every item is a candidate
    for (int64_t first = 0; first < part.count() && !stopped_;) {
        const int64_t count = std::min(chunk, part.count() - first);
        find(part, nullptr, first, count, beyond_cache ? part.count() - first : 0);
        first += count;
        chunk = std::min(2 * chunk, kChunk);
        // bytes that only tell apart what no longer matters are spent anew
        if (gaps_.cut(threshold()) < kLargestCut / 2) gaps_.quantise(threshold());
        if (first < part.count() && request_.expired()) stop(gaps_.top());
    }
}

// The nodes of the level below work_.nodes (groups of 64) that lose at most `limit`, and what they lose: as much as the
// best item below them could lose at least.
void BlockSearch::bound(const Level& level, int limit) {
    const int num_splits = index_.codebooks.num_splits;
    kernels().least_in_covers(gaps_.tables().gaps, level.covers.data(), num_splits, work_.least.data(),
                              work_.nibbles.data());
    const std::vector<int32_t>& groups = work_.nodes;
    work_.sums.resize(groups.size() * 64);
    work_.masks.resize(std::max(work_.masks.size(), groups.size()));
    const bool all = std::ssize(groups) == (level.count + 63) / 64;
    kernels().sums({level.codes, all ? nullptr : groups.data(), std::ssize(groups), std::ssize(groups)},
                   {work_.least.data(), work_.nibbles.data(), num_splits}, static_cast<uint8_t>(limit),
                   work_.masks.data(), work_.sums.data());
    work_.found.resize(groups.size() * 64);
    work_.bounds.resize(groups.size() * 64);
    int32_t* node = work_.found.data();
    uint8_t* bound = work_.bounds.data();
    for (size_t g = 0; g < groups.size(); ++g) {
        uint64_t mask = work_.masks[g];
        if (const int64_t left = level.count - groups[g] * int64_t{64}; left < 64) mask &= (uint64_t{1} << left) - 1;
        for (; mask; mask &= mask - 1) {
            const int i = std::countr_zero(mask);
            *node++ = groups[g] * 64 + i;
            *bound++ = work_.sums[g * 64 + i];
        }
    }
    work_.found.resize(static_cast<size_t>(node - work_.found.data()));
    work_.bounds.resize(work_.found.size());
}

// Keeps the `wanted` best of what was found, or more where the last is tied, but at most `most`.
void BlockSearch::keep_best(int64_t wanted, int64_t most) {
    int64_t histogram[256] = {};
    for (const uint8_t bound : work_.bounds) ++histogram[bound];
    int limit = 0;
    for (int64_t seen = histogram[0]; seen < wanted && limit < 255;) seen += histogram[++limit];
    int64_t kept = 0;
    for (size_t n = 0; n < work_.found.size() && kept < most; ++n)
        if (work_.bounds[n] <= limit) work_.found[kept++] = work_.found[n];
    work_.found.resize(static_cast<size_t>(kept));
}

// Descends to the most promising blocks, through the most promising nodes, for a first threshold.
void BlockSearch::seed_by_bounds(const Blocks& part) {
    const auto& levels = part.levels;
    const int64_t wanted = std::max<int64_t>(kSeedBlocks, 4 * request_.k / 64);
    start_at(levels.back());
    for (auto height = std::ssize(levels) - 1; height >= 0; --height) {
        bound(levels[height], kLargestCut);
        height ? keep_best(kSeedNodes, 2 * kSeedNodes) : keep_best(wanted, 3 * wanted);
        work_.nodes.swap(work_.found);
    }
    const std::vector<int32_t>& blocks = work_.nodes;
    for (int64_t n = 0; n < std::ssize(blocks); ++n) find(part, blocks.data() + n, 0, 1, std::ssize(blocks) - n);
}

// All groups of nodes of a level, or every step-th.
void BlockSearch::start_at(const Level& level, int64_t step) {
    work_.nodes.clear();
    for (int64_t group = 0; group < (level.count + 63) / 64; group += step)
        work_.nodes.push_back(static_cast<int32_t>(group));
}

// The blocks that could hold an item worth having, in storage order, with their bounds.
void BlockSearch::collect(const Blocks& part) {
    const auto& levels = part.levels;
    auto height = std::ssize(levels) - 1;
    while (height > 0 && levels[height - 1].count <= index_.whole_level) --height;
    start_at(levels[height]);
    const int limit = cut();
    for (; height >= 0; --height) {
        bound(levels[height], limit);
        if (height) work_.nodes.swap(work_.found);
    }
}

// By a sample: so that a query that no bound can help does not pay for all of them.
bool BlockSearch::most_survive(const Blocks& part) {
    const Level& level = part.levels.front();
    if (level.count < 64 * kBoundsSampled || level.count > index_.whole_level) return false;
    start_at(level, kBoundsSampled);
    const int64_t asked = std::ssize(work_.nodes) * 64;
    bound(level, cut());
    return std::ssize(work_.found) * kMostSurviving > asked;
}

void BlockSearch::prune(const Blocks& part) {
    if (most_survive(part)) return scan(part);
    collect(part);
    if (std::ssize(work_.found) * kMostSurviving > part.count())
        scan(part);
    else
        visit_best_first(part);
}

void BlockSearch::visit_best_first(const Blocks& part) {
    constexpr int64_t kTogether = 32;
    const std::vector<uint8_t>& bounds = work_.bounds;
    int64_t places[257] = {};
    for (const uint8_t bound : bounds) ++places[bound + 1];
    std::partial_sum(places, places + 257, places);
    std::vector<int32_t>& sorted = work_.sorted;
    sorted.resize(bounds.size());
    int64_t next[256];
    std::copy_n(places, 256, next);
    for (size_t n = 0; n < bounds.size(); ++n) sorted[next[bounds[n]]++] = work_.found[n];

    const auto bound_at = [&](int64_t n) {
        return static_cast<int>(std::upper_bound(places, places + 257, n) - places) - 1;
    };
    int64_t end = places[cut() + 1];
    for (int64_t n = 0; n < end && !stopped_; end = places[cut() + 1]) {
        const int64_t count = std::min(kTogether, end - n);
        find(part, sorted.data() + n, 0, count, end - n);
        n += count;
        if (n < end && request_.expired()) stop(gaps_.bound(bound_at(n)));
    }
}

// Whoever has a larger byte sum is dropped: proven not to matter, unless only a share of the gap is looked at.
int BlockSearch::cut() {
    const int limit = static_cast<int>(gaps_.cut(threshold()) * request_.gap_factor);
    if (request_.gap_factor < 1) unseen_ = std::max(unseen_, gaps_.bound(limit + 1));
    return limit;
}

void BlockSearch::find(const Blocks& part, const int32_t* chosen, int64_t first, int64_t count, int64_t known) {
    const int limit = cut();
    work_.masks.resize(std::max(work_.masks.size(), static_cast<size_t>(count)));
    const int64_t size = int64_t{64} * index_.codebooks.num_splits;
    kernels().find({part.codes + first * size, chosen, count, known}, gaps_.tables(), static_cast<uint8_t>(limit),
                   work_.masks.data());
    for (int64_t n = 0; n < count; ++n) {
        if (!work_.masks[n]) continue;
        const int64_t block = chosen ? chosen[n] : first + n;
        rescore(part, block, work_.masks[n] & part.valid(block));
    }
}

void BlockSearch::rescore(const Blocks& part, int64_t block, uint64_t mask) {
    const int num_splits = index_.codebooks.num_splits;
    const uint8_t* codes = part.codes + block * 64 * num_splits;
    for (; mask; mask &= mask - 1) {
        const int i = std::countr_zero(mask);
        const int32_t position = part.position(block * 64 + i);
        // a file that changes under its map must not lead outside the filters' bits
        if (static_cast<uint32_t>(position) >= index_.num_items) continue;
        // asked first, as a filter can leave one candidate in a hundred
        if (filter_.allow && !bit_is_set(filter_.allow, position)) continue;
        ++scored_;
        float score = work_.table[codes[i]];
        for (int m = 1; m < num_splits; ++m) score += work_.table[m * kStride + codes[m * 64 + i]];
        if (score >= threshold()) best_.offer(score, position);
    }
}

void BlockSearch::stop(float bound) {
    stopped_ = true;
    unseen_ = std::max(unseen_, bound);
}

void BlockSearch::write(int64_t row, Answer answer) {
    answer.bound_U[row] = std::max(best_.threshold(), unseen_);
    answer.scored_U[row] = scored_;
    best_.write(answer.items_UK + row * request_.k, answer.scores_UK + row * request_.k);
}

namespace {

template <class Run>
void each_row(const PQ& index, const Request& request, Answer answer, Run run) {
    for_each(request.num_rows, request.threads, [&](int64_t row) {
        thread_local Work work;
        BlockSearch search(index, request, row, work);
        run(search);
        search.write(row, answer);
    });
}

}  // namespace

void bounded_scan(const PQ& index, const Request& request, Answer answer) {
    each_row(index, request, answer, [](BlockSearch& search) { search.run(false); });
}
void block_prune(const PQ& index, const Request& request, Answer answer) {
    each_row(index, request, answer, [](BlockSearch& search) { search.run(true); });
}
void planned(const PQ& index, const Request& request, Answer answer) {
    // one byte at a time is slower than one float at a time: 10 ns per item at M = 8 where PQTopK takes 1.4
    if (&kernels() == &scalar_kernels) return scan_pq(index, request, answer);
    each_row(index, request, answer, [](BlockSearch& search) { search.run_planned(); });
}

}  // namespace everyitem
