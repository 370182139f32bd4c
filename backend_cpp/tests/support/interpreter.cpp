#include "tests/support/interpreter.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "src/plan/check.h"

namespace packqvit {
namespace {

using plan::DataType;

double load_number(DataType type, const uint8_t* data, size_t index) {
  const auto get = [&](auto example) {
    std::memcpy(&example, data + index * sizeof(example), sizeof(example));
    return static_cast<double>(example);
  };
  switch (type) {
    case DataType::Int8:
      return get(int8_t{});
    case DataType::UInt8:
      return get(uint8_t{});
    case DataType::Int16:
      return get(int16_t{});
    case DataType::Int32:
      return get(int32_t{});
    case DataType::Float32:
      break;
  }
  return get(float{});
}

// Every value and constant as doubles: exact for all integers of the contract, and for float32.
class Interpreter {
 public:
  explicit Interpreter(PlanBuilder& builder) : builder_(builder), values_(builder.plan.values.size()) {}

  void load(uint32_t value, const Argument& argument) {
    const size_t size = element_count(shape(value));
    for (size_t i = 0; i < size; ++i) {
      values_[value].push_back(load_number(builder_.plan.values[value]->type, argument.data.data(), i));
    }
  }

  void store(uint32_t value, Argument& argument) const {
    for (size_t i = 0; i < values_[value].size(); ++i) {
      const double number = values_[value][i];
      const auto put = [&](auto element) {
        std::memcpy(argument.data.data() + i * sizeof(element), &element, sizeof(element));
      };
      switch (builder_.plan.values[value]->type) {
        case DataType::Int8:
          put(static_cast<int8_t>(number));
          break;
        case DataType::UInt8:
          put(static_cast<uint8_t>(number));
          break;
        case DataType::Int16:
          put(static_cast<int16_t>(number));
          break;
        case DataType::Int32:
          put(static_cast<int32_t>(number));
          break;
        case DataType::Float32:
          put(static_cast<float>(number));
          break;
      }
    }
  }

  void run(const plan::OperatorUnion& op) {
    if (const auto* quantize = op.AsQuantize()) run(*quantize);
    if (const auto* dequantize = op.AsDequantize()) run(*dequantize);
    if (const auto* linear = op.AsLinear()) run(*linear);
    if (const auto* patch_embedding = op.AsPatchEmbedding()) run(*patch_embedding);
    if (const auto* scores = op.AsAttentionScores()) run(*scores);
    if (const auto* softmax = op.AsSoftmax()) run(*softmax);
    if (const auto* values = op.AsAttentionValues()) run(*values);
    if (const auto* layer_norm = op.AsLayerNorm()) run(*layer_norm);
    if (const auto* lookup_table = op.AsLookupTable()) run(*lookup_table);
    if (const auto* select = op.AsSelectTokens()) run(*select);
    if (const auto* mean = op.AsMeanTokens()) run(*mean);
    if (const auto* head_norm = op.AsHeadNorm()) run(*head_norm);
    if (const auto* requantize = op.AsRequantize()) run(*requantize);
    if (const auto* rotate = op.AsRotate()) run(*rotate);
    if (const auto* multiply = op.AsMultiply()) run(*multiply);
    if (const auto* relative = op.AsAddRelativeBias()) run(*relative);
    if (const auto* repeat = op.AsRepeatTokens()) run(*repeat);
    if (const auto* join = op.AsJoinTokens()) run(*join);
    if (const auto* largest = op.AsMaxTokens()) run(*largest);
    if (const auto* sum = op.AsRequantizeAdd()) run(*sum);
  }

 private:
  Shape shape(uint32_t value) const {
    const auto& stored = builder_.plan.values[value]->shape;
    return {stored.begin(), stored.end()};
  }
  bool is_wide(uint32_t value) const { return builder_.plan.values[value]->type == DataType::Int16; }
  int64_t integer(uint32_t value, size_t index) const { return static_cast<int64_t>(values_[value][index]); }

