// The only file that knows Python: checks shapes, releases the GIL, calls. No arithmetic.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>

#if __has_include(<sys/mman.h>)
#include <sys/mman.h>
#endif

#include "arrange.h"
#include "dispatch.h"
#include "search.h"

namespace nb = nanobind;
using namespace everyitem;

namespace {

template <class T, int kDims>
using In = nb::ndarray<const T, nb::ndim<kDims>, nb::c_contig, nb::device::cpu>;
template <class T>
using Out = nb::ndarray<nb::numpy, T>;
using Found = std::tuple<Out<int32_t>, Out<float>, Out<float>, Out<int64_t>>;

// An array that C++ fills and Python then owns, aligned to cache lines; a large one in huge pages where there are any.
template <class T>
class Filled {
  public:
    T* values;

    explicit Filled(std::vector<size_t> dims) : shape_(std::move(dims)) {
        size_t size = sizeof(T);
        for (size_t length : shape_)
            if (__builtin_mul_overflow(size, length, &size)) throw std::bad_alloc();
        constexpr size_t kLine = 64, kHugePage = size_t{1} << 21;
        const size_t alignment = size >= kHugePage ? kHugePage : kLine;
        if (size > PTRDIFF_MAX - alignment) throw std::bad_alloc();
        memory_.reset(std::aligned_alloc(alignment, (size / alignment + 1) * alignment));
        if (!memory_) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
        if (alignment == kHugePage) madvise(memory_.get(), size, MADV_HUGEPAGE);
#endif
        values = static_cast<T*>(memory_.get());
    }
    Out<T> to_python() {
        nb::capsule owner(memory_.release(), [](void* p) noexcept { std::free(p); });
        return Out<T>(values, shape_.size(), shape_.data(), owner);
    }

