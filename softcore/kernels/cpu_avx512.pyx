# The kernels for x86-64-v4.
include "kernels.pxi"
isa = "avx512"
