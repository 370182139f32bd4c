// The PackQViT delegate for ExecuTorch. Loading libpackqvit_backend.so registers the backend; nothing has to be called.
#pragma once

#include <cstdint>

namespace packqvit {

// The name under which ExecuTorch programs refer to the backend.
inline constexpr char kBackendName[] = "PackQViTBackend";

// Version of the processed bytes that this build reads: the header of src/blob.h and the plan of schema.fbs.
inline constexpr uint32_t kPlanVersion = 5;

// Backend option and load-time option (a string): the kernel tier that delegates loaded afterwards use. The empty
// string stands for the best tier of the CPU. The environment variable PACKQVIT_TIER does the same where no option is
// given.
inline constexpr char kTierOption[] = "tier";
inline constexpr char kTierEnvironment[] = "PACKQVIT_TIER";

// Backend option and load-time option (an int): how many threads of ExecuTorch's pool delegates loaded afterwards use
// at most. 0 stands for all of them.
inline constexpr char kThreadsOption[] = "threads";

}  // namespace packqvit

#if defined(_WIN32)
#define PACKQVIT_API __declspec(dllexport)
#else
#define PACKQVIT_API __attribute__((visibility("default")))
#endif

extern "C" {

// The package's version, as "0.1.0".
PACKQVIT_API const char* packqvit_version();

// 1 when the backend is registered with ExecuTorch, else 0.
PACKQVIT_API int packqvit_backend_registered();

// The tier that a delegate loaded now would use; nullptr when an unknown or unsupported one is forced.
PACKQVIT_API const char* packqvit_selected_tier();

// The kernel tiers that this CPU supports, best first; nullptr behind the last.
PACKQVIT_API const char* packqvit_supported_tier(unsigned index);
}
