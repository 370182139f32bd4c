// Marks an inner loop for llvm-mca (benchmarks/mca.py): comments in the assembly, nothing in a normal build.
// _TEXT: inside of an asm statement.
#pragma once

#ifdef PACKQVIT_MCA
#define PACKQVIT_MCA_BEGIN(name) __asm volatile("// LLVM-MCA-BEGIN " name)
#define PACKQVIT_MCA_END() __asm volatile("// LLVM-MCA-END")
// The same within the text of an __asm.
#define PACKQVIT_MCA_BEGIN_TEXT(name) "// LLVM-MCA-BEGIN " name "\n"
#define PACKQVIT_MCA_END_TEXT() "// LLVM-MCA-END\n"
// Keeps what computes a vector before the end of the loop's region.
#ifdef __aarch64__
#define PACKQVIT_MCA_KEEP(vector) __asm volatile("" : "+w"(vector))
#else
#define PACKQVIT_MCA_KEEP(vector) __asm volatile("" : "+v"(vector))
#endif
#else
#define PACKQVIT_MCA_BEGIN(name) static_cast<void>(0)
#define PACKQVIT_MCA_END() static_cast<void>(0)
#define PACKQVIT_MCA_BEGIN_TEXT(name)
#define PACKQVIT_MCA_END_TEXT()
#define PACKQVIT_MCA_KEEP(vector) static_cast<void>(0)
#endif
