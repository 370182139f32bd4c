#include "src/plan/code_ranges.h"

#include <algorithm>

#include "src/plan/check.h"

namespace packqvit {
namespace {

CodeRange range_of(const plan::Requantizer& requantizer) { return {requantizer.qmin(), requantizer.qmax()}; }

CodeRange range_of_table(const Constant& table) {
  const int8_t* codes = reinterpret_cast<const int8_t*>(table.data);
  const auto ends = std::minmax_element(codes, codes + table.size());
  return {*ends.first, *ends.second};
}

void include(int32_t code, CodeRange& range) {
  range.low = std::min(range.low, code);
  range.high = std::max(range.high, code);
}

}  // namespace

void set_range(const CheckedPlan& plan, const plan::Node& node, std::vector<CodeRange>& ranges) {
  if (const auto* quantize = node.op_as_Quantize()) {
    ranges[quantize->output()] = {quantize->qmin(), quantize->qmax()};
  } else if (const auto* linear = node.op_as_Linear(); linear && linear->epilogue() == plan::Epilogue::Requantize) {
    ranges[linear->output()] =
        linear->table() != -1 ? range_of_table(plan.constant(linear->table())) : range_of(*linear->requantizer());
  } else if (const auto* values = node.op_as_AttentionValues()) {
    ranges[values->output()] = range_of(*values->requantizer());
  } else if (const auto* attention = node.op_as_Attention()) {
    ranges[attention->output()] = range_of(*attention->requantizer());
  } else if (const auto* norm = node.op_as_LayerNorm(); norm && norm->residual() == -1) {
    ranges[norm->output()] = {norm->qmin(), norm->qmax()};
  } else if (const auto* table = node.op_as_LookupTable()) {
    ranges[table->output()] = range_of_table(plan.constant(table->table()));
  } else if (const auto* select = node.op_as_SelectTokens()) {
    ranges[select->output()] = ranges[select->x()];
    for (const uint32_t token : *select->index()) {
      if (token == kNoToken) include(select->fill(), ranges[select->output()]);
    }
  } else if (const auto* mean = node.op_as_MeanTokens()) {
    ranges[mean->output()] = range_of(*mean->requantizer());
  } else if (const auto* largest = node.op_as_MaxTokens()) {
    ranges[largest->output()] = range_of(*largest->requantizer());
  } else if (const auto* head_norm = node.op_as_HeadNorm()) {
    ranges[head_norm->output()] = {head_norm->qmin(), head_norm->qmax()};
  } else if (const auto* rotate = node.op_as_Rotate()) {
    ranges[rotate->output()] = range_of(*rotate->requantizer());
  } else if (const auto* multiply = node.op_as_Multiply()) {
    ranges[multiply->output()] = range_of(*multiply->requantizer());
  } else if (const auto* requantize = node.op_as_Requantize()) {
    ranges[requantize->output()] = range_of(*requantize->requantizer());
  }
}

}  // namespace packqvit
