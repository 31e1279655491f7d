// The only module that knows Python, with its two headers.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include "arrange.h"
#include "bind_catalogue.h"
#include "bind_two_level.h"
#include "dispatch.h"

using namespace everyitem;

namespace {

Dense dense_of(const In<float, 2>& vectors, const In<float, 2>& query) {
    require(vectors.shape(1) >= 1 && vectors.shape(1) == query.shape(1), "query and vectors differ in dim");
    return {vectors.data(), static_cast<int64_t>(vectors.shape(0)), static_cast<int>(vectors.shape(1))};
}

Out<float> score_table(In<float, 2> query, In<float, 3> codebooks) {
    const Codebooks books = codebooks_of(codebooks, query);
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
    const Dense index = dense_of(vectors, query);
    Filled<float> scores({query.shape(0), vectors.shape(0)});
    {
        nb::gil_scoped_release release;
        for (size_t row = 0; row < query.shape(0); ++row)
            kernels().dots(query.data() + row * query.shape(1), index.vectors_ID, index.num_items, index.dim,
                           scores.values + row * vectors.shape(0));
    }
    return scores.to_python();
}

void check_recode(const In<uint8_t, 2>& recode, size_t splits) {
    require(recode.shape(0) == splits && recode.shape(1) == 256, "recode must be (M, 256)");
}

Out<uint8_t> to_blocks(In<uint8_t, 2> codes, std::optional<In<int32_t, 1>> positions, In<uint8_t, 2> recode) {
    check_recode(recode, codes.shape(1));
    const auto count = static_cast<int64_t>(codes.shape(0));
    require(!positions || positions->shape(0) == codes.shape(0), "positions must be (I,)");
    for (size_t i = 0; positions && i < positions->shape(0); ++i)
        require(positions->data()[i] >= 0 && positions->data()[i] < count, "positions must be below I");
    Filled<uint8_t> blocks({static_cast<size_t>(blocks_for(count)), codes.shape(1), 64});
    {
        nb::gil_scoped_release release;
        fill_blocks(codes.data(), positions ? positions->data() : nullptr, recode.data(), count,
                    static_cast<int>(codes.shape(1)), blocks.values);
    }
    return blocks.to_python();
}

Samples checked_samples(const In<float, 3>& tables, size_t splits) {
    require(tables.shape(0) == splits && tables.shape(1) == 256 && tables.shape(2) >= 1,
            "tables must be (M, 256, samples)");
    return {tables.data(), static_cast<int>(splits), static_cast<int>(tables.shape(2))};
}

Out<int32_t> order(In<uint8_t, 2> codes, In<float, 3> tables, In<uint8_t, 2> recode, int threads) {
    check_recode(recode, codes.shape(1));
    const Samples samples = checked_samples(tables, codes.shape(1));
    Filled<int32_t> positions({codes.shape(0)});
    {
        nb::gil_scoped_release release;
        order_items(codes.data(), static_cast<int64_t>(codes.shape(0)), recode.data(), samples, threads,
                    positions.values);
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
    const Dense index = dense_of(vectors, query);
    Request request = make_request(query.shape(0), k, {allow, exclude, removed, seconds, threads}, vectors.shape(0));
    ask(request, query);
    return search(scan_dense, index, request);
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
    nb::class_<SlotFilter>(m, "SlotFilter", "What a filter allows, in the order of a catalogue's slots.");
    nb::class_<PQCatalogue>(m, "PQCatalogue", "Item codes, ready to be searched.")
        .def(nb::init<In<float, 3>, std::vector<PythonPart>, int64_t, std::optional<In<uint8_t, 2>>>(),
             "codebooks_MdB"_a, "parts"_a, "whole_level"_a, "recode_MB"_a.noconvert().none())
        .def("top_k", &PQCatalogue::top_k, "asked"_a, "k"_a, "allow"_a.noconvert().none(), "slots"_a.none(),
             "exclude"_a.noconvert().none(), "removed"_a.noconvert().none(), "seconds"_a, "threads"_a, "algorithm"_a,
             "gap_factor"_a, "batch_size"_a)
        .def("predict", &PQCatalogue::predict, "asked"_a, "k"_a, "allow"_a.noconvert().none(), "slots"_a.none(),
             "removed"_a.noconvert().none(), "threads"_a)
        .def("steps", &PQCatalogue::steps, "asked"_a, "k"_a, "batch_size"_a, "threads"_a)
        .def("compile", &PQCatalogue::compile, "allow"_a.noconvert());
    nb::class_<TwoLevelCatalogue>(m, "TwoLevelCatalogue", "Item vectors in clusters, ready to be searched.")
        .def(nb::init<In<float, 2>, In<int32_t, 1>, In<int64_t, 1>, In<float, 2>, In<float, 1>, std::optional<float>>(),
             "vectors_ID"_a.noconvert(), "positions_I"_a.noconvert(), "starts_C"_a.noconvert(),
             "clusters_CD"_a.noconvert(), "bias_C"_a.noconvert(), "cap"_a.none())
        .def("top_k", &TwoLevelCatalogue::top_k, "query_UD"_a.noconvert(), "k"_a, "allow"_a.noconvert().none(),
             "exclude"_a.noconvert().none(), "removed"_a.noconvert().none(), "seconds"_a, "threads"_a)
        .def("scores", &TwoLevelCatalogue::scores, "query_UD"_a.noconvert(), "rows_UN"_a.noconvert());
    m.def("to_blocks", &to_blocks, "codes_IM"_a.noconvert(), "positions_I"_a.noconvert().none(),
          "recode_MB"_a.noconvert(), "Rows of codes in blocks of 64, split by split.");
    m.def("order", &order, "codes_IM"_a.noconvert(), "tables_MBS"_a.noconvert(), "recode_MB"_a.noconvert(), "threads"_a,
          "Positions slot by slot, similar items together.");
    m.def("levels", &levels, "blocks"_a.noconvert(), "num_items"_a, "tables_MBS"_a.noconvert(), "top_nodes"_a,
          "threads"_a, "Covers of blocks, of nodes of 64 blocks, and so on: codes, low, high.");
    m.def("dense_top_k", &dense_top_k, "query_UD"_a.noconvert(), "vectors_ID"_a.noconvert(), "k"_a,
          "allow"_a.noconvert().none(), "exclude"_a.noconvert().none(), "removed"_a.noconvert().none(), "seconds"_a,
          "threads"_a);
}
