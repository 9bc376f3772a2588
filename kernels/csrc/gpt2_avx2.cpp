// GPT-2's kernels for avx2; see CMakeLists.txt for the flags.
#define PENGI_SET avx2
#define PENGI_LANES 8
#define PENGI_VECTORS 2
#define PENGI_INT8 PENGI_MADD_256
#include "gpt2_kernels.inc"
