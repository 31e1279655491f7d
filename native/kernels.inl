// The kernels, written once. The including file defines Vec (width, load, broadcast, store, + and *) in an unnamed
// namespace. No standard library here: a shared inline function would carry this file's CPU flags elsewhere.

namespace {

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

}  // namespace
