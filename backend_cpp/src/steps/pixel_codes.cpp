#include "src/steps/step.h"

namespace packqvit {

using executorch::runtime::Error;

namespace {

// byte - 128 as int8 is the byte with its highest bit turned.
int8_t code_of(uint8_t byte) { return static_cast<int8_t>(byte ^ 0x80); }

class PixelCodesStep final : public Step {
 public:
  PixelCodesStep(const BuildContext& context, const plan::PixelCodes& op)
      : threads_(context.threads), x_(op.x()), output_(op.output()) {
    const Value& output = context.plan.value(output_);
    // Bytes with channels first are already in the order of the codes: one channel of everything.
    channels_ = op.channels_last() ? output.dim(1) : 1;
    images_ = op.channels_last() ? output.dim(0) : 1;
    pixels_ = output.size() / (channels_ * images_);
  }

  Error run(const Memory& memory) const override {
    const uint8_t* x = memory.value<const uint8_t>(x_);
    int8_t* output = memory.value<int8_t>(output_);
    const size_t parts = part_count(divide_up(pixels_, kGrain), threads_);
    return parallel_tasks(images_ * parts, threads_, [&](size_t task) {
      const size_t offset = task / parts * channels_ * pixels_;
      const Range range = part_of(pixels_, parts, task % parts);
      for (size_t c = 0; c < channels_; ++c) {
        const uint8_t* source = x + offset + c;
        int8_t* plane = output + offset + c * pixels_;
        for (size_t i = range.begin; i < range.end; ++i) plane[i] = code_of(source[i * channels_]);
      }
    });
  }

 private:
  static constexpr size_t kGrain = 4096;

  size_t threads_;
  uint32_t x_;
  uint32_t output_;
  size_t channels_;
  size_t images_;
  size_t pixels_;  // of a plane
};

}  // namespace

StepResult make_step(const BuildContext& context, const plan::PixelCodes& op) {
  return std::unique_ptr<Step>(std::make_unique<PixelCodesStep>(context, op));
}

}  // namespace packqvit
