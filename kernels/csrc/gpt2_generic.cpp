// GPT-2's kernels for generic; see CMakeLists.txt for the flags.
#define PENGI_SET generic
#define PENGI_LANES 4
#define PENGI_VECTORS 2
#define PENGI_INT8 PENGI_PLAIN
#include "gpt2_kernels.inc"
