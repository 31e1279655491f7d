// Where all choices of a case come from: a seed, or the bytes of a fuzzer and then a seed.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

class Draw {
  public:
    explicit Draw(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15) {}
    Draw(const uint8_t* bytes, size_t count) : state_(count), bytes_(bytes), left_(count) {}

    // 0 to end - 1. From bytes it takes as few as will do, so that a fuzzer's changes stay where they are made.
    int64_t below(int64_t end) {
        if (left_ == 0) return static_cast<int64_t>((static_cast<unsigned __int128>(next()) * end) >> 64);
        uint64_t value = 0;
        for (int64_t reach = 1; reach < end && left_; reach <<= 8, --left_) value = value << 8 | *bytes_++;
        return static_cast<int64_t>(value % static_cast<uint64_t>(end));
    }
    int pick(int end) { return static_cast<int>(below(end)); }
    bool one_in(int many) { return below(many) == 0; }
    bool coin() { return one_in(2); }
    uint8_t byte() { return static_cast<uint8_t>(below(256)); }

    double unit() { return (static_cast<double>(below(1 << 24)) + .5) / (1 << 24); }
    // Near enough to a normal distribution: a logistic one, without a loop.
    double normal() {
        const double x = unit();
        return .55 * std::log(x / (1 - x));
    }

  private:
    uint64_t next() {  // splitmix64
        uint64_t x = state_ += 0x9e3779b97f4a7c15;
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
        x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
        return x ^ (x >> 31);
    }

    uint64_t state_;
    const uint8_t* bytes_ = nullptr;
    size_t left_ = 0;
};
