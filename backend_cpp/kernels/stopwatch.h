#pragma once

#include "kernels/tier.h"

namespace packqvit {

// Adds the time since the last call to a part of a clock, where there is a clock.
class Stopwatch {
 public:
  explicit Stopwatch(AttentionClock* clock) : clock_(clock), last_(clock != nullptr ? clock->now() : 0) {}
  void add_to(uint64_t AttentionClock::* part) {
    if (clock_ == nullptr) return;
    const uint64_t now = clock_->now();
    clock_->*part += now - last_;
    last_ = now;
  }

 private:
  AttentionClock* clock_;
  uint64_t last_;
};

}  // namespace packqvit
