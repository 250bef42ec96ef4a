"""The OpenCL core beside what the device allows, the Cython core, torch and tinygrad: the cases it promises to be fast in.

    make bench-opencl    # writes benchmarks/opencl.json, which docs/opencl.rst shows
    SOFTCORE_OPENCL=pocl python benchmarks/opencl.py --quick --case softmax

One process on the device that softcore chooses. In a case the contenders take turns over the same data, block by block, as in
benchmarks/peers.py, and the best block of each is compared: the op on device arrays; a kernel of a few lines that copies as many bytes
as the op reads and writes, or that only reads them; the same op of the Cython core, on as many threads as the device has compute
units; torch where a case is held to it. Everybody writes into outputs made beforehand, and a call on the device counts until its
queue is empty.

The columns: milliseconds of one call, GB/s of what is read and written, the share of the rate of a copy or of reading, how many times
longer a call takes than one of the Cython core, and the target, with yes or no. Then what a small call takes until Python goes on, the
first call of a new size, and tinygrad's softmax on the same runtime, if it is installed and finds the runtime's library: it looks for
libOpenCL.so by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import timeit
from dataclasses import dataclass, field

import numpy as np

LIMITS = ("copy", "read")  # kernels that do nothing else


@dataclass(frozen=True)
class Case:
    op: str
    shape: tuple[int, ...]
    share: float | None = None  # of the rate of `limit`, at least
    limit: str = "copy"
    cython: float | None = None  # times its time, at most
    torch: float | None = None  # times as fast, at least
    axis: int | None = -1
    options: dict = field(default_factory=dict)

    @property
    def name(self):
        sizes = " x ".join(f"{n // 2**20}M" if n % 2**20 == 0 else str(n) for n in self.shape)
        window = ", 3 x 3" if "window" in self.options else ""
        return f"{self.op} {sizes}{'' if self.axis in (-1, None) else f' axis {self.axis}'}{window}"


MILLION = 2**20
TILE, TALL = (4096, 1024), (32768, 1024)
WINDOW = {"window": (3, 3), "stride": 2, "padding": 1}
CASES = [
    *(Case(op, shape, 0.8, cython=1.25) for op in ("softmax", "log_softmax", "softmax_backward") for shape in (TILE, TALL)),
    Case("softmax", (65536, 64), 0.55),
    Case("softmax", TILE, 0.55, axis=0),
    Case("softmax", (8 * MILLION,)),
    Case("max", TILE, 0.6, "read"),
    Case("argmax", TILE, 0.6, "read"),
    Case("logsumexp", TILE, 0.6, "read"),
    Case("logsumexp", (8 * MILLION,), limit="read"),
    Case("gate", (8 * MILLION,), 0.8, axis=None),
    Case("gate_backward", (8 * MILLION,), 0.8, axis=None),
    Case("max_pool", (32, 64, 112, 112), torch=5, axis=None, options=WINDOW),
    Case("max_pool_backward", (32, 64, 112, 112), axis=None, options=WINDOW),
    Case("cross_entropy_with_grad", (2048, 32000), 0.6),
]

# Each work-item takes a stretch on a CPU, and neighbours elements side by side on a GPU. Reading keeps a maximum, one a work-item.
KERNELS = """
#ifdef CPU
#define FIRST (n * get_global_id(0) / get_global_size(0))
#define LAST (n * (get_global_id(0) + 1) / get_global_size(0))
#define NEXT 1
#else
#define FIRST get_global_id(0)
#define LAST n
#define NEXT get_global_size(0)
#endif
__kernel void copy(__global const float8 *x, __global float8 *y, long n) {
    for (long i = FIRST; i < LAST; i += NEXT) y[i] = x[i];
}
__kernel void read(__global const float8 *x, __global float8 *y, long n) {
    float8 m[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    long i = FIRST;
    for (; i + 3 * NEXT < LAST; i += 4 * NEXT)
        for (int k = 0; k < 4; k++) m[k] = x[i + k * NEXT] > m[k] ? x[i + k * NEXT] : m[k];
    for (; i < LAST; i += NEXT) m[0] = x[i] > m[0] ? x[i] : m[0];
    m[0] = m[1] > m[0] ? m[1] : m[0];
    m[2] = m[3] > m[2] ? m[3] : m[2];
    y[get_global_id(0)] = m[2] > m[0] ? m[2] : m[0];
}
"""


def limits(queue, moved):
    """Kernels that copy and that read as many bytes, as calls."""
    import pyopencl as cl
    import pyopencl.array

    is_cpu = queue.device.type & cl.device_type.CPU
    program = cl.Program(queue.context, KERNELS).build(["-DCPU"] if is_cpu else [])
    group = 1 if is_cpu else 256
    grid = (16 if is_cpu else 32 * group) * queue.device.max_compute_units

    def bound(name, elements):
        kernel = cl.Kernel(program, name)
        kernel.set_scalar_arg_dtypes([None, None, np.int64])
        x = cl.array.zeros(queue, (elements // 8, 8), np.float32)
        y = cl.array.zeros(queue, (max(elements // 8, grid) if name == "copy" else grid, 8), np.float32)
        return lambda: (kernel(queue, (grid,), (group,), x.base_data, y.base_data, elements // 8), queue.finish())

    return {"copy": bound("copy", moved // 8), "read": bound("read", moved // 4)}


def inputs(case, rng):
    import softcore as sc

    def array(shape):
        return 3 * rng.standard_normal(shape, dtype=np.float32)

    if case.op == "max_pool":
        return array(case.shape), case.options["window"]
    if case.op == "max_pool_backward":
        options = {name: v for name, v in case.options.items() if name != "window"}
        y, index = sc.max_pool(array(case.shape), case.options["window"], return_indices=True, **options)
        return array(y.shape), index, case.shape
    if case.op == "cross_entropy_with_grad":
        return array(case.shape), rng.integers(0, case.shape[-1], case.shape[:-1])
    if case.op == "softmax_backward":
        return array(case.shape), sc.softmax(array(case.shape), case.axis)
    return tuple(array(case.shape) for _ in range({"gate": 3, "gate_backward": 4}.get(case.op, 1)))


def compare(case, rounds, block):
    """One row of the table."""
    import softcore as sc
    from softcore import opencl, peers

    queue = opencl.queue()
    arguments = inputs(case, np.random.default_rng(0))
    options = {} if case.op == "max_pool_backward" else {name: v for name, v in case.options.items() if name != "window"}
    if case.axis is not None:
        options["axis"] = case.axis
    function = getattr(sc, case.op)
    results = function(*arguments, **options)
    moved = sc.reference.OPS[case.op].moved(arguments, results)
    given = [opencl.to_device(a) if isinstance(a, np.ndarray) else a for a in arguments]
    out = function(*given, **options)
    with sc.num_threads(queue.device.max_compute_units):
        others = {name: v for name, v in options.items() if name != "axis"}
        calls = peers.calls(case.op, arguments, case.axis, ("torch",) if case.torch else (), others)
        contenders = {"opencl": lambda: (function(*given, out=out, **options), queue.finish()), "cython": calls.pop("softcore"), **calls}
        times = peers.take_turns({**contenders, **limits(queue, moved)}, rounds=rounds, block=block)
    shares = {name: times[name] / times["opencl"] for name in LIMITS}
    ratios = {name: times["opencl"] / times[name] for name in times if name not in ("opencl", *LIMITS)}
    targets = []
    if case.share:
        targets.append(target(f">= {case.share:.0%} of {case.limit}", shares[case.limit], case.share))
    if case.cython:
        targets.append(target(f"<= {case.cython:g} x Cython", ratios["cython"], case.cython, most=True))
    if case.torch and "torch" in ratios:
        targets.append(target(f">= {case.torch:g} x torch", 1 / ratios["torch"], case.torch))
    return {
        "case": case.name,
        "ms": {name: 1e3 * t for name, t in times.items()},
        "GB/s": moved / times["opencl"] / 1e9,
        "shares": shares,
        "limit": case.limit,
        "to_cython": ratios["cython"],
        "targets": targets,
    }


def target(text, value, limit, most=False):
    return {"text": text, "value": value, "met": bool(value <= limit if most else value >= limit)}


# --- Small calls, new sizes, tinygrad ----------------------------------------------------------------------------------------


def small(rounds):
    """What Python waits for until a small kernel is in the queue, and how long the first call of a new size takes."""
    import softcore as sc
    from softcore import opencl

    x = opencl.to_device(np.ones((2, 8), np.float32))
    names = {"f": sc.softmax, "x": x, "y": sc.softmax(x), "finish": opencl.queue().finish}
    for label, call in (("enqueue, out=", "f(x, out=y)"), ("enqueue", "f(x)")):
        timer = timeit.Timer(call, setup="finish()", globals=names)
        us = min(timer.repeat(20 * rounds, 50)) / 50 * 1e6
        yield {"case": label, "value": us, "unit": "us", "targets": [target("<= 12 us", us, 12, most=True)]}
    sizes = [opencl.to_device(np.ones((3, 9 + i), np.float32)) for i in range(rounds)]
    ms = 1e3 * min(timeit.timeit(lambda a=a: (sc.softmax(a), opencl.queue().finish()), number=1) for a in sizes)
    yield {"case": "the first call of a new size", "value": ms, "unit": "ms", "targets": [target("<= 1 ms", ms, 1, most=True)]}


TINYGRAD = """
import sys, time, numpy as np
from tinygrad import Tensor, TinyJit
from tinygrad.device import Device
x = Tensor(np.random.default_rng(0).standard_normal({shape}, dtype=np.float32)).realize()
f = TinyJit(lambda x: x.softmax().realize())
best = 1e9
for i in range({rounds}):
    start = time.perf_counter()
    f(x)
    Device[Device.DEFAULT].synchronize()
    if i > 3: best = min(best, time.perf_counter() - start)
print(best)
"""


def tinygrad(own, rounds):
    """Its softmax of the same shape, in a process of its own; nothing if it does not run."""
    code = TINYGRAD.format(shape=TILE, rounds=4 + 2 * rounds)
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "DEV": "CL"}, capture_output=True, text=True, check=False)
    if done.returncode:
        return
    ms = 1e3 * float(done.stdout)
    yield {"case": "softmax 4096 x 1024, tinygrad", "value": ms, "unit": "ms", "targets": [target(">= 10 x tinygrad", ms / own, 10)]}


# --- The table ---------------------------------------------------------------------------------------------------------------


def line(row):
    verdicts = "; ".join(f"{t['text']}: {'yes' if t['met'] else 'NO'} ({t['value']:.3g})" for t in row["targets"])
    if "value" in row:
        return f"{row['case']:<40}{row['value']:>9.3f} {row['unit']:<28}  {verdicts}"
    share = f"{row['shares'][row['limit']]:.2f} of {row['limit']}"
    return f"{row['case']:<40}{row['ms']['opencl']:>9.3f}{row['GB/s']:>8.1f}{share:>14}{row['to_cython']:>8.2f}  {verdicts}"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default="", metavar="REGEX", help="only the cases whose name matches")
    parser.add_argument("--json", metavar="FILE", help="write the rows")
    parser.add_argument("--quick", action="store_true", help="few short blocks: a check that it runs, not a measurement")
    chosen = parser.parse_args(arguments)

    import softcore as sc

    device = sc.opencl.queue().device
    about = {"softcore": sc.__version__, "isa": sc.info()["isa"], "device": device.name.strip(), "runtime": device.platform.version.strip()}
    print(", ".join(map(str, about.values())))
    print(f"{'case':<40}{'ms':>9}{'GB/s':>8}{'share':>14}{'Cython':>8}  target, met?", flush=True)
    rounds, block = (3, 0.005) if chosen.quick else (12, 0.03)
    wanted, rows = re.compile(chosen.case), []

    def show(found):
        for row in found:
            rows.append(row)
            print(line(row), flush=True)

    show(compare(case, rounds, block) for case in CASES if wanted.search(case.name))
    if wanted.search("enqueue"):
        show(small(rounds))
    own = next((row["ms"]["opencl"] for row in rows if row["case"] == "softmax 4096 x 1024"), None)
    if own and wanted.search("tinygrad"):
        show(tinygrad(own, rounds))
    met = [t["met"] for row in rows for t in row["targets"]]
    print(f"{sum(met)} of {len(met)} targets met")
    if chosen.json:
        with open(chosen.json, "w") as file:
            json.dump({"about": about, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
