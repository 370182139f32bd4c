#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/aligned_array.h"

namespace packqvit {

// Memory for packed weights, handed out piece after piece in the order in which the weights will be read: what follows
// a matrix is the next one. In huge pages where the system has them, because an inference reads each weight once or
// twice, and more of them than a TLB reaches in small pages.
class WeightMemory {
 public:
  WeightMemory() = default;

  // `expected` bytes will be allocated in all, more or less. Memory that is not allocated later takes none.
  explicit WeightMemory(size_t expected) : expected_(expected) {}

  // 64-byte aligned, zero, and there as long as this object. nullptr when there is no memory.
  uint8_t* allocate(size_t bytes);

 private:
  struct Delete {
    void operator()(uint8_t* block) const;
  };

  bool add_block(size_t bytes);

  std::vector<std::unique_ptr<uint8_t, Delete>> blocks_;
  uint8_t* next_ = nullptr;
  size_t left_ = 0;
  size_t expected_ = 0;
};

}  // namespace packqvit
