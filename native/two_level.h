// Two-level softmax (arXiv:2509.03746): log p(i) = log p(c) + log p(i | c), c the item's cluster.
#pragma once

#include "search.h"

namespace everyitem {

// Rows stand cluster by cluster, those of a cluster in order of position.
struct TwoLevel {
    const float* vectors_ID;
    const int32_t* positions_I;  // of every row
    const int64_t* starts_C;     // rows of cluster c: starts_C[c] .. starts_C[c + 1] - 1
    const float* clusters_CD;
    const float* bias_C;
    int64_t num_items;
    int num_clusters, dim;
    float cap;  // of logits; infinity: none
};

// The k best by visiting clusters in descending order of log p(c), which no item of the cluster exceeds.
void search_clusters(const TwoLevel& index, const Request& request, Answer answer);

// The scores of the items in given rows, (num_queries, num_rows).
void score_rows(const TwoLevel& index, const float* query_UD, int64_t num_queries, const int64_t* rows_UN,
                int64_t num_rows, float* scores_UN);

}  // namespace everyitem
