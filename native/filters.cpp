#include <bit>

#include "search.h"

namespace everyitem {

SlotFilter::SlotFilter(const PQ& index, const uint8_t* allow) {
    for (const Blocks& part : index.parts) {
        Part made{std::vector<uint64_t>(static_cast<size_t>(part.count())), {}};
        for (int64_t slot = 0; slot < part.num_slots; ++slot) {
            const int32_t position = part.position(slot);
            // a file that changes under its map must not lead outside the bits
            if (static_cast<uint32_t>(position) >= index.num_items) continue;
            made.live[slot / 64] |= uint64_t{bit_is_set(allow, position)} << (slot % 64);
        }
        for (int64_t block = 0; block < part.count(); ++block) {
            if (!made.live[block]) continue;
            made.blocks.push_back(static_cast<int32_t>(block));
            allowed += std::popcount(made.live[block]);
        }
        parts.push_back(std::move(made));
    }
}

}  // namespace everyitem
