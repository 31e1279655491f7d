// What comes from outside, checked once: a search over arrays that pass here reads nothing but them, whatever bytes
// they hold. Knows no Python.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <vector>

#include "search.h"

namespace everyitem {

// Throws std::invalid_argument unless it holds.
void require(bool holds, const char* message);

inline int64_t blocks_for(int64_t count) { return (count + 63) / 64; }

template <class T>
struct Array {
    const T* values;
    std::vector<int64_t> shape;

    bool has_shape(std::initializer_list<int64_t> wanted) const { return std::ranges::equal(shape, wanted); }
};

struct LevelArrays {
    Array<uint8_t> codes, low, high;
};

// One part of a catalogue: codes as rows, in blocks (or none yet), positions of the slots (or none: in order), levels.
struct PartArrays {
    Array<uint8_t> codes;
    std::optional<Array<uint8_t>> blocks;
    std::optional<Array<int32_t>> positions;
    std::vector<LevelArrays> levels;
};

Codebooks checked_codebooks(const Array<float>& values);

// Appends a part to a catalogue, which points into its arrays from then on.
void add_part(PQ& index, const PartArrays& part);

}  // namespace everyitem
