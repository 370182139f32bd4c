# The NEON tiers. Only their inner loops are compiled for more than ARMv8.0.
target_sources(
  packqvit_kernels
  PRIVATE kernels/neon/armv8_products.cpp
          kernels/neon/elementwise.cpp
          kernels/neon/gemm.cpp
          kernels/neon/layer_norm.cpp
          kernels/neon/requantize.cpp
          kernels/neon/softmax.cpp
          kernels/neon/tier.cpp
          kernels/neon_dotprod/gemm.cpp
          kernels/neon_dotprod/tier.cpp
          kernels/neon_i8mm/gemm.cpp
          kernels/neon_i8mm/tier.cpp
)

# GCC's first scheduling pass hoists more loads than there are registers beside the accumulators.
set(packqvit_tile_options $<$<CXX_COMPILER_ID:GNU>:-fno-schedule-insns>)
set_source_files_properties(
  kernels/neon/armv8_products.cpp kernels/neon/gemm.cpp PROPERTIES COMPILE_OPTIONS "${packqvit_tile_options}"
)
set_source_files_properties(
  kernels/neon_dotprod/gemm.cpp PROPERTIES COMPILE_OPTIONS "-march=armv8.2-a+dotprod;${packqvit_tile_options}"
)
set_source_files_properties(
  kernels/neon_i8mm/gemm.cpp PROPERTIES COMPILE_OPTIONS "-march=armv8.6-a+i8mm;${packqvit_tile_options}"
)
