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
    float threshold() const { return full_ ? worst_.score : kNothing; }

    // The score of the k-th best: the threshold once all candidates are in.
    float settle() {
        if (kept_.size() > k_) select();
        return threshold();
    }

    // In any order of positions; each position at most once.
    void offer(float score, int32_t position) {
        const Candidate candidate{score, position};
        if (full_ && !ranks_before(candidate, worst_)) return;
        if (!filter_.passes(position)) return;
        if (k_ <= kFew)
            insert(candidate);
        else
            append(candidate);
    }

    // What another search has found among other positions.
    void absorb(const TopK& other) {
        for (const Candidate& candidate : other.kept_) offer(candidate.score, candidate.position);
    }

    void clear() {
        kept_.clear();
        full_ = false;
    }

    bool contains(int32_t position) const {
        return std::ranges::any_of(kept_, [=](const Candidate& one) { return one.position == position; });
    }

    // Best first into k slots, (-1, -inf) past the last; leaves nothing.
    void write(int32_t* positions, float* scores) {
        std::sort(kept_.begin(), kept_.end(), ranks_before);
        kept_.resize(std::min(kept_.size(), k_));
        for (const Candidate& candidate : kept_) *positions++ = candidate.position, *scores++ = candidate.score;
        std::fill_n(positions, k_ - kept_.size(), -1);
        std::fill_n(scores, k_ - kept_.size(), kNothing);
        clear();
    }

  private:
    static constexpr size_t kFew = 32;

    struct Candidate {
        float score;
        int32_t position;
    };

    static bool ranks_before(const Candidate& a, const Candidate& b) {
        return a.score > b.score || (a.score == b.score && a.position < b.position);
    }

    // Few are kept in order, so that the threshold is always the best known.
    void insert(const Candidate& candidate) {
        kept_.insert(std::upper_bound(kept_.begin(), kept_.end(), candidate, ranks_before), candidate);
        if (kept_.size() < k_) return;
        kept_.resize(k_);
        worst_ = kept_.back();
        full_ = true;
    }

    // Many are selected once as many candidates have come again: a heap of a thousand takes 65 ns per candidate,
    // this 8.
    void append(const Candidate& candidate) {
        kept_.push_back(candidate);
        if (kept_.size() == (full_ ? 2 * k_ : k_)) select();
    }

    void select() {
        const auto last = kept_.begin() + static_cast<std::ptrdiff_t>(k_) - 1;
        std::nth_element(kept_.begin(), last, kept_.end(), ranks_before);
        kept_.resize(k_);
        worst_ = kept_.back();
        full_ = true;
    }

    size_t k_;
    Filter filter_;
    std::vector<Candidate> kept_;  // the k best so far, and candidates that came since they were selected
    Candidate worst_{};            // of those selected
    bool full_ = false;
};

}  // namespace everyitem
