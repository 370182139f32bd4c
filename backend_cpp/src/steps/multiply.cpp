#include <algorithm>

#include "src/steps/requantizer.h"
#include "src/steps/row_step.h"

namespace packqvit {

using executorch::runtime::Error;

namespace {

struct Codes {
  int32_t zero_point;
  const void* first;
};

// sat16(rshr(x y, shift)) of codes above their zero points: docs/numerics.md, "multiply".
template <typename X, typename Y>
void multiply(const Codes& x, const Codes& y, unsigned shift, size_t size, int16_t* __restrict out) {
  const X* left = static_cast<const X*>(x.first);
  const Y* right = static_cast<const Y*>(y.first);
  const int32_t half = (1 << shift) >> 1;
  for (size_t i = 0; i < size; ++i) {
    const int32_t product = (left[i] - x.zero_point) * (right[i] - y.zero_point);
    out[i] = static_cast<int16_t>(std::clamp((product + half) >> shift, INT16_MIN, INT16_MAX));
  }
}

class MultiplyStep final : public RowStep {
 public:
  MultiplyStep(const BuildContext& context, const plan::Multiply& op)
      : tier_(context.tier),
        threads_(context.threads),
        x_(operand(context, op.x(), op.x_zero_point())),
        y_(operand(context, op.y(), op.y_zero_point())),
        output_(op.output()),
        shift_(op.product_shift()) {
    const Value& output = context.plan.value(output_);
    rows_ = output.size() / output.last();
    arguments_.wide_input = true;
    arguments_.channels = output.last();
    arguments_.wide_output = output.type == plan::DataType::Int16;
  }

  bool init(const CheckedPlan& plan, const plan::Multiply& op) {
    if (!requantizer_.init(plan, *op.requantizer(), arguments_.channels)) return false;
    arguments_.requantizer = requantizer_.view();
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
  std::vector<uint32_t> operands() const override { return {output_, x_.value, y_.value}; }
  size_t row_scratch_bytes(size_t) const override { return kTileRows * arguments_.channels * sizeof(int16_t); }
  void run_rows(const Memory& memory, Range rows, void* scratch) const override {
    const size_t channels = arguments_.channels;
    int16_t* products = static_cast<int16_t*>(scratch);
    RequantizeArguments arguments = arguments_;
    arguments.x = products;
    for (size_t first = rows.begin; first < rows.end; first += kTileRows) {
      const size_t count = std::min(kTileRows, rows.end - first);
      multiply_rows(codes(memory, x_, first), codes(memory, y_, first), count * channels, products);
      arguments.output =
          memory.value<uint8_t>(output_) + first * channels * (arguments_.wide_output ? sizeof(int16_t) : 1);
      tier_.requantize(arguments, {0, count});
    }
  }

 private:
  static constexpr size_t kTileRows = 4;

  struct Operand {
    uint32_t value;
    int32_t zero_point;
    bool wide;
  };

  static Operand operand(const BuildContext& context, uint32_t value, int32_t zero_point) {
    return {value, zero_point, context.plan.value(value).type == plan::DataType::Int16};
  }

  Codes codes(const Memory& memory, const Operand& operand, size_t row) const {
    const size_t row_bytes = arguments_.channels * (operand.wide ? sizeof(int16_t) : 1);
    return {operand.zero_point, memory.value<const uint8_t>(operand.value) + row * row_bytes};
  }

  void multiply_rows(const Codes& x, const Codes& y, size_t size, int16_t* out) const {
    if (x_.wide) {
      y_.wide ? multiply<int16_t, int16_t>(x, y, shift_, size, out)
              : multiply<int16_t, int8_t>(x, y, shift_, size, out);
    } else {
      y_.wide ? multiply<int8_t, int16_t>(x, y, shift_, size, out) : multiply<int8_t, int8_t>(x, y, shift_, size, out);
    }
  }

  const KernelTier& tier_;
  size_t threads_;
  Operand x_;
  Operand y_;
  uint32_t output_;
  unsigned shift_;
  size_t rows_;
  RequantizeArguments arguments_{};
  OwnedRequantizer requantizer_;
};

}  // namespace

StepResult make_step(const BuildContext& context, const plan::Multiply& op) {
  auto step = std::make_unique<MultiplyStep>(context, op);
  if (!step->init(context.plan, op)) return Error::MemoryAllocationFailed;
  return std::unique_ptr<Step>(std::move(step));
}

}  // namespace packqvit