  // A dense constant, or the codes of a nibble constant.
  std::vector<double> constant(int32_t index) {
    const plan::ConstantT& stored = *builder_.plan.constants[static_cast<size_t>(index)];
    const Shape shape(stored.shape.begin(), stored.shape.end());
    const uint8_t* data = builder_.data(index);
    std::vector<double> result;
    for (size_t i = 0; i < element_count(shape); ++i) {
      if (stored.encoding == plan::Encoding::Dense) {
        result.push_back(load_number(stored.type, data, i));
      } else {
        const size_t column = i % shape.back();
        const int byte = data[i / shape.back() * ((shape.back() + 1) / 2) + column / 2];
        const int nibble = column % 2 == 0 ? byte % 16 : byte / 16;
        result.push_back(nibble >= 8 ? nibble - 16 : nibble);
      }
    }
    return result;
  }

  template <typename T>
  std::vector<T> typed(int32_t index) {
    const std::vector<double> numbers = constant(index);
    return {numbers.begin(), numbers.end()};
  }

  naive::Requantizer requantizer(const plan::RequantizerT& stored) {
    return {typed<int16_t>(stored.multiplier),
            typed<uint8_t>(stored.shift),
            stored.fraction_bits,
            stored.zero_point,
            stored.qmin,
            stored.qmax,
            stored.left_shift};
  }

  void run(const plan::QuantizeT& op) {
    const auto inverse_scale = typed<float>(op.inverse_scale);
    const auto offset = typed<float>(op.offset);
    const Shape x = shape(op.x);
    const size_t channels = std::max(offset.size(), inverse_scale.size());
    size_t inner = values_[op.x].size() / channels;
    for (size_t i = 0; channels > 1 && i < op.axis; ++i) inner /= x[i];
    for (size_t i = 0; i < values_[op.x].size(); ++i) {
      const size_t c = i / inner % channels;
      const float difference = static_cast<float>(values_[op.x][i]) - offset[offset.size() > 1 ? c : 0];
      const float scaled = difference * inverse_scale[inverse_scale.size() > 1 ? c : 0];
      const double number = std::isnan(scaled) ? 0.0 : std::rint(static_cast<double>(scaled));
      values_[op.output].push_back(std::fmin(std::fmax(number, op.qmin), op.qmax));
    }
  }

  void run(const plan::DequantizeT& op) {
    const auto scale = typed<float>(op.scale);
    const Shape x = shape(op.x);
    size_t inner = 1;
    for (size_t i = op.axis + 1; i < x.size(); ++i) inner *= x[i];
    for (size_t i = 0; i < values_[op.x].size(); ++i) {
      const float number = static_cast<float>(integer(op.x, i) - op.zero_point);
      const float result = number * scale[scale.size() > 1 ? i / inner % x[op.axis] : 0];
      values_[op.output].push_back(result);
    }
    if (!op.channels_first) return;
    const std::vector<double> rows = values_[op.output];
    const size_t tokens = x[1];
    const size_t channels = x[2];
    for (size_t r = 0; r < rows.size(); ++r) {
      const size_t token = r / channels;
      values_[op.output][(token / tokens * channels + r % channels) * tokens + token % tokens] = rows[r];
    }
  }

