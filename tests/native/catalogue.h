// A catalogue and a request in guarded arrays, made from codes and tables that somebody else has chosen.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "arrange.h"
#include "door.h"
#include "draw.h"
#include "guarded.h"
#include "search.h"

using Bytes = std::vector<uint8_t>;

inline int64_t bytes_for(int64_t bits) { return (bits + 7) / 8; }

// What may be asked for of a part's arrangement.
struct Layout {
    std::vector<int32_t> positions{};  // of the slots; empty: all in order, with no array that says so
    int heights = 0;                   // of levels
    bool loose = false;                // covers that are wider than they need be
    bool ours = false;                 // order and covers by the engine's own builder: slow
};

class Catalogue {
  public:
    int num_splits, split_dim, num_sub_items;
    int64_t num_rows;
    everyitem::PQ index;
    Guarded<float> codebooks, query;
    Guarded<uint8_t> allow, removed, recode;
    std::unique_ptr<everyitem::SlotFilter> slots;
    Guarded<int32_t> exclude;
    everyitem::Request request{};

    Catalogue(Draw& draw, int splits, int dim, int sub_items, const std::vector<float>& codebook_values,
              const std::vector<float>& query_values)
        : num_splits(splits),
          split_dim(dim),
          num_sub_items(sub_items),
          num_rows(std::ssize(query_values) / (splits * dim)),
          codebooks(codebook_values, draw.coin()),
          query(query_values, draw.coin()),
          draw_(draw) {
        index = {everyitem::checked_codebooks({codebooks.data(), {splits, dim, sub_items}}), {}, {}, {}, 0, 0};
        recode = {random_orders(draw, splits), draw.coin()};
        index.recode = recode.data();
        constexpr int64_t kWholeLevels[] = {1, 2, 64, 1 << 17};
        index.whole_level = kWholeLevels[draw.pick(4)];
        request.query_UD = query.data();
        request.num_rows = num_rows;
        request.dim = splits * dim;
        request.deadline = everyitem::Clock::time_point::max();
        request.threads = 1;
        request.batch_size = 1 + draw.pick(10);
    }
    Catalogue(const Catalogue&) = delete;

    void add(const Bytes& codes_IM, Layout layout) {
        const int64_t count = std::ssize(codes_IM) / num_splits;
        Part part{.codes = {codes_IM, draw_.coin()}, .blocks = {}, .positions = {}, .levels = {}};
        if (layout.ours && count && layout.positions.empty()) order(codes_IM, count, layout.positions);
        const auto slots = layout.positions.empty() ? count : std::ssize(layout.positions);
        if (!layout.positions.empty()) part.positions = {layout.positions, draw_.coin()};
        part.blocks = {static_cast<size_t>(everyitem::blocks_for(slots) * 64 * num_splits), draw_.coin()};
        if (slots)
            everyitem::fill_blocks(part.codes.data(), part.positions.data(), recode.data(), slots, num_splits,
                                   part.blocks.data());
        if (slots) bound(part, slots, layout);
        parts_.push_back(std::move(part));
        everyitem::add_part(index, as_arrays(parts_.back(), count, slots));
        index.postings.emplace_back(index.runs.back(), num_splits);
    }

    // Packed bits of every row, or of all rows at once; ascending positions, as many for every row.
    void allow_only(const Bytes& bits) {
        allow = {bits, draw_.coin()};
        request.allow = allow.data();
        request.allow_stride = std::ssize(bits) > bytes_for(index.num_items) ? bytes_for(index.num_items) : 0;
        if (request.allow_stride || draw_.coin()) return;
        slots = std::make_unique<everyitem::SlotFilter>(index, allow.data());
        request.slots = slots.get();
    }
    void remove(const Bytes& bits) {
        removed = {bits, draw_.coin()};
        request.removed = removed.data();
    }
    void leave_out(const std::vector<int32_t>& positions) {
        exclude = {positions, draw_.coin()};
        request.exclude_UE = exclude.data();
        request.num_excluded = std::ssize(positions) / num_rows;
    }

