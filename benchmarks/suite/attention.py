"""Attention, by case, dtype and threads.

`track_products` is how many times as long it takes as NumPy takes for as many operations, in products of two square matrices, on as many
threads and in turns with it. Days can be compared by it; machines only if their BLAS libraries make as much of each.
"""

import numpy as np

from .cases import ATTENTION, Attend, Timed, forget_peak, multiples, peak


class Attention(Timed):
    param_names = ("case", "dtype", "threads")
    params = (list(ATTENTION), ["float32", "float64", "float16", "bfloat16"], [1, 2])

    def setup(self, case, dtype, threads):
        self.call = Attend(case, dtype, threads)

    def time_call(self, case, dtype, threads):
        self.call.in_place()

    def track_products(self, case, dtype, threads):
        try:
            from threadpoolctl import threadpool_limits
        except ImportError:
            raise NotImplementedError("threadpoolctl is not installed") from None
        square = np.random.default_rng(0).standard_normal((1024, 1024)).astype(dtype)
        with threadpool_limits(threads, user_api="blas"):
            return multiples(self.call.in_place, lambda: square @ square, 2 * len(square) ** 3 / self.call.operations)

    def track_extra_memory(self, case, dtype, threads):
        self.call.in_place()
        forget_peak()
        before = peak()
        self.call.in_place()
        return peak() - before


Attention.track_products.params = (list(ATTENTION), ["float32", "float64"], [1, 2])
Attention.track_products.unit = "times of a matrix product of as many operations"
Attention.track_extra_memory.params = (["long 1 x 1 x 8192 x 128", "backward 1 x 8 x 1024 x 64"], ["float32"], [2])
Attention.track_extra_memory.unit = "bytes"