  void run(const plan::LinearT& op) {
    const auto weight = constant(op.weight);
    const auto bias = constant(op.bias);
    const size_t features = bias.size();
    const size_t k = shape(op.x).back();
    for (size_t row = 0; row < values_[op.x].size() / k; ++row) {
      for (size_t o = 0; o < features; ++o) {
        double sum = bias[o];
        for (size_t i = 0; i < k; ++i) sum += values_[op.x][row * k + i] * weight[o * k + i];
        const int64_t acc = static_cast<int64_t>(sum);
        int64_t code = acc;
        if (op.epilogue == plan::Epilogue::Requantize) code = requantizer(*op.requantizer).requantize(acc, o);
        if (op.table != -1) code = typed<int8_t>(op.table)[static_cast<size_t>(code + 128)];
        if (op.epilogue == plan::Epilogue::AddResidual) {
          const int64_t multiplier = typed<int16_t>(op.residual_multiplier)[o];
          const int64_t residual = integer(static_cast<uint32_t>(op.residual), row * features + o);
          code = requantizer(*op.requantizer).add_residual(acc, o, residual, multiplier, is_wide(op.output));
        }
        values_[op.output].push_back(static_cast<double>(code));
      }
    }
  }

  void run(const plan::PatchEmbeddingT& op) {
    const Shape x = shape(op.x);
    const auto weight = constant(op.weight);
    const auto bias = constant(op.bias);
    const auto position = op.position != -1
                              ? typed<int16_t>(op.position)
                              : std::vector<int16_t>(element_count(shape(op.output)) / shape(op.output)[0]);
    const auto prefix = constant(op.prefix);
    const naive::Requantizer scale = requantizer(*op.requantizer);
    for (size_t b = 0; b < x[0]; ++b) {
      values_[op.output].insert(values_[op.output].end(), prefix.begin(), prefix.end());
      size_t patch = 0;
      for (size_t top = 0; top + op.patch_height <= x[2]; top += op.patch_height) {
        for (size_t left = 0; left + op.patch_width <= x[3]; left += op.patch_width, ++patch) {
          for (size_t o = 0; o < bias.size(); ++o) {
            double sum = bias[o];
            size_t i = o * x[1] * op.patch_height * op.patch_width;
            for (size_t c = 0; c < x[1]; ++c) {
              for (size_t y = top; y < top + op.patch_height; ++y) {
                for (size_t column = left; column < left + op.patch_width; ++column) {
                  sum += weight[i++] * values_[op.x][((b * x[1] + c) * x[2] + y) * x[3] + column];
                }
              }
            }
            values_[op.output].push_back(static_cast<double>(scale.add_position(
                static_cast<int64_t>(sum), o, position[patch * bias.size() + o], is_wide(op.output))));
          }
        }
      }
    }
  }

  void run(const plan::AttentionScoresT& op) {
    const Shape y = shape(op.output);
    const size_t channels = shape(op.k).back();
    const size_t head_size = channels / op.heads;
    const auto shared = op.query != -1 ? constant(op.query) : std::vector<double>{};
    for (size_t b = 0; b < y[0]; ++b) {
      for (size_t h = 0; h < y[1]; ++h) {
        for (size_t i = 0; i < y[2]; ++i) {
          for (size_t j = 0; j < y[3]; ++j) {
            double sum = 0;
            for (size_t d = h * head_size; d < (h + 1) * head_size; ++d) {
              const double q = op.query != -1 ? shared[i * channels + d] : values_[op.q][(b * y[2] + i) * channels + d];
              sum += q * values_[op.k][(b * y[3] + j) * channels + d];
            }
            values_[op.output].push_back(sum);
          }
        }
      }
    }
  }

  void run(const plan::AddRelativeBiasT& op) {
    const plan::RelativeBiasT& relative = *op.relative;
    const auto numbers = constant(relative.numbers);
    const Shape x = shape(op.x);
    const size_t channels = shape(op.q)[2];
    const size_t size = channels / x[1];
    const size_t distances = 2 * (relative.rows + relative.columns) - 2;
    const size_t heads = numbers.size() / distances / size;
    // What a query adds for a distance, in steps of the scores.
    const auto steps = [&](size_t b, size_t h, size_t query, size_t distance) {
      double sum = 0;
      for (size_t d = 0; d < size; ++d) {
        sum += values_[op.q][(b * x[2] + query) * channels + h * size + d] *
               numbers[(h % heads * distances + distance) * size + d];
      }
      return std::floor(std::ldexp(sum * relative.multiplier, -relative.shift) + (relative.shift > 0 ? 0.5 : 0.0));
    };
    for (size_t i = 0; i < values_[op.x].size(); ++i) {
      const size_t key = i % x[3];
      const size_t query = i / x[3] % x[2];
      const size_t head = i / x[3] / x[2];
      const size_t row = key / relative.columns + relative.rows - 1 - query / relative.columns;
      const size_t column = key % relative.columns + relative.columns - 1 - query % relative.columns;
      values_[op.output].push_back(values_[op.x][i] + steps(head / x[1], head % x[1], query, row) +
                                   steps(head / x[1], head % x[1], query, 2 * relative.rows - 1 + column));
    }
  }

