// The kernels, written once. The including file defines in an unnamed namespace
//   Vec    width floats: load, broadcast, store, + and *
//   Split  a split's byte table, in registers where there are enough: load(gaps, nibbles)
//   Sums   64 byte sums: add(split, codes), at_most(cut) as a mask, store; `exact`, or made of nibble minima only
// No standard library here: a shared inline function would carry this file's CPU flags elsewhere.

namespace {

using everyitem::ByteTables;
using everyitem::Extent;

constexpr int kLanes = 16;
constexpr int kParts = kLanes / Vec::width;  // registers that hold the lanes of one sum

// kBlock registers of neighbouring sub-items stay in the CPU while the split's elements stream by.
template <int kBlock>
void sum_sub_items(const float* query, const float* codebook, int split_dim, int num_sub_items, float* out) {
    Vec sums[kBlock];
    for (Vec& sum : sums) sum = Vec::broadcast(0.0f);
    for (int t = 0; t < split_dim; ++t) {
        const Vec element = Vec::broadcast(query[t]);
        const float* row = codebook + int64_t{t} * num_sub_items;
        for (int j = 0; j < kBlock; ++j) sums[j] = sums[j] + element * Vec::load(row + j * Vec::width);
    }
    for (int j = 0; j < kBlock; ++j) sums[j].store(out + j * Vec::width);
}

void sum_one_sub_item(const float* query, const float* codebook, int split_dim, int num_sub_items, float* out) {
    float sum = 0.0f;
    for (int t = 0; t < split_dim; ++t) sum += query[t] * codebook[int64_t{t} * num_sub_items];
    *out = sum;
}

void score_table(const float* query, const float* codebooks, int num_splits, int split_dim, int num_sub_items,
                 int stride, float* table) {
    constexpr int kBlock = 8;
    for (int m = 0; m < num_splits; ++m) {
        int b = 0;
        for (; b + kBlock * Vec::width <= num_sub_items; b += kBlock * Vec::width)
            sum_sub_items<kBlock>(query, codebooks + b, split_dim, num_sub_items, table + b);
        for (; b + Vec::width <= num_sub_items; b += Vec::width)
            sum_sub_items<1>(query, codebooks + b, split_dim, num_sub_items, table + b);
        for (; b < num_sub_items; ++b) sum_one_sub_item(query, codebooks + b, split_dim, num_sub_items, table + b);
        query += split_dim;
        codebooks += int64_t{split_dim} * num_sub_items;
        table += stride;
    }
}

struct Lanes {
    Vec parts[kParts];

