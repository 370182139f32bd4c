#include <algorithm>
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
    channels_ = output.last();
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
    return gemm_.init(context, {op.weight(), op.bias(), op.requantizer(), -1, -1, epilogue, wide_, range_}, patches_);
  }

  size_t scratch_bytes() const override {
    const size_t patches = divide_up(tiles(), parts()) * gemm_.row_multiple();
    return rows_bytes(patches) + gemm_.scratch_bytes(patches);
  }

  Error run(const Memory& memory) const override {
    const size_t parts = this->parts();
    return parallel_tasks(batch_ * parts, threads_, [&](size_t task) {
      const Range tiles = part_of(this->tiles(), parts, task % parts);
      const ScratchPool::Lease lease(memory.scratch);
      embed(memory, task / parts, {tiles.begin * gemm_.row_multiple(), tiles.end * gemm_.row_multiple()},
            static_cast<int8_t*>(lease.data()));
    });
  }

 private:
  // What is gathered at a time: it stays in a second-level cache with the weights.
  static constexpr size_t kPartBytes = 128 * 1024;

  size_t patch_bytes() const { return image_.channels * patch_height_ * patch_width_; }
  size_t rows_bytes(size_t patches) const { return round_up(patches * patch_bytes(), kAlignment); }
  size_t tiles() const { return divide_up(patches_, gemm_.row_multiple()); }

  // Of an image: some for each thread, and as many as the weights, which each part reads again, are worth.
  size_t parts() const {
    const size_t cut = patches_ * patch_bytes() / std::max(kPartBytes, gemm_.weight_bytes());
    return std::min(tiles(), std::max(part_count(tiles(), threads_), cut));
  }

  // Some patches of an image, the prefix in front of the first.
  void embed(const Memory& memory, size_t image, Range patches, int8_t* scratch) const {
    const int8_t* x = memory.value<const int8_t>(x_) + image * image_.channels * image_.height * image_.width;
    uint8_t* output = memory.value<uint8_t>(output_) + image * image_bytes_;
    if (prefix_bytes_ > 0 && patches.begin == 0) std::memcpy(output, prefix_.data(), prefix_bytes_);
    patches.end = std::min(patches.end, patches_);
    const size_t count = patches.end - patches.begin;
    for (size_t i = 0; i < count; ++i) gather_patch(x, patches.begin + i, scratch + i * patch_bytes());
    const size_t first = patches.begin * channels_;
    const int16_t* position = position_.data() != nullptr ? position_.data() + first : nullptr;
    gemm_.run_rows({scratch, position, output + prefix_bytes_ + first * (wide_ ? 2 : 1)}, {0, count},
                   scratch + rows_bytes(count));
  }

  // A patch as (channel, row, column).
  void gather_patch(const int8_t* image, size_t patch, int8_t* out) const {
    switch (patch_width_) {  // a copy of constant size is one instruction or two
      case 4:
        return gather_rows<4>(image, patch, out);
      case 8:
        return gather_rows<8>(image, patch, out);
      case 16:
        return gather_rows<16>(image, patch, out);
      case 32:
        return gather_rows<32>(image, patch, out);
      default:
        return gather_rows<0>(image, patch, out);
    }
  }

  // kWidth: the patch width, or 0 for any.
  template <size_t kWidth>
  void gather_rows(const int8_t* image, size_t patch, int8_t* out) const {
    const size_t width = kWidth != 0 ? kWidth : patch_width_;
    const size_t across = image_.width / width;
    const size_t top = patch / across * patch_height_;
    const size_t left = patch % across * width;
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
  size_t channels_;  // of the output
  size_t prefix_bytes_;
  size_t image_bytes_;  // of the output
  bool wide_;
  AlignedArray<uint8_t> prefix_;
  AlignedArray<int16_t> position_;
};

}  // namespace

StepResult make_step(const BuildContext& context, const plan::PatchEmbedding& op) {
  auto step = std::make_unique<PatchEmbeddingStep>(context, op);
  if (!step->init(context, op)) return Error::MemoryAllocationFailed;
  return std::unique_ptr<Step>(std::move(step));
}

}  // namespace packqvit
