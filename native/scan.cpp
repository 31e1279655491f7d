#include "scan.h"

#include <vector>

#include "dispatch.h"
#include "parallel.h"

namespace everyitem {
namespace {

constexpr int kStride = 256;                 // a byte code reads inside its split's table, whatever it is
constexpr int64_t kItemsPerCheck = 1 << 15;  // the clock is read this often: tens of microseconds

// A scalar loop, because float gathers do not pay: at 1.3M items, M = 8, they took 2.8 ms (AVX2) where it took 1.9.
// kSplits = 0 leaves the number of splits to run time.
template <int kSplits>
void scan_codes(const float* table, const PQ& index, int64_t first, int64_t last, TopK& best) {
    const int num_splits = kSplits ? kSplits : index.codebooks.num_splits;
    const uint8_t* code = index.codes_IM + first * num_splits;
    float threshold = best.threshold();
    for (int64_t i = first; i < last; ++i, code += num_splits) {
        float score = table[code[0]];
        for (int m = 1; m < num_splits; ++m) score += table[m * kStride + code[m]];
        if (score < threshold) continue;
        best.offer(score, static_cast<int32_t>(i));
        threshold = best.threshold();
    }
}

auto scan_codes_for(int num_splits) {
    switch (num_splits) {
        case 4:
            return scan_codes<4>;
        case 8:
            return scan_codes<8>;
        case 16:
            return scan_codes<16>;
        default:
            return scan_codes<0>;
    }
}

void pq_row(const PQ& index, const Request& request, int64_t row, Answer answer) {
    const auto& [values, num_splits, split_dim, num_sub_items] = index.codebooks;
    std::vector<float> table(static_cast<size_t>(num_splits) * kStride);
    kernels().score_table(request.query(row), values, num_splits, split_dim, num_sub_items, kStride, table.data());

    TopK best(request.k, request.filter(row));
    const auto scan = scan_codes_for(num_splits);
    int64_t scored = 0;
    while (scored < index.num_items && !request.expired()) {
        const int64_t last = std::min(scored + kItemsPerCheck, index.num_items);
        scan(table.data(), index, scored, last, best);
        scored = last;
    }
    best.write(answer.items_UK + row * request.k, answer.scores_UK + row * request.k);
    answer.scored_U[row] = scored;
}

// A tile of vectors is read from memory once for all rows of a group.
void dense_group(const Dense& index, const Request& request, int64_t first_row, int64_t last_row, Answer answer) {
    constexpr int64_t kTileFloats = 1 << 15;  // 128 KiB: stays in L2
    const int64_t tile = std::max<int64_t>(4, kTileFloats / index.dim);
    std::vector<float> scores(static_cast<size_t>(tile));
    std::vector<TopK> best;
    for (int64_t row = first_row; row < last_row; ++row) best.emplace_back(request.k, request.filter(row));

    int64_t scored = 0;
    while (scored < index.num_items && !request.expired()) {
        const int64_t count = std::min(tile, index.num_items - scored);
        const float* vectors = index.vectors_ID + scored * index.dim;
        for (int64_t row = first_row; row < last_row; ++row) {
            TopK& top = best[row - first_row];
            kernels().dots(request.query(row), vectors, count, index.dim, scores.data());
            for (int64_t i = 0; i < count; ++i)
                if (scores[i] >= top.threshold()) top.offer(scores[i], static_cast<int32_t>(scored + i));
        }
        scored += count;
    }
    for (int64_t row = first_row; row < last_row; ++row) {
        best[row - first_row].write(answer.items_UK + row * request.k, answer.scores_UK + row * request.k);
        answer.scored_U[row] = scored;
    }
}

}  // namespace

void scan_pq(const PQ& index, const Request& request, Answer answer) {
    for_each(request.num_rows, request.threads, [&](int64_t row) { pq_row(index, request, row, answer); });
}

void scan_dense(const Dense& index, const Request& request, Answer answer) {
    constexpr int64_t kLargestGroup = 16;
    const int64_t rows = request.num_rows;
    const int64_t group = std::clamp<int64_t>((rows + request.threads - 1) / request.threads, 1, kLargestGroup);
    for_each((rows + group - 1) / group, request.threads,
             [&](int64_t g) { dense_group(index, request, g * group, std::min(rows, (g + 1) * group), answer); });
}

}  // namespace everyitem
