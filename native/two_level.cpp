#include "two_level.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "dispatch.h"
#include "parallel.h"

namespace everyitem {
namespace {

// log x for x >= 1, in float64 by +, -, *, / alone: the same bits everywhere. 2 atanh(f) = log((1 + f) / (1 - f)).
float log_of(float x) {
    constexpr double kLn2 = 0.6931471805599453, kSqrtHalf = 0.7071067811865476;
    int exponent;
    double mantissa = std::frexp(double{x}, &exponent);
    if (mantissa < kSqrtHalf) mantissa *= 2, --exponent;
    const double f = (mantissa - 1) / (mantissa + 1), square = f * f;
    double series = 0;
    for (int n = 21; n > 0; n -= 2) series = series * square + 1.0 / n;
    return static_cast<float>(exponent * kLn2 + 2 * (f * series));
}

// Never below the largest: the sum holds e^0 = 1, and log 1 = 0. So no log p exceeds 0, in float32 as on paper.
float log_sum_exp(const std::vector<float>& logits) {
    const float largest = kernels().extent(logits.data(), static_cast<int>(logits.size())).largest;
    return largest + log_of(kernels().sum_exps(logits.data(), static_cast<int64_t>(logits.size()), largest));
}

// One query: what it gives to clusters, and to the items of one cluster at a time.
class Probabilities {
  public:
    Probabilities(const TwoLevel& index, const float* query) : index_(index), query_(query) {
        fill(index.clusters_CD, index.num_clusters, clusters_);
        for (int c = 0; c < index.num_clusters; ++c) clusters_[c] = size(c) ? clusters_[c] + index.bias_C[c] : kNothing;
        const float total = index.num_items ? log_sum_exp(clusters_) : 0.0f;
        for (float& logit : clusters_) logit -= total;
    }

    int64_t size(int c) const { return index_.starts_C[c + 1] - index_.starts_C[c]; }
    float of_cluster(int c) const { return clusters_[c]; }

    // Then `of_item` takes the place of an item among those of this cluster.
    void enter(int c) {
        fill(index_.vectors_ID + index_.starts_C[c] * index_.dim, size(c), inside_);
        cluster_ = clusters_[c];
        total_ = log_sum_exp(inside_);
    }
    float of_item(int64_t place) const { return cluster_ + (inside_[place] - total_); }

  private:
    void fill(const float* vectors, int64_t count, std::vector<float>& logits) const {
        logits.resize(static_cast<size_t>(count));
        kernels().dots(query_, vectors, count, index_.dim, logits.data());
        if (std::isfinite(index_.cap)) kernels().cap_logits(logits.data(), count, index_.cap);
    }

    const TwoLevel& index_;
    const float* query_;
    std::vector<float> clusters_, inside_;
    float cluster_ = 0, total_ = 0;
};

// Clusters with items, best first and of equals the first one. Few are taken, so they are heaped, not sorted.
class BestFirst {
  public:
    BestFirst(const Probabilities& asked, int num_clusters) {
        for (int c = 0; c < num_clusters; ++c)
            if (asked.size(c)) left_.emplace_back(asked.of_cluster(c), -c);
        std::ranges::make_heap(left_);
    }
    bool empty() const { return left_.empty(); }
    int next() const { return -left_.front().second; }
    void pop() {
        std::ranges::pop_heap(left_);
        left_.pop_back();
    }

  private:
    std::vector<std::pair<float, int>> left_;
};

void search_row(const TwoLevel& index, const Request& request, int64_t row, Answer answer) {
    Probabilities asked(index, request.query(row));
    const Filter filter = request.filter(row);
    TopK best(request.k, filter);
    int64_t scored = 0;
    float unseen = kNothing;
    for (BestFirst clusters(asked, index.num_clusters); !clusters.empty(); clusters.pop()) {
        const int c = clusters.next();
        if (asked.of_cluster(c) < best.threshold()) break;
        if (request.expired()) {
            unseen = asked.of_cluster(c);
            break;
        }
        const int32_t *first = index.positions_I + index.starts_C[c], *last = first + asked.size(c);
        if (std::none_of(first, last, [&](int32_t position) { return filter.passes(position); })) continue;
        asked.enter(c);
        for (const int32_t* position = first; position < last; ++position)
            if (const float score = asked.of_item(position - first); score >= best.threshold())
                best.offer(score, *position);
        scored += asked.size(c);
    }
    answer.scored_U[row] = scored;
    answer.bound_U[row] = std::max(best.settle(), unseen);
    best.write(answer.items_UK + row * request.k, answer.scores_UK + row * request.k);
}

}  // namespace

void search_clusters(const TwoLevel& index, const Request& request, Answer answer) {
    for_each(request.num_rows, request.threads, [&](int64_t row) { search_row(index, request, row, answer); });
}

void score_rows(const TwoLevel& index, const float* query_UD, int64_t num_queries, const int64_t* rows_UN,
                int64_t num_rows, float* scores_UN) {
    std::vector<int64_t> order(static_cast<size_t>(num_rows));
    for (; num_queries > 0; --num_queries, query_UD += index.dim, rows_UN += num_rows, scores_UN += num_rows) {
        Probabilities asked(index, query_UD);
        std::iota(order.begin(), order.end(), int64_t{0});
        std::ranges::sort(order, {}, [&](int64_t n) { return rows_UN[n]; });  // so that a cluster is entered once
        int64_t start = 0, end = 0;
        for (const int64_t n : order) {
            if (rows_UN[n] >= end) {
                const int64_t* next =
                    std::upper_bound(index.starts_C, index.starts_C + index.num_clusters + 1, rows_UN[n]);
                start = next[-1], end = next[0];
                asked.enter(static_cast<int>(next - index.starts_C) - 1);
            }
            scores_UN[n] = asked.of_item(rows_UN[n] - start);
        }
    }
}

}  // namespace everyitem
