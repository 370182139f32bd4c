#pragma once

#include <cstddef>
#include <utility>

namespace packqvit {

template <typename Body, size_t... kIndices>
__attribute__((always_inline)) inline void unroll(const Body& body, std::index_sequence<kIndices...>) {
  (body(std::integral_constant<size_t, kIndices>{}), ...);
}

// body(0) ... body(kCount - 1) with constant indices from the start: loops over arrays of registers leave them in
// memory with GCC, which unrolls them only after it has given up to keep the array in registers.
template <size_t kCount, typename Body>
__attribute__((always_inline)) inline void unroll(const Body& body) {
  unroll(body, std::make_index_sequence<kCount>{});
}

}  // namespace packqvit
