// Random catalogues: kinds of score tables, codes, orders and filters, those that are hard to prune rightly above all.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <numeric>
#include <vector>

#include "catalogue.h"
#include "draw.h"

struct Size {
    int splits, sub_items;
    int64_t items;
};

constexpr int64_t kSampledFrom = 16384;        // items: a search takes a first threshold from a few blocks in 256
constexpr int64_t kBoundsSampledFrom = 65536;  // items: it looks at some bounds first

// Mostly small, at the edges of blocks of 64, and sometimes long enough that a search samples first.
inline Size draw_size(Draw& draw, const Size& most) {
    constexpr int64_t kEdges[] = {0, 1, 2, 63, 64, 65, 127, 128, 129, 255, 256, 257};
    Size size{};
    const int shape = draw.pick(4);
    size.splits = 1 + draw.pick(shape < 2 ? 8 : shape == 2 ? 17 : 64);
    size.sub_items = draw.one_in(4) ? 2 + draw.pick(6) : draw.one_in(4) ? 256 : 2 + draw.pick(255);
    size.items = draw.one_in(4) ? kEdges[draw.pick(12)] : draw.below(400);
    if (draw.one_in(5)) size.items = 400 + draw.below(8000);
    if (draw.one_in(20)) size.items = kSampledFrom / 2 + draw.below(kSampledFrom);
    if (draw.one_in(512)) size.items = kBoundsSampledFrom + draw.below(5000);
    if (size.items > 400) size.splits = 1 + size.splits % 5;
    return {std::min(size.splits, most.splits), std::min(size.sub_items, most.sub_items),
            std::min(size.items, most.items)};
}

// Kinds of what the sub-items of a split may add. kMixed: another kind in every split.
enum class Values { kNormal, kHeavy, kEqual, kFew, kOneHot, kDenormal, kHuge, kUlps, kMixed };
constexpr int kKinds = 8;

inline float draw_value(Draw& draw, Values kind, float centre) {
    switch (kind) {
        case Values::kHeavy:
            return static_cast<float>(draw.normal() * std::exp(4 * draw.normal()));
        case Values::kEqual:
            return centre;
        case Values::kFew:
            return centre * static_cast<float>(draw.pick(5) - 2);
        case Values::kOneHot:
            return 0;
        case Values::kDenormal:
            return std::numeric_limits<float>::denorm_min() * static_cast<float>(draw.pick(2001) - 1000);
        case Values::kHuge:
            return (draw.coin() ? 1e30f : -1e30f) * (draw.coin() ? 1.0f : static_cast<float>(draw.normal()));
        case Values::kUlps:
            return centre + centre * 0x1p-23f * static_cast<float>(draw.pick(7) - 3);
        default:
            return static_cast<float>(draw.normal());
    }
}

// Of every split and, where a query has several values per split, each of these; sub-items last.
inline std::vector<float> draw_values(Draw& draw, int rows, int sub_items) {
    const auto kind = static_cast<Values>(draw.pick(kKinds + 1));
    std::vector<float> values;
    for (int m = 0; m < rows; ++m) {
        const Values own = kind == Values::kMixed ? static_cast<Values>(draw.pick(kKinds)) : kind;
        const auto centre = static_cast<float>(draw.normal());
        for (int b = 0; b < sub_items; ++b) values.push_back(draw_value(draw, own, centre));
        if (own == Values::kOneHot) values[m * sub_items + draw.pick(sub_items)] = centre;
    }
    // an offset that all items share: large beside all gaps, it drowns them; a second one may hide it from the sum
    if (draw.one_in(4)) {
        const auto offset = static_cast<float>(draw.normal() * std::pow(10, draw.pick(9)));
        const int one = draw.pick(rows), other = draw.pick(rows);
        for (int b = 0; b < sub_items; ++b) values[one * sub_items + b] += offset;
        for (int b = 0, hidden = draw.pick(2) * sub_items; b < hidden; ++b) values[other * sub_items + b] -= offset;
    }
    return values;
}

enum class Spread { kUniform, kCorrelated, kSkewed, kTuples, kSorted };

