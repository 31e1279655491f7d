#include "arrange.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <thread>
#include <tuple>

#include "parallel.h"

namespace everyitem {
namespace {

constexpr int kBlock = 64;
constexpr int64_t kShard = int64_t{1} << 24;  // items ordered together: bounds the memory of a build
constexpr int64_t kCounted = 100'000;         // items whose codes are counted to choose a cut
constexpr int64_t kWorthAThread = int64_t{1} << 14;

// Rows of one shard: an item's position, then its codes. Partitioning moves whole rows, so every pass is sequential.
class Shard {
  public:
    Shard(const uint8_t* codes_IM, int64_t first, int64_t count, const uint8_t* recode, const Samples& samples)
        : samples_(samples), size_(4 + samples.num_splits), rows_(count * size_), other_(count * size_) {
        for (int64_t i = 0; i < count; ++i) {
            const auto position = static_cast<int32_t>(first + i);
            std::memcpy(rows_.data() + i * size_, &position, 4);
            const uint8_t* codes = codes_IM + (first + i) * samples.num_splits;
            for (int m = 0; m < samples.num_splits; ++m) rows_[i * size_ + 4 + m] = recode[m * 256 + codes[m]];
        }
    }

    void order(int threads, int32_t* positions) {
        bisect(rows_.data(), other_.data(), std::ssize(rows_) / size_, threads, positions);
    }

  private:
    struct Cut {
        int split = -1;
        int code = 0;
        float gain = -1;
    };

    void bisect(uint8_t* rows, uint8_t* other, int64_t count, int threads, int32_t* positions) {
        if (count <= kBlock) {
            for (int64_t i = 0; i < count; ++i) std::memcpy(positions + i, rows + i * size_, 4);
            return;
        }
        const int64_t left = (count + kBlock - 1) / kBlock / 2 * kBlock;
        const Cut cut = best_cut(rows, count, left);
        if (cut.split < 0)  // all alike
            std::memcpy(other, rows, static_cast<size_t>(count * size_));
        else
            partition(rows, other, count, left, cut.split);
        std::jthread helper;
        if (threads > 1 && count > kWorthAThread) {
            helper = std::jthread([=, this] { bisect(other, rows, left, threads / 2, positions); });
            threads -= threads / 2;
        } else {
            bisect(other, rows, left, 1, positions);
        }
        bisect(other + left * size_, rows + left * size_, count - left, threads, positions + left);
    }

    // The cut of one split that lowers the samples' bounds most, both halves weighed by their items.
    Cut best_cut(const uint8_t* rows, int64_t count, int64_t left) const {
        const int num_splits = samples_.num_splits;
        std::vector<int32_t> histogram(static_cast<size_t>(num_splits) * 256);
        const int64_t step = count > 2 * kCounted ? count / kCounted : 1;
        int64_t counted = 0;
        for (int64_t i = 0; i < count; i += step, ++counted)
            for (int m = 0; m < num_splits; ++m) ++histogram[m * 256 + rows[i * size_ + 4 + m]];
        const double share = static_cast<double>(left) / static_cast<double>(count);
        Cut best;
        for (int m = 0; m < num_splits; ++m) {
            const int32_t* codes = histogram.data() + m * 256;
            int first = 0, last = 255;
            while (!codes[first]) ++first;
            while (!codes[last]) --last;
            if (first == last) continue;
            const auto target = static_cast<int64_t>(share * static_cast<double>(counted));
            int code = first;
            int64_t seen = codes[first];
            while (seen < target) seen += codes[++code];
            const bool clean = seen == target;
            const float gain = gain_of(m, first, code, clean ? code + 1 : code, last, static_cast<float>(share));
            if (gain > best.gain) best = {m, code, gain};
        }
        return best;
    }

