#include <executorch/runtime/core/event_tracer_hooks_delegate.h>
#include <executorch/runtime/platform/platform.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "kernels/stopwatch.h"
#include "src/steps/owned_softmax.h"
#include "src/steps/relative_bias.h"
#include "src/steps/requantizer.h"
#include "src/steps/row_step.h"

namespace packqvit {

using executorch::runtime::Error;

namespace {

// Cuts [images] x [heads] x [queries] into tasks: a head of some images, or windows; where there are too few of them,
// of a part of the queries, because each part of a head prepares the same keys or values again.
template <typename Work>
Error run_heads(size_t images, size_t heads, size_t queries, size_t threads, ScratchPool& scratch, const Work& work) {
  const size_t tasks = threads == 1 ? 1 : 2 * threads;
  const size_t image_parts = std::min(images, divide_up(2 * tasks, heads));
  const size_t parts = std::min(queries, divide_up(tasks, heads * image_parts));
  return parallel_tasks(heads * image_parts * parts, threads, [&](size_t task) {
    const ScratchPool::Lease lease(scratch);
    const size_t head = task / parts;
    work(head % heads, part_of(images, image_parts, head / heads), part_of(queries, parts, task % parts), lease.data());
  });
}

// q of an attention: a value, or a constant that all images share.
class Queries {
 public:
  template <typename Op>
  explicit Queries(const Op& op) : value_(op.q()) {}

  template <typename Op>
  [[nodiscard]] bool init(const CheckedPlan& plan, const Op& op, size_t batch) {
    if (op.query() == -1) return true;
    const Constant& shared = plan.constant(op.query());
    if (!codes_.allocate(batch * shared.size())) return false;
    for (size_t image = 0; image < batch; ++image) {
      std::memcpy(codes_.data() + image * shared.size(), shared.data, shared.size());
    }
    return true;
  }

  template <typename Op>
  static size_t count(const CheckedPlan& plan, const Op& op) {
    return op.query() == -1 ? plan.value(op.q()).dim(1) : plan.constant(op.query()).shape[1];
  }

  // [batch, queries, channels]
  const int8_t* codes(const Memory& memory) const {
    return codes_.size() != 0 ? codes_.data() : memory.value<const int8_t>(value_);
  }

 private:
  uint32_t value_;
  AlignedArray<int8_t> codes_;  // of all images; empty: they are a value's
};

class AttentionScoresStep final : public Step {
 public:
  AttentionScoresStep(const BuildContext& context, const plan::AttentionScores& op)
      : tier_(context.tier), threads_(context.threads), q_(op), k_(op.k()), output_(op.output()) {
    const Value& scores = context.plan.value(output_);
    batch_ = scores.dim(0);
    shape_ = {scores.dim(1), scores.dim(2), scores.dim(3), context.plan.value(k_).last() / scores.dim(1)};
  }

  bool init(const CheckedPlan& plan, const plan::AttentionScores& op) { return q_.init(plan, op, batch_); }

  size_t scratch_bytes() const override { return tier_.attention_part_scratch(shape_); }

  Error run(const Memory& memory) const override {
    const AttentionScoresArguments arguments{shape_, q_.codes(memory), memory.value<const int8_t>(k_),
                                             memory.value<int32_t>(output_)};
    return run_heads(batch_, shape_.heads, shape_.queries, threads_, memory.scratch,
                     [&](size_t head, Range images, Range queries, void* scratch) {
                       for (size_t image = images.begin; image < images.end; ++image) {
                         tier_.attention_scores(arguments, image * shape_.heads + head, queries, scratch);
                       }
                     });
  }

 private:
  const KernelTier& tier_;
  size_t threads_;
  Queries q_;
  uint32_t k_;
  uint32_t output_;
  size_t batch_;
  AttentionShape shape_;
};

class AttentionValuesStep final : public Step {
 public:
  AttentionValuesStep(const BuildContext& context, const plan::AttentionValues& op)
      : tier_(context.tier),
        threads_(context.threads),
        probabilities_(op.probabilities()),
        v_(op.v()),
        output_(op.output()),
        format_(op.format() == plan::ProbabilityFormat::Log2 ? Probabilities::kLog2 : Probabilities::kLinear) {
    const Value& p = context.plan.value(probabilities_);
    batch_ = p.dim(0);
    shape_ = {p.dim(1), p.dim(2), p.dim(3), context.plan.value(v_).last() / p.dim(1)};
  }

