// GPT-2's kernels for avx512; see CMakeLists.txt for the flags.
#define PENGI_SET avx512
#define PENGI_LANES 16
#define PENGI_VECTORS 4
#define PENGI_INT8 PENGI_MADD_512
#include "gpt2_kernels.inc"