inline Bytes draw_codes(Draw& draw, int64_t count, int splits, int sub_items) {
    const auto spread = static_cast<Spread>(draw.pick(5));
    const int width = 1 + draw.pick(std::max(1, sub_items / 4));
    Bytes tuples, codes;
    for (int i = 0; i < 5 * splits; ++i) tuples.push_back(static_cast<uint8_t>(draw.pick(sub_items)));
    for (int64_t i = 0; i < count; ++i) {
        const int own = spread == Spread::kSorted ? static_cast<int>(i * sub_items / count) : draw.pick(sub_items);
        const int tuple = draw.pick(5) * splits;
        for (int m = 0; m < splits; ++m) {
            int code = own;
            if (spread == Spread::kUniform) code = draw.pick(sub_items);
            if (spread == Spread::kSkewed) code = draw.pick(1 + draw.pick(sub_items));
            if (spread == Spread::kTuples) code = tuples[tuple + m];
            if (spread == Spread::kCorrelated || spread == Spread::kSorted) code += draw.pick(width) - width / 2;
            codes.push_back(static_cast<uint8_t>(std::clamp(code, 0, sub_items - 1)));
        }
    }
    return codes;
}

// The first item gets the largest value of every split: with one value per sub-item none is better.
inline void put_best(const std::vector<float>& values, int sub_items, Bytes& codes) {
    for (int64_t m = 0; m * sub_items < std::ssize(values) && m < std::ssize(codes); ++m) {
        const auto row = values.begin() + m * sub_items;
        codes[m] = static_cast<uint8_t>(std::max_element(row, row + sub_items) - row);
    }
}

// Slots by the values of some key, without those that are to have none.
inline std::vector<int32_t> by_key(const std::vector<double>& keys, const std::vector<bool>& left_out) {
    std::vector<int32_t> positions;
    for (int32_t i = 0; i < std::ssize(keys); ++i)
        if (left_out.empty() || !left_out[i]) positions.push_back(i);
    std::ranges::stable_sort(positions, {}, [&](int32_t i) { return keys[i]; });
    return positions;
}

// `values` of the sub-items, split by split; where there are several per sub-item, the first ones do to sort by.
inline Layout draw_layout(Draw& draw, const Bytes& codes, int splits, const std::vector<float>& values,
                          const std::vector<bool>& left_out) {
    enum { kInOrder, kShuffled, kByCode, kByScore, kOurs };
    Layout layout{.positions = {}, .heights = draw.pick(4), .loose = draw.one_in(4), .ours = false};
    const int order = draw.one_in(32) && splits <= 8 ? kOurs : draw.pick(4);
    const bool in_order = left_out.empty() && order == kInOrder;
    layout.ours = left_out.empty() && order == kOurs;
    if (in_order || layout.ours) return layout;
    const int64_t count = std::ssize(codes) / splits, stride = std::ssize(values) / splits;
    const int m = draw.pick(splits), other = draw.pick(splits);
    std::vector<double> keys(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
        const uint8_t* row = codes.data() + i * splits;
        if (order == kShuffled) keys[i] = draw.unit();
        if (order == kByCode) keys[i] = row[m] * 256 + row[other];
        for (int one = 0; one < splits && order >= kByScore; ++one) keys[i] += values[one * stride + row[one]];
    }
    layout.positions = by_key(keys, left_out);
    return layout;
}

inline bool is_set(const Bytes& bits, int64_t i) { return bits[i / 8] & (1 << i % 8); }

inline Bytes range(int64_t count, int64_t first, int64_t last) {
    Bytes bits(static_cast<size_t>(bytes_for(count)));
    for (int64_t i = first; i < last; ++i) bits[i / 8] |= static_cast<uint8_t>(1 << i % 8);
    return bits;
}

inline Bytes draw_bits(Draw& draw, int64_t count) {
    enum { kNone, kFew, kHalf, kAllButOne, kRange };
    const int share = draw.pick(5);
    Bytes bits(static_cast<size_t>(bytes_for(count)), share == kAllButOne ? 255 : 0);
    for (uint8_t& byte : bits)
        if (share == kHalf || (share == kFew && draw.one_in(8)))
            byte = draw.byte() & (share == kHalf ? 255 : draw.byte());
    if (share == kAllButOne && count) {
        const int64_t gone = draw.below(count);
        bits[gone / 8] ^= static_cast<uint8_t>(1 << gone % 8);
    }
    if (share == kRange && count) {
        const int64_t first = draw.coin() ? 0 : draw.below(count);
        return range(count, first, std::min(count, first + 1 + draw.below(300)));
    }
    return bits;
}

