// Rows over threads: each index is taken once, by whichever thread is free, so results cannot depend on their number.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace everyitem {

template <class Work>
void for_each(int64_t count, int threads, Work work) {
    std::atomic<int64_t> next{0};
    std::exception_ptr failure;
    std::mutex failure_mutex;
    auto take = [&] {
        try {
            for (int64_t i; (i = next++) < count;) work(i);
        } catch (...) {
            const std::lock_guard lock(failure_mutex);
            failure = std::current_exception();
        }
    };
    {
        std::vector<std::jthread> helpers;
        for (int t = 1; t < threads && t < count; ++t) helpers.emplace_back(take);
        take();
    }
    if (failure) std::rethrow_exception(failure);
}

}  // namespace everyitem
