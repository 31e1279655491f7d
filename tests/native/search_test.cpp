// Every algorithm on every CPU kernel against scoring everything, in arrays of exactly their size, for the sanitizers.
// Usage: search_test CASES THREADS. Prints the first difference and exits with 1.
#include "search.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "arrange.h"
#include "dispatch.h"

using namespace everyitem;

namespace {

using Algorithm = void (*)(const PQ&, const Request&, Answer);

struct Named {
    const char* name;
    Algorithm run;
};

constexpr Named kAlgorithms[] = {{"recjpq", scan_pq_by_split},
                                 {"recjpqprune", recjpq_prune},
                                 {"bounded_scan", bounded_scan},
                                 {"block_prune", block_prune},
                                 {"planned", planned}};

template <class T>
std::unique_ptr<T[]> exactly(size_t count) {  // a heap array: one element beyond it is an error
    return std::make_unique<T[]>(count);
}

struct Part {
    std::unique_ptr<uint8_t[]> codes, blocks;
    std::unique_ptr<int32_t[]> positions;
    std::vector<std::unique_ptr<uint8_t[]>> level_codes;
    int64_t count;
};

struct Case {
    std::mt19937 random;
    int num_splits, num_sub_items, split_dim;
    int64_t rows, k;
    float values;  // few different values make ties
    std::vector<Part> parts;
    std::unique_ptr<float[]> codebooks, query;
    std::unique_ptr<uint8_t[]> allow;
    PQ index;

    explicit Case(unsigned seed) : random(seed) {
        num_splits = 1 + pick(17);
        num_sub_items = 2 + pick(255);
        split_dim = 1 + pick(4);
        rows = 1 + pick(3);
        k = 1 + pick(40);
        values = static_cast<float>(1 + pick(6));
        codebooks = numbers(int64_t{num_splits} * split_dim * num_sub_items);
        query = numbers(rows * num_splits * split_dim);
        index = {{codebooks.get(), num_splits, split_dim, num_sub_items}, {}, {}, {}, 0, 1 + pick(4)};
        add_part(pick(9000), true);
        if (pick(2)) add_part(pick(200), false);
        if (pick(2)) {
            const int64_t bytes = (index.num_items + 7) / 8;
            allow = exactly<uint8_t>(static_cast<size_t>(bytes));
            for (int64_t i = 0; i < bytes; ++i) allow[i] = static_cast<uint8_t>(pick(4) ? 0 : pick(256));
        }
    }

    int pick(int below) { return static_cast<int>(random() % static_cast<unsigned>(below)); }

    std::unique_ptr<float[]> numbers(int64_t count) {
        auto made = exactly<float>(static_cast<size_t>(count));
        for (int64_t i = 0; i < count; ++i)
            made[i] = static_cast<float>(pick(static_cast<int>(values) * 2 + 1)) - values;
        return made;
    }

    void add_part(int64_t count, bool arranged) {
        Part part;
        part.count = count;
        part.codes = exactly<uint8_t>(static_cast<size_t>(count * num_splits));
        for (int64_t i = 0; i < count; ++i)
            for (int m = 0; m < num_splits; ++m)
                part.codes[i * num_splits + m] = static_cast<uint8_t>(pick(num_sub_items));
        part.blocks = exactly<uint8_t>(static_cast<size_t>((count + 63) / 64 * 64 * num_splits));
        Blocks blocks{part.blocks.get(), nullptr, index.num_items, count, {}};
        index.runs.push_back({part.codes.get(), index.num_items, count});
        if (arranged && count) arrange(part, blocks);
        fill_blocks(part.codes.get(), part.positions.get(), count, num_splits, part.blocks.get());
        if (arranged && count) bound(part, blocks);
        index.postings.emplace_back(index.runs.back(), num_splits);
        index.parts.push_back(std::move(blocks));
        index.num_items += count;
        parts.push_back(std::move(part));
    }

    std::vector<float> tables() {
        std::vector<float> made(static_cast<size_t>(num_splits) * 256 * 3);
        for (float& value : made) value = -static_cast<float>(pick(1000)) / 1000;
        return made;
    }

    void arrange(Part& part, Blocks& blocks) {
        const std::vector<float> sampled = tables();
        part.positions = exactly<int32_t>(static_cast<size_t>(part.count));
        order_items(part.codes.get(), part.count, {sampled.data(), num_splits, 3}, 2, part.positions.get());
        blocks.positions = part.positions.get();
    }

    void bound(Part& part, Blocks& blocks) {
        const std::vector<float> sampled = tables();
        const Samples samples{sampled.data(), num_splits, 3};
        Ranges ranges = block_ranges(part.blocks.get(), part.count, num_splits);
        for (bool first = true; first || ranges.count > 2; first = false) {
            if (!first) ranges = node_ranges(ranges, num_splits);
            std::vector<uint8_t> low(static_cast<size_t>(num_splits) * 256), high(low.size());
            auto codes = exactly<uint8_t>(static_cast<size_t>((ranges.count + 63) / 64 * 64 * num_splits));
            cover_ranges(ranges, samples, 2, low.data(), high.data(), codes.get());
            Level level{codes.get(), {}, ranges.count};
            for (int m = 0; m < num_splits; ++m) level.covers.push_back(covers_of(&low[m * 256], &high[m * 256]));
            blocks.levels.push_back(std::move(level));
            part.level_codes.push_back(std::move(codes));
        }
    }
};

struct Found {
    std::vector<int32_t> items;
    std::vector<float> scores, bound;
    std::vector<int64_t> scored;

    Found(const Case& asked, Algorithm algorithm, int threads)
        : items(asked.rows * asked.k), scores(asked.rows * asked.k), bound(asked.rows), scored(asked.rows) {
        Request request{};
        request.query_UD = asked.query.get();
        request.num_rows = asked.rows;
        request.dim = asked.num_splits * asked.split_dim;
        request.k = asked.k;
        request.allow = asked.allow.get();
        request.deadline = Clock::time_point::max();
        request.threads = threads;
        algorithm(asked.index, request, {items.data(), scores.data(), bound.data(), scored.data()});
    }
};

}  // namespace

int main(int count, char** arguments) {
    const int cases = count > 1 ? std::atoi(arguments[1]) : 100, threads = count > 2 ? std::atoi(arguments[2]) : 1;
    for (int seed = 0; seed < cases; ++seed) {
        const Case asked(static_cast<unsigned>(seed));
        const Found wanted(asked, scan_pq, 1);
        for (const std::string& cpu : available_cpus()) {
            use_cpu(cpu);
            for (const auto& [name, algorithm] : kAlgorithms) {
                const Found found(asked, algorithm, threads);
                if (found.items == wanted.items && found.scores == wanted.scores && found.bound == wanted.bound)
                    continue;
                std::printf("case %d: %s on %s differs from pqtopk\n", seed, name, cpu.c_str());
                return 1;
            }
        }
    }
    std::printf("%d cases, every algorithm on every kernel\n", cases);
}
