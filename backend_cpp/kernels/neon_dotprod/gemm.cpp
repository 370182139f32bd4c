#include "kernels/neon/tile_gemm.h"
#include "kernels/neon_dotprod/dotprod.h"
#include "kernels/neon_dotprod/sdot.h"

namespace packqvit::neon_dotprod {

const GemmRoute& gemm_route() {
  static constexpr GemmRoute kRoute = {
      "sdot",
      [](unsigned, CodeRange) { return true; },
      [] { return true; },
      {neon::kTileRows, neon::kTileColumns, Sdot::kGroup},
      nullptr,
      neon::tile_gemm_scratch,
      neon::tile_gemm<Sdot>,
  };
  return kRoute;
}

}  // namespace packqvit::neon_dotprod
