// The only file that knows Python: checks shapes, releases the GIL, calls. No arithmetic.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <memory>
#include <optional>
#include <stdexcept>

#include "dispatch.h"
#include "scan.h"

namespace nb = nanobind;
using namespace everyitem;

namespace {

template <class T, int kDims>
using In = nb::ndarray<const T, nb::ndim<kDims>, nb::c_contig, nb::device::cpu>;
template <class T>
using Out = nb::ndarray<nb::numpy, T>;
using Found = std::tuple<Out<int32_t>, Out<float>, Out<int64_t>>;

// An array that C++ fills and Python then owns.
template <class T>
struct Filled {
    std::unique_ptr<T[]> values;
    std::vector<size_t> shape;

    explicit Filled(std::vector<size_t> dims) : shape(std::move(dims)) {
        size_t size = 1;
        for (size_t length : shape)
            if (__builtin_mul_overflow(size, length, &size)) throw std::bad_alloc();
        values = std::make_unique_for_overwrite<T[]>(size);
    }
    Out<T> to_python() {
        T* data = values.release();
        nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
        return Out<T>(data, shape.size(), shape.data(), owner);
    }
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
    Filled<float> scores({rows, k});
    Filled<int64_t> scored({rows});
    {
        nb::gil_scoped_release release;
        algorithm(index, request, {items.values.get(), scores.values.get(), scored.values.get()});
    }
    return {items.to_python(), scores.to_python(), scored.to_python()};
}

Codebooks checked(const In<float, 3>& codebooks, const In<float, 2>& query) {
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
                                  num_sub_items, table.values.get() + row * num_splits * num_sub_items);
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
                           scores.values.get() + row * vectors.shape(0));
    }
    return scores.to_python();
}

Found pq_top_k(In<float, 2> query, In<float, 3> codebooks, In<uint8_t, 2> codes, int64_t k,
               std::optional<In<uint8_t, 2>> allow, std::optional<In<int32_t, 2>> exclude,
               std::optional<In<uint8_t, 1>> removed, double seconds, int threads) {
    const Codebooks books = checked(codebooks, query);
    require(codes.shape(1) == codebooks.shape(0), "codes and codebooks differ in splits");
    const PQ index{books, codes.data(), static_cast<int64_t>(codes.shape(0))};
    return search(scan_pq, index, make_request(query, k, {allow, exclude, removed, seconds, threads}, codes.shape(0)));
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
    m.def("pq_top_k", &pq_top_k, "query_UD"_a.noconvert(), "codebooks_MdB"_a.noconvert(), "codes_IM"_a.noconvert(),
          "k"_a, "allow"_a.noconvert().none(), "exclude"_a.noconvert().none(), "removed"_a.noconvert().none(),
          "seconds"_a, "threads"_a);
    m.def("dense_top_k", &dense_top_k, "query_UD"_a.noconvert(), "vectors_ID"_a.noconvert(), "k"_a,
          "allow"_a.noconvert().none(), "exclude"_a.noconvert().none(), "removed"_a.noconvert().none(), "seconds"_a,
          "threads"_a);
}