  private:
    // What blocks call the sub-items: any order, or as they are.
    static Bytes random_orders(Draw& draw, int splits) {
        Bytes orders(static_cast<size_t>(splits) * 256);
        for (int m = 0; m < splits; ++m) std::iota(orders.begin() + m * 256, orders.begin() + (m + 1) * 256, 0);
        for (int at = draw.coin() ? splits * 256 - 1 : 0; at > 0; --at) {
            const int first = at / 256 * 256;
            std::swap(orders[at], orders[first + draw.pick(at - first + 1)]);
        }
        return orders;
    }

    struct LevelMemory {
        Guarded<uint8_t> codes;
        Bytes low, high;  // copied by the engine
    };
    struct Part {
        Guarded<uint8_t> codes, blocks;
        Guarded<int32_t> positions;
        std::vector<LevelMemory> levels;
    };

    everyitem::PartArrays as_arrays(const Part& part, int64_t count, int64_t slots) const {
        everyitem::PartArrays made{{part.codes.data(), {count, num_splits}}, {}, {}, {}};
        int64_t nodes = everyitem::blocks_for(slots);
        made.blocks = {part.blocks.data(), {nodes, num_splits, 64}};
        if (part.positions.data()) made.positions = {part.positions.data(), {slots}};
        for (const auto& [codes, low, high] : part.levels) {
            nodes = everyitem::blocks_for(nodes);
            made.levels.push_back({{codes.data(), {nodes, num_splits, 64}},
                                   {low.data(), {num_splits, 256}},
                                   {high.data(), {num_splits, 256}}});
        }
        return made;
    }

    everyitem::Samples samples() {
        sampled_.resize(static_cast<size_t>(num_splits) * 256 * 2);
        for (float& value : sampled_) value = static_cast<float>(-draw_.unit());
        return {sampled_.data(), num_splits, 2};
    }

    void order(const Bytes& codes_IM, int64_t count, std::vector<int32_t>& positions) {
        positions.resize(static_cast<size_t>(count));
        everyitem::order_items(codes_IM.data(), count, recode.data(), samples(), 1, positions.data());
    }

    void bound(Part& part, int64_t slots, const Layout& layout) {
        everyitem::Ranges ranges = everyitem::block_ranges(part.blocks.data(), slots, num_splits);
        for (int height = 0; height < layout.heights; ++height) {
            if (height) ranges = everyitem::node_ranges(ranges, num_splits);
            const size_t covers = static_cast<size_t>(num_splits) * 256;
            LevelMemory level{
                {static_cast<size_t>(everyitem::blocks_for(ranges.count) * 64 * num_splits), draw_.coin()},
                Bytes(covers),
                Bytes(covers)};
            if (layout.ours)
                everyitem::cover_ranges(ranges, samples(), 1, level.low.data(), level.high.data(), level.codes.data());
            else
                for (int m = 0; m < num_splits; ++m) cover(ranges, m, layout.loose, level);
            part.levels.push_back(std::move(level));
        }
    }

    // Any library will do that has a cover for every range: some of the ranges themselves, and every code.
    void cover(const everyitem::Ranges& ranges, int m, bool loose, LevelMemory& level) {
        std::vector<std::pair<int, int>> found;
        for (int64_t n = 0; n < ranges.count && found.size() < 255; ++n)
            found.emplace_back(ranges.low[n * num_splits + m], ranges.high[n * num_splits + m]);
        if (loose)
            for (auto& [low, high] : found) low -= draw_.pick(low + 1), high += draw_.pick(256 - high);
        std::ranges::sort(found, {}, [](const auto& one) { return one.second - one.first; });
        found.resize(256, {0, 255});
        for (int c = 0; c < 256; ++c) {
            level.low[m * 256 + c] = static_cast<uint8_t>(found[c].first);
            level.high[m * 256 + c] = static_cast<uint8_t>(found[c].second);
        }
        for (int64_t slot = 0; slot < everyitem::blocks_for(ranges.count) * 64; ++slot) {
            const int64_t at = std::min(slot, ranges.count - 1) * num_splits + m;
            const auto fits =
                std::ranges::find_if(found, [low = ranges.low[at], high = ranges.high[at]](const auto& one) {
                    return one.first <= low && high <= one.second;
                });
            level.codes[(slot / 64 * num_splits + m) * 64 + slot % 64] = static_cast<uint8_t>(fits - found.begin());
        }
    }

    Draw& draw_;
    std::vector<Part> parts_;
    std::vector<float> sampled_;
};