    float gain_of(int split, int first, int left_last, int right_first, int last, float share) const {
        const int count = samples_.count;
        const float* table = samples_.tables + static_cast<size_t>(split) * 256 * count;
        thread_local std::vector<float> left, right;
        largest(table, first, left_last, left);
        largest(table, std::min(right_first, last), last, right);
        float gain = 0;
        for (int s = 0; s < count; ++s) {
            const float both = std::max(left[s], right[s]);
            gain += share * (both - left[s]) + (1 - share) * (both - right[s]);
        }
        return gain;
    }

    void largest(const float* table, int first, int last, std::vector<float>& out) const {
        const int count = samples_.count;
        out.assign(table + first * count, table + (first + 1) * count);
        for (int b = first + 1; b <= last; ++b)
            for (int s = 0; s < count; ++s) out[s] = std::max(out[s], table[b * count + s]);
    }

    // Exactly `left` rows to the left, smaller codes first; rows of one code stay in their order.
    void partition(const uint8_t* rows, uint8_t* other, int64_t count, int64_t left, int split) const {
        int64_t histogram[256] = {};
        for (int64_t i = 0; i < count; ++i) ++histogram[rows[i * size_ + 4 + split]];
        int code = 0;
        int64_t below = 0;
        while (below + histogram[code] <= left && code < 255) below += histogram[code++];
        int64_t equal_left = left - below;
        uint8_t *to_left = other, *to_right = other + left * size_;
        for (const uint8_t* row = rows; count > 0; --count, row += size_) {
            const int own = row[4 + split];
            uint8_t*& to = own < code || (own == code && equal_left-- > 0) ? to_left : to_right;
            std::memcpy(to, row, static_cast<size_t>(size_));
            to += size_;
        }
    }

    const Samples& samples_;
    int64_t size_;
    std::vector<uint8_t> rows_, other_;
};

// Chooses the covers of one split: frequent ranges, merged greedily while the samples' bounds suffer least.
class Library {
  public:
    Library(const Ranges& ranges, const Samples& samples, int split)
        : ranges_(ranges), samples_(samples), split_(split), cost_(256 * 256), chosen_of_(256 * 256, -1) {
        find_costs();
        collect();
        while (std::ssize(covers_) > kCovers - 1) merge_cheapest();
        covers_.push_back({0, 255, 0, 0, 0});
        // ascending in length, as the search asks them, and neighbours alike, for CPUs that ask 16 at once
        std::sort(covers_.begin(), covers_.end(), [](const Cover& a, const Cover& b) {
            return std::tuple(a.length(), a.low, a.high) < std::tuple(b.length(), b.low, b.high);
        });
    }

    // The library, its last cover (every code) repeated where there are fewer than 256.
    void write(uint8_t* low, uint8_t* high) const {
        for (int c = 0; c < kCovers; ++c) {
            const Cover& cover = covers_[std::min<int64_t>(c, std::ssize(covers_) - 1)];
            low[c] = static_cast<uint8_t>(cover.low);
            high[c] = static_cast<uint8_t>(cover.high);
        }
    }

    // The cheapest cover of a range.
    uint8_t choose(int low, int high) {
        int16_t& known = chosen_of_[low * 256 + high];
        if (known >= 0) return static_cast<uint8_t>(known);
        float least = std::numeric_limits<float>::infinity();
        for (int c = 0; c < std::ssize(covers_); ++c) {
            const Cover& cover = covers_[c];
            const float cost = cost_[cover.low * 256 + cover.high];
            if (cover.low <= low && high <= cover.high && cost < least) least = cost, known = static_cast<int16_t>(c);
        }
        return static_cast<uint8_t>(known);
    }

  private:
    static constexpr int kCovers = 256;
    static constexpr int64_t kMostRanges = 1200;  // merging compares all pairs

    struct Cover {
        int low, high;
        float weight;
        int nearest;  // with which merging costs least
        float price;

        int length() const { return std::bit_width(static_cast<unsigned>(high - low + 1)); }
    };

