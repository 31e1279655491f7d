// The rows of a call over threads. Rows that have to read everything read it together: a tile of blocks that fits the
// second cache is looked up for all of them before the next tile comes.
#include <algorithm>
#include <vector>

#include "blocks.h"
#include "dispatch.h"
#include "parallel.h"
#include "search.h"

namespace everyitem {
namespace {

constexpr int64_t kTogether = 64;            // rows
constexpr int64_t kTile = int64_t{1} << 18;  // bytes

void search_together(const PQ& index, const Request& request, int64_t first_row, int64_t last_row, Plan plan,
                     int threads, Answer answer) {
    thread_local std::vector<Work> works;
    works.resize(std::max(works.size(), static_cast<size_t>(last_row - first_row)));
    std::vector<BlockSearch> reading;
    std::vector<int64_t> rows;
    reading.reserve(static_cast<size_t>(last_row - first_row));
    for (int64_t row = first_row; row < last_row; ++row) {
        reading.emplace_back(index, request, row, works[reading.size()]);
        if (reading.back().start(plan, threads)) {
            rows.push_back(row);
        } else {
            reading.back().write(row, answer);
            reading.pop_back();
        }
    }
    if (reading.empty()) return;
    const int64_t blocks = reading.front().num_blocks();
    const int64_t tile = reading.size() == 1 ? blocks : kTile / 64 / index.codebooks.num_splits;
    for (int64_t first = 0; first < blocks; first += tile)
        for (BlockSearch& one : reading)
            one.scan(first, std::min(first + tile, blocks), threads, &one == reading.data());
    for (size_t n = 0; n < reading.size(); ++n) reading[n].write(rows[n], answer);
}

void search_rows(const PQ& index, const Request& request, Plan plan, Answer answer) {
    const int64_t rows = request.num_rows;
    const int64_t group = std::clamp<int64_t>((rows + request.threads - 1) / request.threads, 1, kTogether);
    const int64_t groups = (rows + group - 1) / group;
    const int threads = groups ? static_cast<int>(std::max<int64_t>(1, request.threads / groups)) : 1;
    for_each(groups, request.threads, [&](int64_t g) {
        search_together(index, request, g * group, std::min(rows, (g + 1) * group), plan, threads, answer);
    });
}

// One byte at a time is slower than one float at a time: 10 ns per item at M = 8 where PQTopK takes 1.4.
bool floats_are_faster() { return &kernels() == &scalar_kernels; }

}  // namespace

void bounded_scan(const PQ& index, const Request& request, Answer answer) {
    search_rows(index, request, Plan::flat, answer);
}

void block_prune(const PQ& index, const Request& request, Answer answer) {
    search_rows(index, request, Plan::pruned, answer);
}

void planned(const PQ& index, const Request& request, Answer answer) {
    if (floats_are_faster()) return scan_pq(index, request, answer);
    search_rows(index, request, Plan::best, answer);
}

void predict_items(const PQ& index, const Request& request, int64_t* items_U) {
    if (floats_are_faster()) {
        std::fill_n(items_U, request.num_rows, index.num_items);
        return;
    }
    for_each(request.num_rows, request.threads, [&](int64_t row) {
        thread_local Work work;
        items_U[row] = BlockSearch(index, request, row, work).predict();
    });
}

}  // namespace everyitem
