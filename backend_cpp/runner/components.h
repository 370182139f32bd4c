#pragma once

#include <executorch/runtime/executor/method_meta.h>

namespace packqvit {

// Whether a method takes or does anything, as constant methods do not.
bool computes(const executorch::runtime::MethodMeta& method);

// Whether a method needs more than our delegate: kernels for operators of its own, or another backend.
bool needs_components(const executorch::runtime::MethodMeta& method);

// Loads the libraries of ExecuTorch that a method needs besides our delegate: the kernels where it has operators of its
// own, XNNPACK where it calls another backend that is not there. A program that is one delegate call needs none of
// them, and their pages would be most of what a small one takes. Where they are linked, this does nothing.
//
// Throws std::runtime_error, with the loader's reason, when one that is needed cannot be loaded.
void load_components(const executorch::runtime::MethodMeta& method);

}  // namespace packqvit