  void run(const plan::SoftmaxT& op) {
    const Shape x = shape(op.x);
    const size_t matrix = x[2] * x[3];
    auto bias = op.bias != -1 ? constant(op.bias) : std::vector<double>(matrix);
    if (op.bias_index != -1) {
      const auto index = typed<size_t>(op.bias_index);
      const size_t columns = builder_.plan.constants[static_cast<size_t>(op.bias)]->shape[1];
      std::vector<double> all;
      for (size_t first = 0; first < bias.size(); first += columns) {
        for (const size_t column : index) all.push_back(bias[first + column]);
      }
      bias = all;
    }
    const auto groups = op.groups != -1 ? constant(op.groups) : std::vector<double>(x[3]);
    const naive::Softmax softmax{op.multiplier, op.shift, op.format == plan::ProbabilityFormat::Log2};
    for (size_t row = 0; row < x[0] * x[1] * x[2]; ++row) {
      std::vector<int64_t> scores;
      for (size_t j = 0; j < x[3]; ++j) {
        const size_t index = row * x[3] + j;
        const size_t head = index / matrix % (bias.size() / matrix);
        const double* window = groups.data() + row / x[2] / x[1] % (groups.size() / x[3]) * x[3];
        const bool sees = op.groups == -1 || window[row % x[2]] == window[j];
        const double added = sees ? std::ldexp(bias[head * matrix + index % matrix], op.bias_shift) : -(1 << 29);
        scores.push_back(integer(op.x, index) + static_cast<int64_t>(added));
      }
      for (const int64_t code : softmax.row(scores)) values_[op.output].push_back(static_cast<double>(code));
    }
  }

  void run(const plan::AttentionValuesT& op) {
    const Shape p = shape(op.probabilities);
    const size_t channels = shape(op.v).back();
    const naive::Requantizer scale = requantizer(*op.requantizer);
    for (size_t b = 0; b < p[0]; ++b) {
      for (size_t i = 0; i < p[2]; ++i) {
        for (size_t c = 0; c < channels; ++c) {
          const size_t head = c / (channels / p[1]);
          std::vector<int64_t> codes;
          std::vector<int64_t> values;
          for (size_t j = 0; j < p[3]; ++j) {
            codes.push_back(integer(op.probabilities, ((b * p[1] + head) * p[2] + i) * p[3] + j));
            values.push_back(integer(op.v, (b * p[3] + j) * channels + c));
          }
          const int64_t sum = naive::weighted_sum(codes, values, op.format == plan::ProbabilityFormat::Log2);
          values_[op.output].push_back(static_cast<double>(scale.requantize(sum, c)));
        }
      }
    }
  }

