#include "kernels/neon/tile_gemm.h"
#include "kernels/neon_dotprod/cpu.h"
#include "kernels/neon_dotprod/dotprod.h"
#include "kernels/neon_dotprod/sdot.h"

namespace packqvit::neon_dotprod {
namespace {

template <typename Instruction>
constexpr GemmRoute route(const char* name, bool (*pays)()) {
  return {
      name,
      [](unsigned, CodeRange) { return true; },
      pays,
      {neon::kTileRows, neon::kTileColumns, Instruction::kGroup},
      nullptr,
      neon::tile_gemm_scratch,
      neon::tile_gemm<Instruction>,
  };
}

}  // namespace

const GemmRoute& sdot_route() {
  static constexpr GemmRoute kRoute = route<Sdot>("sdot", [] { return true; });
  return kRoute;
}

const GemmRoute& sdot_in_order_route() {
  static constexpr GemmRoute kRoute = route<SdotInOrder>("sdot_in_order", all_cores_are_cortex_a55);
  return kRoute;
}

}  // namespace packqvit::neon_dotprod
