"""softcore beside NumPy, SciPy, torch, jax, numexpr and tinygrad: the cases it promises to be fast in, what it promises, and every other op
that one of them has or can compose, by one case each.

    python benchmarks/peers.py --threads 1 2 --picture peers.png --json peers.json
    python benchmarks/peers.py --quick --case "softmax.*512"

One process for each number of threads runs every case. In a case the libraries that are installed take turns over the same
data, block by block, each after a pause and a call that does not count, and the best block of each is compared. Both sides write
into outputs made beforehand wherever they can: softcore and NumPy by ``out=``, torch by ``out=`` or the ``out`` variant of the
operator (``aten._softmax_backward_data.out``); SciPy's softmax family, jax and tinygrad have none. The spellings are in softcore.peers.
jax cannot be held to one thread and counts with two or more; tinygrad, which needs clang, has one whatever is asked. bfloat16 arrays are ml_dtypes' for softcore and the same bits for torch.

The columns: milliseconds of one call, how many times faster softcore is than the best peer, how many times longer it takes than
``np.copyto`` that moves as many bytes, and the target, with yes, or with no and how many times faster than that peer the copy is: what an op
that computes nothing would reach. The last rows are errors, in ulp, against float64 (longdouble for float64).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import timeit
from dataclasses import dataclass, field

import numpy as np

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMEXPR_MAX_THREADS")
ALL = ("numpy", "scipy", "torch", "jax", "numexpr", "tinygrad")
LIMITS = ("copyto", "read", "sgemm")  # what the machine allows: so many bytes copied or read, so many operations of a matrix product
FEW = ("numpy", "torch", "jax")  # past the cache, where the temporaries of the others would take gigabytes


@dataclass(frozen=True)
class Target:
    """softcore is at least ``limit`` times as fast as ``against``; or, if ``slower``, takes at most ``limit`` times its time."""

    against: str  # "best peer", or the name of one contender
    limit: float | dict[int, float]  # by the number of threads where it depends on it
    slower: bool = False

    def judge(self, times, threads):
        peers = [t for name, t in times.items() if name not in ("softcore", *LIMITS) and self.against in ("best peer", name)]
        peers += [t for name, t in times.items() if name == self.against and name in LIMITS]
        if not peers:
            return None
        limit = self.limit.get(threads, self.limit[max(self.limit)]) if isinstance(self.limit, dict) else self.limit
        ratio = times["softcore"] / min(peers) if self.slower else min(peers) / times["softcore"]
        sign = "<=" if self.slower else ">="
        return {
            "ratio": ratio,
            "copy": None if self.slower or "copyto" not in times else min(peers) / times["copyto"],
            "limit": limit,
            "slower": self.slower,
            "against": self.against,
            "text": f"{sign} {limit:g} x {self.against}",
            "met": bool(ratio <= limit if self.slower else ratio >= limit),
        }


@dataclass(frozen=True)
class Case:
    op: str
    shape: tuple[int, ...]
    targets: tuple[Target, ...]
    axis: int | None = -1
    dtype: str = "float32"
    libraries: tuple[str, ...] = ALL
    options: dict = field(default_factory=dict)

    @property
    def name(self):
        sizes = " x ".join(f"{n // 2**20}M" if n % 2**20 == 0 else str(n) for n in self.shape)
        axis = "" if self.axis in (-1, None) else f" axis {self.axis}"
        dtype = "" if self.dtype == "float32" else f" {self.dtype}"
        return f"{self.op}{dtype} {sizes}{axis}{self.tiles}"

    @property
    def tiles(self):
        """The windows of a pooling op, or the activation of a gated linear unit, in words."""
        if not self.options:
            return ""
        if "activation" in self.options:
            return f", {self.options['activation']}"
        if self.op.startswith("attention"):
            heads, keys = self.options.get("keys", (self.shape[1], self.shape[2]))
            grouped = f", {heads} key heads" if heads != self.shape[1] else ""
            long = f", {keys} keys" if keys != self.shape[2] else ""
            window = (
                f", window {self.options['window'][0]}" if "window" in self.options else ", causal" if self.options.get("causal") else ""
            )
            return grouped + long + window
        window = " x ".join(map(str, self.options["window"]))
        other = [name for name in ("return_indices",) if self.options.get(name)]
        last = ["last"] if self.options["layout"] == "channels_last" else []
        return f", {window}" + "".join(f", {word.removeprefix('return_')}" for word in (*other, *last))


def attentions():
    """Long, short and many sequences, forward and backward; windows, grouped heads, decoding and other dtypes."""
    long = {1: 1.2, 2: 1.2}
    for shape, full, causal, of_sgemm in (
        ((1, 8, 2048, 64), long, 1.3, (0.9, 0.8)),
        ((1, 1, 8192, 128), long, 1.3, (0.9, 0.8)),
        ((1, 12, 512, 64), long, 1.8, None),
        ((8, 12, 128, 64), 1.4, 1.8, None),
    ):
        for i, (limit, options) in enumerate(((full, {}), (causal, {"causal": True}))):
            share = at_most(1 / of_sgemm[i], "sgemm") if of_sgemm else ()
            yield Case("attention", shape, faster(limit, "torch") + share, axis=None, libraries=("torch",), options=options)
            share = at_most(1 / 0.8, "sgemm") if of_sgemm else ()
            yield Case("attention_backward", shape, faster(1.2, "torch") + share, axis=None, libraries=("torch",), options=options)
    for shape, target, options, dtype in (
        ((1, 1, 8192, 64), faster(10, "torch"), {"causal": True, "window": (256, 0)}, "float32"),
        ((1, 32, 1024, 128), faster(1.4, "torch"), {"causal": True, "keys": (8, 1024)}, "float32"),
        ((4, 32, 1, 128), faster(2.5, "torch") + at_most(1 / 0.8, "read"), {"keys": (8, 4096)}, "float32"),
        ((1, 8, 2048, 64), faster(1.2, "torch"), {}, "bfloat16"),
        ((1, 8, 2048, 64), faster(1.7, "torch"), {}, "float16"),
        ((1, 8, 2048, 64), faster(1.5, "torch"), {}, "float64"),
    ):
        yield Case("attention", shape, target, axis=None, dtype=dtype, libraries=("torch",), options=options)


def faster(limit, than="best peer"):
    return (Target(than, limit),)


def at_most(limit, than="copyto"):
    return (Target(than, limit, slower=True),)


def pooling():
    """Tiles of 2 x 2 and overlapping windows of 3 x 3, channels first and last."""
    for layout, shape in (("channels_first", (32, 64, 112, 112)), ("channels_last", (32, 112, 112, 64))):
        for options in ({"window": (2, 2), "stride": 2}, {"window": (3, 3), "stride": 2, "padding": 1}):
            options["layout"] = layout
            for op, limit, more in (
                ("max_pool", 5, {}),
                ("max_pool", 5, {"return_indices": True}),
                ("max_pool_backward", 3, {}),
                ("avg_pool", 3, {}),
                ("avg_pool_backward", 3, {}),
            ):
                yield Case(op, shape, faster(limit, "torch"), axis=None, libraries=("torch",), options={**options, **more})


TILE = (4096, 1024)
MILLION = 2**20
# The other ops, which are held to nothing. softmax_pool_backward is missing: no library has it.
ROWS = ("max_backward", "hardmax", "logsumexp_backward", "cross_entropy", "cross_entropy_backward", "topk_gate_backward")
ELEMENTS = (
    *("maximum", "maximum_backward", "relu", "relu_backward", "step", "sigmoid_backward", "log_sigmoid", "log_sigmoid_backward"),
    *("softplus", "softplus_backward", "binary_cross_entropy", "binary_cross_entropy_with_grad", "binary_cross_entropy_backward"),
    *("max_unpool", "softmax_pool"),
)
CASES = [
    Case("softmax", TILE, faster({1: 1.8, 2: 1.6})),
    Case("softmax", (512, 512), faster({1: 1.8, 2: 1.6})),
    Case("softmax", (65536, 128), faster({1: 1.8, 2: 1.6})),
    Case("softmax", (200000, 10), faster(3)),
    Case("softmax", (16384, 4096), at_most(1.15), libraries=FEW),
    Case("softmax", (16, MILLION), at_most({1: 1.5, 2: 1.1}), libraries=FEW),
    Case("softmax", (8 * MILLION,), faster(1.8)),
    Case("softmax", TILE, faster(2), axis=0),
    Case("softmax", (32, 64, 56, 56), faster(2), axis=1),
    Case("softmax", TILE, faster(1.2), dtype="float64"),
    Case("softmax", TILE, faster(2.5, "torch"), dtype="float16", libraries=("torch", "jax")),
    Case("softmax", TILE, faster(2.5, "torch"), dtype="bfloat16", libraries=("torch", "jax")),
    Case("softmax_backward", TILE, faster(1.2)),
    Case("log_softmax", TILE, faster(2)),
    Case("log_softmax_backward", TILE, faster(1.2)),
    Case("logsumexp", TILE, faster(5)),
    Case("logsumexp", TILE, faster(5), axis=0),
    Case("logsumexp", (100000, 8), faster(5)),
    Case("max", TILE, faster(1)),
    Case("max", TILE, faster(1), axis=0),
    Case("argmax", TILE, faster(1, "numpy")),
    Case("argmax", TILE, faster(10, "numpy"), axis=0),
    Case("max_with_argmax", TILE, faster(5, "torch")),
    Case("cross_entropy_with_grad", (2048, 32000), faster(6, "torch") + at_most(1.5), libraries=FEW),
    Case("cross_entropy_with_grad", (256, 256000), faster(6, "torch") + at_most(1.5), libraries=FEW),
    Case("softmax_gate", (4096, 256, 64), faster({1: 1.3, 2: 1.15}, "torch"), axis=None, libraries=("numpy", "torch")),
    Case("softmax_gate_backward", (4096, 256, 64), faster(3, "torch"), axis=None, libraries=("numpy", "torch")),
    Case("topk_gate", (65536, 64), faster(4, "torch"), libraries=("numpy", "torch")),
    Case("sigmoid", (8 * MILLION,), at_most(1.15) + faster(1, "torch"), axis=None),
    *pooling(),
    Case("gate", (8 * MILLION,), faster(3) + at_most(1.3), axis=None, libraries=("torch", "numexpr")),
    Case("gate_backward", (8 * MILLION,), faster(6, "torch") + at_most(1.3), axis=None, libraries=("numpy", "torch")),
    Case("glu", (4096, 8192), faster(3, "torch"), libraries=("torch",), options={"activation": "silu"}),
    Case("glu_backward", (4096, 8192), faster(3, "torch"), libraries=("torch",), options={"activation": "silu"}),
    *attentions(),
    *(Case(op, TILE, (), axis=-1 if op in ROWS else None, libraries=("numpy", "scipy", "torch")) for op in (*ROWS, *ELEMENTS)),
]


# --- In one process, with one number of threads ------------------------------------------------------------------------------


def array(case, rng):
    x = rng.standard_normal(case.shape, dtype=np.float32)
    x *= 3
    if case.dtype == "bfloat16":
        import ml_dtypes

        return x.astype(ml_dtypes.bfloat16)
    return x.astype(case.dtype, copy=False)


def inputs(case, x, rng):
    """The arguments, made by softcore itself: the definitions would take minutes over the large cases."""
    import softcore as sc

    if case.op in (*ROWS, *ELEMENTS):
        return sc.reference.OPS[case.op].inputs(x, rng, **({"axis": case.axis} if case.op in ROWS else {}))
    if case.op.endswith(("_pool", "_pool_backward")):
        window, options = case.options["window"], {name: v for name, v in case.options.items() if name not in ("window", "return_indices")}
        if not case.op.endswith("_backward"):
            return x, window
        y, indices = sc.max_pool(x, window, return_indices=True, **options)
        dy = rng.standard_normal(y.shape, dtype=np.float32)
        return (dy, indices, x.shape) if case.op == "max_pool_backward" else (dy, x.shape, window)
    if case.op.startswith("attention"):
        shape = (case.shape[0], *case.options.get("keys", case.shape[1:3]), case.shape[3])
        k, v = (array(Case(case.op, shape, (), dtype=case.dtype), rng) for _ in range(2))
        if case.op == "attention":
            return x, k, v
        o, lse = sc.attention(x, k, v, return_lse=True, **taken(case))
        return array(case, rng), x, k, v, o, lse
    if case.op == "cross_entropy_with_grad":
        return x, rng.integers(0, case.shape[-1], case.shape[:-1])
    if case.op in ("gate", "gate_backward"):
        return tuple(array(case, rng) for _ in range(4 if case.op == "gate_backward" else 3))
    if case.op.startswith("softmax_gate"):
        r = rng.standard_normal(case.shape[:-1]).astype(x.dtype)
        return (x, r) if case.op == "softmax_gate" else (rng.standard_normal((case.shape[0], case.shape[-1])).astype(x.dtype), x, r)
    if case.op == "topk_gate":
        return x, 2
    if not case.op.endswith("_backward"):
        return (x,)
    if case.op == "glu_backward":
        return rng.standard_normal(np.split(x, 2, case.axis)[0].shape).astype(x.dtype), x
    y = getattr(sc, case.op.removesuffix("_backward"))(x, case.axis)
    return rng.standard_normal(case.shape).astype(x.dtype), y


def taken(case):
    """The options of the call: a window is an argument, and the gradient of a maximum has no need of it."""
    names = ("layout",) if case.op == "max_pool_backward" else [name for name in case.options if name not in ("window", "keys")]
    if case.op == "attention" and "window" in case.options:
        names.append("window")
    return {name: case.options[name] for name in names if name in case.options}


def row(case, threads, times, targets):
    judged = [verdict for target in targets if (verdict := target.judge(times, threads))]
    peers = {name: t for name, t in times.items() if name not in ("softcore", *LIMITS)}
    return {
        "case": case,
        "threads": threads,
        "ms": {name: 1e3 * t for name, t in times.items()},
        "best_peer": min(peers, key=peers.get, default=None),
        "to_best_peer": min(peers.values()) / times["softcore"] if peers else None,
        "to_copy": times["softcore"] / times["copyto"] if "copyto" in times else None,
        "targets": judged,
    }


def compare(case, threads, rounds, block):
    import softcore as sc
    from softcore import peers

    rng = np.random.default_rng(0)
    try:
        x = array(case, rng)
    except ImportError:
        return None
    libraries = [name for name in case.libraries if name != "jax" or threads >= 2]
    arguments = inputs(case, x, rng)
    contenders = peers.calls(case.op, arguments, case.axis, libraries, taken(case))
    if not case.op.startswith("attention"):  # of as many bytes as the op reads and writes, half of them each way
        results = getattr(sc, case.op)(*arguments, **({} if case.axis is None else {"axis": case.axis}), **taken(case))
        source = np.ones(max(1, sc.reference.OPS[case.op].moved(arguments, results) // 2 // x.itemsize), x.dtype)
        copied = np.zeros_like(source)
        contenders["copyto"] = lambda: np.copyto(copied, source)
        del results
    if case.op == "attention" and "keys" in case.options and case.shape[2] == 1:
        contenders["read"] = lambda: [sc.max(a, None) for a in arguments[1:]]
    operations = products(case)
    if operations:
        a = rng.standard_normal((SQUARE, SQUARE), dtype=np.float32)
        contenders["sgemm"] = lambda: a @ a
    times = peers.take_turns(contenders, rounds=rounds, block=block)
    if operations:
        times["sgemm"] *= operations / (2 * SQUARE**3)
    return row(case.name, threads, times, case.targets)


SQUARE = 2048


def products(case):
    """The operations of an attention that is compared with a matrix product: of a causal one only those below the diagonal."""
    if not any(target.against == "sgemm" for target in case.targets):
        return None
    batch, heads, n, d = case.shape
    scores = batch * heads * n * (n + 1) // 2 if case.options.get("causal") else batch * heads * n * n
    return scores * d * (4 if case.op == "attention" else 10)


def short(threads, rounds, block):
    """Sixteen elements, call and all, without the call of a wrapper on either side."""
    import softcore as sc
    from softcore import peers

    x = np.random.default_rng(0).standard_normal(16).astype(np.float32)
    names = {"f": sc.softmax, "exp": np.exp, "x": x, "y": np.empty_like(x)}
    for label, own, peer, limit in [
        ("softmax 16, out=", "f(x, out=y)", "exp(x, out=y)", 2),
        ("softmax 16", "f(x)", "exp(x)", 3),
    ]:
        timers = {"softcore": timeit.Timer(own, globals=names), "np.exp": timeit.Timer(peer, globals=names)}
        times = peers.take_turns(timers, rounds=rounds, block=block)
        yield row(label, threads, times, at_most(limit, "np.exp"))


def import_time(rounds):
    """The median over fresh processes of what the statement takes after `import numpy`, once its bytecode is kept. In seconds."""
    code = "import numpy, time; t = time.perf_counter(); import softcore; print(time.perf_counter() - t)"
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=kept) for _ in range(rounds + 1)]
    return statistics.median(float(run.stdout) for run in runs[1:])


def promise(case, threads, value, limit, unit):
    """A row without a peer: a number that may not exceed its limit."""
    verdict = {"ratio": value, "limit": limit, "slower": True, "against": unit, "text": f"<= {limit:g} {unit}", "met": bool(value <= limit)}
    return {"case": case, "threads": threads, "value": value, "unit": unit, "ms": {}, "targets": [verdict]}


def errors(threads, quick):
    """The largest errors at lengths to a million. exp is measured as the gradient of logsumexp, which is dy exp(x - y)."""
    import softcore as sc
    from softcore import peers, testing

    rng = np.random.default_rng(0)
    bits = np.arange(0, 0x42B17218, 1009 if quick else 251, dtype=np.uint32).view(np.float32)  # 0 to log(the largest float32)
    x = np.concatenate([-bits, bits])[None]
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    found = float(np.max(testing.ulp_error(sc.logsumexp_backward(one, x, zero), np.exp(x.astype(float)))))
    yield promise(f"error of exp, {x.size} float32", threads, found, 1, "ulp")
    lengths = [7, 1000, 65536] if quick else [7, 100, 1000, 10007, 65536, MILLION]
    for dtype, limit in [("float32", 2), ("float64", 4), ("float16", 0.501), ("bfloat16", 0.501)]:
        for op in ("softmax", "log_softmax", "logsumexp"):
            worst = 0.0
            for length in lengths:
                for spread in (1, 3, 10):
                    shape = (max(1, 20000 // length), length)
                    try:
                        x = array(Case(op, shape, (), dtype=dtype), rng)
                    except ImportError:
                        break
                    x = (x * x.dtype.type(spread / 3)).astype(x.dtype)
                    worst = max(worst, peers.worst_ulp(op, (x,)))
            yield promise(f"error of {op} {dtype}, to {lengths[-1]}", threads, worst, limit, "ulp")


def work(threads, pattern, quick):
    """Every row of one process, printed as lines of JSON while they are measured."""
    import softcore as sc

    sc.set_num_threads(threads)
    try:
        import torch

        torch.set_num_threads(threads)
    except ImportError:
        pass
    rounds, block = (3, 0.005) if quick else (12, 0.03)
    wanted = re.compile(pattern)

    def emit(result):
        if result is not None:
            print(json.dumps(result), flush=True)

    for case in CASES:
        if wanted.search(case.name):
            emit(compare(case, threads, rounds, block))
    for result in short(threads, rounds, block) if wanted.search("softmax 16") else []:
        emit(result)
    if threads > 1 and wanted.search("import softcore"):
        emit(promise("import softcore, after numpy", threads, 1e3 * import_time(3 if quick else 9), 30, "ms"))
    for result in errors(threads, quick) if threads > 1 and wanted.search("error") else []:
        emit(result)


# --- All processes, the table and the picture --------------------------------------------------------------------------------


def gather(threads, pattern, quick, show):
    """Run one process for each number of threads. The rows."""
    rows = []
    for n in threads:
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(n)), "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, __file__, "--work", str(n), "--case", pattern, *(["--quick"] if quick else [])]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                rows.append(json.loads(line))
                show(rows[-1])
        if process.returncode:
            raise SystemExit(f"the process with {n} threads failed")
    own = {r["threads"]: r["ms"]["softcore"] for r in rows if r["case"] == "softmax 8M"}
    if 1 in own and 2 in own:  # in two processes, and so a row of its own
        times = {"softcore": own[2] / 1e3, "1 thread": own[1] / 1e3}
        rows.append(row("softmax 8M, 2 threads", 2, times, faster(1, "1 thread")))
        show(rows[-1])
    return rows


def heading(columns):
    return f"{'case':<52}{'n':>2}{'softcore':>10}" + "".join(f"{c:>9}" for c in columns) + f"{'to best':>9}{'to copy':>9}  target, met?"


def line(result, columns):
    ms = result["ms"]

    def time(name, width):
        return f"{ms[name]:>{width}.{3 if ms[name] > 0.1 else 5}f}" if name in ms else f"{'-':>{width}}"

    def ratio(key):
        return f"{result[key]:>9.2f}" if result.get(key) else f"{'-':>9}"

    own = time("softcore", 10) if ms else f"{result['value']:.2f} {result['unit']}".rjust(10)

    def verdict(target):
        copy = f", a copy {target['copy']:.2f}" if target.get("copy") and not target["met"] else ""
        return f"{target['text']}: {'yes' if target['met'] else 'NO'} ({target['ratio']:.2f}{copy})"

    targets = "; ".join(map(verdict, result["targets"]))
    middle = "".join(time(c, 9) for c in columns) + ratio("to_best_peer") + ratio("to_copy")
    return f"{result['case']:<52}{result['threads']:>2}{own}{middle}  {targets}"


def draw(rows, path):
    """Bars of each row's ratio over its target, and past 1 the target is met."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    bars = [(r, t) for r in rows for t in r["targets"] if r["ms"]]
    # A bar is a speed: how many times as fast as the one it is compared with. A tick is the speed promised.
    speed = [1 / t["ratio"] if t["slower"] else t["ratio"] for _, t in bars]
    goal = [1 / t["limit"] if t["slower"] else t["limit"] for _, t in bars]
    colours = ["#2b6ca3" if t["met"] else "#c8442e" for _, t in bars]
    figure, axes = plt.subplots(figsize=(10, 1.4 + 0.24 * len(bars)), layout="constrained")
    where = np.arange(len(bars))
    low = 2.0 ** np.floor(np.log2(min([*speed, *goal, 1.0]) * 0.9))
    high = max([*speed, *goal, 2.0])
    axes.barh(where, np.array(speed) - low, left=low, color=colours, height=0.7)
    axes.vlines(goal, where - 0.46, where + 0.46, color="black", linewidth=2.2)
    for y, s, g in zip(where, speed, goal):
        axes.text(max(s, g) * 1.04, y, f"{s:.2f}", va="center", fontsize=8, bbox={"color": "white", "pad": 0.5})
    threads = {1: "1 thread"}
    names = [f"{r['case']}, {threads.get(r['threads'], str(r['threads']) + ' threads')}, to {t['against']}" for r, t in bars]
    names = [n.replace(", 2 threads, 2 threads", ", 2 threads") for n in names]
    axes.set_yticks(where, names, fontsize=8)
    axes.set_xscale("log", base=2)
    axes.set_xlim(low, high * 1.35)
    ticks = 2.0 ** np.arange(np.log2(low), np.ceil(np.log2(high)) + 0.5)
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.axvline(1, color="#888", linewidth=0.8, zorder=0)
    axes.set_xlabel("speed of softcore over what it is compared with; the black tick is the target, red bars miss it")
    met = sum(t["met"] for _, t in bars)
    axes.set_title(f"{met} of {len(bars)} targets met", loc="left", fontsize=11)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def summary(rows):
    """The targets, and softcore beside the best of the others."""
    verdicts = [t["met"] for r in rows for t in r["targets"]]
    told = [f"{sum(verdicts)} of {len(verdicts)} targets met"]
    compared = sorted((r["to_best_peer"], f"{r['case']}, n {r['threads']}") for r in rows if r.get("to_best_peer"))
    if compared:
        ratios = [ratio for ratio, _ in compared]
        faster = sum(ratio > 1 for ratio in ratios)
        told.append(f"faster than the best peer in {faster} of {len(ratios)} cases, {statistics.median(ratios):.1f} times in the middle")
        told.append(f"most: {compared[-1][0]:.1f} times ({compared[-1][1]}); least: {compared[0][0]:.2f} ({compared[0][1]})")
    return told