  void run(const plan::LayerNormT& op) {
    naive::LayerNorm norm;
    if (op.channel_shift >= 0) norm.channel_shift = typed<uint8_t>(op.channel_shift);
    norm.weight = typed<int16_t>(op.weight);
    norm.bias = typed<int32_t>(op.bias);
    norm.epsilon = op.epsilon;
    norm.output_shift = op.output_shift;
    norm.qmin = op.qmin;
    norm.qmax = op.qmax;
    const size_t channels = norm.weight.size();
    std::vector<int16_t> multiplier;
    if (op.residual >= 0) multiplier = typed<int16_t>(op.residual_multiplier);
    for (size_t row = 0; row < values_[op.x].size() / channels; ++row) {
      const auto first = values_[op.x].begin() + static_cast<std::ptrdiff_t>(row * channels);
      const std::vector<int64_t> x(first, first + static_cast<std::ptrdiff_t>(channels));
      std::vector<int64_t> codes = op.residual >= 0 ? norm.steps(x) : norm.row(x);
      for (size_t c = 0; c < multiplier.size(); ++c) {
        const int64_t residual = integer(static_cast<uint32_t>(op.residual), row * channels + c);
        codes[c] = naive::onto_residual(codes[c], residual, multiplier[c], op.fraction_bits, is_wide(op.output));
      }
      values_[op.output].insert(values_[op.output].end(), codes.begin(), codes.end());
    }
  }

  void run(const plan::LookupTableT& op) {
    const auto table = constant(op.table);
    for (const double code : values_[op.x]) values_[op.output].push_back(table[static_cast<size_t>(code + 128)]);
  }

  void run(const plan::SelectTokensT& op) {
    const Shape x = shape(op.x);
    for (size_t b = 0; b < x[0]; ++b) {
      for (const size_t token : op.index) {
        for (size_t c = 0; c < x[2]; ++c) {
          values_[op.output].push_back(token == kNoToken ? op.fill : values_[op.x][(b * x[1] + token) * x[2] + c]);
        }
      }
    }
  }

  void run(const plan::MeanTokensT& op) {
    const Shape x = shape(op.x);
    const auto bias = constant(op.bias);
    const naive::Requantizer scale = requantizer(*op.requantizer);
    for (size_t b = 0; b < x[0]; ++b) {
      for (size_t c = 0; c < x[2]; ++c) {
        double sum = bias[c];
        for (size_t n = 0; n < x[1]; ++n) sum += values_[op.x][(b * x[1] + n) * x[2] + c];
        values_[op.output].push_back(static_cast<double>(scale.requantize(static_cast<int64_t>(sum), c)));
      }
    }
  }

  void run(const plan::HeadNormT& op) {
    const auto weight = typed<int16_t>(op.weight);
    const auto bias = typed<int32_t>(op.bias);
    const size_t channels = weight.size() / op.heads;
    for (size_t first = 0; first < values_[op.x].size(); first += channels) {
      const size_t c = first % weight.size();
      naive::LayerNorm norm;
      norm.weight.assign(weight.begin() + static_cast<std::ptrdiff_t>(c),
                         weight.begin() + static_cast<std::ptrdiff_t>(c + channels));
      norm.bias.assign(bias.begin() + static_cast<std::ptrdiff_t>(c),
                       bias.begin() + static_cast<std::ptrdiff_t>(c + channels));
      norm.epsilon = op.epsilon;
      norm.output_shift = op.output_shift;
      norm.qmin = op.qmin;
      norm.qmax = op.qmax;
      norm.centred = op.centred;
      std::vector<int64_t> x;
      for (size_t i = 0; i < channels; ++i) x.push_back(integer(op.x, first + i));
      for (const int64_t code : norm.row(x)) values_[op.output].push_back(static_cast<double>(code));
    }
  }

  void run(const plan::RequantizeT& op) {
    const naive::Requantizer scale = requantizer(*op.requantizer);
    const size_t channels = shape(op.x).back();
    for (size_t i = 0; i < values_[op.x].size(); ++i) {
      values_[op.output].push_back(static_cast<double>(scale.requantize(integer(op.x, i), i % channels)));
    }
  }

