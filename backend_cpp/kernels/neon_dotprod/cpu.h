#pragma once

namespace packqvit::neon_dotprod {

// Whether every core of this CPU is a Cortex-A55. Beside bigger cores the work belongs on those.
bool all_cores_are_cortex_a55();

}  // namespace packqvit::neon_dotprod
