"""Every op of the OpenCL core once, at small shapes: what test_opencl.py runs on several runtimes, here or in a process of its own.

``python opencl_calls.py FILE FACTS [attention]`` runs them on the device that softcore chooses, as if it were the one of those facts (a
planner.Device, in JSON), and keeps the results in FILE.
"""

import json
import sys

import numpy as np

import softcore as sc
from softcore import opencl, planner
from softcore.opencl import launches, programs, runtime
from softcore.reference import OPS

PART = 128  # what a work-group takes of a long row, so that these rows are long
GPU = planner.Device(cpu=False, units=4, largest=64)
CPU = planner.Device(cpu=True, units=4, largest=64)


def use_tiles_of(monkeypatch_or_none, device):
    """Have the planner choose for another kind of device than there is."""
    launches.cache.clear()
    if monkeypatch_or_none is None:
        runtime.facts = lambda _: device
    else:
        monkeypatch_or_none.setattr(runtime, "facts", lambda _: device)


def calls():
    """``(name, arguments, options)`` on NumPy arrays."""
    rng = np.random.default_rng(0)
    x = (3 * rng.standard_normal((5, 70))).astype(np.float32)
    where = rng.random(x.shape) < 0.8
    for op in OPS.values():
        if op.name not in opencl.OPS or op.kind == "attention":
            continue
        arguments = op.inputs(x, rng)
        yield op.name, arguments, {}
        if op.kind in ("fold", "rows"):
            yield op.name, op.inputs(x, rng, axis=0), {"axis": 0}
        if "where" in op.options and op.kind in ("fold", "rows"):
            yield op.name, arguments, {"where": where}
        if "scale" in op.options:
            yield op.name, arguments, {"scale": -0.3}
        if op.name == "max_backward":
            yield op.name, arguments, {"ties": "split"}
            yield op.name, arguments, {"index": np.arange(5)}
        if op.name in ("glu", "glu_backward"):
            yield op.name, arguments, {"activation": "gelu"}
            yield op.name, arguments, {"activation": "gelu_tanh"}
        if op.name.startswith("cross_entropy"):
            weight = rng.random(x.shape[-1]).astype(np.float32)
            yield op.name, arguments, {"label_smoothing": 0.1, "z_loss": 0.1, "weight": weight}
            yield op.name, (*arguments[:-1], np.abs(x)), {}
        if op.name.startswith("binary"):
            yield op.name, arguments, {"weight": np.abs(x), "pos_weight": x**2}
        if op.name in ("maximum_backward", "gate_backward"):
            dy, a, *others = arguments
            yield op.name, (dy, a[0], *others), {}
        if "b" in op.options:
            yield op.name, arguments, {"b": rng.standard_normal(x.shape).astype(np.float32)}
        if op.name in ("softmax", "log_softmax", "logsumexp"):  # more rows than a work-group takes at once, and again
            yield op.name, op.inputs((3 * rng.standard_normal((1100, 17))).astype(np.float32), rng), {}
            yield op.name, (np.ascontiguousarray(x.T)[:, :5].repeat(4, axis=1),), {"axis": 0}  # a tile of a vector of rows, and its rest
        if op.name in programs.IN_PARTS:
            yield op.name, op.inputs((100 * rng.standard_normal((2, 2 * PART + 33))).astype(np.float32), rng), {}


def run(name, arguments, options, opencl=True):
    """The results on the device, or on the CPU core, as a list of NumPy arrays."""

    def put(a):
        if isinstance(a, (tuple, list)) and not isinstance(a[0], int):
            return tuple(map(put, a))
        return sc.opencl.to_device(a) if isinstance(a, np.ndarray) and opencl else a

    result = getattr(sc, name)(*map(put, arguments), **{key: put(value) for key, value in options.items()})
    return [a.get() if opencl else np.asarray(a) for a in (result if isinstance(result, tuple) else (result,))]


def attention_calls():
    """The same of attention: every kernel and option, over more than one tile of each side."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, heads, n, 9)).astype(np.float32) for heads, n in ((2, 37), (1, 41), (1, 41)))
    heads = np.array([0.5, 0.1], np.float32)
    mask, bias = rng.random((37, 41)) < 0.6, rng.standard_normal((2, 37, 41)).astype(np.float32)
    spoiled = v.copy()
    spoiled[0, 0, 40] = np.nan
    for values, options in [
        (v, {}),
        (v, {"causal": True, "causal_offset": "end"}),
        (spoiled, {"window": (9, 2)}),
        (v, {"mask": mask, "bias": bias, "softcap": 1.5, "alibi_slopes": heads, "sinks": heads}),
        (v, {"bias": bias[:, :1], "kv_lengths": [33], "q_lengths": [36]}),
        (v, {"bias": bias[:, :, :1]}),
        (v[..., :1].copy(), {"causal": True}),
        (v, {"q_lengths": [0]}),
    ]:
        o, lse = sc.attention(q, k, values, return_lse=True, **options)
        asked = {f"{name}_grad": True for name in ("bias", "sinks") if name in options}
        yield "attention", (q, k, values), {**options, "return_lse": True}
        yield "attention_backward", (np.ones_like(o), q, k, values, o, lse), {**options, **asked}
    turned = [np.ascontiguousarray(a.swapaxes(1, 2)[..., ::-1]) for a in (q, k, v)]
    yield "attention", tuple(a.astype(np.float16) for a in turned), {"layout": "BLHD"}
    yield "merge_attention", ([(o, lse), (o[:, ::-1].copy(), lse), (o, lse[:, ::-1].copy())],), {}


def every_result(calls=calls, opencl=True):
    part, planner.PART = planner.PART, PART
    try:
        return {
            f"{i} {name} {sorted(options)} {k}": a
            for i, (name, arguments, options) in enumerate(calls())
            for k, a in enumerate(run(name, arguments, options, opencl))
        }
    finally:
        planner.PART = part


if __name__ == "__main__":
    # Oclgrind 21.10 takes a buffer for what it knew of a freed one that had its number, so nothing is freed here.
    kept = []
    launches._keep = lambda event, arrays: kept.append((event, arrays))
    use_tiles_of(None, planner.Device(*json.loads(sys.argv[2])))
    np.savez(sys.argv[1], **every_result(attention_calls if sys.argv[3:] else calls))
