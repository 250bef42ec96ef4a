"""What a call costs beside its work, what the import costs, and the memory of a process."""

import os
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

    track_of_exp.unit = "times of np.exp"


def track_import():
    """The median over fresh processes of what `import softcore` takes after `import numpy`, once its bytecode is kept."""
    code = "import numpy, time; t = time.perf_counter(); import softcore; print(time.perf_counter() - t)"
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=kept) for _ in range(8)]
    return float(np.median([float(run.stdout) for run in runs[1:]]))


track_import.unit = "seconds"
track_import.version = "1"


def peakmem_softmax():
    """A process that writes a softmax of 64 MB over its input."""
    x = np.zeros((4096, 4096), np.float32)
    sc.softmax(x, out=x)


peakmem_softmax.version = "1"


# Of each family a call, by the op that a commit must have for it, of 64 MB.
CALLS = {
    "max_backward": lambda x: sc.max_backward(x[:, 0], x),
    "softmax_backward": lambda x: sc.softmax_backward(x, x),
    "max_pool": lambda x: sc.max_pool(x, 2, return_indices=True),
    "cross_entropy_with_grad": lambda x: sc.cross_entropy_with_grad(x, np.zeros(len(x), int)),
    "glu": lambda x: sc.glu(x),
    "softmax_gate": lambda x: sc.softmax_gate(x.reshape(64, 4096, 64), x[:64]),
    "attention": lambda x: sc.attention(*3 * (x.reshape(512, 512, 64),)),
}


class Memory:
    """A process that makes such a call."""

    version = "1"
    timeout = 120
    param_names = ("op",)
    params = (list(CALLS),)

    def setup(self, op):
        if not hasattr(sc, op):
            raise NotImplementedError(f"this commit has no {op}")

    def peakmem_call(self, op):
        CALLS[op](np.ones((4096, 4096), np.float32))
