#include <cstring>

#include "src/plan/check.h"
#include "src/steps/requantizer.h"
#include "src/steps/step.h"

namespace packqvit {

using executorch::runtime::Error;

namespace {

class SelectTokensStep final : public Step {
 public:
  SelectTokensStep(const BuildContext& context, const plan::SelectTokens& op)
      : x_(op.x()), output_(op.output()), index_(op.index()->begin(), op.index()->end()) {
    const Value& x = context.plan.value(x_);
    batch_ = x.dim(0);
    tokens_ = x.dim(1);
    token_bytes_ = x.dim(2) * element_size(x.type);
    fill_.resize(token_bytes_);
    for (size_t i = 0; i < token_bytes_; i += element_size(x.type)) {
      const int32_t code = op.fill();  // little-endian, as all machines that this runs on
      std::memcpy(fill_.data() + i, &code, element_size(x.type));
    }
  }

  Error run(const Memory& memory) const override {
    const uint8_t* x = memory.value<const uint8_t>(x_);
    uint8_t* output = memory.value<uint8_t>(output_);
    for (size_t b = 0; b < batch_; ++b, x += tokens_ * token_bytes_) {
      for (const uint32_t token : index_) {
        std::memcpy(output, token == kNoToken ? fill_.data() : x + token * token_bytes_, token_bytes_);
        output += token_bytes_;
      }
    }
    return Error::Ok;
  }

 private:
  uint32_t x_;
  uint32_t output_;
  std::vector<uint32_t> index_;
  size_t batch_;
  size_t tokens_;
  size_t token_bytes_;
  std::vector<uint8_t> fill_;  // a token of zeros
};

class RepeatTokensStep final : public Step {
 public:
  RepeatTokensStep(const BuildContext& context, const plan::RepeatTokens& op) : output_(op.output()) {
    const Value& output = context.plan.value(output_);
    images_ = output.dim(0);
    bytes_ = output.bytes() / images_;
  }

  bool init(const CheckedPlan& plan, const plan::RepeatTokens& op) {
    if (!tokens_.allocate(bytes_)) return false;
    std::memcpy(tokens_.data(), plan.constant(op.tokens()).data, bytes_);
    return true;
  }

  Error run(const Memory& memory) const override {
    uint8_t* output = memory.value<uint8_t>(output_);
    for (size_t image = 0; image < images_; ++image) std::memcpy(output + image * bytes_, tokens_.data(), bytes_);
    return Error::Ok;
  }

 private:
  uint32_t output_;
  size_t images_;
  size_t bytes_;  // of one image
  AlignedArray<uint8_t> tokens_;
};

class JoinTokensStep final : public Step {
 public:
  JoinTokensStep(const BuildContext& context, const plan::JoinTokens& op)
      : x_(op.x()), y_(op.y()), output_(op.output()), images_(context.plan.value(op.x()).dim(0)) {
    x_bytes_ = context.plan.value(x_).bytes() / images_;
    y_bytes_ = context.plan.value(y_).bytes() / images_;
  }

  Error run(const Memory& memory) const override {
    const uint8_t* x = memory.value<const uint8_t>(x_);
    const uint8_t* y = memory.value<const uint8_t>(y_);
    uint8_t* output = memory.value<uint8_t>(output_);
    for (size_t image = 0; image < images_; ++image, output += x_bytes_ + y_bytes_) {
      std::memcpy(output, x + image * x_bytes_, x_bytes_);
      std::memcpy(output + x_bytes_, y + image * y_bytes_, y_bytes_);
    }
    return Error::Ok;
  }

 private:
  uint32_t x_;
  uint32_t y_;
  uint32_t output_;
  size_t images_;
  size_t x_bytes_;  // of one image
  size_t y_bytes_;
};

class PoolTokensStep final : public Step {
 public:
  template <typename Op>  // MeanTokens or MaxTokens
  PoolTokensStep(const BuildContext& context, const Op& op, Pooling pooling)
      : tier_(context.tier), threads_(context.threads), x_(op.x()), output_(op.output()) {
    const Value& x = context.plan.value(x_);
    const Value& output = context.plan.value(output_);
    batch_ = x.dim(0);
    image_bytes_ = x.bytes() / batch_;
    row_bytes_ = output.bytes() / batch_;
    arguments_.pooling = pooling;
    arguments_.wide_input = x.type == plan::DataType::Int16;
    arguments_.tokens = x.dim(1);
    arguments_.channels = x.dim(2);
    arguments_.wide_output = output.type == plan::DataType::Int16;
  }

  template <typename Op>
  bool init(const CheckedPlan& plan, const Op& op) {
    if (!plan.constant(op.bias()).copy_to(bias_, arguments_.channels)) return false;
    if (!requantizer_.init(plan, *op.requantizer(), arguments_.channels)) return false;
    arguments_.bias = bias_.data();
    arguments_.requantizer = requantizer_.view();
    return true;
  }

  Error run(const Memory& memory) const override {
    const size_t parts = part_count(divide_up(arguments_.channels, kGrain), threads_);
    return parallel_tasks(batch_ * parts, threads_, [&](size_t task) {
      PoolTokensArguments arguments = arguments_;
      arguments.x = memory.value<const uint8_t>(x_) + task / parts * image_bytes_;
      arguments.output = memory.value<uint8_t>(output_) + task / parts * row_bytes_;
      tier_.pool_tokens(arguments, part_of(arguments_.channels, parts, task % parts));
    });
  }

 private:
  static constexpr size_t kGrain = 64;  // channels: a cache line of each token

  const KernelTier& tier_;
  size_t threads_;
  uint32_t x_;
  uint32_t output_;
  size_t batch_;
  size_t image_bytes_;
  size_t row_bytes_;
  PoolTokensArguments arguments_{};
  AlignedArray<int32_t> bias_;
  OwnedRequantizer requantizer_;
};

template <typename Op>
StepResult make_pool_step(const BuildContext& context, const Op& op, Pooling pooling) {
  auto step = std::make_unique<PoolTokensStep>(context, op, pooling);
  if (!step->init(context.plan, op)) return Error::MemoryAllocationFailed;
  return std::unique_ptr<Step>(std::move(step));
}

}  // namespace

StepResult make_step(const BuildContext& context, const plan::SelectTokens& op) {
  return std::unique_ptr<Step>(std::make_unique<SelectTokensStep>(context, op));
}

StepResult make_step(const BuildContext& context, const plan::RepeatTokens& op) {
  auto step = std::make_unique<RepeatTokensStep>(context, op);
  if (!step->init(context.plan, op)) return Error::MemoryAllocationFailed;
  return std::unique_ptr<Step>(std::move(step));
}

StepResult make_step(const BuildContext& context, const plan::JoinTokens& op) {
  return std::unique_ptr<Step>(std::make_unique<JoinTokensStep>(context, op));
}

StepResult make_step(const BuildContext& context, const plan::MeanTokens& op) {
  return make_pool_step(context, op, Pooling::kMean);
}

StepResult make_step(const BuildContext& context, const plan::MaxTokens& op) {
  return make_pool_step(context, op, Pooling::kMaximum);
}

}  // namespace packqvit
