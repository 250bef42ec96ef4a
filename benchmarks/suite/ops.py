"""Every op of softcore.reference but attention, by dtype, shape and threads.

`time_call` is the time of a call. `track_copy_share` is the time of np.copyto over as many bytes, in turns with it, by that time: it can be
compared between machines, and days on which they were busy. `track_extra_memory` is what a call needs beyond its arguments and results.
"""

import re
from pathlib import Path

import numpy as np

from .cases import LARGE, Call, Timed, best_in_turns, forget_peak, peak

# Those of the tree that the suite lies in, not of the commit that is measured, so that every commit has the same list.
REFERENCE = Path(__file__).parents[2] / "softcore" / "reference"


def benchmarks_of(name):
    """The class of benchmarks of one op."""

    class Benchmarks(Timed):
        param_names = ("dtype", "shape", "threads")
        params = (["float32", "float64", "bfloat16"], ["digits 1797 x 10", "heads 8 x 12 x 128 x 128"], [1, 2])

        def setup(self, dtype, shape, threads):
            self.call = Call(name, dtype, shape, threads)

        def time_call(self, dtype, shape, threads):
            self.call.in_place()

        def track_copy_share(self, dtype, shape, threads):
            source = np.ones(self.call.moved // 2, np.uint8)
            target = np.zeros_like(source)
            own, copy = best_in_turns(self.call.in_place, lambda: np.copyto(target, source))
            return copy / own

        def track_extra_memory(self, dtype, shape, threads):
            self.call.in_place()
            forget_peak()
            before = peak()
            self.call.in_place()
            return peak() - before

    Benchmarks.__name__ = Benchmarks.__qualname__ = name
    Benchmarks.track_copy_share.params = (["float32"], LARGE, [1, 2])
    Benchmarks.track_copy_share.unit = "of the rate of np.copyto"
    Benchmarks.track_extra_memory.params = (["float32"], LARGE[:1], [2])
    Benchmarks.track_extra_memory.unit = "bytes"
    return Benchmarks


for _name in re.findall(r"^@definition\ndef (\w+)", "\n".join(path.read_text() for path in sorted(REFERENCE.glob("*.py"))), re.MULTILINE):
    if "attention" not in _name:
        globals()[_name] = benchmarks_of(_name)
