// What the answer must be: score everything, sort, cut off. And whether an answer is that, or at least keeps its word.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "catalogue.h"
#include "dispatch.h"

struct Algorithm {
    const char* name;
    void (*run)(const everyitem::PQ&, const everyitem::Request&, everyitem::Answer);
};

inline constexpr Algorithm kAlgorithms[] = {
    {"pqtopk", everyitem::scan_pq},           {"recjpq", everyitem::scan_pq_by_split},
    {"recjpqprune", everyitem::recjpq_prune}, {"bounded_scan", everyitem::bounded_scan},
    {"block_prune", everyitem::block_prune},  {"planned", everyitem::planned}};

struct Scored {
    float score;
    int32_t position;

    bool ranks_before(const Scored& other) const {
        return score > other.score || (score == other.score && position < other.position);
    }
};

// One row of a request, by the definition.
class Oracle {
  public:
    Oracle(const Catalogue& asked, int64_t row) : asked_(asked), row_(row), k_(asked.request.k) {
        find_table();
        scores.reserve(static_cast<size_t>(asked.index.num_items));
        for (const auto& [rows, first, count] : asked.index.runs)
            for (int64_t i = 0; i < count; ++i) scores.push_back(score(rows + i * asked.num_splits));
        for (int32_t position = 0; position < asked.index.num_items; ++position)
            if (passes(position)) eligible.push_back({scores[position], position});
        const auto best = eligible.begin() + std::min(k_, std::ssize(eligible));
        std::partial_sort(eligible.begin(), best, eligible.end(),
                          [](const Scored& a, const Scored& b) { return a.ranks_before(b); });
    }

    std::vector<float> scores;     // of every position
    std::vector<Scored> eligible;  // the best first, behind them the others in any order

    // Sorting is all there is to it, so that the bound is the last score.
    bool equals(const int32_t* items, const float* found, float bound) const {
        for (int64_t n = 0; n < k_; ++n) {
            const bool there = n < std::ssize(eligible);
            if (items[n] != (there ? eligible[n].position : -1)) return false;
            if (!same_bits(found[n], there ? eligible[n].score : everyitem::kNothing)) return false;
        }
        return same_bits(bound, k_ <= std::ssize(eligible) ? eligible[k_ - 1].score : everyitem::kNothing);
    }

    // Of an answer that was cut short: its items are eligible, in order, with their scores; no other is above its
    // bound.
    bool allows(const int32_t* items, const float* found, float bound) const {
        std::vector<bool> returned(scores.size());
        for (int64_t n = 0; n < k_ && items[n] != -1; ++n) {
            if (items[n] < 0 || items[n] >= std::ssize(scores) || returned[items[n]] || !passes(items[n])) return false;
            if (!same_bits(found[n], scores[items[n]])) return false;
            if (n && !Scored{found[n - 1], items[n - 1]}.ranks_before({found[n], items[n]})) return false;
            returned[items[n]] = true;
        }
        return std::ranges::all_of(eligible,
                                   [&](const Scored& one) { return returned[one.position] || one.score <= bound; });
    }

  private:
    static bool same_bits(float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); }

    void find_table() {
        const auto& [values, splits, dim, sub_items] = asked_.index.codebooks;
        table_.assign(static_cast<size_t>(splits) * sub_items, 0.0f);
        for (int m = 0; m < splits; ++m)
            for (int t = 0; t < dim; ++t)
                for (int b = 0; b < sub_items; ++b)
                    table_[m * sub_items + b] +=
                        asked_.query[row_ * splits * dim + m * dim + t] * values[(m * dim + t) * sub_items + b];
    }

    float score(const uint8_t* codes) const {
        float sum = table_[codes[0]];
        for (int m = 1; m < asked_.num_splits; ++m) sum += table_[m * asked_.num_sub_items + codes[m]];
        return sum;
    }

    static bool is_set(const uint8_t* bits, int32_t position) { return bits[position / 8] & (1 << position % 8); }

    bool passes(int32_t position) const {
        const everyitem::Request& request = asked_.request;
        const int32_t* excluded = request.exclude_UE + row_ * request.num_excluded;
        return (!request.allow || is_set(request.allow + row_ * request.allow_stride, position)) &&
               (!request.removed || !is_set(request.removed, position)) &&
               std::find(excluded, excluded + request.num_excluded, position) == excluded + request.num_excluded;
    }

    const Catalogue& asked_;
    int64_t row_;
    int64_t k_;
    std::vector<float> table_;
};

