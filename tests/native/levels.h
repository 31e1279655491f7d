// Two levels on every kernel: the bits of the scalar one, the ranking of all scores, and libm's probabilities.
#pragma once

#include <cmath>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "dispatch.h"
#include "draw.h"
#include "guarded.h"
#include "oracle.h"
#include "two_level.h"

class TwoLevelCase {
  public:
    explicit TwoLevelCase(Draw& draw)
        : draw_(draw), items_(draw.pick(draw.coin() ? 6 : 300)), clusters_(1 + draw.pick(20)), dim_(1 + draw.pick(40)) {
        std::vector<int> cluster_of(items_);
        for (int& c : cluster_of) c = draw.pick(clusters_);  // some clusters have no item
        std::vector<int32_t> order(items_);
        std::iota(order.begin(), order.end(), 0);
        std::ranges::stable_sort(order, {}, [&](int32_t i) { return cluster_of[i]; });
        std::vector<int64_t> starts(clusters_ + 1);
        for (int c : cluster_of) ++starts[c + 1];
        std::partial_sum(starts.begin(), starts.end(), starts.begin());
        positions_ = {order, draw.coin()}, starts_ = {starts, draw.coin()};
        vectors_ = floats(items_ * dim_), centres_ = floats(clusters_ * dim_), bias_ = floats(clusters_);
        query_ = floats(kRows * dim_);
        const float cap = draw.coin() ? std::numeric_limits<float>::infinity() : 3.0f;
        index_ = {vectors_.data(),
                  positions_.data(),
                  starts_.data(),
                  centres_.data(),
                  bias_.data(),
                  items_,
                  clusters_,
                  dim_,
                  cap};
        for (Guarded<uint8_t>* bits : {&allow_, &removed_})
            if (draw.coin()) {
                *bits = {static_cast<size_t>((items_ + 7) / 8), draw.coin()};
                for (uint8_t& byte : *bits) byte = draw.byte();
            }
    }

    // Empty if all is well.
    std::string check(int threads) {
        everyitem::use_cpu("scalar");
        const std::vector<float> wanted = scores();
        if (!probable(wanted)) return "not libm's probabilities";
        for (const std::string& cpu : everyitem::available_cpus()) {
            everyitem::use_cpu(cpu);
            if (const auto found = scores();
                items_ && std::memcmp(found.data(), wanted.data(), found.size() * sizeof(float)))
                return cpu + ": other scores";
            for (const int64_t k : std::initializer_list<int64_t>{1, 3, items_ + 2})
                if (!ranked(wanted, k, threads)) return cpu + ": not the k best";
        }
        return {};
    }

  private:
    static constexpr int64_t kRows = 2;

    Guarded<float> floats(int64_t count) {
        Guarded<float> values(static_cast<size_t>(count), draw_.coin());
        const bool few = draw_.coin();
        for (float& value : values) value = few ? draw_.pick(3) - 1 : static_cast<float>(4 * draw_.unit() - 2);
        return values;
    }

    std::vector<float> scores() const {  // (kRows, items), by row
        std::vector<int64_t> rows(static_cast<size_t>(kRows * items_));
        for (int64_t n = 0; n < std::ssize(rows); ++n) rows[n] = n % items_;
        std::vector<float> found(rows.size());
        everyitem::score_rows(index_, query_.data(), kRows, rows.data(), items_, found.data());
        return found;
    }

    double logit(int64_t row, const float* vector) const {
        double sum = 0;
        for (int t = 0; t < dim_; ++t) sum += double{query_[row * dim_ + t]} * vector[t];
        return std::isinf(index_.cap) ? sum : index_.cap * std::tanh(sum / index_.cap);
    }

    bool probable(const std::vector<float>& found) const {
        for (int64_t row = 0; row < kRows; ++row) {
            std::vector<double> of_cluster(clusters_), inside(clusters_);
            double all = 0;
            for (int c = 0; c < clusters_; ++c) {
                of_cluster[c] = logit(row, centres_.data() + c * dim_) + bias_[c];
                if (starts_[c] < starts_[c + 1]) all += std::exp(of_cluster[c]);
                for (int64_t i = starts_[c]; i < starts_[c + 1]; ++i)
                    inside[c] += std::exp(logit(row, vectors_.data() + i * dim_));
            }
            for (int c = 0; c < clusters_; ++c)
                for (int64_t i = starts_[c]; i < starts_[c + 1]; ++i) {
                    const double log_p =
                        of_cluster[c] - std::log(all) + logit(row, vectors_.data() + i * dim_) - std::log(inside[c]);
                    if (std::abs(found[row * items_ + i] - log_p) > 2e-4) return false;
                }
        }
        return true;
    }

    bool eligible(int32_t position) const {
        return (!allow_.data() || everyitem::bit_is_set(allow_.data(), position)) &&
               (!removed_.data() || !everyitem::bit_is_set(removed_.data(), position));
    }

    bool ranked(const std::vector<float>& wanted, int64_t k, int threads) const {
        everyitem::Request request{.query_UD = query_.data(),
                                   .num_rows = kRows,
                                   .dim = dim_,
                                   .k = k,
                                   .allow = allow_.data(),
                                   .allow_stride = 0,
                                   .removed = removed_.data(),
                                   .exclude_UE = nullptr,
                                   .num_excluded = 0,
                                   .deadline = everyitem::Clock::time_point::max(),
                                   .threads = threads};
        Guarded<int32_t> items(kRows * k, true);
        Guarded<float> scores(kRows * k, true), bound(kRows, true);
        Guarded<int64_t> scored(kRows, true);
        everyitem::search_clusters(index_, request, {items.data(), scores.data(), bound.data(), scored.data()});
        for (int64_t row = 0; row < kRows; ++row) {
            std::vector<Scored> best;
            for (int64_t i = 0; i < items_; ++i)
                if (eligible(positions_[i])) best.push_back({wanted[row * items_ + i], positions_[i]});
            std::ranges::sort(best, [](const Scored& a, const Scored& b) { return a.ranks_before(b); });
            best.resize(static_cast<size_t>(k), {everyitem::kNothing, -1});
            for (int64_t n = 0; n < k; ++n)
                if (best[n].position != items[row * k + n] || best[n].score != scores[row * k + n]) return false;
            if (bound[row] != best[k - 1].score) return false;
        }
        return true;
    }

    Draw& draw_;
    int64_t items_;
    int clusters_, dim_;
    Guarded<int32_t> positions_;
    Guarded<int64_t> starts_;
    Guarded<float> vectors_, centres_, bias_, query_;
    Guarded<uint8_t> allow_, removed_;
    everyitem::TwoLevel index_{};
};
