#pragma once

#include <executorch/runtime/core/named_data_map.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/aligned_array.h"
#include "schema_generated.h"
#include "src/plan/value.h"
#include "tests/support/random.h"
#include "tests/support/weights.h"

namespace packqvit {

// Named data, at addresses that are only 16-byte aligned, as a file loader may return them. Counts what is in use.
class FakeDataMap final : public executorch::runtime::NamedDataMap {
 public:
  void add(std::string key, const std::vector<uint8_t>& data);

  executorch::runtime::Result<const executorch::runtime::TensorLayout> get_tensor_layout(
      std::string_view key) const override;
  executorch::runtime::Result<executorch::runtime::FreeableBuffer> get_data(std::string_view key) const override;
  executorch::runtime::Error load_data_into(std::string_view key, void* buffer, size_t size) const override;
  executorch::runtime::Result<uint32_t> get_num_keys() const override { return static_cast<uint32_t>(entries_.size()); }
  executorch::runtime::Result<const char*> get_key(uint32_t index) const override {
    return entries_[index].key.c_str();
  }

  // Segments that were handed out and not given back, now and at most.
  size_t in_use() const { return use_->now; }
  size_t most_in_use() const { return use_->most; }

 private:
  static constexpr size_t kOffset = 16;
  struct Entry {
    std::string key;
    size_t size;
    AlignedArray<uint8_t> data;
  };
  struct Use {
    size_t now = 0;
    size_t most = 0;
  };
  std::vector<Entry> entries_;
  std::unique_ptr<Use> use_ = std::make_unique<Use>();
};

// Processed bytes around a plan, with the checksum that belongs to it.
std::vector<uint8_t> make_blob(const std::vector<uint8_t>& plan);

// Builds plans for tests. `plan` is open: a test may damage it before blob().
class PlanBuilder {
 public:
  PlanBuilder();

  uint32_t input(plan::DataType type, const Shape& shape);
  uint32_t output(plan::DataType type, const Shape& shape);
  uint32_t arena(plan::DataType type, const Shape& shape);  // behind all others, 64-aligned

  template <typename T>
  int32_t constant(const Shape& shape, const std::vector<T>& elements) {
    return constant(type_of(T{}), shape, plan::Encoding::Dense, elements.data(), elements.size() * sizeof(T));
  }
  int32_t nibbles(const Shape& shape, const std::vector<int8_t>& codes);
  std::unique_ptr<plan::RequantizerT> requantizer(const naive::Requantizer& plain);

  // Appends a node and names it after its index.
  template <typename OpT>
  void node(OpT op) {
    auto node = std::make_unique<plan::NodeT>();
    node->op.Set(std::move(op));
    node->name = "node" + std::to_string(plan.nodes.size());
    node->debug_id = static_cast<uint32_t>(plan.nodes.size());
    plan.nodes.push_back(std::move(node));
  }

  // Bytes of a constant, to read or to damage.
  uint8_t* data(int32_t constant);

  // Moves each weight matrix into a segment of its own, as the exporter does with large ones.
  void give_weights_segments();

  std::vector<uint8_t> packed_plan();  // with the segments' sizes and checksums
  std::vector<uint8_t> blob() { return make_blob(packed_plan()); }
  FakeDataMap data_map() const;

  plan::PlanT plan;
  bool keep_segments = false;  // leave their sizes and checksums as the test has set them

 private:
  static std::string key(size_t segment) { return "packqvit_test_segment" + std::to_string(segment); }
  void add_segment();

  static plan::DataType type_of(int8_t) { return plan::DataType::Int8; }
  static plan::DataType type_of(uint8_t) { return plan::DataType::UInt8; }
  static plan::DataType type_of(int16_t) { return plan::DataType::Int16; }
  static plan::DataType type_of(int32_t) { return plan::DataType::Int32; }
  static plan::DataType type_of(float) { return plan::DataType::Float32; }

  uint32_t value(plan::DataType type, const Shape& shape, plan::Storage storage, uint64_t location);
  int32_t constant(plan::DataType type, const Shape& shape, plan::Encoding encoding, const void* data, size_t bytes);

  std::vector<std::vector<uint8_t>> segments_{{}};  // the first has all constants that have none of their own
};

// A two-head, one-block transformer on images [2, 3, 8, 12] that has most operators. `wide`: int16 residual stream and
// linear probabilities, else int8 and log2.
PlanBuilder tiny_transformer(Random& random, bool wide);

// A stream that begins behind a LayerNorm and takes up a branch, the stream of a linear, behind a post-norm. `wide` as
// above, but the branch, which is 16 bits wide in both.
PlanBuilder tiny_post_norm(Random& random, bool wide);

// Two streams that are added, token by token, joined with constant tokens, and then pooled: the sum of the mean and the
// maximum. `wide` as above.
PlanBuilder tiny_pooling(Random& random, bool wide);

// Replaces the attention's three nodes and the linear before the lookup table by fused ones, as the exporter does.
void fuse(PlanBuilder& builder);

}  // namespace packqvit