    void clear() {
        for (Vec& part : parts) part = Vec::broadcast(0.0f);
    }
    void add_products(const float* a, const float* b) {
        for (int p = 0; p < kParts; ++p)
            parts[p] = parts[p] + Vec::load(a + p * Vec::width) * Vec::load(b + p * Vec::width);
    }
    float folded() const {
        float lane[kLanes];
        for (int p = 0; p < kParts; ++p) parts[p].store(lane + p * Vec::width);
        for (int half = kLanes / 2; half > 0; half /= 2)
            for (int j = 0; j < half; ++j) lane[j] += lane[j + half];
        return lane[0];
    }
};

// kRows vectors at a time: their sums do not wait for each other.
template <int kRows>
void dot_rows(const float* query, const float* vectors, int dim, float* out) {
    Lanes sums[kRows];
    for (Lanes& sum : sums) sum.clear();
    const int whole = dim - dim % kLanes;
    for (int t = 0; t < whole; t += kLanes)
        for (int r = 0; r < kRows; ++r) sums[r].add_products(query + t, vectors + int64_t{r} * dim + t);
    for (int r = 0; whole < dim && r < kRows; ++r) {
        float a[kLanes] = {}, b[kLanes] = {};
        for (int t = whole; t < dim; ++t) a[t - whole] = query[t], b[t - whole] = vectors[int64_t{r} * dim + t];
        sums[r].add_products(a, b);
    }
    for (int r = 0; r < kRows; ++r) out[r] = sums[r].folded();
}

void dots(const float* query, const float* vectors, int64_t num_vectors, int dim, float* out) {
    constexpr int kRows = 4;
    int64_t i = 0;
    for (; i + kRows <= num_vectors; i += kRows) dot_rows<kRows>(query, vectors + i * dim, dim, out + i);
    for (; i < num_vectors; ++i) dot_rows<1>(query, vectors + i * dim, dim, out + i);
}

Extent extent(const float* values, int count) {
    constexpr int kWide = 16;
    float largest[kWide], smallest[kWide], sum[kWide] = {};
    for (int j = 0; j < kWide; ++j) largest[j] = smallest[j] = values[0];
    const int whole = count - count % kWide;
    for (int b = 0; b < whole; b += kWide)
        for (int j = 0; j < kWide; ++j) {
            const float value = values[b + j];
            largest[j] = largest[j] > value ? largest[j] : value;
            smallest[j] = smallest[j] < value ? smallest[j] : value;
            sum[j] += value;
        }
    for (int b = whole; b < count; ++b) {
        largest[0] = largest[0] > values[b] ? largest[0] : values[b];
        smallest[0] = smallest[0] < values[b] ? smallest[0] : values[b];
        sum[0] += values[b];
    }
    for (int j = 1; j < kWide; ++j) {
        largest[0] = largest[0] > largest[j] ? largest[0] : largest[j];
        smallest[0] = smallest[0] < smallest[j] ? smallest[0] : smallest[j];
        sum[0] += sum[j];
    }
    return {largest[0], smallest[0], sum[0]};
}

constexpr int kCodes = 256;
constexpr int kItems = 64;

inline uint8_t smaller(uint8_t a, uint8_t b) { return a < b ? a : b; }

void nibble_minima(const uint8_t* bytes, uint8_t* nibbles) {
    for (int high = 0; high < 16; ++high) {
        uint8_t least = bytes[16 * high];
        for (int low = 1; low < 16; ++low) least = smaller(least, bytes[16 * high + low]);
        nibbles[high] = least;
    }
}

void quantise(const float* table, const float* maxima, int num_splits, float scale, uint8_t* gaps, uint8_t* nibbles) {
    for (int m = 0; m < num_splits; ++m) {
        const float largest = maxima[m];
        for (int b = 0; b < kCodes; ++b) {
            const float gap = (largest - table[b]) * scale;
            gaps[b] = static_cast<uint8_t>(static_cast<int>(gap < 255.0f ? gap : 255.0f));
        }
        nibble_minima(gaps, nibbles);
        table += kCodes, gaps += kCodes, nibbles += 16;
    }
}

void least_in_ranges(const uint8_t* gaps, int num_splits, const uint8_t* low, const uint8_t* high, uint8_t* least,
                     uint8_t* nibbles) {
    // spans[l][b] = min of gaps[b .. b + 2^l - 1]; a range is two spans of its largest power of two
    constexpr int kSpans = 9, kRow = 2 * kCodes;
    uint8_t spans[kSpans][kRow];
    for (int b = 0; b < kRow; ++b) spans[0][b] = 255;
    for (int m = 0; m < num_splits; ++m) {
        for (int b = 0; b < kCodes; ++b) spans[0][b] = gaps[b];
        for (int l = 1; l < kSpans; ++l) {
            const int half = 1 << (l - 1);
            for (int b = 0; b < kRow - half; ++b) spans[l][b] = smaller(spans[l - 1][b], spans[l - 1][b + half]);
            for (int b = kRow - half; b < kRow; ++b) spans[l][b] = 255;
        }
        for (int c = 0; c < kCodes; ++c) {
            const int l = 31 - __builtin_clz(high[c] - low[c] + 1);
            least[c] = smaller(spans[l][low[c]], spans[l][high[c] + 1 - (1 << l)]);
        }
        nibble_minima(least, nibbles);
        gaps += kCodes, low += kCodes, high += kCodes, least += kCodes, nibbles += 16;
    }
}

// Whether an item's byte sum is at most `cut`, looked up code by code: for CPUs whose Sums only promise a lower bound.
uint64_t exactly_at_most(uint64_t mask, const uint8_t* block, ByteTables tables, int cut) {
    uint64_t kept = 0;
    for (; mask; mask &= mask - 1) {
        const int i = __builtin_ctzll(mask);
        int sum = 0;
        for (int m = 0; m < tables.num_splits; ++m) sum += tables.gaps[m * kCodes + block[m * kItems + i]];
        kept |= static_cast<uint64_t>(sum <= cut) << i;
    }
    return kept;
}

// kBlocks blocks at a time share the loads of the tables. Every 8 splits it is asked whether any item is left.
template <int kBlocks>
void add_up(const uint8_t* const* blocks, ByteTables tables, uint8_t cut, Sums* sums) {
    for (int u = 0; u < kBlocks; ++u) sums[u] = Sums();
    for (int first = 0; first < tables.num_splits; first += 8) {
        const int last = first + 8 < tables.num_splits ? first + 8 : tables.num_splits;
        for (int m = first; m < last; ++m) {
            const Split split = Split::load(tables.gaps + m * kCodes, tables.nibbles + m * 16);
            for (int u = 0; u < kBlocks; ++u) sums[u].add(split, blocks[u] + m * kItems);
        }
        if (last == tables.num_splits) return;
        uint64_t any = 0;
        for (int u = 0; u < kBlocks; ++u) any |= sums[u].at_most(cut);
        if (!any) return;  // byte sums only grow
    }
}

template <int kBlocks>
void find_some(const uint8_t* const* blocks, ByteTables tables, uint8_t cut, uint64_t* masks) {
    Sums sums[kBlocks];
    add_up<kBlocks>(blocks, tables, cut, sums);
    for (int u = 0; u < kBlocks; ++u) {
        masks[u] = sums[u].at_most(cut);
        if (!Sums::exact && masks[u]) masks[u] = exactly_at_most(masks[u], blocks[u], tables, cut);
    }
}

template <class Block>
void find_in(Block block, int64_t count, ByteTables tables, uint8_t cut, uint64_t* masks) {
    int64_t n = 0;
    for (; n + kTogether <= count; n += kTogether) {
        const uint8_t* some[kTogether];
        for (int u = 0; u < kTogether; ++u) some[u] = block(n + u);
        find_some<kTogether>(some, tables, cut, masks + n);
    }
    for (; n < count; ++n) {
        const uint8_t* one = block(n);
        find_some<1>(&one, tables, cut, masks + n);
    }
}

void find(const uint8_t* blocks, const int32_t* chosen, int64_t count, ByteTables tables, uint8_t cut,
          uint64_t* masks) {
    const int64_t size = int64_t{tables.num_splits} * kItems;
    if (!chosen) return find_in([=](int64_t n) { return blocks + n * size; }, count, tables, cut, masks);
    constexpr int64_t kAhead = 24;  // blocks: from memory, 12 were too few and 48 no better
    const auto listed = [=](int64_t n) {
        if (n + kAhead < count) {
            const uint8_t* later = blocks + chosen[n + kAhead] * size;
            for (int64_t line = 0; line < size; line += kItems) __builtin_prefetch(later + line);
        }
        return blocks + chosen[n] * size;
    };
    find_in(listed, count, tables, cut, masks);
}

void sums(const uint8_t* blocks, int64_t count, ByteTables tables, uint8_t cut, uint8_t* out) {
    for (int64_t n = 0; n < count; ++n, out += kItems) {
        const uint8_t* block = blocks + n * tables.num_splits * kItems;
        Sums found[1];
        add_up<1>(&block, tables, cut, found);
        if (Sums::exact) {
            found[0].store(out);
            continue;
        }
        for (int i = 0; i < kItems; ++i) out[i] = 255;
        for (uint64_t mask = found[0].at_most(cut); mask; mask &= mask - 1) {
            const int i = __builtin_ctzll(mask);
            int sum = 0;
            for (int m = 0; m < tables.num_splits; ++m) sum += tables.gaps[m * kCodes + block[m * kItems + i]];
            out[i] = static_cast<uint8_t>(sum < 255 ? sum : 255);
        }
    }
}

}  // namespace
