// Catalogues in which items outside the best score exactly the K-th score or one float32 less, and byte sums stand
// exactly at the cut: where a bound that is off by one, or a tie that falls the wrong way, shows.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "catalogue.h"
#include "draw.h"
#include "families.h"
#include "gaps.h"
#include "oracle.h"

// The finite floats in their order, so that neighbours differ by one.
inline int32_t rank_of(float value) {
    const auto bits = std::bit_cast<int32_t>(value);
    return bits >= 0 ? bits : INT32_MIN - bits;
}
inline float with_rank(int32_t rank) { return std::bit_cast<float>(rank >= 0 ? rank : INT32_MIN - rank); }
inline float stepped(float value, int ulps) { return with_rank(rank_of(value) + ulps); }

class UlpCase {
  public:
    explicit UlpCase(Draw& draw) : draw_(draw), kind_(static_cast<Kind>(draw.pick(4))), splits_(2 + draw.pick(5)) {
        lone_ = draw.pick(splits_);
        for (int m = 0; m < splits_; ++m) draw_split(m);
        for (int n = 320 + draw.pick(200); n > 0; --n) add_filler();
        target_ = draw_target();
        for (int n = 10 + draw.pick(40); n > 0; --n) add_at(stepped(target_, draw.pick(4) ? draw.pick(3) - 1 : 0));
        for (std::vector<float>& row : table_) row.resize(kMost, row[1]);
        shuffle();
    }

    std::unique_ptr<Catalogue> make() const {
        const int sub_items = std::min(kMost, kBase + added_);
        std::vector<float> values;
        for (const std::vector<float>& row : table_) values.insert(values.end(), row.begin(), row.begin() + sub_items);
        auto made = std::make_unique<Catalogue>(draw_, splits_, 1, sub_items, values,
                                                std::vector<float>(static_cast<size_t>(splits_), 1.0f));
        const auto last = codes_.end() - (draw_.one_in(3) ? 70 * splits_ : 0);
        const Bytes front(codes_.begin(), last), tail(last, codes_.end());
        made->add(front, draw_layout(draw_, front, splits_, values, {}));
        if (!tail.empty()) made->add(tail, {});
        made->request.k = draw_k();
        return made;
    }

  private:
    // kLone: a whole gap in one split, so that its byte is the item's. kTop: at most some ulps below the best
    // conceivable score. kDrowned: values that one large offset rounds away, so that gaps and scores tell different
    // stories.
    enum class Kind { kLone, kSpread, kTop, kDrowned };
    static constexpr int kBase = 8, kMost = 256;

    // The first of a split's values is the largest.
    void draw_split(int m) {
        const float offset = kOffsets[draw_.pick(4)];
        std::vector<float> row;
        for (int b = 0; b < kBase; ++b) {
            const auto part = static_cast<float>(draw_.unit());
            if (kind_ == Kind::kLone) row.push_back(m == lone_ ? b ? -.5f - .5f * part : 0 : -part * 0x1p-14f);
            if (kind_ == Kind::kSpread) row.push_back(static_cast<float>(draw_.normal()));
            if (kind_ == Kind::kTop) row.push_back(stepped(offset, -draw_.pick(4)));
            if (kind_ == Kind::kDrowned) row.push_back(m == lone_ ? 0x1p20f : (part - .5f) * .15f);
        }
        std::ranges::sort(row, std::greater());
        table_.push_back(std::move(row));
    }

    float score(const uint8_t* codes) const {
        float sum = table_[0][codes[0]];
        for (int m = 1; m < splits_; ++m) sum += table_[m][codes[m]];
        return sum;
    }

    void add_filler() {
        for (int m = 0; m < splits_; ++m)
            codes_.push_back(
                static_cast<uint8_t>(kind_ == Kind::kLone ? 1 + draw_.pick(kBase - 1) : draw_.pick(kBase)));
    }

    // Among the best of the fillers, or just below the best conceivable score.
    float draw_target() {
        const Bytes best(static_cast<size_t>(splits_), 0);
        const float top = score(best.data());
        if (kind_ == Kind::kTop || kind_ == Kind::kDrowned) return stepped(top, -draw_.pick(3));
        std::vector<float> scores;
        for (size_t i = 0; i < codes_.size(); i += splits_) scores.push_back(score(codes_.data() + i));
        std::ranges::sort(scores, std::greater());
        const float target = scores[draw_.pick(20)];
        if (draw_.coin()) return target;
        double range = 0;  // at a byte's edge: a whole number of steps of the bytes that all items share
        for (const std::vector<float>& row : table_) range += double{row.front()} - row.back();
        const double step = range / everyitem::kLargestCut;
        return static_cast<float>(top - std::ceil((top - target) / step) * step);
    }