// The rows that an algorithm answers with, in guarded memory as well.
class Answered {
  public:
    Answered(const Catalogue& asked, const Algorithm& algorithm, const everyitem::Request& request, bool at_end)
        : k_(request.k),
          items_(static_cast<size_t>(request.num_rows * k_), at_end),
          scores_(items_.size(), at_end),
          bound_(static_cast<size_t>(request.num_rows), at_end),
          scored_(bound_.size(), at_end) {
        algorithm.run(asked.index, request, {items_.data(), scores_.data(), bound_.data(), scored_.data()});
    }

    const int32_t* items(int64_t row) const { return items_.data() + row * k_; }
    const float* scores(int64_t row) const { return scores_.data() + row * k_; }
    float bound(int64_t row) const { return bound_[row]; }

  private:
    int64_t k_;
    Guarded<int32_t> items_;
    Guarded<float> scores_, bound_;
    Guarded<int64_t> scored_;
};

// Every algorithm on every kernel, or on some. Empty, or what differs.
class Comparison {
  public:
    explicit Comparison(const Catalogue& asked, std::vector<std::string> cpus = everyitem::available_cpus())
        : asked_(asked), cpus_(std::move(cpus)) {
        for (int64_t row = 0; row < asked.num_rows; ++row) oracles.emplace_back(asked, row);
    }

    std::vector<Oracle> oracles;

    std::string exact() const {
        return every([](const Oracle& oracle, auto... answer) { return oracle.equals(answer...); }, asked_.request);
    }
    // `request` may be one that lets a search stop early.
    std::string certified(const everyitem::Request& request) const {
        return every([](const Oracle& oracle, auto... answer) { return oracle.allows(answer...); }, request);
    }

  private:
    template <class Holds>
    std::string every(Holds holds, const everyitem::Request& request) const {
        bool at_end = false;
        for (const std::string& cpu : cpus_) {
            everyitem::use_cpu(cpu);
            for (const Algorithm& algorithm : kAlgorithms) {
                const Answered found(asked_, algorithm, request, at_end = !at_end);
                for (int64_t row = 0; row < asked_.num_rows; ++row)
                    if (!holds(oracles[row], found.items(row), found.scores(row), found.bound(row)))
                        return described(algorithm.name, cpu, row, found);
            }
        }
        return {};
    }

    std::string described(const char* algorithm, const std::string& cpu, int64_t row, const Answered& found) const {
        const std::vector<Scored>& wanted = oracles[row].eligible;
        int64_t n = 0;
        while (n + 1 < asked_.request.k && n < std::ssize(wanted) && found.items(row)[n] == wanted[n].position) ++n;
        const Scored other = n < std::ssize(wanted) ? wanted[n] : Scored{everyitem::kNothing, -1};
        char text[256];
        std::snprintf(text, sizeof text,
                      "%s on %s, row %d: at rank %d of %d item %d (%a), wanted %d (%a); bound %a; %d items, M = %d",
                      algorithm, cpu.c_str(), static_cast<int>(row), static_cast<int>(n),
                      static_cast<int>(asked_.request.k), found.items(row)[n], found.scores(row)[n], other.position,
                      other.score, found.bound(row), static_cast<int>(asked_.index.num_items), asked_.num_splits);
        return text;
    }

    const Catalogue& asked_;
    std::vector<std::string> cpus_;
};
