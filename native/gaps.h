// The gap table: what an item loses against the best of every split, in bytes that never overestimate.
//
//   score(i) >= t  implies  sum_m gaps[m][code[i, m]] <= cut(t),   with sums that saturate at 255.
//
// Proof, u = 2^-24, A = sum_m max_b |table[m, b]|: a float32 sum of M terms errs by at most M u A, so an item that
// scores t or more has real gaps that add up to at most (top - t) + 2 M u A. A byte is its gap times the scale, rounded
// down (1 - 8u covers its three roundings), the cut is that sum times the scale, rounded up by 1 + 8u and then down to
// a whole number, which sums of whole numbers do not notice. Only the gaps below the threshold matter, so all eight
// bits are spent on them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "dispatch.h"

namespace everyitem {

inline constexpr int kStride = 256;  // a byte code reads inside its split's table, whatever it is
inline constexpr int kLargestCut = 254;
inline constexpr double kUnit = 0x1p-24;

// Bytes that start on a cache line: registers are loaded from them whole.
class Lines {
  public:
    explicit Lines(size_t bytes) : lines_((bytes + 63) / 64) {}
    uint8_t* data() { return lines_.data()->bytes; }
    const uint8_t* data() const { return lines_.data()->bytes; }

  private:
    struct alignas(64) Line {
        uint8_t bytes[64];
    };
    std::vector<Line> lines_;
};

class Gaps {
  public:
    // Both are (num_splits, kStride), -inf where there is no sub-item: in the order of the rows, where that is beyond
    // num_sub_items, and in that of the blocks.
    Gaps(const float* table, const float* recoded, int num_splits, int num_sub_items)
        : table_(recoded),
          num_splits_(num_splits),
          maxima_(num_splits),
          gaps_(size_t{256} * num_splits),
          nibbles_(size_t{16} * num_splits) {
        double magnitude = 0, range = 0, mean_gap = 0;
        for (int m = 0; m < num_splits; ++m) {
            const Extent extent = kernels().extent(table + m * kStride, num_sub_items);
            maxima_[m] = extent.largest;
            top_ = m ? top_ + extent.largest : extent.largest;
            magnitude += std::max(std::abs(double{extent.largest}), std::abs(double{extent.smallest}));
            range += double{extent.largest} - extent.smallest;
            mean_gap += extent.largest - extent.sum / num_sub_items;
        }
        slack_ = 2 * num_splits * kUnit * magnitude;
        range_ = range;
        mean_gap_ = std::min(mean_gap, range);
    }

    // No item scores more: the best of every split, summed like a score.
    float top() const { return top_; }
    double mean_gap() const { return mean_gap_; }

    // Spend the bytes on items that score at least `threshold`; -inf: on all.
    void quantise(float threshold) {
        quantise_gap(threshold == -std::numeric_limits<float>::infinity() ? range_ : double{top_} - threshold);
    }
    // Spend the bytes on items that lose at most `gap`.
    void quantise_gap(double gap) {
        scale_ = kLargestCut / std::max(gap + slack_, 1e-30);
        kernels().quantise(table_, maxima_.data(), num_splits_, static_cast<float>(scale_ * (1 - 8 * kUnit)),
                           gaps_.data(), nibbles_.data());
    }

    // Items with a larger byte sum score less than `threshold`. With -inf right after quantise(-inf) nothing is larger.
    int cut(float threshold) const {
        const double gap = (double{top_} - threshold + slack_) * scale_ * (1 + 8 * kUnit);
        return gap < kLargestCut ? static_cast<int>(gap) : kLargestCut;
    }

    // No item whose byte sum is `sum` or more scores more than this.
    float bound(int sum) const {
        const double bound = double{top_} + slack_ - sum / scale_ * (1 - 8 * kUnit);
        return std::min(top_, std::nextafter(static_cast<float>(bound), std::numeric_limits<float>::infinity()));
    }

    ByteTables tables() const { return {gaps_.data(), nibbles_.data(), num_splits_}; }

  private:
    const float* table_;
    int num_splits_;
    std::vector<float> maxima_;
    Lines gaps_, nibbles_;
    float top_ = 0;
    double slack_ = 0, range_ = 0, mean_gap_ = 0, scale_ = 1;
};

}  // namespace everyitem
