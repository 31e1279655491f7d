#include "door.h"

#include <stdexcept>
#include <utility>

#include "arrange.h"

namespace everyitem {
namespace {

// Positions are not looked at: a file may change under its map, so the search asks them one by one.
Blocks checked_blocks(const PartArrays& part, int64_t first, int64_t splits) {
    const int64_t slots = part.positions ? part.positions->shape[0] : part.codes.shape[0];
    int64_t nodes = blocks_for(slots);
    require(part.blocks->has_shape({nodes, splits, 64}), "blocks must be (ceil(slots / 64), M, 64)");
    Blocks checked{part.blocks->values, part.positions ? part.positions->values : nullptr, first, slots, {}};
    for (const auto& [codes, low, high] : part.levels) {
        require(codes.has_shape({blocks_for(nodes), splits, 64}), "a level's codes must be (ceil(nodes / 64), M, 64)");
        require(low.has_shape({splits, 256}) && high.has_shape({splits, 256}), "a level's covers must be (M, 256)");
        Level level{codes.values, {}, nodes};
        for (int64_t m = 0; m < splits; ++m)
            level.covers.push_back(covers_of(low.values + m * 256, high.values + m * 256));
        checked.levels.push_back(std::move(level));
        nodes = blocks_for(nodes);
    }
    return checked;
}

}  // namespace

void require(bool holds, const char* message) {
    if (!holds) throw std::invalid_argument(message);
}

Codebooks checked_codebooks(const Array<float>& values) {
    const auto& shape = values.shape;
    require(shape.size() == 3 && shape[0] >= 1 && shape[1] >= 1 && shape[2] >= 1 && shape[2] <= 256,
            "codebooks must be (M, d, B) with 1 <= B <= 256");
    require(shape[0] <= 64, "at most 64 splits");
    require(shape[1] <= INT32_MAX / shape[0], "a query's length must fit int32");
    return {values.values, static_cast<int>(shape[0]), static_cast<int>(shape[1]), static_cast<int>(shape[2])};
}

void add_part(PQ& index, const PartArrays& part) {
    const int64_t splits = index.codebooks.num_splits;
    require(part.codes.shape.size() == 2 && part.codes.shape[1] == splits, "codes and codebooks differ in splits");
    require(!part.positions || part.positions->shape.size() == 1, "positions must be (slots,)");
    if (part.blocks) index.parts.push_back(checked_blocks(part, index.num_items, splits));
    index.runs.push_back({part.codes.values, index.num_items, part.codes.shape[0]});
    index.num_items += part.codes.shape[0];
}

}  // namespace everyitem
