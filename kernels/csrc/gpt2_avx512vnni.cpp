// GPT-2's kernels for avx512vnni; see CMakeLists.txt for the flags.
#define PENGI_SET avx512vnni
#define PENGI_LANES 16
#define PENGI_VECTORS 4
#define PENGI_INT8 PENGI_DPWSSD
#include "gpt2_kernels.inc"
