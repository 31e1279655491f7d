#include <algorithm>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "dispatch.h"
#include "gaps.h"
#include "parallel.h"
#include "search.h"

namespace everyitem {
namespace {

// The sub-items of a query, best first in every split, and how far each split has come.
class Frontier {
  public:
    Frontier(const float* table, int num_splits, int num_sub_items)
        : table_(table), num_sub_items_(num_sub_items), order_(num_splits), done_(num_splits) {
        for (int m = 0; m < num_splits; ++m) {
            order_[m].resize(static_cast<size_t>(num_sub_items));
            std::iota(order_[m].begin(), order_[m].end(), 0);
            std::stable_sort(order_[m].begin(), order_[m].end(),
                             [row = table + m * kStride](int a, int b) { return row[a] > row[b]; });
        }
    }

    // Whoever has come to the end of one split has met every item.
    bool exhausted() const {
        return std::ranges::any_of(done_, [&](int done) { return done == num_sub_items_; });
    }

    // No item without a processed sub-item scores more. Summed in split order, the bound needs no slack: float32
    // rounding is monotone.
    float bound() const {
        if (exhausted()) return kNothing;
        float sum = head(0);
        for (size_t m = 1; m < order_.size(); ++m) sum += head(m);
        return sum;
    }

    // The split whose next sub-item scores highest, and up to `batch` of its sub-items.
    std::pair<int, std::span<const int>> next(int batch) {
        size_t best = 0;
        for (size_t m = 1; m < order_.size(); ++m)
            if (head(m) > head(best)) best = m;
        const int first = done_[best];
        done_[best] = std::min(first + batch, num_sub_items_);
        return {static_cast<int>(best), std::span(order_[best]).subspan(first, done_[best] - first)};
    }

  private:
    float head(size_t m) const { return table_[m * kStride + order_[m][done_[m]]]; }

    const float* table_;
    int num_sub_items_;
    std::vector<std::vector<int>> order_;
    std::vector<int> done_;
};

void prune_row(const PQ& index, const Request& request, int64_t row, Answer answer) {
    const int num_splits = index.codebooks.num_splits;
    std::vector<float> table;
    fill_table(index, request, row, table);
    Frontier frontier(table.data(), num_splits, index.codebooks.num_sub_items);
    TopK best(request.k, request.filter(row));
    int64_t scored = 0, steps = 0;
    // the paper stops at bound = threshold as well, where a tie may still be waiting
    while (frontier.bound() >= best.threshold() && !frontier.exhausted() && !request.expired()) {
        ++steps;
        const auto [split, batch] = frontier.next(request.batch_size);
        for (size_t run = 0; run < index.runs.size(); ++run) {
            const auto& [rows, first, count] = index.runs[run];
            for (const int sub_item : batch) {
                const std::span<const int32_t> found = index.postings[run].items(split, sub_item);
                scored += std::ssize(found);
                for (size_t n = 0; n < found.size(); ++n) {
                    constexpr size_t kAhead = 16;  // rows are all over the memory
                    if (n + kAhead < found.size()) __builtin_prefetch(rows + int64_t{found[n + kAhead]} * num_splits);
                    const int32_t item = found[n];
                    const uint8_t* code = rows + int64_t{item} * num_splits;
                    float score = table[code[0]];
                    for (int m = 1; m < num_splits; ++m) score += table[m * kStride + code[m]];
                    const auto position = static_cast<int32_t>(first + item);
                    // several splits may lead to an item; only among the best does it matter
                    if (score >= best.threshold() && !best.contains(position)) best.offer(score, position);
                }
            }
        }
    }
    answer.scored_U[row] = scored;
    if (answer.steps_U) answer.steps_U[row] = steps;
    answer.bound_U[row] = std::max(frontier.bound(), best.settle());
    best.write(answer.items_UK + row * request.k, answer.scores_UK + row * request.k);
}

}  // namespace

Postings::Postings(const Codes& run, int num_splits) : starts_(num_splits), items_(num_splits) {
    for (int m = 0; m < num_splits; ++m) {
        std::vector<int64_t>& starts = starts_[m];
        starts.assign(kStride + 1, 0);
        for (int64_t i = 0; i < run.count; ++i) ++starts[run.rows_IM[i * num_splits + m] + 1];
        std::partial_sum(starts.begin(), starts.end(), starts.begin());
        std::vector<int64_t> next(starts.begin(), starts.end() - 1);
        items_[m].resize(static_cast<size_t>(run.count));
        for (int64_t i = 0; i < run.count; ++i)
            items_[m][next[run.rows_IM[i * num_splits + m]]++] = static_cast<int32_t>(i);
    }
}

void recjpq_prune(const PQ& index, const Request& request, Answer answer) {
    for_each(request.num_rows, request.threads, [&](int64_t row) { prune_row(index, request, row, answer); });
}

}  // namespace everyitem
