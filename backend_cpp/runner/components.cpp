#include "runner/components.h"

#include <executorch/runtime/backend/interface.h>

#include <cstring>
#include <stdexcept>
#include <string>

#include "packqvit/backend.h"

#if defined(PACKQVIT_KERNELS_LIBRARY) || defined(PACKQVIT_XNNPACK_LIBRARY)
#include <dlfcn.h>
#endif

namespace packqvit {

using executorch::runtime::MethodMeta;

namespace {

#if defined(PACKQVIT_KERNELS_LIBRARY) || defined(PACKQVIT_XNNPACK_LIBRARY)
void load_library(const char* name) {
  if (dlopen(name, RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    throw std::runtime_error(std::string("cannot load what the program needs: ") + dlerror());
  }
}
#endif

// Each delegate has an instruction that calls it: other instructions are operators, or move values.
bool has_operators(const MethodMeta& method) { return method.num_instructions() > method.num_backends(); }

[[maybe_unused]] bool lacks_backend(const MethodMeta& method) {
  for (size_t i = 0; i < method.num_backends(); ++i) {
    const auto name = method.get_backend_name(i);
    if (name.ok() && executorch::runtime::get_backend_class(*name) == nullptr) return true;
  }
  return false;
}

}  // namespace

bool computes(const MethodMeta& method) { return method.num_inputs() > 0 || method.num_instructions() > 0; }

bool needs_components(const MethodMeta& method) {
  bool others = has_operators(method);
  for (size_t i = 0; i < method.num_backends() && !others; ++i) {
    const auto name = method.get_backend_name(i);
    others = !name.ok() || std::strcmp(*name, kBackendName) != 0;
  }
  return others;
}

void load_components([[maybe_unused]] const MethodMeta& method) {
#ifdef PACKQVIT_KERNELS_LIBRARY
  if (has_operators(method)) load_library(PACKQVIT_KERNELS_LIBRARY);
#endif
#ifdef PACKQVIT_XNNPACK_LIBRARY
  if (lacks_backend(method)) load_library(PACKQVIT_XNNPACK_LIBRARY);
#endif
}

}  // namespace packqvit
