// The kernels, written once. The including file defines in an unnamed namespace
//   Vec    width floats: load, broadcast, store, + and *
//   look_up(table, codes, out) for 64 codes in a table of 256 bytes
//   Split  a split's byte table, in registers where there are enough: load(gaps, nibbles)
//   Sums   64 byte sums: add(split, codes), at_most(cut) as a mask, store; `exact`, or made of nibble minima only;
//          compress(mask, first, nodes, sums) where the CPU can: those of the mask, side by side, and their numbers
// No standard library here: a shared inline function would carry this file's CPU flags elsewhere.

namespace {

using everyitem::BlockList;
using everyitem::ByteTables;
using everyitem::Covers;
using everyitem::Extent;
using everyitem::Hit;

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
    constexpr int kBlock = Vec::width == 16 ? 16 : 8;  // with 32 registers a codebook is read from front to back
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

float fold(float* lane) {
    for (int half = kLanes / 2; half > 0; half /= 2)
        for (int j = 0; j < half; ++j) lane[j] += lane[j + half];
    return lane[0];
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
        return fold(lane);
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

// exp and tanh by +, -, *, / and bits alone, which give one result everywhere; libm's differ in the last place from one
// release or CPU to the next. Plain loops: the compiler does many elements at once, and each is computed alone. Floats
// are compared as whole numbers, because a comparison that could trap on NaN would keep it from that.
constexpr int32_t kMagnitude = 0x7fffffff;
constexpr int32_t kLargestExponent = __builtin_bit_cast(int32_t, 86.0f);  // beyond, exp is not normal: it is 0

inline int32_t bits_of(float x) { return __builtin_bit_cast(int32_t, x); }
inline float from_bits(int32_t bits) { return __builtin_bit_cast(float, bits); }

// e^-x = power * (1 + rest) for 0 <= x <= 86, given x's bits; larger ones count as 86. power = 2^n, and rest = e^r - 1
// with |r| <= ln(2) / 2.
struct Exp {
    float power, rest;
};

inline Exp exp_parts(int32_t bits) {
    constexpr float kLog2e = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
    constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: a sum with it ends in the nearest whole number
    const float x = -from_bits(bits < kLargestExponent ? bits : kLargestExponent);
    const float rounded = x * kLog2e + kRound;
    const float whole = rounded - kRound;
    const float r = (x - whole * kLn2High) - whole * kLn2Low;
    float polynomial = 1.0f / 5040;
    polynomial = polynomial * r + 1.0f / 720;
    polynomial = polynomial * r + 1.0f / 120;
    polynomial = polynomial * r + 1.0f / 24;
    polynomial = polynomial * r + 1.0f / 6;
    polynomial = polynomial * r + 1.0f / 2;
    const int32_t n = bits_of(rounded) - bits_of(kRound);
    return {from_bits((n + 127) << 23), r + r * r * polynomial};
}

void cap_logits(float* x, int64_t count, float cap) {
    for (int64_t i = 0; i < count; ++i) {
        const float size = from_bits(bits_of(x[i]) & kMagnitude) / cap;
        const auto [power, rest] = exp_parts(bits_of(2.0f * size));
        const float below_one = (power - 1.0f) + power * rest;  // e^(-2 size) - 1
        const float height = cap * (-below_one / (2.0f + below_one));
        x[i] = from_bits((bits_of(height) & kMagnitude) | (bits_of(x[i]) & ~kMagnitude));
    }
}

inline float exp_of(float x) {  // x <= 0
    const int32_t bits = bits_of(x) & kMagnitude;
    const auto [power, rest] = exp_parts(bits);
    return from_bits(bits > kLargestExponent ? 0 : bits_of(power + power * rest));
}

float sum_exps(const float* x, int64_t count, float largest) {
    float lane[kLanes] = {};
    const int64_t whole = count - count % kLanes;
    for (int64_t i = 0; i < whole; i += kLanes)
        for (int j = 0; j < kLanes; ++j) lane[j] += exp_of(x[i + j] - largest);
    for (int64_t i = whole; i < count; ++i) lane[i - whole] += exp_of(x[i] - largest);
    return fold(lane);
}

int64_t count_bits(const uint8_t* bytes, int64_t count) {
    constexpr int kWord = 8;
    int64_t found = 0;
    const int64_t whole = count - count % kWord;
    for (int64_t i = 0; i < whole; i += kWord) {  // in words, so that a compiler can do many at once
        uint64_t word;
        __builtin_memcpy(&word, bytes + i, kWord);
        word -= word >> 1 & 0x5555555555555555;
        word = (word & 0x3333333333333333) + (word >> 2 & 0x3333333333333333);
        word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0f;
        word += word >> 8, word += word >> 16, word += word >> 32;
        found += static_cast<int64_t>(word & 0x7f);
    }
    for (int64_t i = whole; i < count; ++i) found += __builtin_popcount(bytes[i]);
    return found;
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
        if (!Sums::exact) nibble_minima(gaps, nibbles);
        table += kCodes, gaps += kCodes, nibbles += 16;
    }
}

void least_in_covers(const uint8_t* gaps, const Covers* covers, int num_splits, uint8_t* least, uint8_t* nibbles) {
    // spans[l][b] = min of gaps[b .. b + 2^l - 1]; beyond the codes there is nothing to be had
    constexpr int kBeyond = 128;
    uint8_t spans[Covers::kLengths][kCodes + kBeyond];
    for (auto& row : spans)
        for (int b = kCodes; b < kCodes + kBeyond; ++b) row[b] = 255;
    for (int m = 0; m < num_splits; ++m, ++covers) {
        for (int b = 0; b < kCodes; ++b) spans[0][b] = gaps[b];
        for (int l = 1; l < Covers::kLengths; ++l)
            for (int b = 0, half = 1 << (l - 1); b < kCodes; ++b)
                spans[l][b] = smaller(spans[l - 1][b], spans[l - 1][b + half]);
        for (int l = 0; l < Covers::kLengths; ++l) {
            const int start = covers->starts[l], end = covers->starts[l + 1];
            for (int c = start / kItems * kItems; c < end; c += kItems) {
                uint8_t one[kItems], other[kItems];
                look_up(spans[l], covers->first + c, one);
                look_up(spans[l], covers->second + c, other);
                // covers of this length end the chunk; those before keep what they have
                const auto from = static_cast<uint8_t>(start > c ? start - c : 0);
                for (uint8_t i = 0; i < kItems; ++i) least[c + i] = i < from ? least[c + i] : smaller(one[i], other[i]);
            }
        }
        if (!Sums::exact) nibble_minima(least, nibbles);
        gaps += kCodes, least += kCodes, nibbles += 16;
    }
}

int exact_sum(const uint8_t* block, int i, ByteTables tables) {
    int sum = 0;
    for (int m = 0; m < tables.num_splits; ++m) sum += tables.gaps[m * kCodes + block[m * kItems + i]];
    return sum;
}

// Items whose byte sum is at most `cut`, looked up code by code: for CPUs whose Sums only promise a lower bound.
uint64_t exactly_at_most(uint64_t mask, const uint8_t* block, ByteTables tables, int cut) {
    uint64_t kept = 0;
    for (; mask; mask &= mask - 1) {
        const int i = __builtin_ctzll(mask);
        kept |= static_cast<uint64_t>(exact_sum(block, i, tables) <= cut) << i;
    }
    return kept;
}

// kBlocks blocks at a time share the loads of the tables. Inlined, so that sums and tables stay in registers.
template <int kBlocks>
[[gnu::always_inline]] inline void add_splits(const uint8_t* const* blocks, ByteTables tables, int first, int last,
                                              Sums* sums) {
#pragma GCC unroll 8
    for (int m = first; m < last; ++m) {
        const Split split = Split::load(tables.gaps + m * kCodes, tables.nibbles + m * 16);
        for (int u = 0; u < kBlocks; ++u) sums[u].add(split, blocks[u] + m * kItems);
    }
}

// Every 8 splits it is asked whether any item is left: byte sums only grow.
template <int kBlocks>
[[gnu::always_inline]] inline void add_up(const uint8_t* const* blocks, ByteTables tables, uint8_t cut, Sums* sums) {
    constexpr int kStep = 8;
    int first = 0;
    for (; first + kStep <= tables.num_splits; first += kStep) {
        if (first) {
            uint64_t any = 0;
            for (int u = 0; u < kBlocks; ++u) any |= sums[u].at_most(cut);
            if (!any) return;
        }
        add_splits<kBlocks>(blocks, tables, first, first + kStep, sums);
    }
    add_splits<kBlocks>(blocks, tables, first, tables.num_splits, sums);
}

// Calls visit(n, sums, mask, block) for every block of the list, some at a time.
template <int kBlocks, class Visit>
[[gnu::always_inline]] inline void add_up_some(const uint8_t* const* blocks, int64_t n, ByteTables tables, uint8_t cut,
                                               Visit visit) {
    Sums sums[kBlocks];
    add_up<kBlocks>(blocks, tables, cut, sums);
    for (int u = 0; u < kBlocks; ++u) {
        const uint64_t mask = sums[u].at_most(cut);
        visit(n + u, sums[u], !Sums::exact && mask ? exactly_at_most(mask, blocks[u], tables, cut) : mask, blocks[u]);
    }
}

template <class Visit>
void add_up_all(BlockList list, ByteTables tables, uint8_t cut, Visit visit) {
    const int64_t size = int64_t{tables.num_splits} * kItems;
    // blocks of 512 bytes: where they are chosen, 12 were too few and 48 no better; a stream wants more
    const int64_t ahead = list.chosen ? 24 : 64;
    const auto fetch = [=](int64_t n) {
        const uint8_t* block = list.blocks + (list.chosen ? list.chosen[n] : n) * size;
        if (n + ahead < list.known) {
            const uint8_t* later = list.blocks + (list.chosen ? list.chosen[n + ahead] : n + ahead) * size;
            for (int64_t line = 0; line < size; line += kItems) __builtin_prefetch(later + line);
        }
        return block;
    };
    int64_t n = 0;
    for (; n + kTogether <= list.count; n += kTogether) {
        const uint8_t* some[kTogether];
        for (int u = 0; u < kTogether; ++u) some[u] = fetch(n + u);
        add_up_some<kTogether>(some, n, tables, cut, visit);
    }
    for (; n < list.count; ++n) {
        const uint8_t* one = fetch(n);
        add_up_some<1>(&one, n, tables, cut, visit);
    }
}

int64_t find(BlockList list, ByteTables tables, uint8_t cut, Hit* hits) {
    Hit* next = hits;
    add_up_all(list, tables, cut, [&next](int64_t n, const Sums&, uint64_t mask, const uint8_t*) {
        if (mask) *next++ = {n, mask};
    });
    return next - hits;
}

int64_t nodes(BlockList groups, int64_t num_nodes, ByteTables tables, uint8_t cut, int32_t* nodes, uint8_t* sums) {
    int64_t found = 0;
    const auto list = [=, &found](int64_t n, const auto& added, uint64_t mask, const uint8_t* block) {
        const int64_t first = (groups.chosen ? groups.chosen[n] : n) * kItems;
        if (const int64_t left = num_nodes - first; left < kItems) mask &= (uint64_t{1} << left) - 1;
        if (!mask) return;
        const int64_t start = found;
        found += __builtin_popcountll(mask);
        if constexpr (requires { added.compress(mask, 0, nodes, sums); }) {
            added.compress(mask, static_cast<int32_t>(first), nodes + start, sums + start);
        } else {
            uint8_t own[kItems];
            added.store(own);
            for (int64_t to = start; mask; mask &= mask - 1, ++to) {
                const int i = __builtin_ctzll(mask);
                nodes[to] = static_cast<int32_t>(first + i);
                sums[to] = Sums::exact ? own[i] : static_cast<uint8_t>(exact_sum(block, i, tables));
            }
        }
    };
    add_up_all(groups, tables, cut, list);
    return found;
}

}  // namespace
