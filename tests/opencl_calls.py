"""Every op of the OpenCL core once, at small shapes: what test_opencl.py runs on several runtimes, here or in a process of its own.

``python opencl_calls.py FILE FACTS`` runs them on the device that softcore chooses, as if it were the one of those facts (a
planner.Device, in JSON), and keeps the results in FILE.
"""

import json
import sys

import numpy as np

import softcore as sc
from softcore import opencl, planner
from softcore.reference import OPS

PART = 128  # what a work-group takes of a long row, so that these rows are long
GPU = planner.Device(cpu=False, units=4, largest=64)
CPU = planner.Device(cpu=True, units=4, largest=64)


def use_tiles_of(monkeypatch_or_none, device):
    """Have the planner choose for another kind of device than there is."""
    opencl._launches.clear()
    if monkeypatch_or_none is None:
        opencl._facts = lambda _: device
    else:
        monkeypatch_or_none.setattr(opencl, "_facts", lambda _: device)


def calls():
    """``(name, arguments, options)`` on NumPy arrays."""
    rng = np.random.default_rng(0)
    x = (3 * rng.standard_normal((5, 70))).astype(np.float32)
    where = rng.random(x.shape) < 0.8
    for op in OPS.values():
        if op.name not in opencl.OPS:
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
        if op.name in opencl._IN_PARTS:
            yield op.name, op.inputs((100 * rng.standard_normal((2, 2 * PART + 33))).astype(np.float32), rng), {}


def run(name, arguments, options, opencl=True):
    """The results on the device, or on the CPU core, as a list of NumPy arrays."""

    def put(a):
        if isinstance(a, tuple) and isinstance(a[0], np.ndarray):
            return tuple(map(put, a))
        return sc.opencl.to_device(a) if isinstance(a, np.ndarray) and opencl else a

    result = getattr(sc, name)(*map(put, arguments), **{key: put(value) for key, value in options.items()})
    return [a.get() if opencl else np.asarray(a) for a in (result if isinstance(result, tuple) else (result,))]


def every_result(opencl=True):
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
    opencl._keep = lambda event, arrays: kept.append((event, arrays))
    use_tiles_of(None, planner.Device(*json.loads(sys.argv[2])))
    np.savez(sys.argv[1], **every_result())
