#include "blocks.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <mutex>
#include <span>

#include "dispatch.h"
#include "parallel.h"

namespace everyitem {
namespace {

constexpr int64_t kChunk = 256;                // blocks between two looks at the threshold and the clock
constexpr int64_t kFirstChunk = 16;            // while the first threshold rises
constexpr int64_t kCached = int64_t{1} << 24;  // bytes
constexpr int64_t kSampleEvery = 256;          // of so many blocks ...
constexpr int64_t kSampled = 4;                // ... so many tell a first threshold
constexpr int64_t kMostSamples = 1 << 13;
constexpr int64_t kMostPruned = 512;   // results asked for, beyond which nearly all blocks survive
constexpr int64_t kWorthReading = 8;   // where one block in so many holds an allowed item, bounding all costs more
constexpr int64_t kWorthListing = 64;  // where one item in so many is allowed, looking at the others costs more
constexpr int64_t kSeedBlocks = 16;
constexpr int64_t kWorthAThread = 1 << 13;  // blocks: a thread starts in the time that these take

const float* recode(const PQ& index, const float* table, std::vector<float>& recoded) {
    if (!index.recode) return table;
    recoded.resize(static_cast<size_t>(index.codebooks.num_splits) * kStride);
    for (int at = 0; at < index.codebooks.num_splits * kStride; ++at)
        recoded[at / kStride * kStride + index.recode[at]] = table[at];
    return recoded.data();
}

}  // namespace

BlockSearch::BlockSearch(const PQ& index, const Request& request, int64_t row, Work& work)
    : index_(index),
      request_(request),
      work_(work),
      table_(fill_table(index, request, row, work.table)),
      recoded_(recode(index, table_, work.recoded)),
      filter_(request.filter(row)),
      gaps_(table_, recoded_, index.codebooks.num_splits, index.codebooks.num_sub_items),
      best_(request.k, filter_) {}

// A helper of the same row, which shares what it reaches.
BlockSearch::BlockSearch(const BlockSearch& whole, Work& work, std::atomic<float>& reached)
    : index_(whole.index_),
      request_(whole.request_),
      work_(work),
      table_(whole.table_),
      recoded_(whole.recoded_),
      filter_(whole.filter_),
      gaps_(whole.gaps_),
      best_(request_.k, filter_),
      reached_(&reached),
      floor_(whole.threshold()) {}

bool BlockSearch::prunes(Plan plan) const {
    const Blocks& base = index_.parts.front();
    if (plan == Plan::flat || base.levels.empty()) return false;
    return plan == Plan::pruned ||
           (request_.k <= kMostPruned && (!request_.slots || num_blocks(base) * kWorthReading > base.count()));
}

bool BlockSearch::start(Plan plan, int threads) {
    if (request_.expired()) return stop(gaps_.top()), false;
    if (plan == Plan::best && few_allowed()) return score_allowed(), false;
    const Blocks& base = index_.parts.front();
    const bool by_bounds = prunes(plan);
    seed(by_bounds);
    for (size_t p = 1; p < index_.parts.size(); ++p)
        scan_in_order(index_.parts[p], 0, num_blocks(index_.parts[p]), true);
    if (!by_bounds || !find_promising(base)) return !stopped_;
    visit_best_first(base, threads);
    return false;
}

int64_t BlockSearch::predict() {
    if (few_allowed()) return count_allowed();
    const Blocks& base = index_.parts.front();
    const bool by_bounds = prunes(Plan::best);
    seed(by_bounds);
    int64_t blocks = num_blocks(base);
    if (by_bounds && find_promising(base)) {
        if (!work_.bounds.found_blocks())
            work_.bounds.find_below(base, filter_of(base), work_.ranked.nodes(), gaps_.cut(threshold()));
        blocks = std::ssize(work_.bounds.found().nodes());
    }
    for (size_t p = 1; p < index_.parts.size(); ++p) blocks += num_blocks(index_.parts[p]);
    return std::min(blocks * 64, index_.num_items);
}

void BlockSearch::seed(bool by_bounds) {
    gaps_.quantise_gap(gaps_.mean_gap());
    if (by_bounds) seed_by_bounds(index_.parts.front());
    if (best_.settle() == kNothing) {
        best_.clear();  // a block that was met twice would count twice
        seed_by_sampling();
    }
    floor_ = best_.settle();
    best_.clear();  // what was found, and what was dropped, is met again
    unseen_ = kNothing;
    gaps_.quantise(floor_);
}

void BlockSearch::seed_by_bounds(const Blocks& part) {
    const int64_t seeds = part.count() > index_.whole_level ? 4 * kSeedBlocks : kSeedBlocks;
    work_.bounds.find_best(gaps_, part, filter_of(part), std::max(seeds, 4 * request_.k / 64));
    work_.ranked.rank(work_.bounds.found());  // the best first, so that the others meet a high threshold
    const std::span<const int32_t> blocks = work_.ranked.nodes();
    for (int64_t n = 0; n < std::ssize(blocks); ++n) find(part, blocks.data() + n, 0, 1, std::ssize(blocks) - n);
}

// A threshold from a few blocks all over the catalogue.
void BlockSearch::seed_by_sampling() {
    for (const Blocks& part : index_.parts) {
        const SlotFilter::Part* filter = filter_of(part);
        const int64_t count = num_blocks(part), groups = std::min(count / kSampleEvery, kMostSamples);
        for (int64_t g = 0; g < groups && !stopped_; ++g)
            find(part, filter ? filter->blocks.data() : nullptr, count / groups * g, kSampled, 0);
    }
}

int64_t BlockSearch::count_allowed() const {
    if (request_.slots) return request_.slots->allowed;
    return kernels().count_bits(filter_.allow, (index_.num_items + 7) / 8);
}

bool BlockSearch::few_allowed() const { return filter_.allow && count_allowed() * kWorthListing <= index_.num_items; }

// Where few items are allowed, each of them is scored by itself.
void BlockSearch::score_allowed() {
    constexpr int64_t kListed = 128;  // rows are fetched while the list fills
    const int num_splits = index_.codebooks.num_splits;
    const int64_t bytes = (index_.num_items + 7) / 8;
    int32_t listed[kListed + 64];
    for (const Codes& run : index_.runs) {
        int64_t count = 0;
        for (int64_t word = run.first / 64; word * 64 < run.first + run.count; ++word) {
            uint64_t bits = 0;
            std::memcpy(&bits, filter_.allow + word * 8, static_cast<size_t>(std::min<int64_t>(8, bytes - word * 8)));
            for (; bits; bits &= bits - 1) {
                const int64_t item = word * 64 + std::countr_zero(bits) - run.first;
                if (item < 0 || item >= run.count) continue;
                __builtin_prefetch(run.rows_IM + item * num_splits);
                listed[count++] = static_cast<int32_t>(item);
            }
            if (count < kListed) continue;
            score_listed(run, listed, count);
            count = 0;
            if (request_.expired()) return stop(gaps_.top());
        }
        score_listed(run, listed, count);
    }
}

void BlockSearch::score_listed(const Codes& run, const int32_t* listed, int64_t count) {
    const int num_splits = index_.codebooks.num_splits;
    for (int64_t n = 0; n < count; ++n) {
        const uint8_t* code = run.rows_IM + int64_t{listed[n]} * num_splits;
        float score = table_[code[0]];
        for (int m = 1; m < num_splits; ++m) score += table_[m * kStride + code[m]];
        if (score >= best_.threshold()) best_.offer(score, static_cast<int32_t>(run.first + listed[n]));
    }
    scored_ += count;
}

// Ranks the blocks that survive, or the nodes of 64 above them; false, if so many do that reading all is faster.
bool BlockSearch::find_promising(const Blocks& part) {
    Bounds& bounds = work_.bounds;
    if (!bounds.find_within(gaps_, part, filter_of(part), cut(), index_.whole_level)) return false;
    work_.ranked.rank(bounds.found());
    if (bounds.found_blocks()) return true;
    bounds.cover(part.levels.front(), gaps_);
    return !bounds.most_below(part, filter_of(part), work_.ranked.nodes(), cut());
}

void BlockSearch::scan(int64_t first, int64_t last, int threads, bool fresh) {
    const Blocks& part = index_.parts.front();
    if (first > 0 && !stopped_ && request_.expired()) stop(gaps_.top());
    constexpr int64_t kTaken = 16 * kChunk;
    std::atomic<int64_t> next{first};
    share_out(last - first > kWorthAThread ? threads : 1, [&](BlockSearch& one) {
        const int64_t step = &one == this ? last - first : kTaken;
        for (int64_t n; (n = next.fetch_add(step)) < last && !one.stopped_;)
            one.scan_in_order(part, n, std::min(n + step, last), fresh);
    });
}

void BlockSearch::scan_in_order(const Blocks& part, int64_t first, int64_t last, bool fresh) {
    // from memory it pays to ask early, from a cache it only costs
    const bool beyond_cache = fresh && part.count() * 64 * index_.codebooks.num_splits > kCached;
    const SlotFilter::Part* filter = filter_of(part);
    int64_t chunk = first ? kChunk : kFirstChunk;
    if (threshold() == kNothing) chunk = kSampled;  // until then, every item is a candidate
    while (first < last && !stopped_) {
        const int64_t count = std::min(chunk, last - first);
        find(part, filter ? filter->blocks.data() : nullptr, first, count, beyond_cache ? last - first : 0);
        first += count;
        chunk = std::min(2 * chunk, kChunk);
        // bytes that only tell apart what no longer matters are spent anew
        if (gaps_.cut(threshold()) < kLargestCut / 2) gaps_.quantise(threshold());
        if (first < last && request_.expired()) stop(gaps_.top());
    }
}

void BlockSearch::visit_best_first(const Blocks& part, int threads) {
    const bool blocks = work_.bounds.found_blocks();
    const int64_t enough = blocks ? kWorthAThread : kWorthAThread / 16;
    std::atomic<int64_t> next{0};
    share_out(std::ssize(work_.ranked.nodes()) > enough ? threads : 1, [&](BlockSearch& one) {
        blocks ? one.visit_blocks(part, work_.ranked, next) : one.visit_below(part, work_.ranked, next);
    });
}

void BlockSearch::visit_blocks(const Blocks& part, const Ranked& ranked, std::atomic<int64_t>& next) {
    constexpr int64_t kTogether = 32;
    for (;;) {
        const int64_t n = next.fetch_add(kTogether), end = ranked.count_within(cut());
        if (n >= end) return;
        if (n > 0 && request_.expired()) return stop(gaps_.bound(ranked.sum(n)));
        find(part, ranked.nodes().data(), n, std::min(kTogether, end - n), end - n);
    }
}

// Some nodes at a time, and below them the blocks, so that the next nodes meet a higher threshold.
void BlockSearch::visit_below(const Blocks& part, const Ranked& ranked, std::atomic<int64_t>& next) {
    constexpr int64_t kTogether = 64;
    work_.bounds.cover(part.levels.front(), gaps_);
    for (;;) {
        const int64_t n = next.fetch_add(kTogether);
        const int limit = cut();
        const int64_t end = ranked.count_within(limit);
        if (n >= end) return;
        if (n > 0 && request_.expired()) return stop(gaps_.bound(ranked.sum(n)));
        const auto some =
            ranked.nodes().subspan(static_cast<size_t>(n), static_cast<size_t>(std::min(kTogether, end - n)));
        work_.bounds.find_below(part, filter_of(part), some, limit);
        work_.below.rank(work_.bounds.found());
        std::atomic<int64_t> first{0};
        visit_blocks(part, work_.below, first);
    }
}

// Calls `search` with this, or with one helper per thread, which takes from this what it knows and gives what it finds.
template <class Search>
void BlockSearch::share_out(int threads, Search search) {
    if (threads == 1) return search(*this);
    std::atomic<float> reached{threshold()};
    std::mutex merging;
    for_each(threads, threads, [&](int64_t) {
        Work work;
        BlockSearch one(*this, work, reached);
        search(one);
        const std::lock_guard lock(merging);
        best_.absorb(one.best_);
        scored_ += one.scored_;
        unseen_ = std::max(unseen_, one.unseen_);
        stopped_ |= one.stopped_;
    });
}

// Whoever has a larger byte sum is dropped: proven not to matter, unless only a share of the gap is looked at.
int BlockSearch::cut() {
    const int limit = static_cast<int>(gaps_.cut(threshold()) * request_.gap_factor);
    if (request_.gap_factor < 1) unseen_ = std::max(unseen_, gaps_.bound(limit + 1));
    return limit;
}

// Entries first .. first + count - 1 of the chosen blocks, or of all.
void BlockSearch::find(const Blocks& part, const int32_t* chosen, int64_t first, int64_t count, int64_t known) {
    if (reached_) floor_ = std::max(floor_, reached_->load(std::memory_order_relaxed));
    const int limit = cut();
    work_.hits.resize(std::max(work_.hits.size(), static_cast<size_t>(count)));
    const int64_t size = int64_t{64} * index_.codebooks.num_splits;
    const int64_t found = kernels().find(
        {chosen ? part.codes : part.codes + first * size, chosen ? chosen + first : nullptr, count, known},
        gaps_.tables(), static_cast<uint8_t>(limit), work_.hits.data());
    const SlotFilter::Part* filter = filter_of(part);
    const std::span hits = std::span(work_.hits).first(static_cast<size_t>(found));
    const auto block_of = [&](const Hit& hit) { return chosen ? chosen[first + hit.place] : first + hit.place; };
    if (asks_first() && part.positions)  // all at once: a filter can leave one candidate in a hundred
        for (const Hit& hit : hits)
            __builtin_prefetch(part.positions + block_of(hit) * 64 + std::countr_zero(hit.items));
    for (const Hit& hit : hits) {
        const int64_t block = block_of(hit);
        const uint64_t items = hit.items;
        rescore(part, block, items & (filter ? filter->live[block] : part.valid(block)));
    }
    if (!reached_) return;
    const float own = best_.threshold();
    for (float known = reached_->load(std::memory_order_relaxed); known < own;)
        if (reached_->compare_exchange_weak(known, own, std::memory_order_relaxed)) break;
}

void BlockSearch::rescore(const Blocks& part, int64_t block, uint64_t mask) {
    const int num_splits = index_.codebooks.num_splits;
    const uint8_t* codes = part.codes + block * 64 * num_splits;
    const bool ask_first = asks_first();
    for (; mask; mask &= mask - 1) {
        const int i = std::countr_zero(mask);
        const int64_t slot = block * 64 + i;
        if (ask_first && !allowed(part.position(slot))) continue;
        ++scored_;
        float score = recoded_[codes[i]];
        for (int m = 1; m < num_splits; ++m) score += recoded_[m * kStride + codes[m * 64 + i]];
        if (score < threshold()) continue;
        const int32_t position = part.position(slot);
        if (in_catalogue(position)) best_.offer(score, position);
    }
}

void BlockSearch::stop(float bound) {
    stopped_ = true;
    unseen_ = std::max(unseen_, bound);
}

void BlockSearch::write(int64_t row, Answer answer) {
    answer.bound_U[row] = std::max(best_.settle(), unseen_);
    answer.scored_U[row] = scored_;
    best_.write(answer.items_UK + row * request_.k, answer.scores_UK + row * request_.k);
}

}  // namespace everyitem