    // cost[low][high]: the mean over the samples of the best score inside the range.
    void find_costs() {
        const int count = samples_.count;
        const float* table = samples_.tables + static_cast<size_t>(split_) * 256 * count;
        std::vector<float> best(count);
        for (int low = 0; low < 256; ++low) {
            std::copy_n(table + low * count, count, best.begin());
            for (int high = low; high < 256; ++high) {
                float sum = 0;
                for (int s = 0; s < count; ++s) sum += best[s] = std::max(best[s], table[high * count + s]);
                cost_[low * 256 + high] = sum / static_cast<float>(count);
            }
        }
    }

    static Cover widened(int low, int high, int finest) {
        int grid = 1;
        while ((high - low + 1) / grid >= finest) grid *= 2;
        return {low / grid * grid, std::min(255, (high / grid + 1) * grid - 1), 0, 0, 0};
    }

    void collect() {
        std::vector<int32_t> seen(256 * 256);
        for (int64_t n = 0; n < ranges_.count; ++n) {
            const int64_t at = n * samples_.num_splits + split_;
            ++seen[ranges_.low[at] * 256 + ranges_.high[at]];
        }
        for (const int finest : {256, 12, 5, 2}) {  // coarser until there are few enough
            if (finest < 256) {
                std::vector<int32_t> coarser(256 * 256);
                for (int at = 0; at < 256 * 256; ++at) {
                    if (!seen[at]) continue;
                    const Cover cover = widened(at / 256, at % 256, finest);
                    coarser[cover.low * 256 + cover.high] += seen[at];
                }
                seen.swap(coarser);
            }
            if (256 * 256 - std::count(seen.begin(), seen.end(), 0) <= kMostRanges) break;
        }
        for (int at = 0; at < 256 * 256; ++at)
            if (seen[at]) covers_.push_back({at / 256, at % 256, static_cast<float>(seen[at]), -1, 0});
        if (std::ssize(covers_) >= kCovers)
            for (int c = 0; c < std::ssize(covers_); ++c) find_nearest(c);
    }

    float price_of(const Cover& a, const Cover& b) const {
        const float hull = cost_[std::min(a.low, b.low) * 256 + std::max(a.high, b.high)];
        return a.weight * (hull - cost_[a.low * 256 + a.high]) + b.weight * (hull - cost_[b.low * 256 + b.high]);
    }

    void find_nearest(int c) {
        Cover& cover = covers_[c];
        cover.nearest = -1;
        cover.price = std::numeric_limits<float>::infinity();
        for (int other = 0; other < std::ssize(covers_); ++other) {
            if (other == c) continue;
            const float price = price_of(cover, covers_[other]);
            if (cover.nearest < 0 || price < cover.price) cover.price = price, cover.nearest = other;
        }
    }

    void merge_cheapest() {
        const auto cheapest = std::min_element(covers_.begin(), covers_.end(),
                                               [](const Cover& a, const Cover& b) { return a.price < b.price; });
        const int kept = static_cast<int>(cheapest - covers_.begin()), gone = cheapest->nearest;
        covers_[kept].low = std::min(covers_[kept].low, covers_[gone].low);
        covers_[kept].high = std::max(covers_[kept].high, covers_[gone].high);
        covers_[kept].weight += covers_[gone].weight;
        const int last = static_cast<int>(std::ssize(covers_)) - 1;
        covers_[gone] = covers_[last];
        covers_.pop_back();
        const int merged = kept == last ? gone : kept;
        for (int c = 0; c < last; ++c) {
            Cover& cover = covers_[c];
            const bool touched = c == merged || cover.nearest == kept || cover.nearest == gone;
            if (cover.nearest == last) cover.nearest = gone;
            if (touched) {
                find_nearest(c);
            } else if (const float price = price_of(cover, covers_[merged]); price < cover.price) {
                cover.price = price, cover.nearest = merged;
            }
        }
    }

