"""The GPU backend: our Triton kernels over a plan's weights."""
