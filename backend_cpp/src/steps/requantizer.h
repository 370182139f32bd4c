#pragma once

#include "kernels/scalar.h"
#include "src/plan/plan.h"

namespace packqvit {

// A requantiser with the channel vectors it points to, padded with zeros (which requantise to the zero point).
class OwnedRequantizer {
 public:
  // False when there is no memory.
  [[nodiscard]] bool init(const CheckedPlan& plan, const plan::Requantizer& stored, size_t padded_channels) {
    view_.fraction_bits = stored.fraction_bits();
    view_.zero_point = stored.zero_point();
    view_.qmin = stored.qmin();
    view_.qmax = stored.qmax();
    view_.left_shift = stored.left_shift();
    return plan.constant(stored.multiplier()).copy_to(multiplier_, padded_channels) &&
           plan.constant(stored.shift()).copy_to(shift_, padded_channels);
  }

  Requantizer view() const {
    Requantizer view = view_;
    view.multiplier = multiplier_.data();
    view.shift = shift_.data();
    return view;
  }

 private:
  Requantizer view_;
  AlignedArray<int16_t> multiplier_;
  AlignedArray<uint8_t> shift_;
};

}  // namespace packqvit
