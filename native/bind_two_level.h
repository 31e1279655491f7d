// A catalogue in clusters as Python sees it: checks what comes, releases the GIL, calls. No arithmetic.
#pragma once

#include <limits>
#include <optional>
#include <utility>

#include "bind_catalogue.h"
#include "two_level.h"

namespace everyitem {

// Keeps the arrays that it was made of alive. They are looked at here once, so they must not change.
class TwoLevelCatalogue {
  public:
    TwoLevelCatalogue(In<float, 2> vectors, In<int32_t, 1> positions, In<int64_t, 1> starts, In<float, 2> clusters,
                      In<float, 1> bias, std::optional<float> cap)
        : vectors_(std::move(vectors)),
          positions_(std::move(positions)),
          starts_(std::move(starts)),
          clusters_(std::move(clusters)),
          bias_(std::move(bias)) {
        const size_t items = vectors_.shape(0), dim = vectors_.shape(1), clusters_count = clusters_.shape(0);
        require(dim >= 1 && dim <= INT32_MAX && clusters_.shape(1) == dim, "vectors and clusters differ in dim");
        require(items <= size_t{INT32_MAX} && positions_.shape(0) == items, "positions must be (I,)");
        require(clusters_count >= 1 && clusters_count < INT32_MAX && starts_.shape(0) == clusters_count + 1 &&
                    bias_.shape(0) == clusters_count,
                "starts must be (C + 1,) and bias (C,)");
        const int64_t* start = starts_.data();
        require(start[0] == 0 && start[clusters_count] == static_cast<int64_t>(items) &&
                    std::is_sorted(start, start + clusters_count + 1),
                "starts must ascend from 0 to I");
        for (size_t i = 0; i < items; ++i)
            require(positions_.data()[i] >= 0 && positions_.data()[i] < static_cast<int64_t>(items),
                    "positions must be below I");
        require(!cap || *cap > 0, "cap must be positive");
        index_ = {vectors_.data(),
                  positions_.data(),
                  start,
                  clusters_.data(),
                  bias_.data(),
                  static_cast<int64_t>(items),
                  static_cast<int>(clusters_count),
                  static_cast<int>(dim),
                  cap.value_or(std::numeric_limits<float>::infinity())};
    }

    Found top_k(In<float, 2> query, int64_t k, std::optional<In<uint8_t, 2>> allow,
                std::optional<In<int32_t, 2>> exclude, std::optional<In<uint8_t, 1>> removed, double seconds,
                int threads) const {
        check(query);
        Request request = make_request(query.shape(0), k, {allow, exclude, removed, seconds, threads},
                                       static_cast<size_t>(index_.num_items));
        ask(request, query);
        return search(search_clusters, index_, request);
    }

    Out<float> scores(In<float, 2> query, In<int64_t, 2> rows) const {
        check(query);
        require(rows.shape(0) == query.shape(0), "rows must be (U, N)");
        for (size_t n = 0; n < rows.size(); ++n)
            require(rows.data()[n] >= 0 && rows.data()[n] < index_.num_items, "rows must be below I");
        Filled<float> out({rows.shape(0), rows.shape(1)});
        {
            nb::gil_scoped_release release;
            score_rows(index_, query.data(), static_cast<int64_t>(query.shape(0)), rows.data(),
                       static_cast<int64_t>(rows.shape(1)), out.values);
        }
        return out.to_python();
    }

  private:
    void check(const In<float, 2>& query) const {
        require(static_cast<int64_t>(query.shape(1)) == index_.dim, "query and vectors differ in dim");
    }

    In<float, 2> vectors_;
    In<int32_t, 1> positions_;
    In<int64_t, 1> starts_;
    In<float, 2> clusters_;
    In<float, 1> bias_;
    TwoLevel index_;
};

}  // namespace everyitem
