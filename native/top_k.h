// The K best items, in one place: the threshold, the order (score descending, position ascending), and the filters,
// which are asked only about candidates that would enter.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace everyitem {

inline constexpr float kNothing = -std::numeric_limits<float>::infinity();

inline bool bit_is_set(const uint8_t* bits, int32_t position) { return bits[position >> 3] >> (position & 7) & 1; }

struct Filter {
    const uint8_t* allow;              // packed bits, or null: every item
    const uint8_t* removed;            // packed bits, or null: none
    std::span<const int32_t> exclude;  // ascending

    bool passes(int32_t position) const {
        return (!allow || bit_is_set(allow, position)) && (!removed || !bit_is_set(removed, position)) &&
               !std::binary_search(exclude.begin(), exclude.end(), position);
    }
};

class TopK {
  public:
    TopK(int64_t k, Filter filter) : k_(static_cast<size_t>(k)), filter_(filter) {}

    // A score below this cannot enter. A score equal to it still can: its position decides.
    float threshold() const { return full() ? heap_.front().score : kNothing; }

    // In any order of positions; each position at most once.
    void offer(float score, int32_t position) {
        const Candidate candidate{score, position};
        if (full() && !ranks_before(candidate, heap_.front())) return;
        if (!filter_.passes(position)) return;
        if (full()) {
            std::pop_heap(heap_.begin(), heap_.end(), ranks_before);
            heap_.back() = candidate;
        } else {
            heap_.push_back(candidate);
        }
        std::push_heap(heap_.begin(), heap_.end(), ranks_before);
    }

    void clear() { heap_.clear(); }

    bool contains(int32_t position) const {
        return std::ranges::any_of(heap_, [=](const Candidate& one) { return one.position == position; });
    }

    // Best first into k slots, (-1, -inf) past the last; empties the heap.
    void write(int32_t* positions, float* scores) {
        std::sort_heap(heap_.begin(), heap_.end(), ranks_before);
        for (const Candidate& candidate : heap_) *positions++ = candidate.position, *scores++ = candidate.score;
        std::fill_n(positions, k_ - heap_.size(), -1);
        std::fill_n(scores, k_ - heap_.size(), kNothing);
        heap_.clear();
    }

  private:
    struct Candidate {
        float score;
        int32_t position;
    };

    static bool ranks_before(const Candidate& a, const Candidate& b) {
        return a.score > b.score || (a.score == b.score && a.position < b.position);
    }

    bool full() const { return heap_.size() == k_; }

    size_t k_;
    Filter filter_;
    std::vector<Candidate> heap_;  // the worst in front
};

}  // namespace everyitem
