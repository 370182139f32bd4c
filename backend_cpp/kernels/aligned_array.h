#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>

namespace packqvit {

// A cache line, and the widest vector of any tier.
inline constexpr size_t kAlignment = 64;

constexpr size_t round_up(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }
constexpr size_t divide_up(size_t value, size_t divisor) { return (value + divisor - 1) / divisor; }

// An array of plain numbers, 64-byte aligned. Allocation failure is a return value, not an exception.
template <typename T>
class AlignedArray {
 public:
  // Zeros. False when there is no memory; the array is empty then.
  [[nodiscard]] bool allocate(size_t size) {
    if (!reserve(size)) return false;
    std::memset(data_.get(), 0, bytes(size));
    return true;
  }

  // The same without a look at the memory: what is never written takes none.
  [[nodiscard]] bool reserve(size_t size) {
    data_.reset(static_cast<T*>(::operator new(bytes(size), std::align_val_t{kAlignment}, std::nothrow)));
    size_ = data_ != nullptr ? size : 0;
    return data_ != nullptr;
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  size_t size() const { return size_; }
  T& operator[](size_t index) { return data_.get()[index]; }
  const T& operator[](size_t index) const { return data_.get()[index]; }

 private:
  static size_t bytes(size_t size) { return round_up(size * sizeof(T), kAlignment); }

  struct Delete {
    void operator()(T* data) const { ::operator delete(data, std::align_val_t{kAlignment}); }
  };
  std::unique_ptr<T, Delete> data_;
  size_t size_ = 0;
};

}  // namespace packqvit
