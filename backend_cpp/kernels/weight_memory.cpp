#include "kernels/weight_memory.h"

#include <algorithm>
#include <cstring>
#include <new>

#if __has_include(<sys/mman.h>)
#include <sys/mman.h>
#endif

namespace packqvit {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

// Whole huge pages only: a part of one would take a whole one. That it cannot be had is no error.
void want_huge_pages([[maybe_unused]] uint8_t* block, [[maybe_unused]] size_t bytes) {
#ifdef MADV_HUGEPAGE
  if (bytes >= kHugePage) madvise(block, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
}

}  // namespace

void WeightMemory::Delete::operator()(uint8_t* block) const { ::operator delete(block, std::align_val_t{kHugePage}); }

bool WeightMemory::add_block(size_t bytes) {
  void* block = ::operator new(bytes, std::align_val_t{kHugePage}, std::nothrow);
  if (block == nullptr) return false;
  blocks_.emplace_back(static_cast<uint8_t*>(block));
  next_ = blocks_.back().get();
  left_ = bytes;
  want_huge_pages(next_, bytes);
  return true;
}

uint8_t* WeightMemory::allocate(size_t bytes) {
  bytes = round_up(bytes, kAlignment);
  if (bytes > left_) {
    if (!add_block(std::max(bytes, round_up(expected_, kAlignment)))) return nullptr;
    expected_ = 0;
  }
  uint8_t* piece = next_;
  std::memset(piece, 0, bytes);
  next_ += bytes;
  left_ -= bytes;
  return piece;
}

}  // namespace packqvit
