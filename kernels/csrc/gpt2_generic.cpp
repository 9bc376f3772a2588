// GPT-2's kernels for generic; see CMakeLists.txt for the flags.
#define PENGI_SET generic
#define PENGI_LANES 4
#define PENGI_VECTORS 2
#include "gpt2_kernels.inc"