def versions():
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ALL:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="numbers of threads (default: 1 2)")
    parser.add_argument("--case", default="", metavar="REGEX", help="only the cases whose name matches")
    parser.add_argument("--json", metavar="FILE", help="write the rows, and how they were measured")
    parser.add_argument("--picture", metavar="FILE", help="draw the ratios")
    parser.add_argument("--quick", action="store_true", help="few short blocks: a check that it runs, not a measurement")
    parser.add_argument("--work", type=int, metavar="N", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.work:
        return work(chosen.work, chosen.case, chosen.quick)

    import softcore as sc

    found = versions()
    columns = [name for name in ALL if name in found] + ["np.exp", "copyto"]
    print(", ".join(f"{name} {number}" for name, number in found.items()))
    print(f"softcore {sc.__version__}, {sc.info()['isa']}; milliseconds; n: threads")
    print(heading(columns), flush=True)
    rows = gather(chosen.threads, chosen.case, chosen.quick, lambda result: print(line(result, columns), flush=True))
    print("", *summary(rows), sep="\n")
    if chosen.json:
        with open(chosen.json, "w") as file:
            run = {"quick": chosen.quick, "threads": chosen.threads, "case": chosen.case}
            json.dump({"run": run, "versions": found, "softcore": sc.info(), "rows": rows}, file, indent=1)
    if chosen.picture and rows:
        draw(rows, chosen.picture)
    return None


if __name__ == "__main__":
    main()
