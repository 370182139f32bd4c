// Marks an inner loop for llvm-mca (benchmarks/mca.py): comments in the assembly, nothing in a normal build.
// _TEXT: inside of an asm statement.
#pragma once

#ifdef PACKQVIT_MCA
#define PACKQVIT_MCA_BEGIN(name) __asm volatile("// LLVM-MCA-BEGIN " name)
#define PACKQVIT_MCA_END() __asm volatile("// LLVM-MCA-END")
#define PACKQVIT_MCA_BEGIN_TEXT(name) "// LLVM-MCA-BEGIN " name "\n"
#define PACKQVIT_MCA_END_TEXT "// LLVM-MCA-END\n"
#else
#define PACKQVIT_MCA_BEGIN(name) static_cast<void>(0)
#define PACKQVIT_MCA_END() static_cast<void>(0)
#define PACKQVIT_MCA_BEGIN_TEXT(name)
#define PACKQVIT_MCA_END_TEXT
#endif
