// For libFuzzer: bytes become a catalogue and a request, or an arrangement that nobody arranged.
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "families.h"
#include "oracle.h"

namespace {

// One kernel per input: three times as many inputs.
std::string draw_cpu(Draw& draw) {
    const std::vector<std::string> cpus = everyitem::available_cpus();
    return cpus[draw.pick(static_cast<int>(cpus.size()))];
}

void must_agree(Draw& draw) {
    const auto asked = draw_catalogue(draw, {12, 256, 400});
    const Comparison against(*asked, {draw_cpu(draw)});
    std::string found = against.exact();
    if (found.empty()) {
        everyitem::Request request = asked->request;
        request.gap_factor = .01 + .99 * draw.unit();
        found = against.certified(request);
    }
    if (found.empty()) return;
    std::fprintf(stderr, "%s\n", found.c_str());
    std::abort();
}

Guarded<uint8_t> any_bytes(Draw& draw, int64_t count) {
    Guarded<uint8_t> made(static_cast<size_t>(count), draw.coin());
    for (uint8_t& byte : made) byte = draw.byte();
    return made;
}

// A length that should be `right`, and mostly is.
int64_t length(Draw& draw, int64_t right) {
    return draw.one_in(40) ? std::max<int64_t>(0, right + draw.pick(5) - 2) : right;
}

// Arrays of a part as a damaged or a made-up file may hold them: any bytes, and nearly the right shapes.
class Claimed {
  public:
    Claimed(Draw& draw, int splits) : draw_(draw) {
        const int64_t count = draw.below(500), slots = draw.coin() ? count : draw.below(500);
        part.codes = array({length(draw, count), length(draw, splits)});
        if (draw.coin() || slots != count) claim_positions(slots, count);
        int64_t nodes = part.positions ? part.positions->shape[0] : part.codes.shape[0];
        nodes = everyitem::blocks_for(nodes);
        part.blocks = array({length(draw, nodes), length(draw, splits), length(draw, 64)});
        for (int height = draw.pick(4); height > 0; --height) {
            nodes = everyitem::blocks_for(nodes);
            part.levels.push_back({array({length(draw, nodes), length(draw, splits), length(draw, 64)}),
                                   array({length(draw, splits), length(draw, 256)}),
                                   array({length(draw, splits), length(draw, 256)})});
            if (draw.one_in(20)) continue;
            order_covers(part.levels.back());
        }
    }

    everyitem::PartArrays part;

  private:
    everyitem::Array<uint8_t> array(std::vector<int64_t> shape) {
        int64_t size = 1;
        for (const int64_t one : shape) size *= one;
        memory_.push_back(any_bytes(draw_, size));
        return {memory_.back().data(), std::move(shape)};
    }

    void claim_positions(int64_t slots, int64_t count) {
        positions_ = Guarded<int32_t>(static_cast<size_t>(slots), draw_.coin());
        for (int32_t& position : positions_)
            position = static_cast<int32_t>(draw_.one_in(8) ? draw_.below(int64_t{1} << 32) : draw_.below(count + 1));
        part.positions = {positions_.data(), {slots}};
    }

    // What no chance would bring about: covers that pass.
    static void order_covers(const everyitem::LevelArrays& level) {
        auto* low = const_cast<uint8_t*>(level.low.values);
        auto* high = const_cast<uint8_t*>(level.high.values);
        const int64_t size =
            std::min(level.low.shape[0] * level.low.shape[1], level.high.shape[0] * level.high.shape[1]);
        for (int64_t first = 0; first + 256 <= size; first += 256) {
            std::vector<std::pair<uint8_t, uint8_t>> covers;
            for (int64_t c = first; c < first + 256; ++c) covers.push_back(std::minmax(low[c], high[c]));
            std::ranges::sort(covers, {}, [](const auto& one) { return one.second - one.first; });
            for (int64_t c = 0; c < 256; ++c) std::tie(low[first + c], high[first + c]) = covers[c];
        }
    }

    Draw& draw_;
    std::vector<Guarded<uint8_t>> memory_;
    Guarded<int32_t> positions_;
};

// Either refused, or searched without a read outside; what comes back are positions of the catalogue.
void must_stay_inside(Draw& draw) {
    const int splits = 1 + draw.pick(draw.coin() ? 4 : 20), sub_items = 2 + draw.pick(255);
    Catalogue asked(draw, splits, 1, sub_items, draw_values(draw, splits, sub_items), draw_query(draw, 1, splits, 1));
    std::vector<std::unique_ptr<Claimed>> claimed;
    try {
        for (int parts = 1 + draw.pick(2); parts > 0; --parts) {
            claimed.push_back(std::make_unique<Claimed>(draw, splits));
            everyitem::add_part(asked.index, claimed.back()->part);
            asked.index.postings.emplace_back(asked.index.runs.back(), splits);
        }
    } catch (const std::invalid_argument&) {
        return;
    }
    const int64_t count = asked.index.num_items;
    const Bytes allow = draw_allow(draw, 1, count);
    if (!allow.empty()) asked.allow_only(allow);
    if (draw.coin()) asked.remove(draw_bits(draw, count));
    asked.request.k = draw_k(draw, draw.pick(8), count, allow);
    everyitem::use_cpu(draw_cpu(draw));
    for (const Algorithm& algorithm : kAlgorithms) {
        const Answered found(asked, algorithm, asked.request, draw.coin());
        for (int64_t n = 0; n < asked.request.k; ++n)
            if (found.items(0)[n] < -1 || found.items(0)[n] >= count) std::abort();
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
    Draw draw(bytes, count);
    draw.coin() ? must_agree(draw) : must_stay_inside(draw);
    return 0;
}
