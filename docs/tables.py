"""Writes the tables of numbers that the pages include, measured here and now, into docs/generated.

python docs/tables.py
"""

from __future__ import annotations

import json
import os
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

import softcore as sc
from softcore import peers
from softcore.reference import OPS
from softcore.testing import ulp_error

GENERATED = Path(__file__).parent / "generated"
DTYPES = ("float32", "float64", "float16", "bfloat16")
FAMILIES = tuple(dict.fromkeys(op.family for op in OPS.values()))
SIZE = (4096, 1024)


def table(head, rows, widths="auto", numbers=True):
    """A list-table of rst."""
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}"]
    lines += ["   :class: numbers"] * numbers + [""]
    for row in (head, *rows):
        lines += [f"   {'*' if i == 0 else ' '} - {cell}" for i, cell in enumerate(row)]
    return "\n".join(lines) + "\n"


def name_of(op):
    return f":func:`~softcore.{op}`"


def dtype_of(name):
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


# --- Accuracy ----------------------------------------------------------------------------------------------------------------


def samples(rng):
    """Short and long rows, flat and steep."""
    for length in (2, 10, 257, 4096):
        for spread in (0.5, 3, 20):
            yield spread * rng.standard_normal((max(2, 4096 // length), length))


def worst(op, dtype):
    rng = np.random.default_rng(0)
    axis = -1 if "axis" in op.options else None
    return max(peers.worst_ulp(op.name, op.inputs(x.astype(dtype_of(dtype)), rng), axis) for x in samples(rng))


def accuracy(family):
    rows = []
    for op in OPS.values():
        if op.family == family:
            errors = [worst(op, dtype) for dtype in DTYPES]
            rows.append([name_of(op.name), *("exact" if e == 0 else f"{e:.2f}" for e in errors)])
    return table(["largest error in ulp", *DTYPES], rows)


def attention_accuracy():
    """Of self-attention of standard normal rows: 4 heads of 256 positions with 64 elements."""
    rows = []
    for op in OPS.values():
        if op.family == "attention":
            errors = []
            for dtype in DTYPES:
                rng = np.random.default_rng(0)
                given = op.inputs(rng.standard_normal((4, 256, 64)).astype(dtype_of(dtype)), rng)
                wide = [a.astype(np.longdouble) for a in given]
                pairs = zip(*(y if isinstance(y, tuple) else (y,) for y in (getattr(sc, op.name)(*given), op.reference(*wide))))
                errors.append(max(float(np.max(ulp_error(a, e, np.max(np.abs(e))))) for a, e in pairs))
            rows.append([name_of(op.name), *(f"{e:.2f}" for e in errors)])
    return table(["largest error in ulp of the largest result", *DTYPES], rows)


def others():
    """The same for SciPy, and for the formula written in NumPy."""
    from scipy import special

    def shifted(x):
        m = np.max(x, -1, keepdims=True)
        e = np.exp(x - m)
        return x - m, e, np.sum(e, -1, keepdims=True), m

    formulas = {
        "softmax": lambda d, e, s, m: e / s,
        "log_softmax": lambda d, e, s, m: d - np.log(s),
        "logsumexp": lambda d, e, s, m: (np.log(s) + m)[..., 0],
    }
    rows = []
    for name, formula in formulas.items():
        for dtype in ("float32", "float64"):
            found = {"softcore": 0.0, "scipy": 0.0, "numpy": 0.0}
            for sample in samples(np.random.default_rng(0)):
                x = sample.astype(dtype)
                expected = OPS[name].reference(x.astype(np.longdouble) if dtype == "float64" else x)
                results = {"softcore": getattr(sc, name)(x), "scipy": getattr(special, name)(x, axis=-1), "numpy": formula(*shifted(x))}
                for library, y in results.items():
                    found[library] = max(found[library], float(np.max(ulp_error(y, expected))))
            rows.append([f"``{name}``, {dtype}", *(f"{e:.2f}" if e < 1000 else f"{e:.0e}" for e in found.values())])
    return table(["largest error in ulp", "softcore", "SciPy", "formula in NumPy"], rows)


# --- Edges -------------------------------------------------------------------------------------------------------------------

EDGES = {
    "max": [
        ("a NaN wins", "sc.max([1, nan, 3])"),
        ("the first NaN is the index", "sc.argmax([1, nan, nan])"),
        ("ties: the first", "sc.argmax([1, 3, 3])"),
        ("ties: the last", "sc.argmax([1, 3, 3], select_last=True)"),
        ("all masked out, with a least value", "sc.max([1, 3], where=[False, False], initial=0)"),
        ("all masked out", "sc.max([1, 3], where=[False, False])"),
        ("an empty row", "sc.max(np.empty((2, 0)))"),
        ("hardmax of an empty row", "sc.hardmax(np.empty((2, 0)))"),
        ("integers stay integers", "sc.max(np.array([1, 3], np.int8)).dtype"),
        ("relu of NaN", "sc.relu([nan, -1.0])"),
        ("gradient of relu at 0", "sc.relu_backward(1.0, [-1.0, 0.0, 1.0])"),
        ("step at 0, and of NaN", "sc.step([0.0, nan])"),
        ("gradient of maximum where equal", "sc.maximum_backward(1.0, 2.0, 2.0)"),
    ],
    "softmax": [
        ("one far below the other", "sc.softmax([0, -40])"),
        ("its logarithm keeps what softmax rounds to 1", "sc.log_softmax([0, -40])"),
        ("and so does that of the sum", "sc.logsumexp([0, -40])"),
        ("weights that cancel", "sc.logsumexp([1, 1], b=[1, -1], return_sign=True)"),
        ("a negative sum has no logarithm", "sc.logsumexp([1, 1], b=[1, -2])"),
        ("a weight of 0 hides its element", "sc.logsumexp([0, nan], b=[1, 0])"),
        ("sigmoid at its ends", "sc.sigmoid([-inf, inf])"),
        ("a subnormal sigmoid", "sc.sigmoid([-740.0])"),
        ("log_sigmoid where sigmoid is 0 or 1", "sc.log_sigmoid([-1000.0, 40.0])"),
        ("softplus far out", "sc.softplus([-40.0, 1000.0])"),
    ],
    "losses": [
        ("all labels ignored: the mean", "sc.cross_entropy([[1.0, 2.0]], [-100])"),
        ("the sum", 'sc.cross_entropy([[1.0, 2.0]], [-100], reduction="sum")'),
        ("the gradient", "sc.cross_entropy_backward(1.0, [[1.0, 2.0]], [-100])"),
        ("a label that is no class", "sc.cross_entropy([[1.0, 2.0]], [2])"),
        ("a target of 0 at a logit of -inf", "sc.cross_entropy([[0.0, -inf]], [[1.0, 0.0]])"),
        ("a label at a logit of -inf", "sc.cross_entropy([[0.0, -inf]], [1])"),
        ("a NaN in a row that is ignored", 'sc.cross_entropy([[nan, 0.0], [0.0, 0.0]], [-100, 1], reduction="none")'),
        ("the loss of half types is float32", "sc.cross_entropy(np.zeros((1, 2), np.float16), [0]).dtype"),
        ("an infinite logit on the right side", "sc.binary_cross_entropy([inf, -inf], [1, 0])"),
        ("on the wrong side", "sc.binary_cross_entropy([inf], [0])"),
    ],
    "pooling": [
        ("a NaN in the window", "sc.max_pool([1.0, nan, 3.0, 4.0], 2)"),
        ("ties: the first in row-major order", "sc.max_pool([7, 7, 7, 7], 2, return_indices=True)"),
        ("padding is never chosen", "sc.max_pool([-1.0, -2.0], 2, padding=1)"),
        ("padding counts in a mean", "sc.avg_pool([2.0, 4.0], 2, padding=1)"),
        ("unless told not to", "sc.avg_pool([2.0, 4.0], 2, padding=1, count_include_pad=False)"),
        ("a window wholly in padding", "sc.max_pool([1.0], 1, padding=1)"),
        ("a window longer than the axis", "sc.max_pool([1.0], 2)"),
        ("an index beyond the plane", "sc.max_unpool([1.0], [4], (4,))"),
        ("two windows with one index: unpool", "sc.max_unpool([1.0, 2.0], [3, 3], (4,))"),
        ("two windows with one index: backward", "sc.max_pool_backward([1.0, 2.0], [3, 3], (4,))"),
        ("a +inf in a soft window", "sc.softmax_pool([inf, 0.0], 2)"),
        ("a -inf in a soft window", "sc.softmax_pool([-inf, 3.0], 2)"),
    ],
    "gates": [
        ("an open gate does not read y", "sc.gate(1.0, nan, inf)"),
        ("a closed one does not read x", "sc.gate(nan, 2.0, -inf)"),
        ("nor do the gradients", "sc.gate_backward(1.0, nan, 2.0, -inf)"),
        ("a half-open one reads both", "sc.gate(1.0, nan, 0.0)"),
        ("a NaN in the gate", "sc.gate(1.0, 2.0, nan)"),
        ("silu at its ends", 'sc.glu([1.0, 1.0, -inf, inf], activation="silu")'),
        ("0 times an infinite activation", 'sc.glu([0.0, inf], activation="relu")'),
        ("an odd length", "sc.glu([1.0, 2.0, 3.0])"),
    ],
    "mixtures": [
        ("all masked out", "sc.softmax_gate([[1.0], [2.0]], [0.0, 0.0], where=[False, False])"),
        ("a masked-out row is not read", "sc.softmax_gate([[1.0], [nan]], [0.0, nan], where=[True, False])"),
        ("a weight of 0 does not hide", "sc.softmax_gate([[1.0], [nan]], [0.0, -inf])"),
        ("all -inf", "sc.softmax_gate([[1.0], [2.0]], [-inf, -inf])"),
        ("no rows", "sc.softmax_gate(np.empty((0, 2)), [], return_lse=True)"),
        ("ties: the lowest index first", "sc.topk_gate([1.0, 1.0, 1.0], 2)"),
        ("a NaN is larger than all numbers", "sc.topk_gate([inf, nan], 1)"),
        ("k = 0", "sc.topk_gate([1.0, 2.0], 0)"),
        ("more than there are", "sc.topk_gate([1.0, 2.0], 3)"),
    ],
    "attention": [
        ("all keys masked out", "sc.attention([[[1.0]]], [[[1.0]]], [[[2.0]]], mask=[[False]], return_lse=True)"),
        ("the same with a sink: still -inf", "sc.attention([[[1.0]]], [[[1.0]]], [[[2.0]]], mask=[[False]], sinks=[0.0], return_lse=True)"),
        ("the gradients", "sc.attention_backward([[[1.0]]], [[[1.0]]], [[[1.0]]], [[[2.0]]], [[[0.0]]], [[-inf]], mask=[[False]])"),
        ("no keys", "sc.attention([[[1.0]]], np.empty((1, 0, 1)), np.empty((1, 0, 1)), return_lse=True)"),
        ("a masked-out key and value are not read", "sc.attention([[[1.0]]], [[[0.0], [nan]]], [[[2.0], [inf]]], mask=[[True, False]])"),
        ("a bias of -inf hides nothing", "sc.attention([[[1.0]]], [[[0.0], [0.0]]], [[[2.0], [nan]]], bias=[[0.0, -inf]])"),
        ("all biases -inf", "sc.attention([[[1.0]]], [[[0.0]]], [[[2.0]]], bias=[[-inf]])"),
        ("a NaN in a key that takes part", "sc.attention([[[1.0]]], [[[0.0], [nan]]], [[[2.0], [3.0]]])"),
        ("causal, fewer queries than keys: top-left", "sc.attention([[[0.0]]], [[[0.0], [0.0]]], [[[2.0], [4.0]]], causal=True)"),
        ("bottom-right", 'sc.attention([[[0.0]]], [[[0.0], [0.0]]], [[[2.0], [4.0]]], causal=True, causal_offset="end")'),
        ("bottom-right, more queries than keys", 'sc.attention([[[0.0], [0.0]]], [[[0.0]]], [[[2.0]]], causal=True, causal_offset="end")'),
        ("a sink takes its share, and has no value", "sc.attention([[[0.0]]], [[[0.0]]], [[[2.0]]], sinks=[0.0], return_lse=True)"),
        ("a window of the query's own position", "sc.attention([[[0.0], [0.0]]], [[[0.0], [0.0]]], [[[2.0], [4.0]]], window=(0, 0))"),
        ("rows past a length", "sc.attention([[[[0.0], [nan]]]], [[[[0.0]]]], [[[[2.0]]]], q_lengths=[1])"),
        ("(0, -inf) changes nothing in a merge", "sc.merge_attention([([[2.0]], [0.5]), ([[0.0]], [-inf])])"),
        ("a length that is too large", "sc.attention([[[[0.0]]]], [[[[0.0]]]], [[[[2.0]]]], kv_lengths=[2])"),
        ("heads that do not divide", "sc.attention(np.ones((3, 1, 1)), np.ones((2, 1, 1)), np.ones((2, 1, 1)))"),
        ("a cache that is full", "sc.KVCache(1, 1, 0, 1).append([[[[1.0]]]], [[[[1.0]]]])"),
    ],
}


ROWS = {
    "one +inf": "[inf, 0]",
    "all -inf": "[-inf, -inf]",
    "a -inf among numbers": "[0, -inf]",
    "a NaN": "[nan, 0]",
    "a NaN, masked out": "[nan, 0], where=[False, True]",
    "all masked out": "[0, 1], where=[False, False]",
    "empty": "np.empty(0)",
}


def shown(value):
    if isinstance(value, tuple):
        return ", ".join(map(shown, value))
    if isinstance(value, np.dtype):
        return str(value)
    return repr(np.asarray(value).tolist()) if np.size(value) else f"[], of shape {np.shape(value)}"


def result(call):
    try:
        return f"``{shown(eval(call, {'sc': sc, 'np': np, 'nan': np.nan, 'inf': np.inf}))}``"
    except (ValueError, IndexError) as error:
        return f"{type(error).__name__}: {error}"


def edges(family):
    return table(["", "call", "result"], [[words, f"``{call}``", result(call)] for words, call in EDGES[family]], "28 40 32", numbers=False)


def rows():
    """What the three functions of whole rows make of awkward ones."""
    functions = ("softmax", "log_softmax", "logsumexp")
    body = [[words, f"``{x}``", *(result(f"sc.{name}({x})") for name in functions)] for words, x in ROWS.items()]
    return table(["row", "", *(f"``{name}``" for name in functions)], body, numbers=False)


# --- Cost --------------------------------------------------------------------------------------------------------------------


def arguments_of(op, rng):
    return op.inputs((3 * rng.standard_normal(SIZE)).astype(np.float32), rng)


def cost_of(op):
    """Bytes that are read and written once, the rate, and the time over that of a copy of as many bytes, in turns with it.

    On one thread, as np.copyto is: with two, whatever else the machine does is waited for.
    """
    rng = np.random.default_rng(0)
    arguments = arguments_of(op, rng)
    axis = -1 if "axis" in op.options else None
    contenders = peers.calls(op.name, arguments, axis, ())
    results = getattr(sc, op.name)(*arguments, **({} if axis is None else {"axis": axis}))
    moved = op.moved(arguments, results)
    source = np.ones(moved // 8, np.float32)  # half of the bytes are read, half are written
    target = np.zeros_like(source)
    with sc.num_threads(1):
        times = peers.take_turns({**contenders, "copy": lambda: np.copyto(target, source)}, rounds=5, block=0.01, patience=20)
    return {
        "bytes": moved / np.prod(SIZE),
        "GB/s": moved / times["softcore"] / 1e9,
        "ns": times["softcore"] / np.prod(SIZE) * 1e9,
        "share": times["copy"] / times["softcore"],
    }


# What a formula asks of each element, on average: additions, multiplications, divisions and comparisons; and exponentials and logarithms.
OPERATIONS = {
    **dict.fromkeys(("max", "argmax", "max_with_argmax", "hardmax", "max_backward"), (1, 0)),  # a comparison
    **dict.fromkeys(("maximum", "maximum_backward", "relu", "relu_backward", "step"), (1, 0)),
    "softmax": (4, 1),  # compare, subtract, exp, add, divide
    "softmax_backward": (4, 0),  # multiply and add, subtract, multiply
    "log_softmax": (4, 1),
    "log_softmax_backward": (3, 1),
    "logsumexp": (3, 1),
    "logsumexp_backward": (2, 1),
    "sigmoid": (2, 1),  # exp, add, divide
    "sigmoid_backward": (3, 0),
    "log_sigmoid": (2, 2),  # compare, subtract, log1p of exp
    "log_sigmoid_backward": (3, 1),
    "softplus": (2, 2),
    "softplus_backward": (3, 1),
    # Of tiles of 2 x 2: an addition or comparison for three elements of four, a division for one.
    "max_pool": (0.75, 0),
    "max_pool_backward": (0, 0),
    "max_unpool": (0, 0),
    "avg_pool": (1, 0),
    "avg_pool_backward": (0.25, 0),
    "softmax_pool": (4.5, 1),
    "softmax_pool_backward": (9.5, 1),
    "cross_entropy": (3, 1),
    "cross_entropy_with_grad": (4, 1),
    "cross_entropy_backward": (4, 1),
    "binary_cross_entropy": (5, 2),
    "binary_cross_entropy_with_grad": (9, 2),
    "binary_cross_entropy_backward": (4, 1),
    "gate": (6, 1),
    "gate_backward": (9, 1),
    "glu": (3, 1),
    "glu_backward": (7, 1),
    # Rows of three numbers: three multiplications and additions for a score.
    "softmax_gate": (10, 1),
    "softmax_gate_backward": (16, 1),
    "topk_gate": (1, 0),
    "topk_gate_backward": (0, 0),
}


def operations(name):
    plain, exps = OPERATIONS[name]
    return f"{plain:g}{f' + {exps} exp' if exps else ''}"


def machine():
    return f"float32, {SIZE[0]} x {SIZE[1]}, last axis, {sc.info()['isa']} kernels"


def costs(family, measured):
    rows = [
        [name_of(name), f"{m['bytes']:.1f}", operations(name), f"{m['ns']:.2f}", f"{m['GB/s']:.1f}", f"{m['share']:.0%}"]
        for name, m in measured.items()
        if OPS[name].family == family
    ]
    head = ["", "bytes an element", "operations an element", "ns an element", "GB/s", "of the rate of a copy"]
    return table(head, rows)


# Queries, and keys with their own number of heads.
PRODUCTS = {
    "all keys": ("attention", (1, 8, 1024, 64), (8, 1024), {}),
    "causal": ("attention", (1, 8, 1024, 64), (8, 1024), {"causal": True}),
    "a window of 128": ("attention", (1, 8, 1024, 64), (8, 1024), {"causal": True, "window": (128, 0)}),
    "decoding": ("attention", (1, 32, 1, 128), (8, 4096), {}),
    "gradients, all keys": ("attention_backward", (1, 8, 1024, 64), (8, 1024), {}),
    "gradients, causal": ("attention_backward", (1, 8, 1024, 64), (8, 1024), {"causal": True}),
}


def attended(queries, keys, causal=False, window=None):
    """How many pairs of a query and a key take part."""
    seen = np.arange(1, queries + 1) if causal else np.full(queries, keys)
    return int(np.sum(seen if window is None else np.minimum(seen, window[0] + 1)))


SQUARE = 512  # large enough for the rate of a product, and over before the system hands the processor to someone else
# Rows, steps and columns of products of which the fastest is the roof: no one shape suits every BLAS.
PRODUCTS_OF_ROOF = ((256, 256, 256), (SQUARE, SQUARE, SQUARE), (1024, 256, 256), (1024, 1024, 1024))


def ceilings():
    """What the machine allows one thread: bytes a second of a copy and of a fold that only reads, operations a second of a product."""
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(0)
    x = rng.standard_normal(SIZE, dtype=np.float32)
    y = np.zeros_like(x)
    calls = {"copy": lambda: np.copyto(y, x), "read": lambda: sc.max(x, None)}
    for shape in PRODUCTS_OF_ROOF:
        m, n, k = shape
        factors = rng.standard_normal((m, n), dtype=np.float32), rng.standard_normal((n, k), dtype=np.float32)
        calls[shape] = partial(np.matmul, *factors, out=np.empty((m, k), np.float32))
    with sc.num_threads(1), threadpool_limits(1, user_api="blas"):
        times = peers.take_turns(calls, rounds=5, block=0.01, patience=20)
    product = max(2 * np.prod(shape) / times[shape] for shape in PRODUCTS_OF_ROOF)
    return {"copy": 2 * x.nbytes / times["copy"], "read": x.nbytes / times["read"], "product": float(product)}


def rates_of_attention():
    """Attention beside the product of two square matrices in NumPy, which does as many operations as the machine allows."""
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(0)
    square = rng.standard_normal((SQUARE, SQUARE), dtype=np.float32)
    measured = {}
    for words, (name, shape, (heads, length), options) in PRODUCTS.items():
        q = rng.standard_normal(shape, dtype=np.float32)
        k, v = rng.standard_normal((2, shape[0], heads, length, shape[3]), dtype=np.float32)
        operations = shape[0] * shape[1] * attended(shape[2], length, **options) * shape[3] * (4 if name == "attention" else 10)
        with sc.num_threads(1), threadpool_limits(1, user_api="blas"):
            given = (q, k, v)
            if name == "attention_backward":
                o, lse = sc.attention(*given, return_lse=True, **options)
                given = (rng.standard_normal(o.shape, dtype=np.float32), *given, o, lse)
            found = peers.calls(name, given, None, (), options)
            times = peers.take_turns({**found, "product": lambda: square @ square}, rounds=5, patience=10)
        measured[words] = {
            "sizes": f"{shape[1]} x {shape[2]} over {heads} x {length}, {shape[3]}",
            "ms": 1e3 * times["softcore"],
            "rate": operations / times["softcore"],
            "share": operations / times["softcore"] / (2 * SQUARE**3 / times["product"]),
            "intensity": operations / OPS[name].moved(given, getattr(sc, name)(*given, **options)),
        }
    return measured


def products(measured):
    from threadpoolctl import threadpool_info

    rows = [[words, m["sizes"], f"{m['ms']:.2f}", f"{m['rate'] / 1e9:.0f}", f"{m['share']:.0%}"] for words, m in measured.items()]
    head = ["", "heads x queries over heads x keys, elements", "ms", "10⁹ operations a second", "of the rate of a matrix product"]
    blas = next((f"{b['internal_api']}'s {b.get('architecture')}" for b in threadpool_info() if b["user_api"] == "blas"), "its own")
    return f"{table(head, rows)}\nfloat32, {sc.info()['isa']} kernels; NumPy multiplies with {blas} kernels"


def ladder():
    """Softmax in steps, from a loop over rows to softcore on all threads."""
    rng = np.random.default_rng(0)
    x = (3 * rng.standard_normal(SIZE)).astype(np.float32)
    y, copied = np.empty_like(x), np.empty_like(x)

    def loop():
        for i in range(len(x)):
            e = np.exp(x[i] - x[i].max())
            y[i] = e / e.sum()

    def whole():
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    def alone():
        with sc.num_threads(1):
            sc.softmax(x, out=y)

    found = peers.calls("softmax", (x,), -1, ("numpy", "scipy", "torch"))
    steps = {
        "a Python loop over rows": loop,
        "the formula on whole arrays": whole,
        "the same, in place by ``out=``": found["numpy"],
        "``scipy.special.softmax``": found["scipy"],
        "``torch.softmax``": found.get("torch"),
        "softcore, 1 thread": alone,
        f"softcore, {sc.get_num_threads()} threads": found["softcore"] if sc.get_num_threads() > 1 else None,
        "``np.copyto``, for comparison": lambda: np.copyto(copied, x),
    }
    times = peers.take_turns({name: call for name, call in steps.items() if call}, rounds=5, patience=20)
    rows = [[name, f"{1e3 * t:.2f}", f"{t / x.size * 1e9:.2f}"] for name, t in times.items()]
    return table(["softmax", "ms", "ns an element"], rows)


def targets():
    """How benchmarks/peers.json was measured, how many targets were met, and which were not."""
    kept = json.loads((Path(__file__).parents[1] / "benchmarks" / "peers.json").read_text())
    run, judged = kept["run"], [(row, target) for row in kept["rows"] for target in row["targets"]]
    missed = [
        [row["case"], str(row["threads"]), target["text"], f"{target['ratio']:.2f}", f"{target['copy']:.2f}" if target.get("copy") else ""]
        for row, target in judged
        if not target["met"]
    ]
    how = ["--quick"] * run["quick"] + ["--threads", *map(str, run["threads"])] + ["--case", run["case"]] * bool(run["case"])
    unsure = ", in few short blocks whose numbers are unsure" * run["quick"]
    told = f"They were made by {kept['softcore']['isa']} kernels, with ``{' '.join(how)}``{unsure}.\n"
    told += f"{len(judged) - len(missed)} of {len(judged)} targets are met{', but not these:' if missed else '.'}\n"
    head = ["case", "threads", "target", "measured", "a copy"]
    if any(copy for *_, copy in missed):
        told += "The last column says how many times faster than that library a mere copy of the bytes is: what an op that computes nothing would reach.\n"
    else:
        head, missed = head[:-1], [row[:-1] for row in missed]
    return told + ("\n" + table(head, missed) if missed else "")


def opencl():
    """What `make bench-opencl` wrote."""
    kept = json.loads((Path(__file__).parents[1] / "benchmarks" / "opencl.json").read_text())
    rows = []
    for row in kept["rows"]:
        targets = "; ".join(f"{t['text']}: {'met' if t['met'] else format(t['value'], '.3g')}" for t in row["targets"])
        if "value" in row:
            rows.append([row["case"], f"{row['value']:.3g} {row['unit'].replace('us', 'µs')}", "", "", targets.replace("us", "µs")])
        else:
            share = f"{row['shares'][row['limit']]:.2f} of {row['limit']}"
            rows.append([row["case"], f"{row['ms']['opencl']:.3g} ms", share, f"{row['to_cython']:.2f}", targets])
    about = kept["about"]
    head = ["case", "one call", "of the rate", "times the CPU core's", "target, and what was found where it is missed"]
    return f"{table(head, rows, '30 11 14 12 33')}\nfloat32; {about['device']}, {about['runtime'].partition(',')[0].strip()}; the CPU core with {about['isa']} kernels\n"


def main():
    if os.environ.pop("OPENBLAS_CORETYPE", None):  # that names kernels for narrower vectors than the machine's, say: no limit then
        os.execv(sys.executable, [sys.executable, *sys.argv])
    GENERATED.mkdir(exist_ok=True)
    start, queued = time.perf_counter(), peers.waited()
    measured, steps = {name: cost_of(op) for name, op in OPS.items() if op.family != "attention"}, ladder()
    attention, most = rates_of_attention(), ceilings()
    tables = {family: f"{costs(family, measured)}\n{machine()}" for family in FAMILIES if family != "attention"}
    tables["attention"] = products(attention)
    busy = peers.waited() - queued > 0.05 * (time.perf_counter() - start)
    when = "measured when these pages were built" + (", on a busy machine: the numbers are unsure." if busy else ".")
    kept = {"machine": f"{machine()}, one thread", "ops": measured, "attention": attention, "ceilings": most}
    (GENERATED / "costs.json").write_text(json.dumps(kept, indent=1))
    pages = {"others": others(), "ladder": f"{steps}\n{machine()}; {when}\n", "rows": rows(), "opencl": opencl(), "targets": targets()}
    for family in FAMILIES:
        pages[f"accuracy_{family}"] = attention_accuracy() if family == "attention" else accuracy(family)
        pages[f"cost_{family}"] = f"{tables[family]}, one thread; {when}\n"
        if family in EDGES:
            pages[f"edges_{family}"] = edges(family)
    for name, text in pages.items():
        (GENERATED / f"{name}.rst").write_text(text)


if __name__ == "__main__":
    main()