  bool init(const CheckedPlan& plan, const plan::AttentionValues& op) {
    return requantizer_.init(plan, *op.requantizer(), shape_.heads * shape_.head_size);
  }

  size_t scratch_bytes() const override { return tier_.attention_part_scratch(shape_); }

  Error run(const Memory& memory) const override {
    const AttentionValuesArguments arguments{shape_,
                                             format_,
                                             memory.value<const uint8_t>(probabilities_),
                                             memory.value<const int8_t>(v_),
                                             requantizer_.view(),
                                             memory.value<int8_t>(output_)};
    return run_heads(batch_, shape_.heads, shape_.queries, threads_, memory.scratch,
                     [&](size_t head, Range images, Range queries, void* scratch) {
                       for (size_t image = images.begin; image < images.end; ++image) {
                         tier_.attention_values(arguments, image * shape_.heads + head, queries, scratch);
                       }
                     });
  }

 private:
  const KernelTier& tier_;
  size_t threads_;
  uint32_t probabilities_;
  uint32_t v_;
  uint32_t output_;
  Probabilities format_;
  size_t batch_;
  AttentionShape shape_;
  OwnedRequantizer requantizer_;
};

// The operators of a fused attention, in the order of AttentionClock.
enum Part { kScores, kSoftmax, kValues, kParts };

// As a row step it takes whole images, or windows, and is the last of its chain: it may write their rows anywhere.
class AttentionStep final : public RowStep {
 public:
  AttentionStep(const BuildContext& context, const plan::Attention& op, const plan::Node& node)
      : tier_(context.tier),
        threads_(context.threads),
        q_(op),
        operands_{op.q(), op.k(), op.v()},
        k_(op.k()),
        v_(op.v()),
        output_(op.output()) {
    const Value& k = context.plan.value(k_);
    batch_ = k.dim(0);
    shape_ = {op.heads(), Queries::count(context.plan, op), k.dim(1), k.last() / op.heads()};
    debug_id_[kValues] = node.debug_id();
    is_row_step_ = op.query() == -1 && shape_.queries == shape_.keys;
    has_parts_ = node.parts() != nullptr && node.parts()->size() == 2;
    for (uint32_t part = 0; has_parts_ && part < 2; ++part) debug_id_[part] = node.parts()->Get(part)->debug_id();
  }

  bool init(const CheckedPlan& plan, const plan::Attention& op) {
    return q_.init(plan, op, batch_) && softmax_.init(plan, op, shape_.heads, shape_.queries, shape_.keys) &&
           requantizer_.init(plan, *op.requantizer(), channels()) &&
           (op.relative() == nullptr || relative_.init(plan, *op.relative(), tier_, shape_)) &&
           (op.rows() == -1 || plan.constant(op.rows()).copy_to(rows_, plan.constant(op.rows()).size()));
  }

  size_t scratch_bytes() const override {
    const size_t moved = rows_.size() != 0 ? round_up(shape_.queries * channels(), kAlignment) : 0;
    return moved_offset() + moved + (relative_ ? relative_bytes() + relative_.scratch_bytes() : 0);
  }

  bool traces_itself() const override { return true; }

  const RowStep* as_row_step() const override { return is_row_step_ ? this : nullptr; }
  size_t rows() const override { return batch_ * shape_.queries; }
  size_t row_multiple() const override { return shape_.queries; }
  size_t least_parts_per_thread() const override { return 8; }
  std::vector<uint32_t> operands() const override { return operands_; }
  std::vector<uint32_t> scattered_results() const override { return {output_}; }
  size_t row_scratch_bytes(size_t) const override { return scratch_bytes(); }
  void run_rows(const Memory& memory, Range rows, void* scratch) const override {
    const AttentionArguments arguments = this->arguments(memory);
    const Range images{rows.begin / shape_.queries, rows.end / shape_.queries};
    for (size_t head = 0; head < shape_.heads; ++head) {
      run_head(arguments, head, images, {0, shape_.queries}, scratch, nullptr);
    }
  }

