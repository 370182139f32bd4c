# The AArch64 tiers. Each file is compiled for its own ISA; only files that every CPU may run have no flags.

target_sources(
  packqvit_kernels
  PRIVATE kernels/neon/armv8_products.cpp
          kernels/neon/elementwise.cpp
          kernels/neon/gemm.cpp
          kernels/neon/layer_norm.cpp
          kernels/neon/requantize.cpp
          kernels/neon/softmax.cpp
          kernels/neon/tier.cpp
          kernels/neon_dotprod/cpu.cpp
          kernels/neon_dotprod/tier.cpp
          kernels/neon_i8mm/tier.cpp
)

# GCC's first scheduling pass hoists more loads than there are registers beside the accumulators.
set(packqvit_tile_options $<$<CXX_COMPILER_ID:GNU>:-fno-schedule-insns>)
set_source_files_properties(
  kernels/neon/armv8_products.cpp kernels/neon/gemm.cpp PROPERTIES COMPILE_OPTIONS "${packqvit_tile_options}"
)

function(packqvit_isa_sources)
  cmake_parse_arguments(PARSE_ARGV 0 isa "" "" "FLAGS;SOURCES")
  target_sources(packqvit_kernels PRIVATE ${isa_SOURCES})
  set_source_files_properties(${isa_SOURCES} PROPERTIES COMPILE_OPTIONS "${isa_FLAGS};${packqvit_tile_options}")
endfunction()

packqvit_isa_sources(
  FLAGS -march=armv8.2-a+dotprod
  SOURCES kernels/neon_dotprod/attention.cpp kernels/neon_dotprod/gemm.cpp kernels/neon_dotprod/sdot.cpp
)

packqvit_isa_sources(
  FLAGS -march=armv8.6-a+i8mm
  SOURCES kernels/neon_i8mm/attention.cpp kernels/neon_i8mm/gemm.cpp kernels/neon_i8mm/smmla.cpp
)