    // An item that scores exactly `wanted`, by a sub-item of its own in one split, if there is one.
    void add_at(float wanted) {
        if (kBase + added_ == kMost) return;
        std::vector<uint8_t> codes;
        for (int m = 0; m < splits_; ++m)
            codes.push_back(static_cast<uint8_t>(kind_ == Kind::kLone || draw_.coin() ? 0 : draw_.pick(kBase)));
        const int m = kind_ == Kind::kLone ? lone_ : draw_.pick(splits_);
        const std::optional<float> value = solve(codes, m, wanted);
        if (!value || *value > table_[m][0]) return;  // it must not raise the best conceivable score
        for (int other = 0; other < splits_; ++other) table_[other].push_back(table_[other][1]);
        table_[m].back() = *value;
        codes[m] = static_cast<uint8_t>(kBase + added_++);
        codes_.insert(codes_.end(), codes.begin(), codes.end());
    }

    // The smallest or the largest value of one sub-item with which these codes score `wanted`: a sum never falls when
    // one of its terms grows.
    std::optional<float> solve(const std::vector<uint8_t>& codes, int m, float wanted) {
        const auto with = [&](float value) {
            float sum = m == 0 ? value : table_[0][codes[0]];
            for (int other = 1; other < splits_; ++other) sum += other == m ? value : table_[other][codes[other]];
            return sum;
        };
        const bool smallest = draw_.coin();
        int64_t low = rank_of(-1e30f), high = rank_of(1e30f);
        while (low < high) {
            const int64_t middle = (low + high + !smallest) >> 1;
            const float sum = with(with_rank(static_cast<int32_t>(middle)));
            if (smallest)
                sum >= wanted ? high = middle : low = middle + 1;
            else
                sum <= wanted ? low = middle : high = middle - 1;
        }
        const float found = with_rank(static_cast<int32_t>(low));
        return with(found) == wanted ? std::optional(found) : std::nullopt;
    }

    void shuffle() {
        for (int64_t i = std::ssize(codes_) / splits_ - 1; i > 0; --i)
            std::swap_ranges(codes_.begin() + i * splits_, codes_.begin() + (i + 1) * splits_,
                             codes_.begin() + draw_.below(i) * splits_);
    }

    // So that the K-th best scores the target or its neighbour, and K ends anywhere among those that tie.
    int64_t draw_k() const {
        const float wanted = stepped(target_, draw_.pick(4) ? 0 : draw_.pick(3) - 1);
        int64_t above = 0, tied = 0;
        for (size_t i = 0; i < codes_.size(); i += splits_) {
            const float own = score(codes_.data() + i);
            above += own > wanted, tied += own == wanted;
        }
        return above + 1 + draw_.below(std::max<int64_t>(tied, 1));
    }

    static constexpr float kOffsets[] = {1, -3, 1e-3f, 4e-39f};

    Draw& draw_;
    Kind kind_;
    int splits_, lone_ = 0, added_ = 0;
    float target_ = 0;
    std::vector<std::vector<float>> table_;
    Bytes codes_;
};

// Blocks by the hundred, of which some hold one item that scores the target, or one ulp beside it, and one that scores
// far less. So a search starts with a low threshold, comes to the high one on its way from block to block, and then has
// blocks before it whose bound is the cut.
inline std::unique_ptr<Catalogue> many_blocks(Draw& draw) {
    enum { kTop, kGood, kMiddle = kGood + 3, kPoor, kSubItems = kPoor + 4 };
    const auto target = static_cast<float>(-.5 - .1 * draw.unit());
    std::vector<float> values(2 * kSubItems);
    for (int b = 0; b < 3; ++b) values[kGood + b] = stepped(target, b - 1);
    values[kMiddle] = -.7f;
    for (int b = kPoor; b < kSubItems; ++b) values[b] = static_cast<float>(-.9 - .1 * draw.unit());
    auto made = std::make_unique<Catalogue>(draw, 2, 1, kSubItems, values, std::vector<float>{1, 1});
    const int blocks = 320 + draw.pick(100), good = 60 + draw.pick(40);
    Bytes codes;
    for (int i = 0; i < blocks * 64; ++i) {
        codes.push_back(static_cast<uint8_t>(kPoor + draw.pick(4)));
        codes.push_back(static_cast<uint8_t>(draw.pick(kSubItems)));
    }
    for (int n = 0; n < good; ++n) {
        const int64_t block = (n * blocks / good) * int64_t{64};
        codes[2 * (block + draw.pick(32))] = static_cast<uint8_t>(kGood + draw.pick(3));
        codes[2 * (block + 32 + draw.pick(32))] = kMiddle;
    }
    made->add(codes, {.heights = 1 + draw.pick(3)});
    made->request.k = 33 + draw.pick(good - 33);
    return made;
}