  Error run(const Memory& memory) const override {
    const AttentionArguments arguments = this->arguments(memory);
    std::atomic<uint64_t> ticks[kParts] = {};
    const et_timestamp_t start = now();
    const Error error =
        run_heads(batch_, shape_.heads, shape_.queries, threads_, memory.scratch,
                  [&](size_t head, Range images, Range queries, void* scratch) {
                    AttentionClock clock{now, 0, 0, 0};
                    run_head(arguments, head, images, queries, scratch, memory.tracer != nullptr ? &clock : nullptr);
                    ticks[kScores] += clock.scores;
                    ticks[kSoftmax] += clock.softmax;
                    ticks[kValues] += clock.values;
                  });
    if (memory.tracer != nullptr) log_parts(memory.tracer, start, now(), ticks);
    return error;
  }

 private:
  static uint64_t now() { return executorch::runtime::pal_current_ticks(); }

  AttentionArguments arguments(const Memory& memory) const {
    return {shape_,          q_.codes(memory),    memory.value<const int8_t>(k_), memory.value<const int8_t>(v_),
            softmax_.view(), requantizer_.view(), memory.value<int8_t>(output_)};
  }

  size_t channels() const { return shape_.heads * shape_.head_size; }
  size_t mask_offset() const { return round_up(tier_.attention_scratch(shape_, softmax_.format()), kAlignment); }
  size_t moved_offset() const { return mask_offset() + round_up(softmax_.scratch_bytes(), kAlignment); }
  size_t relative_bytes() const { return round_up(relative_.block() * shape_.keys * sizeof(int32_t), kAlignment); }

  // A head of some images: what is the same for all of them is prepared once.
  void run_head(const AttentionArguments& arguments, size_t head, Range images, Range queries, void* scratch,
                AttentionClock* clock) const {
    uint8_t* own = static_cast<uint8_t*>(scratch) + mask_offset();
    ScoreBias bias;
    for (size_t image = images.begin; image < images.end; ++image) {
      const size_t own_head = image * shape_.heads + head;
      if (image == images.begin || softmax_.differs_by_image()) bias = softmax_.head_bias(own_head, queries, own);
      run_window(arguments, own_head, bias, queries, scratch, clock);
    }
  }

  // Head b * heads + h.
  void run_window(const AttentionArguments& arguments, size_t head, ScoreBias bias, Range queries, void* scratch,
                  AttentionClock* clock) const {
    if (relative_) return run_relative(arguments, head, bias, queries, static_cast<uint8_t*>(scratch), clock);
    if (rows_.size() == 0 && !softmax_.is_per_head()) return tier_.attention(arguments, head, queries, scratch, clock);
    uint8_t* mask = static_cast<uint8_t*>(scratch) + mask_offset();
    AttentionArguments own = arguments;
    own.softmax = softmax_.for_window(head, bias, queries, mask);
    if (rows_.size() == 0) return tier_.attention(own, head, queries, scratch, clock);
    // The image's operands, and scratch memory for its output: in the tier's eyes it is the only one.
    const size_t image = head / shape_.heads;
    own.q += image * shape_.queries * channels();
    own.k += image * shape_.keys * channels();
    own.v += image * shape_.keys * channels();
    own.output = reinterpret_cast<int8_t*>(static_cast<uint8_t*>(scratch) + moved_offset());
    tier_.attention(own, head % shape_.heads, queries, scratch, clock);
    move_rows(own.output, head, queries, arguments.output);
  }

  // Some queries at a time, what they add to their scores in scratch memory: in the tier's eyes there are no others.
  void run_relative(const AttentionArguments& arguments, size_t head, ScoreBias bias, Range queries, uint8_t* scratch,
                    AttentionClock* clock) const {
    const size_t image = head / shape_.heads;
    int8_t* moved = reinterpret_cast<int8_t*>(scratch + moved_offset());
    uint8_t* own_scratch = scratch + scratch_bytes() - relative_.scratch_bytes();
    int32_t* added = reinterpret_cast<int32_t*>(own_scratch - relative_bytes());
    AttentionArguments own = arguments;
    own.q += image * shape_.queries * channels();
    own.k += image * shape_.keys * channels();
    own.v += image * shape_.keys * channels();
    int8_t* output = rows_.size() != 0 ? moved : arguments.output + image * shape_.queries * channels();
    const int8_t* q = own.q;
    own.softmax.bias = added;
    own.softmax.bias_heads = 1;
    for (size_t first = queries.begin; first < queries.end; first += relative_.block()) {
      const Range block{first, std::min(queries.end, first + relative_.block())};
      Stopwatch stopwatch(clock);
      relative_.write(q, head % shape_.heads, block, bias, added, own_scratch);
      stopwatch.add_to(&AttentionClock::scores);
      own.shape.queries = block.end - block.begin;
      own.q = q + block.begin * channels();
      own.output = output + block.begin * channels();
      tier_.attention(own, head % shape_.heads, {0, own.shape.queries}, scratch, clock);
    }
    if (rows_.size() != 0) move_rows(moved, head, queries, arguments.output);
  }