    const Ranges& ranges_;
    const Samples& samples_;
    int split_;
    std::vector<float> cost_;
    std::vector<int16_t> chosen_of_;
    std::vector<Cover> covers_;
};

}  // namespace

void order_items(const uint8_t* codes_IM, int64_t num_items, const uint8_t* recode, const Samples& samples, int threads,
                 int32_t* positions) {
    for (int64_t first = 0; first < num_items; first += kShard) {
        const int64_t count = std::min(kShard, num_items - first);
        Shard(codes_IM, first, count, recode, samples).order(threads, positions + first);
    }
}

void fill_blocks(const uint8_t* codes_IM, const int32_t* positions, const uint8_t* recode, int64_t num_items,
                 int num_splits, uint8_t* blocks) {
    const int64_t slots = (num_items + kBlock - 1) / kBlock * kBlock;
    for (int64_t slot = 0; slot < slots; ++slot) {
        const int64_t real = std::min(slot, num_items - 1);
        const uint8_t* codes = codes_IM + (positions ? positions[real] : real) * num_splits;
        uint8_t* block = blocks + slot / kBlock * kBlock * num_splits + slot % kBlock;
        for (int m = 0; m < num_splits; ++m) block[m * kBlock] = recode[m * 256 + codes[m]];
    }
}

Ranges block_ranges(const uint8_t* blocks, int64_t num_items, int num_splits) {
    const int64_t count = (num_items + kBlock - 1) / kBlock;
    Ranges ranges{std::vector<uint8_t>(count * num_splits), std::vector<uint8_t>(count * num_splits), count};
    for (int64_t row = 0; row < count * num_splits; ++row) {
        const auto [low, high] = std::minmax_element(blocks + row * kBlock, blocks + (row + 1) * kBlock);
        ranges.low[row] = *low;
        ranges.high[row] = *high;
    }
    return ranges;
}

Ranges node_ranges(const Ranges& below, int num_splits) {
    const int64_t count = (below.count + kBlock - 1) / kBlock;
    Ranges ranges{std::vector<uint8_t>(count * num_splits, 255), std::vector<uint8_t>(count * num_splits), count};
    for (int64_t n = 0; n < below.count; ++n)
        for (int m = 0; m < num_splits; ++m) {
            uint8_t &low = ranges.low[n / kBlock * num_splits + m], &high = ranges.high[n / kBlock * num_splits + m];
            low = std::min(low, below.low[n * num_splits + m]);
            high = std::max(high, below.high[n * num_splits + m]);
        }
    return ranges;
}

void cover_ranges(const Ranges& ranges, const Samples& samples, int threads, uint8_t* low, uint8_t* high,
                  uint8_t* codes) {
    const int num_splits = samples.num_splits;
    for_each(num_splits, threads, [&](int64_t m) {
        Library library(ranges, samples, static_cast<int>(m));
        library.write(low + m * 256, high + m * 256);
        const int64_t slots = (ranges.count + kBlock - 1) / kBlock * kBlock;
        for (int64_t slot = 0; slot < slots; ++slot) {
            const int64_t at = std::min(slot, ranges.count - 1) * num_splits + m;
            codes[(slot / kBlock * num_splits + m) * kBlock + slot % kBlock] =
                library.choose(ranges.low[at], ranges.high[at]);
        }
    });
}

Covers covers_of(const uint8_t* low, const uint8_t* high) {
    Covers made{};
    int length = 0;
    for (int c = 0; c < 256; ++c) {
        if (low[c] > high[c]) throw std::invalid_argument("a level's covers must not end before they start");
        const int own = std::min<int>(std::bit_width(static_cast<unsigned>(high[c] - low[c] + 1)) - 1, 7);
        if (own < length) throw std::invalid_argument("a level's covers must ascend in length");
        while (length < own) made.starts[++length] = c;
        made.first[c] = low[c];
        made.second[c] = static_cast<uint8_t>(high[c] + 1 - (1 << own));
    }
    while (length < Covers::kLengths) made.starts[++length] = 256;
    return made;
}

}  // namespace everyitem
