#include "kernels/neon/tile_gemm.h"
#include "kernels/neon_i8mm/i8mm.h"
#include "kernels/neon_i8mm/smmla.h"

namespace packqvit::neon_i8mm {

const GemmRoute& gemm_route() {
  static constexpr GemmRoute kRoute = {
      "smmla",
      [](unsigned, CodeRange) { return true; },
      [] { return true; },
      {neon::kTileRows, neon::kTileColumns, Smmla::kGroup},
      nullptr,
      neon::tile_gemm_scratch,
      neon::tile_gemm<Smmla>,
  };
  return kRoute;
}

}  // namespace packqvit::neon_i8mm
