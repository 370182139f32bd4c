#include <cstring>

#include "src/steps/gemm.h"

namespace packqvit {

using executorch::runtime::Error;

namespace {

struct ImageShape {
  size_t channels;
  size_t height;
  size_t width;
};

class PatchEmbeddingStep final : public Step {
 public:
  PatchEmbeddingStep(const BuildContext& context, const plan::PatchEmbedding& op)
      : gemm_(context),
        threads_(context.threads),
        x_(op.x()),
        output_(op.output()),
        patch_height_(op.patch_height()),
        patch_width_(op.patch_width()),
        range_(context.ranges[x_]) {
    const Value& x = context.plan.value(x_);
    const Value& output = context.plan.value(output_);
    batch_ = x.dim(0);
    image_ = {x.dim(1), x.dim(2), x.dim(3)};
    patches_ = image_.height / patch_height_ * (image_.width / patch_width_);
    prefix_bytes_ = (output.dim(1) - patches_) * output.last() * element_size(output.type);
    image_bytes_ = output.bytes() / batch_;
    wide_ = output.type == plan::DataType::Int16;
  }

  bool init(const BuildContext& context, const plan::PatchEmbedding& op) {
    const CheckedPlan& plan = context.plan;
    if (prefix_bytes_ > 0) {
      if (!prefix_.allocate(prefix_bytes_)) return false;
      std::memcpy(prefix_.data(), plan.constant(op.prefix()).data, prefix_bytes_);
    }
    if (op.position() != -1) {
      const Constant& position = plan.constant(op.position());
      if (!position.copy_to(position_, position.size())) return false;
    }
    const Epilogue epilogue = op.position() != -1 ? Epilogue::kAddPosition : Epilogue::kRequantize;
    return rows_.allocate(image_.channels * image_.height * image_.width) &&
           gemm_.init(context, {op.weight(), op.bias(), op.requantizer(), -1, -1, epilogue, wide_, range_}, patches_);
  }

  size_t scratch_bytes() const override { return gemm_.scratch_bytes(); }

  Error run(const Memory& memory) const override {
    const size_t image_size = image_.channels * image_.height * image_.width;
    for (size_t b = 0; b < batch_; ++b) {
      uint8_t* output = memory.value<uint8_t>(output_) + b * image_bytes_;
      if (prefix_bytes_ > 0) std::memcpy(output, prefix_.data(), prefix_bytes_);
      Error error = gather_patches(memory.value<const int8_t>(x_) + b * image_size);
      if (error != Error::Ok) return error;
      error = gemm_.run({rows_.data(), position_.data(), output + prefix_bytes_}, patches_, memory.scratch);
      if (error != Error::Ok) return error;
    }
    return Error::Ok;
  }

 private:
  // Patches in row-major order, each as (channel, row, column).
  Error gather_patches(const int8_t* image) const {
    const size_t parts = part_count(patches_, threads_);
    return parallel_tasks(parts, threads_, [&](size_t part) {
      const Range range = part_of(patches_, parts, part);
      for (size_t patch = range.begin; patch < range.end; ++patch) gather_patch(image, patch);
    });
  }

  void gather_patch(const int8_t* image, size_t patch) const {
    switch (patch_width_) {  // a copy of constant size is one instruction or two
      case 4:
        return gather_rows<4>(image, patch);
      case 8:
        return gather_rows<8>(image, patch);
      case 16:
        return gather_rows<16>(image, patch);
      case 32:
        return gather_rows<32>(image, patch);
      default:
        return gather_rows<0>(image, patch);
    }
  }

  // kWidth: the patch width, or 0 for any.
  template <size_t kWidth>
  void gather_rows(const int8_t* image, size_t patch) const {
    const size_t width = kWidth != 0 ? kWidth : patch_width_;
    const size_t across = image_.width / width;
    const size_t top = patch / across * patch_height_;
    const size_t left = patch % across * width;
    int8_t* out = rows_.data() + patch * image_.channels * patch_height_ * width;
    for (size_t c = 0; c < image_.channels; ++c) {
      for (size_t y = 0; y < patch_height_; ++y, out += width) {
        std::memcpy(out, image + (c * image_.height + top + y) * image_.width + left, width);
      }
    }
  }

  Gemm gemm_;
  size_t threads_;
  uint32_t x_;
  uint32_t output_;
  size_t patch_height_;
  size_t patch_width_;
  CodeRange range_;
  size_t batch_;
  ImageShape image_;
  size_t patches_;
  size_t prefix_bytes_;
  size_t image_bytes_;  // of the output
  bool wide_;
  AlignedArray<uint8_t> prefix_;
  AlignedArray<int16_t> position_;
  mutable AlignedArray<int8_t> rows_;  // the patches of one image, written by run()
};

}  // namespace

StepResult make_step(const BuildContext& context, const plan::PatchEmbedding& op) {
  auto step = std::make_unique<PatchEmbeddingStep>(context, op);
  if (!step->init(context, op)) return Error::MemoryAllocationFailed;
  return std::unique_ptr<Step>(std::move(step));
}

}  // namespace packqvit
