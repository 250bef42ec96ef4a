# The kernels for x86-64-v3.
include "kernels.pxi"
isa = "avx2"
