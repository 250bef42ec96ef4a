"""What a call costs beside its work, what the import costs, and the memory of a process."""

import subprocess
import sys
import timeit

import numpy as np

import softcore as sc

from .cases import Timed


class Overhead(Timed):
    """A call on 16 numbers: seconds, and how many times as long as np.exp takes over them."""

    param_names = ("op",)
    params = (["softmax", "max", "relu", "logsumexp", "softmax_backward"],)

    def setup(self, op):
        if not hasattr(sc, op):
            raise NotImplementedError(f"this commit has no {op}")
        x = np.random.default_rng(0).standard_normal(16).astype(np.float32)
        self.function, self.arguments = getattr(sc, op), (x, x) if op.endswith("_backward") else (x,)

    def time_call(self, op):
        self.function(*self.arguments)

    def track_of_exp(self, op):
        own = timeit.Timer("f(*x)", globals={"f": self.function, "x": self.arguments})
        exp = timeit.Timer("f(*x)", globals={"f": np.exp, "x": self.arguments[:1]})
        pairs = [(own.timeit(2000), exp.timeit(2000)) for _ in range(10)]
        return min(a for a, _ in pairs) / min(b for _, b in pairs)

    track_of_exp.unit = "of the time of np.exp"


def track_import():
    """The median over fresh processes of what `import softcore` takes after `import numpy`."""
    code = "import numpy, time; t = time.perf_counter(); import softcore; print(time.perf_counter() - t)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(7)]
    return float(np.median([float(run.stdout) for run in runs]))


track_import.unit = "seconds"
track_import.version = "1"


def peakmem_softmax():
    """A process that writes a softmax of 64 MB over its input."""
    x = np.zeros((4096, 4096), np.float32)
    sc.softmax(x, out=x)


peakmem_softmax.version = "1"
