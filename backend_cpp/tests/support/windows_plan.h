#pragma once

#include "tests/support/plan_builder.h"

namespace packqvit {

// A block of attention in windows on a batch of maps, and merging of tokens.
struct WindowsCase {
  size_t batch;
  size_t windows;  // of an image
  size_t tokens;   // of a window
  size_t heads;
  size_t head_size;
  bool wide;        // an int16 stream and linear probabilities, else int8 and log2
  bool with_bias;   // beside the masks
  bool in_windows;  // tokens move within their window alone, so that groups of rows are small
};

// Nodes of windows_plan(..., fused = true).
enum WindowsNode : size_t { kWindows, kWindowsQ, kWindowsK, kWindowsV, kWindowsAttention, kWindowsSum, kWindowsMerged };

// `fused`: the layer norms and the attention move the rows. Else operators of their own do, and the plan is for the
// interpreter, which does not mind that views of a value differ. The same random numbers give the same function.
PlanBuilder windows_plan(Random& random, const WindowsCase& c, bool fused);

}  // namespace packqvit
