#include "src/steps/gemm.h"

#include <algorithm>

namespace packqvit {

using executorch::runtime::Error;

bool Gemm::init(const BuildContext& context, const Operands& operands, size_t rows) {
  const CheckedPlan& plan = context.plan;
  epilogue_ = operands.epilogue;
  wide_ = operands.wide;
  rows_ = rows;
  const Constant& codes = plan.constant(operands.weight);
  const unsigned bits = codes.encoding == plan::Encoding::Nibbles ? 4 : 8;
  route_ = &choose_gemm_route(tier_, bits, operands.x);
  const WeightView view{codes.data, codes.shape[0], codes.shape[1], bits};
  if (!context.packer.pack(operands.weight, view, route_->tile, weights_)) return false;
  const size_t channels = round_up(weights_.n, route_->tile.nr);
  if (!plan.constant(operands.bias).copy_to(bias_, channels)) return false;
  if (operands.requantizer != nullptr && !requantizer_.init(plan, *operands.requantizer, channels)) return false;
  if (operands.residual_multiplier != -1 &&
      !plan.constant(operands.residual_multiplier).copy_to(residual_multiplier_, channels)) {
    return false;
  }
  if (operands.table != -1 && !plan.constant(operands.table).copy_to(table_, 256)) return false;
  if (route_->fold_bias != nullptr) route_->fold_bias(weights_, epilogue_, requantizer_.view(), bias_.data());
  return true;
}

// Rows are cut first: every task prepares its rows once, and unpacks the panels that it visits. Panels are cut where
// there are too few rows to keep the threads busy.
Gemm::Cut Gemm::cut(size_t rows) const {
  const size_t tiles = divide_up(rows, route_->tile.mr);
  const size_t parts = part_count(tiles * weights_.panels(), threads_);
  const size_t row_parts = std::min(parts, tiles);
  return {tiles, row_parts, std::min(divide_up(parts, row_parts), weights_.panels())};
}

size_t Gemm::scratch_bytes() const {
  const Cut cut = this->cut(rows_);
  return route_->scratch(weights_, divide_up(cut.row_tiles, cut.row_parts) * route_->tile.mr);
}

GemmArguments Gemm::arguments(const Matrices& matrices) const {
  GemmArguments arguments;
  arguments.x = matrices.x;
  arguments.weights = &weights_;
  arguments.bias = bias_.data();
  arguments.epilogue = epilogue_;
  arguments.requantizer = requantizer_.view();
  arguments.table = table_.data();
  arguments.residual_multiplier = residual_multiplier_.data();
  arguments.addend = matrices.addend;
  arguments.output = matrices.output;
  arguments.wide = wide_;
  return arguments;
}

Error Gemm::run(const Matrices& matrices, size_t rows, ScratchPool& scratch) const {
  const GemmArguments arguments = this->arguments(matrices);
  const Cut cut = this->cut(rows);
  return parallel_tasks(cut.row_parts * cut.panel_parts, threads_, [&](size_t task) {
    const Range tiles = part_of(cut.row_tiles, cut.row_parts, task / cut.panel_parts);
    const ScratchPool::Lease lease(scratch);
    route_->run(arguments, {tiles.begin * route_->tile.mr, std::min(tiles.end * route_->tile.mr, rows)},
                part_of(weights_.panels(), cut.panel_parts, task % cut.panel_parts), lease.data());
  });
}

}  // namespace packqvit
