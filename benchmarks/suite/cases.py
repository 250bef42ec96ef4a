"""The cases that benchmarks of ops share, and how they are measured."""

import re
import timeit
from functools import partial
from pathlib import Path

import numpy as np

import softcore as sc

try:
    from softcore.reference import OPS
except ImportError:  # a commit from before the definitions
    OPS = {}

# The ops but attention: those of the tree that the suite lies in, not of the commit that is measured, so that all have the same list.
REFERENCE = Path(__file__).parents[2] / "softcore" / "reference"
DEFINED = [
    name
    for path in sorted(REFERENCE.glob("*.py"))
    for name in re.findall(r"^@definition\ndef (\w+)", path.read_text(), re.MULTILINE)
    if "attention" not in name
]

# What it stands for: its shape, and the axis of those ops that have one.
SHAPES = {
    "digits 1797 x 10": ((1797, 10), -1),
    "vocabulary 64 x 32000": ((64, 32000), -1),
    "planes 8 x 64 x 56 x 56": ((8, 64, 56, 56), 1),
    "heads 8 x 12 x 128 x 128": ((8, 12, 128, 128), -1),
}
LARGE = [name for name in SHAPES if not name.startswith("digits")]

# Attention: the op, the shape of q, the heads and the length of k, and the options.
ATTENTION = {
    "forward 1 x 8 x 1024 x 64": ("attention", (1, 8, 1024, 64), (8, 1024), {}),
    "causal 1 x 8 x 1024 x 64": ("attention", (1, 8, 1024, 64), (8, 1024), {"causal": True}),
    "backward 1 x 8 x 1024 x 64": ("attention_backward", (1, 8, 1024, 64), (8, 1024), {}),
    "decode 4 x 32 x 1 x 128 of 4096": ("attention", (4, 32, 1, 128), (8, 4096), {}),
    "long 1 x 1 x 8192 x 128": ("attention", (1, 1, 8192, 128), (1, 8192), {}),
    "windowed 1 x 1 x 8192 x 64": ("attention", (1, 1, 8192, 64), (1, 8192), {"causal": True, "window": (256, 0)}),
}


class Timed:
    """How asv times: short blocks, since each is compared with what runs beside it. The version keeps results over edits that mean no other."""

    version = "1"
    timeout = 120
    warmup_time = 0.05
    sample_time = 0.01
    repeat = (3, 10, 1.0)
    rounds = 1


class Attend:
    """One call of attention or of its backward, ready to be made, and how many operations its products have."""

    def __init__(self, case, dtype, threads):
        name, shape, (heads, length), self.options = ATTENTION[case]
        if not hasattr(sc, name):
            raise NotImplementedError(f"this commit has no {name}")
        sc.set_num_threads(threads)
        rng, dtype = np.random.default_rng(0), bfloat16() if dtype == "bfloat16" else dtype
        keys = (shape[0], heads, length, shape[3])
        q, k, v = (rng.standard_normal(size).astype(dtype) for size in (shape, keys, keys))
        self.function, self.arguments = getattr(sc, name), (q, k, v)
        if name == "attention_backward":
            o, lse = sc.attention(q, k, v, return_lse=True, **self.options)
            self.arguments = (rng.standard_normal(shape).astype(dtype), q, k, v, o, lse)
        results = self()
        self.out = tuple(map(np.empty_like, results)) if isinstance(results, tuple) else np.empty_like(results)
        seen = np.arange(1, shape[2] + 1) if self.options.get("causal") else np.full(shape[2], length)
        if "window" in self.options:
            seen = np.minimum(seen, self.options["window"][0] + 1)
        self.operations = shape[0] * shape[1] * int(seen.sum()) * shape[3] * (4 if name == "attention" else 10)

    def __call__(self):
        return self.function(*self.arguments, **self.options)

    def in_place(self):
        """The call without the allocation of its results."""
        return self.function(*self.arguments, **self.options, out=self.out)


class Call:
    """One call of an op, ready to be made."""

    def __init__(self, name, dtype, shape, threads):
        if name not in OPS or not hasattr(sc, name):
            raise NotImplementedError(f"this commit has no {name}")
        sc.set_num_threads(threads)
        op, rng = OPS[name], np.random.default_rng(0)
        size, axis = SHAPES[shape]
        if dtype == "bfloat16":
            dtype = bfloat16()
        self.options = {"axis": axis} if "axis" in op.options else {}
        self.arguments = op.inputs((3 * rng.standard_normal(size)).astype(dtype), rng, **self.options)
        self.function = getattr(sc, name)
        results = self()
        self.moved = op.moved(self.arguments, results)
        self.places = {}  # where its results go, but for one number alone
        if isinstance(results, tuple):
            self.places["out"] = tuple(map(np.empty_like, results))
        elif np.ndim(results):
            self.places["out"] = np.empty_like(results)

    def __call__(self):
        return self.function(*self.arguments, **self.options)

    def in_place(self):
        """The call without the allocation of its results, where it has arrays of them."""
        return self.function(*self.arguments, **self.options, **self.places)

    def copy(self):
        """np.copyto over as many bytes as the op reads and writes, half of them each way."""
        source = np.ones(self.moved // 2, np.uint8)
        return partial(np.copyto, np.zeros_like(source), source)


def bfloat16():
    try:
        import ml_dtypes
    except ImportError:
        raise NotImplementedError("ml_dtypes is not installed") from None
    return ml_dtypes.bfloat16


def multiples(call, other, scale=1.0, rounds=11, block=0.005):
    """How many times as long the call takes as the other, by `scale`: a sample for each turn, as asv takes them to tell how sure it is."""
    timers = [timeit.Timer(call), timeit.Timer(other)]
    counts = [max(1, round(block / min(timer.repeat(2, 1)))) for timer in timers]
    turns = [[timer.timeit(n) / n for timer, n in zip(timers, counts)] for _ in range(rounds)]
    return {"samples": [scale * own / its for own, its in turns], "number": 1}


def peak():
    """Bytes of the resident set at its peak since the last call of `forget_peak`."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) << 10


def forget_peak():
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        raise NotImplementedError("this system does not forget a peak") from None
