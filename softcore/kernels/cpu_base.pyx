# The kernels for x86-64-v2, or whatever the compiler targets.
include "kernels.pxi"
isa = "base"