// A score whose byte is beyond a cut that is rounded down, in a split from `top` to -top, by the bytes of a search that
// has no threshold yet; 0 where none was met.
inline float beyond_rounded_down(float top, int byte) {
    constexpr double kUnit = everyitem::kUnit;
    const double slack = 2 * kUnit * top, scale = everyitem::kLargestCut / (2.0 * top + slack);
    std::vector<float> table(everyitem::kStride);
    const auto middle = static_cast<float>(top - byte * (1 + 6 * kUnit) / scale);
    for (int b = 0; b < everyitem::kStride; ++b) table[b] = stepped(middle, b - everyitem::kStride / 2);
    table[0] = top, table[1] = -top;
    everyitem::Gaps gaps(table.data(), table.data(), 1, everyitem::kStride);
    gaps.quantise(everyitem::kNothing);
    for (int b = 2; b < everyitem::kStride; ++b)
        if (gaps.tables().gaps[b] == byte && (top - table[b] + slack) * scale * (1 - 8 * kUnit) < byte) return table[b];
    return 0;
}

// One split, and the best item twice: first in the order of the slots, and last, where it has the smaller position.
inline std::unique_ptr<Catalogue> rounded_cut(Draw& draw) {
    float top = 0, best = 0;
    while (best == 0) {
        top = static_cast<float>(.5 + draw.unit());
        best = beyond_rounded_down(top, everyitem::kLargestCut - 1 - draw.pick(8));
    }
    auto made = std::make_unique<Catalogue>(draw, 1, 1, 3, std::vector<float>{top, -top, best}, std::vector<float>{1});
    Bytes codes(512, 1);
    codes.front() = codes.back() = 2;
    std::vector<int32_t> positions(codes.size());
    std::iota(positions.rbegin(), positions.rend(), 0);
    made->add(codes, {.positions = positions});
    made->request.k = 1;
    return made;
}

// How often what the cases are made for has come about.
struct UlpCounts {
    int tied = 0, below = 0, above = 0, at_top = 0, at_cut = 0;

    void count(const Catalogue& asked, const Oracle& oracle) {
        const auto& best = oracle.eligible;
        const int64_t k = asked.request.k;
        if (k > std::ssize(best)) return;
        const float last = best[k - 1].score;
        const auto outside = [&](float score) {
            return std::any_of(best.begin() + k, best.end(), [=](const Scored& one) { return one.score == score; });
        };
        tied += outside(last), below += outside(stepped(last, -1));
        above += std::any_of(best.begin(), best.begin() + k,
                             [=](const Scored& one) { return one.score == stepped(last, 1); });
        count_bytes(asked, oracle, last);
    }

    bool all() const { return tied && below && above && at_top && at_cut; }

  private:
    // By the bytes of a search that has no threshold yet, which it keeps until more than half of them are below the
    // cut.
    void count_bytes(const Catalogue& asked, const Oracle& oracle, float last) {
        const int splits = asked.num_splits, sub_items = asked.num_sub_items;
        std::vector<float> table(static_cast<size_t>(splits) * everyitem::kStride, everyitem::kNothing);
        for (int m = 0; m < splits; ++m)
            std::copy_n(asked.codebooks.data() + m * sub_items, sub_items, table.data() + m * everyitem::kStride);
        everyitem::Gaps gaps(table.data(), table.data(), splits, sub_items);
        gaps.quantise(everyitem::kNothing);
        at_top += rank_of(gaps.top()) - rank_of(last) <= 1;
        const everyitem::Codes& run = asked.index.runs.front();
        for (int64_t i = 0; i < run.count; ++i) {
            int sum = 0;
            for (int m = 0; m < splits; ++m) sum += gaps.tables().gaps[m * 256 + run.rows_IM[i * splits + m]];
            if (oracle.scores[i] != last || sum != gaps.cut(last)) continue;
            ++at_cut;
            return;
        }
    }
};