  private:
    struct Free {
        void operator()(void* memory) const { std::free(memory); }
    };
    std::unique_ptr<void, Free> memory_;
    std::vector<size_t> shape_;
};

void require(bool holds, const char* message) {
    if (!holds) throw std::invalid_argument(message);
}

// What the caller may add to a query; every member optional.
struct Options {
    std::optional<In<uint8_t, 2>> allow;
    std::optional<In<int32_t, 2>> exclude;
    std::optional<In<uint8_t, 1>> removed;
    double seconds;
    int threads;
};

Clock::time_point deadline_after(double seconds) {
    constexpr double kYear = 365.0 * 24 * 3600;
    if (!(seconds < kYear)) return Clock::time_point::max();
    return Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

Request make_request(const In<float, 2>& query, int64_t k, const Options& options, size_t num_items) {
    const size_t rows = query.shape(0), bytes = (num_items + 7) / 8;
    const auto& [allow, exclude, removed, seconds, threads] = options;
    require(num_items <= size_t{INT32_MAX}, "positions are int32: at most 2^31 - 1 items");
    require(k >= 1 && threads >= 1, "k and threads must be positive");
    require(!allow || (allow->shape(1) == bytes && (allow->shape(0) == 1 || allow->shape(0) == rows)),
            "allow must be (1 or U, ceil(I / 8))");
    require(!exclude || exclude->shape(0) == rows, "exclude must be (U, E)");
    require(!removed || removed->shape(0) == bytes, "removed must be (ceil(I / 8),)");
    return {.query_UD = query.data(),
            .num_rows = static_cast<int64_t>(rows),
            .dim = static_cast<int>(query.shape(1)),
            .k = k,
            .allow = allow ? allow->data() : nullptr,
            .allow_stride = allow && allow->shape(0) > 1 ? static_cast<int64_t>(bytes) : 0,
            .removed = removed ? removed->data() : nullptr,
            .exclude_UE = exclude ? exclude->data() : nullptr,
            .num_excluded = exclude ? static_cast<int64_t>(exclude->shape(1)) : 0,
            .deadline = deadline_after(seconds),
            .threads = threads};
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

Codebooks checked(const In<float, 3>& codebooks, const In<float, 2>& query) {
    require(codebooks.shape(0) <= 64, "at most 64 splits");
    require(codebooks.shape(0) >= 1 && codebooks.shape(1) >= 1 && codebooks.shape(2) >= 1 && codebooks.shape(2) <= 256,
            "codebooks must be (M, d, B) with 1 <= B <= 256");
    require(codebooks.shape(0) * codebooks.shape(1) == query.shape(1), "query must be (U, M * d)");
    return {codebooks.data(), static_cast<int>(codebooks.shape(0)), static_cast<int>(codebooks.shape(1)),
            static_cast<int>(codebooks.shape(2))};
}

Dense checked(const In<float, 2>& vectors, const In<float, 2>& query) {
    require(vectors.shape(1) >= 1 && vectors.shape(1) == query.shape(1), "query and vectors differ in dim");
    return {vectors.data(), static_cast<int64_t>(vectors.shape(0)), static_cast<int>(vectors.shape(1))};
}

Out<float> score_table(In<float, 2> query, In<float, 3> codebooks) {
    const Codebooks books = checked(codebooks, query);
    const auto& [values, num_splits, split_dim, num_sub_items] = books;
    Filled<float> table({query.shape(0), codebooks.shape(0), codebooks.shape(2)});
    {
        nb::gil_scoped_release release;
        for (size_t row = 0; row < query.shape(0); ++row)
            kernels().score_table(query.data() + row * query.shape(1), values, num_splits, split_dim, num_sub_items,
                                  num_sub_items, table.values + row * num_splits * num_sub_items);
    }
    return table.to_python();
}

Out<float> dense_scores(In<float, 2> query, In<float, 2> vectors) {
    const Dense index = checked(vectors, query);
    Filled<float> scores({query.shape(0), vectors.shape(0)});
    {
        nb::gil_scoped_release release;
        for (size_t row = 0; row < query.shape(0); ++row)
            kernels().dots(query.data() + row * query.shape(1), index.vectors_ID, index.num_items, index.dim,
                           scores.values + row * vectors.shape(0));
    }
    return scores.to_python();
}

using LevelArrays = std::tuple<In<uint8_t, 3>, In<uint8_t, 2>, In<uint8_t, 2>>;  // codes, low, high
// Codes as rows, in blocks (or none yet), positions of the slots (or none: in order), levels.
using PartArrays =
    std::tuple<In<uint8_t, 2>, std::optional<In<uint8_t, 3>>, std::optional<In<int32_t, 1>>, std::vector<LevelArrays>>;

int64_t blocks_for(int64_t count) { return (count + 63) / 64; }

// A catalogue of codes; keeps the arrays that it was made of alive.
class PQCatalogue {
  public:
    PQCatalogue(In<float, 3> codebooks, std::vector<PartArrays> parts, int64_t whole_level)
        : codebooks_(std::move(codebooks)), parts_(std::move(parts)) {
        const auto splits = codebooks_.shape(0);
        require(!parts_.empty(), "a catalogue has one part or more, which may be empty");
        index_ = {{codebooks_.data(), static_cast<int>(splits), static_cast<int>(codebooks_.shape(1)),
                   static_cast<int>(codebooks_.shape(2))},
                  {},
                  {},
                  {},
                  0,
                  whole_level};
        for (const auto& [codes, blocks, positions, levels] : parts_) {
            const auto count = static_cast<int64_t>(codes.shape(0));
            require(codes.shape(1) == splits, "codes and codebooks differ in splits");
            index_.runs.push_back({codes.data(), index_.num_items, count});
            const auto slots = positions ? static_cast<int64_t>(positions->shape(0)) : count;
            if (blocks) index_.parts.push_back(checked_blocks(*blocks, positions, levels, slots));
            index_.num_items += count;
        }
    }

    Found top_k(In<float, 2> query, int64_t k, std::optional<In<uint8_t, 2>> allow,
                std::optional<In<int32_t, 2>> exclude, std::optional<In<uint8_t, 1>> removed, double seconds,
                int threads, const std::string& algorithm, double gap_factor, int batch_size) {
        checked(codebooks_, query);
        Request request =
            make_request(query, k, {allow, exclude, removed, seconds, threads}, static_cast<size_t>(index_.num_items));
        require(batch_size >= 1, "batch_size must be positive");
        request.gap_factor = gap_factor;
        request.batch_size = batch_size;
        if (algorithm == "recjpqprune") {
            nb::gil_scoped_release release;  // whoever waits for the lists must not keep whoever makes them from Python
            std::call_once(posted_, [this] { post(); });
        }
        return search(named(algorithm), index_, request);
    }

  private:
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

    Blocks checked_blocks(const In<uint8_t, 3>& blocks, const std::optional<In<int32_t, 1>>& positions,
                          const std::vector<LevelArrays>& levels, int64_t slots) const {
        const size_t splits = codebooks_.shape(0);
        const auto fits = [&](const In<uint8_t, 3>& array, int64_t items) {
            return static_cast<int64_t>(array.shape(0)) == blocks_for(items) && array.shape(1) == splits &&
                   array.shape(2) == 64;
        };
        require(fits(blocks, slots), "blocks must be (ceil(slots / 64), M, 64)");
        Blocks checked{blocks.data(), positions ? positions->data() : nullptr, index_.num_items, slots, {}};
        int64_t nodes = blocks_for(slots);
        for (const auto& [codes, low, high] : levels) {
            require(fits(codes, nodes), "a level's codes must be (ceil(nodes / 64), M, 64)");
            require(low.shape(0) == splits && low.shape(1) == 256 && high.shape(0) == splits && high.shape(1) == 256,
                    "a level's covers must be (M, 256)");
            Level level{codes.data(), {}, nodes};
            for (size_t m = 0; m < splits; ++m) level.covers.push_back(covers_of(&low(m, 0), &high(m, 0)));
            checked.levels.push_back(std::move(level));
            nodes = blocks_for(nodes);
        }
        return checked;
    }

    In<float, 3> codebooks_;
    std::vector<PartArrays> parts_;
    PQ index_;
    std::once_flag posted_;
};

Out<uint8_t> to_blocks(In<uint8_t, 2> codes, std::optional<In<int32_t, 1>> positions) {
    const auto count = static_cast<int64_t>(codes.shape(0));
    require(!positions || positions->shape(0) == codes.shape(0), "positions must be (I,)");
    for (size_t i = 0; positions && i < positions->shape(0); ++i)
        require(positions->data()[i] >= 0 && positions->data()[i] < count, "positions must be below I");
    Filled<uint8_t> blocks({static_cast<size_t>(blocks_for(count)), codes.shape(1), 64});
    {
        nb::gil_scoped_release release;
        fill_blocks(codes.data(), positions ? positions->data() : nullptr, count, static_cast<int>(codes.shape(1)),
                    blocks.values);
    }
    return blocks.to_python();
}

Samples checked_samples(const In<float, 3>& tables, size_t splits) {
    require(tables.shape(0) == splits && tables.shape(1) == 256 && tables.shape(2) >= 1,
            "tables must be (M, 256, samples)");
    return {tables.data(), static_cast<int>(splits), static_cast<int>(tables.shape(2))};
}

Out<int32_t> order(In<uint8_t, 2> codes, In<float, 3> tables, int threads) {
    const Samples samples = checked_samples(tables, codes.shape(1));
    Filled<int32_t> positions({codes.shape(0)});
    {
        nb::gil_scoped_release release;
        order_items(codes.data(), static_cast<int64_t>(codes.shape(0)), samples, threads, positions.values);
    }
    return positions.to_python();
}

std::vector<std::tuple<Out<uint8_t>, Out<uint8_t>, Out<uint8_t>>> levels(In<uint8_t, 3> blocks, int64_t num_items,
                                                                         In<float, 3> tables, int64_t top_nodes,
                                                                         int threads) {
    const size_t splits = blocks.shape(1);
    const Samples samples = checked_samples(tables, splits);
    require(blocks.shape(2) == 64 && static_cast<int64_t>(blocks.shape(0)) == blocks_for(num_items),
            "blocks must be (ceil(I / 64), M, 64)");
    std::vector<std::tuple<Out<uint8_t>, Out<uint8_t>, Out<uint8_t>>> found;
    Ranges ranges;
    for (bool first = true; first || ranges.count > top_nodes; first = false) {
        std::optional<Filled<uint8_t>> codes, low, high;
        {
            nb::gil_scoped_release release;
            ranges = first ? block_ranges(blocks.data(), num_items, samples.num_splits)
                           : node_ranges(ranges, samples.num_splits);
            codes.emplace(std::vector<size_t>{static_cast<size_t>(blocks_for(ranges.count)), splits, 64});
            low.emplace(std::vector<size_t>{splits, 256});
            high.emplace(std::vector<size_t>{splits, 256});
            cover_ranges(ranges, samples, threads, low->values, high->values, codes->values);
        }
        found.emplace_back(codes->to_python(), low->to_python(), high->to_python());
    }
    return found;
}

Found dense_top_k(In<float, 2> query, In<float, 2> vectors, int64_t k, std::optional<In<uint8_t, 2>> allow,
                  std::optional<In<int32_t, 2>> exclude, std::optional<In<uint8_t, 1>> removed, double seconds,
                  int threads) {
    return search(scan_dense, checked(vectors, query),
                  make_request(query, k, {allow, exclude, removed, seconds, threads}, vectors.shape(0)));
}

}  // namespace

NB_MODULE(_native, m) {
    using namespace nb::literals;
    m.doc() = "The C++ core of everyitem.index; everyitem.index.reference is its twin in NumPy.";
    m.def("cpu", [] { return std::string(kernels().name); }, "The kernels in use.");
    m.def("cpus", &available_cpus, "The kernels that this CPU can run, slowest first.");
    m.def("use_cpu", &use_cpu, "name"_a, "Use these kernels from now on, in the whole process.");
    m.def("score_table", &score_table, "query_UD"_a.noconvert(), "codebooks_MdB"_a.noconvert());
    m.def("dense_scores", &dense_scores, "query_UD"_a.noconvert(), "vectors_ID"_a.noconvert());
    nb::class_<PQCatalogue>(m, "PQCatalogue", "Item codes, ready to be searched.")
        .def(nb::init<In<float, 3>, std::vector<PartArrays>, int64_t>(), "codebooks_MdB"_a, "parts"_a, "whole_level"_a)
        .def("top_k", &PQCatalogue::top_k, "query_UD"_a.noconvert(), "k"_a, "allow"_a.noconvert().none(),
             "exclude"_a.noconvert().none(), "removed"_a.noconvert().none(), "seconds"_a, "threads"_a, "algorithm"_a,
             "gap_factor"_a, "batch_size"_a);
    m.def("to_blocks", &to_blocks, "codes_IM"_a.noconvert(), "positions_I"_a.noconvert().none(),
          "Rows of codes in blocks of 64, split by split.");
    m.def("order", &order, "codes_IM"_a.noconvert(), "tables_MBS"_a.noconvert(), "threads"_a,
          "Positions slot by slot, similar items together.");
    m.def("levels", &levels, "blocks"_a.noconvert(), "num_items"_a, "tables_MBS"_a.noconvert(), "top_nodes"_a,
          "threads"_a, "Covers of blocks, of nodes of 64 blocks, and so on: codes, low, high.");
    m.def("dense_top_k", &dense_top_k, "query_UD"_a.noconvert(), "vectors_ID"_a.noconvert(), "k"_a,
          "allow"_a.noconvert().none(), "exclude"_a.noconvert().none(), "removed"_a.noconvert().none(), "seconds"_a,
          "threads"_a);
}
