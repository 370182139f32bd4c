#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "kernels/scalar.h"
#include "tests/support/naive.h"

namespace packqvit {

// Random numbers that land on the ends of their range often.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}

  int64_t uniform(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine_); }

  int64_t number(int64_t low, int64_t high) {
    switch (uniform(0, 7)) {
      case 0:
        return low;
      case 1:
        return high;
      default:
        return uniform(low, high);
    }
  }

  template <typename T>
  std::vector<T> numbers(size_t size, int64_t low, int64_t high) {
    std::vector<T> result(size);
    for (T& element : result) element = static_cast<T>(number(low, high));
    return result;
  }

  // A requantiser of `channels` channels that brings accumulators of `bits` bits to about [-qmax, qmax], with a left
  // shift of up to `room` bits.
  naive::Requantizer requantizer(size_t channels, int64_t bits, int64_t fraction_bits, int64_t room = 0) {
    naive::Requantizer result;
    result.fraction_bits = fraction_bits;
    result.left_shift = number(0, naive::clamp(room, 0, 15));
    const int64_t shift = naive::clamp(bits + result.left_shift - 8 - fraction_bits, 0, 30);
    for (size_t c = 0; c < channels; ++c) {
      result.multiplier.push_back(static_cast<int16_t>(uniform(0, 15) == 0 ? 0 : number(1 << 14, (1 << 15) - 1)));
      result.shift.push_back(
          static_cast<uint8_t>(uniform(0, 15) == 0 ? number(0, 30) : naive::clamp(shift + uniform(-2, 2), 0, 30)));
    }
    result.zero_point = number(-128, 127);
    result.qmin = number(-128, 0);
    result.qmax = number(result.qmin, 127);
    return result;
  }

 private:
  std::mt19937_64 engine_;
};

// The kernels' view of a naive requantiser, with the channel vectors padded by up to a panel.
class PaddedRequantizer {
 public:
  explicit PaddedRequantizer(const naive::Requantizer& plain) : multiplier_(plain.multiplier), shift_(plain.shift) {
    multiplier_.resize(multiplier_.size() + 128);
    shift_.resize(shift_.size() + 128);
    view.multiplier = multiplier_.data();
    view.shift = shift_.data();
    view.fraction_bits = static_cast<unsigned>(plain.fraction_bits);
    view.zero_point = static_cast<int32_t>(plain.zero_point);
    view.qmin = static_cast<int32_t>(plain.qmin);
    view.qmax = static_cast<int32_t>(plain.qmax);
    view.left_shift = static_cast<unsigned>(plain.left_shift);
  }
  PaddedRequantizer(const PaddedRequantizer&) = delete;
  PaddedRequantizer& operator=(const PaddedRequantizer&) = delete;

  Requantizer view;

 private:
  std::vector<int16_t> multiplier_;
  std::vector<uint8_t> shift_;
};

}  // namespace packqvit
