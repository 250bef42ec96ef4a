"""The same calls on each set of kernels, and on an OpenCL device where there is one.

The history is of the best kernels of the machine: these are for `make bench-quick`, whose environment has pyopencl. Those that asv makes
for each commit have not, and nothing for the device.
"""

import os
import subprocess
import sys
import tempfile

import numpy as np

import softcore as sc
from softcore import kernels

from .cases import DEFINED, Call, Timed, multiples

ISAS = ["base", "avx2", "avx512"]
MAIN = ["max", "softmax", "softmax_backward", "sigmoid", "cross_entropy_with_grad"]


class Backends(Timed):
    """By instruction set on one thread, or on the device with all that it has: a copy, on one thread, goes beside the former alone."""

    param_names = ("op", "backend")
    params = (DEFINED, [*ISAS, "opencl"])

    def setup(self, op, backend):
        self.call = Call(op, "float32", "heads 8 x 12 x 128 x 128", 1)
        if backend == "opencl":
            on_device(self.call)
        else:
            try:
                kernels.core = kernels.load(backend)
            except ImportError as error:
                raise NotImplementedError(str(error)) from None

    def time_call(self, op, backend):
        self.call.in_place()

    def track_copies(self, op, backend):
        return multiples(self.call.in_place, self.call.copy())

    track_copies.params = (MAIN, ISAS)
    track_copies.unit = "times of a copy of the same bytes"


def on_device(call):
    """Move a call to the device: its arguments, its results, and the wait for them."""
    require_device()
    queue = sc.opencl.queue()
    call.arguments = tuple(sc.opencl.to_device(a) if isinstance(a, np.ndarray) else a for a in call.arguments)
    function, call.places = call.function, {}

    def finished(*arguments, **options):
        result = function(*arguments, **options)
        queue.finish()
        return result

    call.function = finished


def require_device():
    """A device that compiles and runs something: PoCL of pip does not on processors newer than itself."""
    if not getattr(sc, "opencl", None) or not sc.opencl.available():
        raise NotImplementedError("there is no OpenCL device")
    try:
        sc.max(sc.opencl.to_device(np.zeros((2, 2), np.float32)))
    except RuntimeError as error:
        raise NotImplementedError(str(error)) from None


class FirstCall:
    """Seconds of the first softmax in a process on a device: with no program built before, and after a process that built it."""

    version = "1"
    timeout = 300
    code = """
import time, numpy, softcore
x = softcore.opencl.to_device(numpy.zeros((64, 1000), numpy.float32))
start = time.perf_counter()
softcore.softmax(x).get()
print(time.perf_counter() - start)
"""

    def setup(self):
        require_device()

    def seconds(self, cache):
        environment = {**os.environ, "XDG_CACHE_HOME": cache, "POCL_CACHE_DIR": cache}
        run = subprocess.run([sys.executable, "-c", self.code], env=environment, capture_output=True, text=True, check=True)
        return float(run.stdout)

    def track_cold(self):
        with tempfile.TemporaryDirectory() as cache:
            return self.seconds(cache)

    def track_warm(self):
        with tempfile.TemporaryDirectory() as cache:
            self.seconds(cache)
            return min(self.seconds(cache) for _ in range(3))

    track_cold.unit = track_warm.unit = "seconds"
