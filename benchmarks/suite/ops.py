"""Every op of softcore.reference but attention, by dtype, shape and threads.

`time_call` is the time of a call. `track_copies` is how many times as long it takes as np.copyto over as many bytes, in turns with it, both
on one thread: it can be compared between machines, and days on which they were busy. `track_extra_memory` is what a call needs beyond its
arguments and results.
"""

from .cases import DEFINED, LARGE, Call, Timed, forget_peak, multiples, peak


def benchmarks_of(name):
    """The class of benchmarks of one op."""

    class Benchmarks(Timed):
        param_names = ("dtype", "shape", "threads")
        params = (["float32", "float64", "float16", "bfloat16"], ["digits 1797 x 10", "heads 8 x 12 x 128 x 128"], [1, 2])

        def setup(self, dtype, shape, threads):
            self.call = Call(name, dtype, shape, threads)

        def time_call(self, dtype, shape, threads):
            self.call.in_place()

        def track_copies(self, dtype, shape, threads):
            return multiples(self.call.in_place, self.call.copy())

        def track_extra_memory(self, dtype, shape, threads):
            self.call.in_place()
            forget_peak()
            before = peak()
            self.call.in_place()
            return peak() - before

    Benchmarks.__name__ = Benchmarks.__qualname__ = name
    Benchmarks.track_copies.params = (["float32"], LARGE, [1])
    Benchmarks.track_copies.unit = "times of a copy of the same bytes"
    Benchmarks.track_extra_memory.params = (["float32"], LARGE[:1], [2])
    Benchmarks.track_extra_memory.unit = "bytes"
    return Benchmarks


for _name in DEFINED:
    globals()[_name] = benchmarks_of(_name)
