#include <algorithm>

#include "src/steps/requantizer.h"
#include "src/steps/row_step.h"

namespace packqvit {

using executorch::runtime::Error;

namespace {

// The upper half of two products' sum, rounded: docs/numerics.md, "rotate".
int16_t upper_half(int16_t x, int16_t cosine, int16_t partner, int16_t sine) {
  return static_cast<int16_t>((int32_t{x} * cosine + int32_t{partner} * sine + (1 << 15)) >> 16);
}

class RotateStep final : public RowStep {
 public:
  RotateStep(const BuildContext& context, const plan::Rotate& op)
      : tier_(context.tier), threads_(context.threads), x_(op.x()), output_(op.output()) {
    const Value& x = context.plan.value(x_);
    rows_ = x.size() / x.last();
    tokens_ = x.dim(1);
    partner_.assign(op.partner()->begin(), op.partner()->end());
    arguments_.wide_input = true;
    arguments_.channels = x.last();
  }

  bool init(const CheckedPlan& plan, const plan::Rotate& op) {
    const Constant& cosine = plan.constant(op.cosine());
    period_ = cosine.size() / tokens_;
    if (!cosine.copy_to(cosine_, cosine.size()) || !plan.constant(op.sine()).copy_to(sine_, cosine.size()) ||
        !requantizer_.init(plan, *op.requantizer(), arguments_.channels)) {
      return false;
    }
    arguments_.requantizer = requantizer_.view();
    const size_t half = partner_.size() / 2;
    halves_ = neighbours_ = partner_.size() % 2 == 0;
    for (size_t c = 0; c < partner_.size(); ++c) {
      halves_ &= partner_[c] == (c < half ? c + half : c - half);
      neighbours_ &= partner_[c] == (c ^ 1);
    }
    return true;
  }

  size_t scratch_bytes() const override { return row_scratch_bytes(kTileRows); }

  Error run(const Memory& memory) const override {
    const size_t parts = part_count(rows_, threads_);
    return parallel_tasks(parts, threads_, [&](size_t part) {
      const ScratchPool::Lease lease(memory.scratch);
      run_rows(memory, part_of(rows_, parts, part), lease.data());
    });
  }

  size_t rows() const override { return rows_; }
  std::vector<uint32_t> operands() const override { return {output_, x_}; }
  size_t row_scratch_bytes(size_t) const override { return kTileRows * arguments_.channels * sizeof(int16_t); }
  void run_rows(const Memory& memory, Range rows, void* scratch) const override {
    const size_t channels = arguments_.channels;
    int16_t* rotated = static_cast<int16_t*>(scratch);
    RequantizeArguments arguments = arguments_;
    arguments.x = rotated;
    for (size_t first = rows.begin; first < rows.end; first += kTileRows) {
      const size_t count = std::min(kTileRows, rows.end - first);
      for (size_t i = 0; i < count; ++i) {
        rotate_row(memory.value<const int16_t>(x_) + (first + i) * channels, (first + i) % tokens_,
                   rotated + i * channels);
      }
      arguments.output = memory.value<int8_t>(output_) + first * channels;
      tier_.requantize(arguments, {0, count});
    }
  }

 private:
  static constexpr size_t kTileRows = 8;

  void rotate_row(const int16_t* x, size_t token, int16_t* out) const {
    const size_t d = partner_.size();
    const int16_t* cosine = cosine_.data() + token * period_;
    const int16_t* sine = sine_.data() + token * period_;
    for (size_t first = 0; first < arguments_.channels; first += d) {
      const size_t factor = first % period_;
      rotate_head(x + first, cosine + factor, sine + factor, out + first);
    }
  }

  // The two usual orders have loops that compilers turn into vector code.
  void rotate_head(const int16_t* x, const int16_t* cosine, const int16_t* sine, int16_t* __restrict out) const {
    const size_t d = partner_.size();
    if (halves_) {
      const size_t half = d / 2;
      for (size_t c = 0; c < half; ++c) out[c] = upper_half(x[c], cosine[c], x[c + half], sine[c]);
      for (size_t c = half; c < d; ++c) out[c] = upper_half(x[c], cosine[c], x[c - half], sine[c]);
    } else if (neighbours_) {
      for (size_t c = 0; c < d; c += 2) {
        out[c] = upper_half(x[c], cosine[c], x[c + 1], sine[c]);
        out[c + 1] = upper_half(x[c + 1], cosine[c + 1], x[c], sine[c + 1]);
      }
    } else {
      for (size_t c = 0; c < d; ++c) out[c] = upper_half(x[c], cosine[c], x[partner_[c]], sine[c]);
    }
  }

  const KernelTier& tier_;
  size_t threads_;
  uint32_t x_;
  uint32_t output_;
  size_t rows_;
  size_t tokens_;
  size_t period_ = 0;  // factors of a token: of all heads, or of one
  std::vector<uint32_t> partner_;
  bool halves_ = false;
  bool neighbours_ = false;
  AlignedArray<int16_t> cosine_;
  AlignedArray<int16_t> sine_;
  RequantizeArguments arguments_{};
  OwnedRequantizer requantizer_;
};

}  // namespace

StepResult make_step(const BuildContext& context, const plan::Rotate& op) {
  auto step = std::make_unique<RotateStep>(context, op);
  if (!step->init(context.plan, op)) return Error::MemoryAllocationFailed;
  return std::unique_ptr<Step>(std::move(step));
}

}  // namespace packqvit
