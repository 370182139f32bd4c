// The best classes of each row of scores, and their scores.

#include <executorch/runtime/platform/log.h>

#include <algorithm>
#include <cinttypes>
#include <cstring>

#include "src/steps/step.h"

namespace packqvit {

using executorch::runtime::Error;

namespace {

// The bits of a float32 as an integer in the same order: total, so that a NaN cannot upset the sort.
int32_t order_of(const float& score) {
  int32_t bits;
  std::memcpy(&bits, &score, sizeof(bits));
  return bits < 0 ? bits ^ INT32_MAX : bits;
}

class TopKStep final : public Step {
 public:
  TopKStep(const BuildContext& context, const plan::TopK& op) : x_(op.x()), output_(op.output()) {
    const Value& x = context.plan.value(x_);
    classes_ = x.last();
    rows_ = x.size() / classes_;
    k_ = context.plan.value(output_).last();
  }

  Error run(const Memory& memory) const override {
    const float* scores = memory.value<const float>(x_);
    int32_t* best = memory.value<int32_t>(output_);
    for (size_t row = 0; row < rows_; ++row, scores += classes_, best += k_) find_best(scores, best);
    return Error::Ok;
  }

 private:
  // Insertion into a short sorted list: k is small, and most scores end at the first comparison.
  void find_best(const float* scores, int32_t* best) const {
    size_t found = 0;
    for (size_t i = 0; i < classes_; ++i) {
      const int32_t order = order_of(scores[i]);
      size_t place = found;
      while (place > 0 && order > order_of(scores[best[place - 1]])) --place;
      if (place == k_) continue;
      found = std::min(found + 1, k_);
      std::copy_backward(best + place, best + found - 1, best + found);
      best[place] = static_cast<int32_t>(i);
    }
  }

  uint32_t x_;
  uint32_t output_;
  size_t classes_;
  size_t rows_;
  size_t k_;
};

class TakeScoresStep final : public Step {
 public:
  TakeScoresStep(const BuildContext& context, const plan::TakeScores& op)
      : x_(op.x()), index_(op.index()), output_(op.output()) {
    const Value& x = context.plan.value(x_);
    classes_ = x.last();
    rows_ = x.size() / classes_;
    k_ = context.plan.value(index_).last();
  }

  Error run(const Memory& memory) const override {
    const float* scores = memory.value<const float>(x_);
    const int32_t* index = memory.value<const int32_t>(index_);
    float* output = memory.value<float>(output_);
    for (size_t i = 0; i < rows_ * k_; ++i) {
      if (index[i] < 0 || static_cast<size_t>(index[i]) >= classes_) {
        ET_LOG(Error, "packqvit: there is no class %" PRId32 " of %zu", index[i], classes_);
        return Error::InvalidArgument;
      }
      output[i] = scores[i / k_ * classes_ + static_cast<size_t>(index[i])];
    }
    return Error::Ok;
  }

 private:
  uint32_t x_;
  uint32_t index_;
  uint32_t output_;
  size_t classes_;
  size_t rows_;
  size_t k_;
};

}  // namespace

StepResult make_step(const BuildContext& context, const plan::TopK& op) {
  return std::unique_ptr<Step>(std::make_unique<TopKStep>(context, op));
}

StepResult make_step(const BuildContext& context, const plan::TakeScores& op) {
  return std::unique_ptr<Step>(std::make_unique<TakeScoresStep>(context, op));
}

}  // namespace packqvit