// Of every row, or of all rows at once; empty: everything is allowed.
inline Bytes draw_allow(Draw& draw, int64_t rows, int64_t items) {
    Bytes allow;
    if (draw.coin()) return allow;
    for (int64_t row = 0, own = draw.coin() ? rows : 1; row < own; ++row) {
        const Bytes bits = draw_bits(draw, items);
        allow.insert(allow.end(), bits.begin(), bits.end());
    }
    return allow;
}

inline int64_t draw_k(Draw& draw, int kind, int64_t items, const Bytes& allow) {
    constexpr int64_t kMostPruned = 512;
    if (kind < 4) return 1 + draw.below(12);
    if (kind < 6) return 1 + draw.below(100);
    if (items > 1000 || kind == 6) {
        // about as many as are allowed, if those are few: a heap that is never or just full
        int64_t allowed = 0;
        for (const uint8_t byte : allow) allowed += std::popcount(byte);
        return allowed && allowed < 400 ? 1 + draw.below(allowed + allowed / 2) : 1 + draw.below(400);
    }
    return draw.coin() ? kMostPruned + draw.pick(2) : std::max<int64_t>(1, items + draw.pick(4) - 1);
}

inline std::vector<int32_t> draw_excluded(Draw& draw, int64_t rows, int64_t items) {
    const int64_t many = 1 + draw.pick(6);
    std::vector<int32_t> excluded;
    for (int64_t row = 0; row < rows; ++row) {
        for (int64_t e = 0; e < many; ++e) excluded.push_back(static_cast<int32_t>(draw.below(items + 1)) - 1);
        std::sort(excluded.end() - many, excluded.end());
    }
    return excluded;
}

// A query of ones over codebooks of single values makes a table of exactly these values.
inline std::vector<float> draw_query(Draw& draw, int64_t rows, int splits, int dim) {
    std::vector<float> query;
    for (int64_t n = 0; n < rows * splits * dim; ++n)
        query.push_back(n < splits && dim == 1 ? 1.0f
                                               : static_cast<float>(dim == 1 ? draw.pick(5) - 2 : draw.normal()));
    return query;
}

// What was there when it was arranged, then what was added; filters; K.
inline std::unique_ptr<Catalogue> draw_catalogue(Draw& draw, const Size& most) {
    const auto [splits, sub_items, items] = draw_size(draw, most);
    const int dim = draw.one_in(6) ? 2 + draw.pick(3) : 1;
    const int64_t rows = draw.one_in(4) ? 2 + draw.pick(2) : 1;
    const std::vector<float> values = draw_values(draw, splits * dim, sub_items);
    auto made = std::make_unique<Catalogue>(draw, splits, dim, sub_items, values, draw_query(draw, rows, splits, dim));
    const int64_t tail = draw.coin() ? draw.below(200) : 0, second_tail = draw.one_in(8) ? draw.below(70) : 0;
    const int64_t all = items + tail + second_tail;
    Bytes removed;
    std::vector<bool> left_out;  // removed when the first part was arranged
    if (draw.one_in(3)) removed = draw_bits(draw, all);
    if (!removed.empty() && draw.coin())
        for (int64_t i = 0; i < items; ++i) left_out.push_back(is_set(removed, i));
    const Bytes codes = draw_codes(draw, items, splits, sub_items);
    made->add(codes, draw_layout(draw, codes, splits, values, left_out));
    for (const int64_t count : {tail, second_tail}) {
        if (count == 0 && !draw.one_in(16)) continue;
        Bytes added = draw_codes(draw, count, splits, sub_items);
        if (count && draw.one_in(4)) put_best(values, sub_items, added);
        made->add(added, {.heights = draw.pick(2)});
    }
    // all that is allowed lies in the blocks that are sampled, and K is about as many: no heap is full by right
    const bool narrow = items >= kSampledFrom && draw.coin();
    const Bytes allow = narrow ? range(all, 0, 1 + draw.below(300)) : draw_allow(draw, rows, all);
    if (!allow.empty()) made->allow_only(allow);
    if (!removed.empty()) made->remove(removed);
    if (draw.one_in(3)) made->leave_out(draw_excluded(draw, rows, all));
    made->request.k = draw_k(draw, narrow ? 7 : draw.pick(splits > 8 ? 6 : 8), all, allow);
    return made;
}
