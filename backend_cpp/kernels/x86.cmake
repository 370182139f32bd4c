# The x86-64 tiers. Each file is compiled for its own ISA; only files that every CPU may run have no flags.

function(packqvit_isa_sources)
  cmake_parse_arguments(PARSE_ARGV 0 isa "" "" "FLAGS;SOURCES")
  # GCC warns about the undefined operands inside of its own AVX-512 intrinsics (GCC bug 105593).
  list(APPEND isa_FLAGS $<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized> $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  target_sources(packqvit_kernels PRIVATE ${isa_SOURCES})
  set_source_files_properties(${isa_SOURCES} PROPERTIES COMPILE_OPTIONS "${isa_FLAGS}")
endfunction()

target_sources(
  packqvit_kernels PRIVATE kernels/x86/cpu.cpp kernels/avx2/tier.cpp kernels/avx512_vnni/tier.cpp
                           kernels/avx_vnni/tier.cpp
)

packqvit_isa_sources(
  FLAGS -mavx2 -mbmi2 -mavx512f -mavx512cd -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx512vbmi
  SOURCES kernels/avx512_vnni/attention.cpp kernels/avx512_vnni/elementwise.cpp kernels/avx512_vnni/gemm_direct.cpp
          kernels/avx512_vnni/gemm_inner_product.cpp kernels/avx512_vnni/layer_norm.cpp
)

packqvit_isa_sources(
  FLAGS -mavx2 SOURCES kernels/avx2/gemm_bytes.cpp kernels/avx2/gemm_words.cpp kernels/avx2/operators.cpp
)

# vpdpbusd is written as assembly: compilers need not know AVX-VNNI.
packqvit_isa_sources(FLAGS -mavx2 SOURCES kernels/avx_vnni/gemm.cpp)
