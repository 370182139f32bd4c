#pragma once

#include <map>
#include <tuple>

#include "kernels/packed_weights.h"

namespace packqvit {

// Packs the weights of a plan as its steps are made. What several of them read is packed once for each kind of tile.
class WeightPacker {
 public:
  explicit WeightPacker(WeightMemory& memory) : memory_(memory) {}

  // `constant` is the matrix's index in the plan. False when there is no memory.
  [[nodiscard]] bool pack(int32_t constant, const WeightView& weights, const GemmTile& tile, PackedWeights& packed) {
    const auto key = std::make_tuple(constant, tile.mr, tile.nr, tile.kr);
    if (const auto known = packed_.find(key); known != packed_.end()) {
      packed = known->second;
      return true;
    }
    if (!pack_weights(weights, tile, memory_, packed)) return false;
    packed_.emplace(key, packed);
    return true;
  }

 private:
  WeightMemory& memory_;
  std::map<std::tuple<int32_t, size_t, size_t, size_t>, PackedWeights> packed_;
};

}  // namespace packqvit
