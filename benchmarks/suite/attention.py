"""Attention, by case, dtype and threads.

`track_product_share` is the rate of its operations over that of a product of two square matrices in NumPy, on as many threads and in turns
with it. Days can be compared by it; machines only if their BLAS libraries make as much of each.
"""

import numpy as np

from .cases import ATTENTION, Attend, Timed, best_in_turns, forget_peak, peak


class Attention(Timed):
    param_names = ("case", "dtype", "threads")
    params = (list(ATTENTION), ["float32", "float64", "bfloat16"], [1, 2])

    def setup(self, case, dtype, threads):
        self.call = Attend(case, dtype, threads)

    def time_call(self, case, dtype, threads):
        self.call.in_place()

    def track_product_share(self, case, dtype, threads):
        try:
            from threadpoolctl import threadpool_limits
        except ImportError:
            raise NotImplementedError("threadpoolctl is not installed") from None
        square = np.random.default_rng(0).standard_normal((1024, 1024)).astype(dtype)
        with threadpool_limits(threads, user_api="blas"):
            own, product = best_in_turns(self.call.in_place, lambda: square @ square)
        return self.call.operations / own / (2 * len(square) ** 3 / product)

    def track_extra_memory(self, case, dtype, threads):
        self.call.in_place()
        forget_peak()
        before = peak()
        self.call.in_place()
        return peak() - before


Attention.track_product_share.params = (list(ATTENTION), ["float32", "float64"], [1, 2])
Attention.track_product_share.unit = "of the rate of a matrix product"
Attention.track_extra_memory.params = (["long 1 x 1 x 8192 x 128", "backward 1 x 8 x 1024 x 64"], ["float32"], [2])
Attention.track_extra_memory.unit = "bytes"