  // Copies a head's columns of one image's rows to where the rows go.
  void move_rows(const int8_t* from, size_t head, Range queries, int8_t* output) const {
    switch (shape_.head_size) {  // a copy of constant size is one instruction or two
      case 32:
        return move_columns<32>(from, head, queries, output);
      case 64:
        return move_columns<64>(from, head, queries, output);
      default:
        return move_columns<0>(from, head, queries, output);
    }
  }

  // kWidth: the size of a head, or 0 for any.
  template <size_t kWidth>
  void move_columns(const int8_t* from, size_t head, Range queries, int8_t* output) const {
    const size_t width = kWidth != 0 ? kWidth : shape_.head_size;
    const size_t stride = channels();
    const size_t size = rows_.size();
    const size_t first = head / shape_.heads * shape_.queries + queries.begin;
    size_t in_group = first % size;
    int8_t* group = output + (first - in_group) * stride + head % shape_.heads * width;
    from += queries.begin * stride + head % shape_.heads * width;
    for (size_t left = queries.end - queries.begin; left != 0;) {
      const size_t count = std::min(left, size - in_group);
      const int32_t* rows = rows_.data() + in_group;
      for (size_t i = 0; i < count; ++i, from += stride) {
        std::memcpy(group + static_cast<size_t>(rows[i]) * stride, from, width);
      }
      left -= count;
      in_group = 0;
      group += size * stride;
    }
  }

  // The parts alternate, so that each gets one interval in proportion to its time, one behind the other.
  void log_parts(executorch::runtime::EventTracer* tracer, et_timestamp_t start, et_timestamp_t end,
                 const std::atomic<uint64_t>* ticks) const {
    const double total = std::max(1.0, static_cast<double>(ticks[kScores] + ticks[kSoftmax] + ticks[kValues]));
    double done = 0;
    et_timestamp_t from = start;
    for (int part = has_parts_ ? kScores : kValues; part < kParts; ++part) {
      done += static_cast<double>(ticks[part]);
      const et_timestamp_t to =
          part == kValues ? end : start + static_cast<et_timestamp_t>(static_cast<double>(end - start) * done / total);
      executorch::runtime::event_tracer_log_profiling_delegate(tracer, nullptr, debug_id_[part], from, to);
      from = to;
    }
  }

  const KernelTier& tier_;
  size_t threads_;
  Queries q_;
  std::vector<uint32_t> operands_;
  uint32_t k_;
  uint32_t v_;
  uint32_t output_;
  size_t batch_;
  AttentionShape shape_;
  bool is_row_step_;
  uint32_t debug_id_[kParts] = {};
  bool has_parts_;
  OwnedSoftmax softmax_;
  RelativeBias relative_;  // or nothing
  OwnedRequantizer requantizer_;
  AlignedArray<int32_t> rows_;  // where each row of a group of them goes; empty: they stay
};

}  // namespace

StepResult make_step(const BuildContext& context, const plan::AttentionScores& op) {
  auto step = std::make_unique<AttentionScoresStep>(context, op);
  if (!step->init(context.plan, op)) return Error::MemoryAllocationFailed;
  return std::unique_ptr<Step>(std::move(step));
}

StepResult make_step(const BuildContext& context, const plan::AttentionValues& op) {
  auto step = std::make_unique<AttentionValuesStep>(context, op);
  if (!step->init(context.plan, op)) return Error::MemoryAllocationFailed;
  return std::unique_ptr<Step>(std::move(step));
}

StepResult make_step(const BuildContext& context, const plan::Attention& op, const plan::Node& node) {
  auto step = std::make_unique<AttentionStep>(context, op, node);
  if (!step->init(context.plan, op)) return Error::MemoryAllocationFailed;
  return std::unique_ptr<Step>(std::move(step));
}

}  // namespace packqvit
