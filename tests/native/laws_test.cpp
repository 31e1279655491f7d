// Every algorithm on every CPU kernel against scoring everything: the same ids, the same bits, and a bound that is
// true. All arrays that a search reads end, or start, where memory does.
//
// laws_test CASES [SEED] [THREADS] [random | ulp | bytes | two-level]
//
// Case n is drawn from SEED + n. Prints the first that differs and exits with 1.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "families.h"
#include "levels.h"
#include "oracle.h"
#include "ulp.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count);

namespace {

using everyitem::Clock;
using everyitem::Request;

// Searches that may stop early: at any time, or because they are told not to look at all that is safe to drop.
std::string stopped_early(const Catalogue& asked, const Comparison& against, Draw& draw) {
    Request request = asked.request;
    request.gap_factor = .01 + .99 * draw.unit();
    if (std::string found = against.certified(request); !found.empty()) return found + ", gap_factor < 1";
    request.gap_factor = 1;
    request.deadline = Clock::time_point::min();
    if (std::string found = against.certified(request); !found.empty()) return found + ", no time";
    return {};
}

std::string stopped_anywhere(const Catalogue& asked, const Comparison& against) {
    for (const int percent : {10, 20, 30, 40, 50, 60, 70, 80, 90}) {
        // of what block_prune takes: a deadline is a moment, so this differs from run to run, and must hold in any
        constexpr const Algorithm& kBlockPrune = kAlgorithms[4];
        Request request = asked.request;
        const Clock::time_point start = Clock::now();
        Answered(asked, kBlockPrune, request, true);
        request.deadline = Clock::now() + (Clock::now() - start) * percent / 100;
        const Answered found(asked, kBlockPrune, request, true);
        for (int64_t row = 0; row < asked.num_rows; ++row)
            if (!against.oracles[row].allows(found.items(row), found.scores(row), found.bound(row)))
                return "block_prune, stopped on its way";
    }
    return {};
}

std::string random_case(uint64_t seed, int threads) {
    Draw draw(seed);
    const auto asked = draw_catalogue(draw, {64, 256, INT64_MAX});
    asked->request.threads = threads;
    const Comparison against(*asked);
    std::string found = against.exact();
    if (found.empty() && draw.one_in(8)) found = stopped_early(*asked, against, draw);
    if (found.empty() && asked->index.num_items > 8000) found = stopped_anywhere(*asked, against);
    return found;
}

UlpCounts counts;

std::string ulp_case(uint64_t seed, int threads) {
    Draw draw(seed);
    const auto asked = draw.one_in(100)   ? many_blocks(draw)
                       : draw.one_in(100) ? rounded_cut(draw)
                                          : UlpCase(draw).make();
    asked->request.threads = threads;
    const Comparison against(*asked);
    counts.count(*asked, against.oracles[0]);
    return against.exact();
}

// What the fuzzer does, without one; it aborts where it finds something.
std::string bytes_case(uint64_t seed, int) {
    Draw draw(seed);
    std::vector<uint8_t> bytes(static_cast<size_t>(draw.below(400)));
    for (uint8_t& byte : bytes) byte = draw.byte();
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    return {};
}

std::string two_level_case(uint64_t seed, int threads) {
    Draw draw(seed);
    return TwoLevelCase(draw).check(threads);
}

}  // namespace

int main(int count, char** arguments) {
    const auto number = [&](int at, int otherwise) { return count > at ? std::atoi(arguments[at]) : otherwise; };
    const int cases = number(1, 1000), first = number(2, 0), threads = number(3, 1);
    const std::string mode = count > 4 ? arguments[4] : "random";
    const auto run = mode == "ulp"         ? ulp_case
                     : mode == "bytes"     ? bytes_case
                     : mode == "two-level" ? two_level_case
                                           : random_case;
    for (int n = 0; n < cases; ++n)
        if (const std::string found = run(static_cast<uint64_t>(first) + n, threads); !found.empty()) {
            std::printf("%s case %d: %s\n", mode.c_str(), first + n, found.c_str());
            return 1;
        }
    std::printf("%d %s cases\n", cases, mode.c_str());
    if (mode != "ulp") return 0;
    std::printf("%d tied at rank K, %d one ulp below it, %d one ulp above; K-th one ulp below the top or at it %d, ",
                counts.tied, counts.below, counts.above, counts.at_top);
    std::printf("its bytes at the cut %d\n", counts.at_cut);
    return counts.all() ? 0 : 1;
}
