#include "src/steps/step.h"

namespace packqvit {

using executorch::runtime::Error;

StepResult make_step(const BuildContext& context, const plan::Node& node) {
  switch (node.op_type()) {
    case plan::Operator::Quantize:
      return make_step(context, *node.op_as_Quantize());
    case plan::Operator::Dequantize:
      return make_step(context, *node.op_as_Dequantize());
    case plan::Operator::Linear:
      return make_step(context, *node.op_as_Linear());
    case plan::Operator::PatchEmbedding:
      return make_step(context, *node.op_as_PatchEmbedding());
    case plan::Operator::AttentionScores:
      return make_step(context, *node.op_as_AttentionScores());
    case plan::Operator::Softmax:
      return make_step(context, *node.op_as_Softmax());
    case plan::Operator::AttentionValues:
      return make_step(context, *node.op_as_AttentionValues());
    case plan::Operator::LayerNorm:
      return make_step(context, *node.op_as_LayerNorm());
    case plan::Operator::LookupTable:
      return make_step(context, *node.op_as_LookupTable());
    case plan::Operator::SelectTokens:
      return make_step(context, *node.op_as_SelectTokens());
    case plan::Operator::MeanTokens:
      return make_step(context, *node.op_as_MeanTokens());
    case plan::Operator::Attention:
      return make_step(context, *node.op_as_Attention(), node);
    case plan::Operator::PixelCodes:
      return make_step(context, *node.op_as_PixelCodes());
    case plan::Operator::TopK:
      return make_step(context, *node.op_as_TopK());
    case plan::Operator::TakeScores:
      return make_step(context, *node.op_as_TakeScores());
    case plan::Operator::HeadNorm:
      return make_step(context, *node.op_as_HeadNorm());
    case plan::Operator::Requantize:
      return make_step(context, *node.op_as_Requantize());
    case plan::Operator::MaxTokens:
      return make_step(context, *node.op_as_MaxTokens());
    case plan::Operator::RequantizeAdd:
      return make_step(context, *node.op_as_RequantizeAdd());
    case plan::Operator::RepeatTokens:
      return make_step(context, *node.op_as_RepeatTokens());
    case plan::Operator::JoinTokens:
      return make_step(context, *node.op_as_JoinTokens());
    case plan::Operator::Rotate:
      return make_step(context, *node.op_as_Rotate());
    case plan::Operator::Multiply:
      return make_step(context, *node.op_as_Multiply());
    case plan::Operator::AddRelativeBias:
      return make_step(context, *node.op_as_AddRelativeBias());
    case plan::Operator::NONE:
      break;
  }
  return Error::Internal;  // a checked plan has no other operator
}

}  // namespace packqvit
