#include "src/steps/gemm.h"

#include <algorithm>

namespace packqvit {

using executorch::runtime::Error;

bool Gemm::init(const CheckedPlan& plan, int32_t weight, int32_t bias, const plan::Requantizer* requantizer,
                int32_t residual_multiplier, Epilogue epilogue, bool wide) {
  epilogue_ = epilogue;
  wide_ = wide;
  const Constant& codes = plan.constant(weight);
  const unsigned bits = codes.encoding == plan::Encoding::Nibbles ? 4 : 8;
  if (!pack_weights({codes.data, codes.shape[0], codes.shape[1], bits}, tier_.tile, weights_)) return false;
  const size_t channels = round_up(weights_.n, tier_.tile.nr);
  return plan.constant(bias).copy_to(bias_, channels) &&
         (requantizer == nullptr || requantizer_.init(plan, *requantizer, channels)) &&
         (residual_multiplier == -1 || plan.constant(residual_multiplier).copy_to(residual_multiplier_, channels));
}

Error Gemm::run(const int8_t* x, size_t rows, const void* addend, void* output, ScratchPool& scratch) const {
  GemmArguments arguments;
  arguments.x = x;
  arguments.weights = &weights_;
  arguments.bias = bias_.data();
  arguments.epilogue = epilogue_;
  arguments.requantizer = requantizer_.view();
  arguments.residual_multiplier = residual_multiplier_.data();
  arguments.addend = addend;
  arguments.output = output;
  arguments.wide = wide_;

  const size_t row_block = tier_.tile.row_block;
  const size_t row_blocks = divide_up(rows, row_block);
  const size_t panels = weights_.panels();
  const size_t panel_groups = std::min(panels, divide_up(part_count(row_blocks * panels, threads_), row_blocks));
  return parallel_tasks(row_blocks * panel_groups, [&](size_t task) {
    const size_t first = task / panel_groups * row_block;
    const ScratchPool::Lease lease(scratch);
    tier_.gemm(arguments, {first, std::min(first + row_block, rows)},
               part_of(panels, panel_groups, task % panel_groups), lease.data());
  });
}

}  // namespace packqvit
