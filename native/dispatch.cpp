#include "dispatch.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace everyitem {
namespace {

std::atomic<const Kernels*> chosen{nullptr};

std::vector<const Kernels*> available() {
    std::vector<const Kernels*> found{&scalar_kernels};
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) found.push_back(&avx2_kernels);
    // byte permutes and compression came with Ice Lake and Zen 4; an older AVX-512 CPU is better served by AVX2
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vbmi") &&
        __builtin_cpu_supports("avx512vbmi2"))
        found.push_back(&avx512_kernels);
#elif defined(__aarch64__)
    found.push_back(&neon_kernels);
#endif
    return found;
}

}  // namespace

const Kernels& kernels() {
    if (!chosen) {
        const char* forced = std::getenv("EVERYITEM_CPU");
        use_cpu(forced ? forced : available().back()->name);
    }
    return *chosen;
}

std::vector<std::string> available_cpus() {
    std::vector<std::string> names;
    for (const Kernels* one : available()) names.emplace_back(one->name);
    return names;
}

void use_cpu(const std::string& name) {
    std::string names;
    for (const Kernels* one : available()) {
        if (one->name == name) {
            chosen = one;
            return;
        }
        names += names.empty() ? one->name : std::string(", ") + one->name;
    }
    throw std::invalid_argument("EVERYITEM_CPU is '" + name + "', but this machine can run: " + names +
                                ". Unset it to use the best of them.");
}

}  // namespace everyitem
