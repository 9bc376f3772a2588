// GPT-2's kernels for avx512; see CMakeLists.txt for the flags.
#define PENGI_SET avx512
#define PENGI_LANES 16
#define PENGI_VECTORS 4
#include "gpt2_kernels.inc"
