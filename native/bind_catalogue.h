// A catalogue of item codes as Python sees it: checks what comes, releases the GIL, calls. No arithmetic.
#pragma once

#include <algorithm>
#include <limits>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "arrange.h"
#include "bind_arrays.h"
#include "search.h"

namespace everyitem {

using Found = std::tuple<Out<int32_t>, Out<float>, Out<float>, Out<int64_t>>;

// What the caller may add to a query; every member optional.
struct Options {
    std::optional<In<uint8_t, 2>> allow;
    std::optional<In<int32_t, 2>> exclude;
    std::optional<In<uint8_t, 1>> removed;
    double seconds;
    int threads;
};

inline Clock::time_point deadline_after(double seconds) {
    constexpr double kYear = 365.0 * 24 * 3600;
    if (!(seconds < kYear)) return Clock::time_point::max();
    return Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

inline Request make_request(size_t rows, int64_t k, const Options& options, size_t num_items) {
    const size_t bytes = (num_items + 7) / 8;
    const auto& [allow, exclude, removed, seconds, threads] = options;
    require(num_items <= size_t{INT32_MAX}, "positions are int32: at most 2^31 - 1 items");
    require(k >= 1 && threads >= 1, "k and threads must be positive");
    require(!allow || (allow->shape(1) == bytes && (allow->shape(0) == 1 || allow->shape(0) == rows)),
            "allow must be (1 or U, ceil(I / 8))");
    require(!exclude || exclude->shape(0) == rows, "exclude must be (U, E)");
    require(!removed || removed->shape(0) == bytes, "removed must be (ceil(I / 8),)");
    return {.query_UD = nullptr,
            .num_rows = static_cast<int64_t>(rows),
            .dim = 0,
            .k = k,
            .allow = allow ? allow->data() : nullptr,
            .allow_stride = allow && allow->shape(0) > 1 ? static_cast<int64_t>(bytes) : 0,
            .removed = removed ? removed->data() : nullptr,
            .exclude_UE = exclude ? exclude->data() : nullptr,
            .num_excluded = exclude ? static_cast<int64_t>(exclude->shape(1)) : 0,
            .deadline = deadline_after(seconds),
            .threads = threads};
}

inline void ask(Request& request, const In<float, 2>& query) {
    request.query_UD = query.data();
    request.dim = static_cast<int>(query.shape(1));
}

template <class Index>
Found search(void (*algorithm)(const Index&, const Request&, Answer), const Index& index, const Request& request) {
    const auto rows = static_cast<size_t>(request.num_rows), k = static_cast<size_t>(request.k);
    Filled<int32_t> items({rows, k});
    Filled<float> scores({rows, k}), bound({rows});
    Filled<int64_t> scored({rows});
    {
        nb::gil_scoped_release release;
        algorithm(index, request, {items.values, scores.values, bound.values, scored.values});
    }
    return {items.to_python(), scores.to_python(), bound.to_python(), scored.to_python()};
}

inline Codebooks codebooks_of(const In<float, 3>& codebooks, const In<float, 2>& query) {
    const Codebooks books = checked_codebooks(as_array(codebooks));
    require(codebooks.shape(0) * codebooks.shape(1) == query.shape(1), "query must be (U, M * d)");
    return books;
}

using PythonLevel = std::tuple<In<uint8_t, 3>, In<uint8_t, 2>, In<uint8_t, 2>>;  // codes, low, high
using PythonPart =
    std::tuple<In<uint8_t, 2>, std::optional<In<uint8_t, 3>>, std::optional<In<int32_t, 1>>, std::vector<PythonLevel>>;

inline PartArrays as_part(const PythonPart& part) {
    const auto& [codes, blocks, positions, levels] = part;
    PartArrays made{as_array(codes), {}, {}, {}};
    if (blocks) made.blocks = as_array(*blocks);
    if (positions) made.positions = as_array(*positions);
    for (const auto& [level, low, high] : levels)
        made.levels.push_back({as_array(level), as_array(low), as_array(high)});
    return made;
}

// A catalogue of codes; keeps the arrays that it was made of alive.
class PQCatalogue {
  public:
    PQCatalogue(In<float, 3> codebooks, std::vector<PythonPart> parts, int64_t whole_level,
                std::optional<In<uint8_t, 2>> recode)
        : codebooks_(std::move(codebooks)), parts_(std::move(parts)), recode_(std::move(recode)) {
        require(!recode_ || (recode_->shape(0) == codebooks_.shape(0) && recode_->shape(1) == 256),
                "recode must be (M, 256)");
        require(!parts_.empty(), "a catalogue has one part or more, which may be empty");
        index_ = {checked_codebooks(as_array(codebooks_)), {}, {}, {}, 0, whole_level,
                  recode_ ? recode_->data() : nullptr};
        for (const PythonPart& part : parts_) add_part(index_, as_part(part));
    }

    // Queries (U, M * d), or their score tables (U, M, B).
    Found top_k(nb::object asked, int64_t k, std::optional<In<uint8_t, 2>> allow, const SlotFilter* slots,
                std::optional<In<int32_t, 2>> exclude, std::optional<In<uint8_t, 1>> removed, double seconds,
                int threads, const std::string& algorithm, double gap_factor, int batch_size) {
        require(batch_size >= 1, "batch_size must be positive");
        const Asked from = to_asked(asked);
        Request request = to_request(from, k, {allow, exclude, removed, seconds, threads}, slots);
        request.gap_factor = gap_factor;
        request.batch_size = batch_size;
        if (algorithm == "recjpqprune") make_postings();
        return search(named(algorithm), index_, request);
    }

    Out<int64_t> predict(nb::object asked, int64_t k, std::optional<In<uint8_t, 2>> allow, const SlotFilter* slots,
                         std::optional<In<uint8_t, 1>> removed, int threads) {
        require(index_.parts.size() == index_.runs.size(), "this needs the codes in blocks");
        const Asked from = to_asked(asked);
        const Request request =
            to_request(from, k, {allow, {}, removed, std::numeric_limits<double>::infinity(), threads}, slots);
        Filled<int64_t> items({static_cast<size_t>(request.num_rows)});
        {
            nb::gil_scoped_release release;
            predict_items(index_, request, items.values);
        }
        return items.to_python();
    }

    // Batches of sub-items that RecJPQPrune processes for every row.
    Out<int64_t> steps(nb::object asked, int64_t k, int batch_size, int threads) {
        require(batch_size >= 1, "batch_size must be positive");
        const Asked from = to_asked(asked);
        Request request = to_request(from, k, {{}, {}, {}, std::numeric_limits<double>::infinity(), threads}, nullptr);
        request.batch_size = batch_size;
        make_postings();
        const auto rows = static_cast<size_t>(request.num_rows);
        Filled<int32_t> items({rows, static_cast<size_t>(k)});
        Filled<float> scores({rows, static_cast<size_t>(k)}), bound({rows});
        Filled<int64_t> scored({rows}), steps({rows});
        {
            nb::gil_scoped_release release;
            recjpq_prune(index_, request, {items.values, scores.values, bound.values, scored.values, steps.values});
        }
        return steps.to_python();
    }

    std::unique_ptr<SlotFilter> compile(In<uint8_t, 1> allow) const {
        require(index_.parts.size() == index_.runs.size(), "this needs the codes in blocks");
        require(static_cast<int64_t>(allow.shape(0)) == (index_.num_items + 7) / 8, "allow must be (ceil(I / 8),)");
        nb::gil_scoped_release release;
        return std::make_unique<SlotFilter>(index_, allow.data());
    }

  private:
    struct Asked {
        std::optional<In<float, 2>> query;
        std::optional<In<float, 3>> table;
    };

    Asked to_asked(const nb::object& asked) const {
        Asked from;
        In<float, 2> query;
        if (nb::try_cast(asked, query, false)) {
            codebooks_of(codebooks_, query);
            from.query = query;
            return from;
        }
        In<float, 3> table;
        if (!nb::try_cast(asked, table, false))
            throw nb::type_error("queries (U, D) or score tables (U, M, B), float32");
        require(table.shape(1) == codebooks_.shape(0) && table.shape(2) == codebooks_.shape(2),
                "a score table must be (U, M, B)");
        from.table = table;
        return from;
    }

    Request to_request(const Asked& from, int64_t k, const Options& options, const SlotFilter* slots) const {
        const size_t rows = from.query ? from.query->shape(0) : from.table->shape(0);
        Request request = make_request(rows, k, options, static_cast<size_t>(index_.num_items));
        if (from.query) ask(request, *from.query);
        if (from.table) request.table_UMB = from.table->data();
        require(!slots || (options.allow && fits(*slots)), "a compiled filter belongs to the catalogue that made it");
        request.slots = slots;
        return request;
    }

    bool fits(const SlotFilter& slots) const {
        return std::ranges::equal(slots.parts, index_.parts, [](const auto& filter, const Blocks& part) {
            return std::ssize(filter.live) == part.count();
        });
    }

    void make_postings() {
        nb::gil_scoped_release release;  // whoever waits for the lists must not keep whoever makes them from Python
        std::call_once(posted_, [this] { post(); });
    }

    void post() {
        for (const Codes& run : index_.runs) index_.postings.emplace_back(run, index_.codebooks.num_splits);
    }

    using Algorithm = void (*)(const PQ&, const Request&, Answer);

    Algorithm named(const std::string& name) const {
        if (name == "pqtopk") return scan_pq;
        if (name == "recjpq") return scan_pq_by_split;
        if (name == "recjpqprune") return recjpq_prune;
        require(index_.parts.size() == index_.runs.size(), "this algorithm needs the codes in blocks");
        if (name == "bounded_scan") return bounded_scan;
        if (name == "block_prune") return block_prune;
        if (name == "planned") return planned;
        throw std::invalid_argument("no algorithm " + name);
    }

    In<float, 3> codebooks_;
    std::vector<PythonPart> parts_;
    std::optional<In<uint8_t, 2>> recode_;
    PQ index_;
    std::once_flag posted_;
};

}  // namespace everyitem
