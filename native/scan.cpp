#include <vector>

#include "dispatch.h"
#include "gaps.h"
#include "parallel.h"
#include "search.h"

namespace everyitem {
namespace {

constexpr int64_t kItemsPerCheck = 1 << 15;  // the clock is read this often: tens of microseconds

// A scalar loop, because float gathers do not pay: at 1.3M items, M = 8, they took 2.8 ms (AVX2) where it took 1.9.
// kSplits = 0 leaves the number of splits to run time.
template <int kSplits>
void scan_codes(const float* table, int num_splits, const Codes& run, int64_t first, int64_t last, TopK& best) {
    if (kSplits) num_splits = kSplits;
    const uint8_t* code = run.rows_IM + first * num_splits;
    float threshold = best.threshold();
    for (int64_t i = first; i < last; ++i, code += num_splits) {
        float score = table[code[0]];
        for (int m = 1; m < num_splits; ++m) score += table[m * kStride + code[m]];
        if (score < threshold) continue;
        best.offer(score, static_cast<int32_t>(run.first + i));
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

// RecJPQ's order of the loops: a split after the other, so the accumulator is written and read once per split.
void scan_by_split(const float* table, int num_splits, const Codes& run, int64_t first, int64_t last, TopK& best) {
    thread_local std::vector<float> scores;
    const int64_t count = last - first;
    scores.resize(static_cast<size_t>(count));
    const uint8_t* codes = run.rows_IM + first * num_splits;
    for (int64_t i = 0; i < count; ++i) scores[i] = table[codes[i * num_splits]];
    for (int m = 1; m < num_splits; ++m)
        for (int64_t i = 0; i < count; ++i) scores[i] += table[m * kStride + codes[i * num_splits + m]];
    for (int64_t i = 0; i < count; ++i)
        if (scores[i] >= best.threshold()) best.offer(scores[i], static_cast<int32_t>(run.first + first + i));
}

// Item by item or split by split, `chunk` items between two looks at the clock.
template <class Scan>
void exhaustive_row(const PQ& index, const Request& request, int64_t row, Answer answer, int64_t chunk, Scan scan) {
    const int num_splits = index.codebooks.num_splits;
    std::vector<float> table;
    fill_table(index, request, row, table);
    TopK best(request.k, request.filter(row));
    int64_t scored = 0;
    for (const Codes& run : index.runs)
        for (int64_t first = 0; first < run.count && !request.expired();) {
            const int64_t last = std::min(first + chunk, run.count);
            scan(table.data(), num_splits, run, first, last, best);
            scored += last - first;
            first = last;
        }
    answer.scored_U[row] = scored;
    answer.bound_U[row] = best.settle();
    if (scored < index.num_items)
        for (int m = 0; m < num_splits; ++m) {
            const Extent extent = kernels().extent(table.data() + m * kStride, index.codebooks.num_sub_items);
            answer.bound_U[row] = m ? answer.bound_U[row] + extent.largest : extent.largest;
        }
    best.write(answer.items_UK + row * request.k, answer.scores_UK + row * request.k);
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
        answer.bound_U[row] = best[row - first_row].settle();
        best[row - first_row].write(answer.items_UK + row * request.k, answer.scores_UK + row * request.k);
        answer.scored_U[row] = scored;
    }
}

}  // namespace

const float* fill_table(const PQ& index, const Request& request, int64_t row, std::vector<float>& table) {
    const auto& [values, num_splits, split_dim, num_sub_items] = index.codebooks;
    table.resize(static_cast<size_t>(num_splits) * kStride);
    for (int m = 0; m < num_splits; ++m)
        std::fill(&table[m * kStride] + num_sub_items, &table[m * kStride] + kStride, kNothing);
    if (request.table_UMB) {
        const float* own = request.table_UMB + row * num_splits * num_sub_items;
        for (int m = 0; m < num_splits; ++m) std::copy_n(own + m * num_sub_items, num_sub_items, &table[m * kStride]);
    } else {
        kernels().score_table(request.query(row), values, num_splits, split_dim, num_sub_items, kStride, table.data());
    }
    return table.data();
}

void scan_pq(const PQ& index, const Request& request, Answer answer) {
    const auto scan = scan_codes_for(index.codebooks.num_splits);
    for_each(request.num_rows, request.threads,
             [&](int64_t row) { exhaustive_row(index, request, row, answer, kItemsPerCheck, scan); });
}

void scan_pq_by_split(const PQ& index, const Request& request, Answer answer) {
    for_each(request.num_rows, request.threads,
             [&](int64_t row) { exhaustive_row(index, request, row, answer, index.num_items, scan_by_split); });
}

void scan_dense(const Dense& index, const Request& request, Answer answer) {
    constexpr int64_t kLargestGroup = 16;
    const int64_t rows = request.num_rows;
    const int64_t group = std::clamp<int64_t>((rows + request.threads - 1) / request.threads, 1, kLargestGroup);
    for_each((rows + group - 1) / group, request.threads,
             [&](int64_t g) { dense_group(index, request, g * group, std::min(rows, (g + 1) * group), answer); });
}

}  // namespace everyitem