  void run(const plan::RotateT& op) {
    const Shape x = shape(op.x);
    const auto cosine = typed<int16_t>(op.cosine);
    const auto sine = typed<int16_t>(op.sine);
    const naive::Requantizer scale = requantizer(*op.requantizer);
    const size_t channels = op.partner.size();
    for (size_t i = 0; i < values_[op.x].size(); ++i) {
      const size_t c = i % x[2];
      const size_t token = i / x[2] % x[1];
      const size_t factor = token * (cosine.size() / x[1]) + c % (cosine.size() / x[1]);
      const size_t partner = i - c % channels + op.partner[c % channels];
      const int64_t sum = integer(op.x, i) * cosine[factor] + integer(op.x, partner) * sine[factor];
      const int64_t upper = (sum + (1 << 15)) >> 16;
      values_[op.output].push_back(static_cast<double>(scale.requantize(upper, c)));
    }
  }

  void run(const plan::MultiplyT& op) {
    const naive::Requantizer scale = requantizer(*op.requantizer);
    const size_t channels = shape(op.x).back();
    for (size_t i = 0; i < values_[op.x].size(); ++i) {
      const int64_t product = (integer(op.x, i) - op.x_zero_point) * (integer(op.y, i) - op.y_zero_point);
      const int64_t half = op.product_shift > 0 ? int64_t{1} << (op.product_shift - 1) : 0;
      const int64_t words = std::clamp<int64_t>((product + half) >> op.product_shift, INT16_MIN, INT16_MAX);
      values_[op.output].push_back(static_cast<double>(scale.requantize(words, i % channels)));
    }
  }

  void run(const plan::RepeatTokensT& op) {
    const auto tokens = constant(op.tokens);
    for (size_t image = 0; image < shape(op.output)[0]; ++image) {
      values_[op.output].insert(values_[op.output].end(), tokens.begin(), tokens.end());
    }
  }

  void run(const plan::JoinTokensT& op) {
    const size_t images = shape(op.x)[0];
    for (size_t image = 0; image < images; ++image) {
      for (const uint32_t part : {op.x, op.y}) {
        const size_t size = values_[part].size() / images;
        for (size_t i = 0; i < size; ++i) values_[op.output].push_back(values_[part][image * size + i]);
      }
    }
  }

  void run(const plan::MaxTokensT& op) {
    const Shape x = shape(op.x);
    const auto bias = constant(op.bias);
    const naive::Requantizer scale = requantizer(*op.requantizer);
    for (size_t b = 0; b < x[0]; ++b) {
      for (size_t c = 0; c < x[2]; ++c) {
        double largest = values_[op.x][b * x[1] * x[2] + c];
        for (size_t n = 1; n < x[1]; ++n) largest = std::max(largest, values_[op.x][(b * x[1] + n) * x[2] + c]);
        values_[op.output].push_back(static_cast<double>(scale.requantize(static_cast<int64_t>(largest + bias[c]), c)));
      }
    }
  }

  void run(const plan::RequantizeAddT& op) {
    const naive::Requantizer scale = requantizer(*op.requantizer);
    const auto multiplier = typed<int16_t>(op.residual_multiplier);
    for (size_t i = 0; i < values_[op.x].size(); ++i) {
      const size_t c = i % multiplier.size();
      values_[op.output].push_back(static_cast<double>(
          scale.add_residual(integer(op.x, i), c, integer(op.residual, i), multiplier[c], is_wide(op.output))));
    }
  }

  PlanBuilder& builder_;
  std::vector<std::vector<double>> values_;
};

}  // namespace

void interpret(PlanBuilder& builder, std::vector<Argument>& arguments) {
  Interpreter interpreter(builder);
  const size_t inputs = builder.plan.inputs.size();
  for (size_t i = 0; i < inputs; ++i) interpreter.load(builder.plan.inputs[i], arguments[i]);
  for (const auto& node : builder.plan.nodes) interpreter.run(node->op);
  for (size_t i = 0; i < builder.plan.outputs.size(); ++i) {
    interpreter.store(builder.plan.outputs[i], arguments[inputs + i]);
  }
}

}  // namespace packqvit
