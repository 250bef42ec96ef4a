"""The OpenCL core against the reference, and what is its own: devices, queues, views, launches.

A kernel that goes wrong on these runtimes may hang: every test here has a time limit, after which the whole run ends with a traceback.
"""

import dataclasses
import faulthandler
import os
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from calls import BFLOAT16, same_bits, sample
from test_kernels import batch, check, turned, widened

import softcore as sc
from softcore import planner
from softcore.reference import OPS
from softcore.testing import awkward, broadcasts, layouts

cl = pytest.importorskip("pyopencl", reason="pyopencl is not installed: pip install softcore[opencl]")
import pyopencl.array  # noqa: E402

FLOAT32 = np.dtype(np.float32)
OTHERS = [np.dtype(np.float16), BFLOAT16, np.dtype(np.float64)]
HERE = [op for op in OPS.values() if op.name in sc.opencl.OPS]


def _compiles(device):
    try:
        cl.Program(cl.Context([device]), "__kernel void nothing() {}").build()
        return True
    except cl.Error:
        return False


DEVICE = next((d for d in sc.opencl.devices() if _compiles(d)), None)
pytestmark = pytest.mark.skipif(DEVICE is None, reason="no OpenCL runtime that compiles for this machine")


@pytest.fixture(autouse=True)
def limited():
    faulthandler.dump_traceback_later(120, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True, scope="module")
def device():
    return sc.opencl.use(DEVICE) if DEVICE else None


def to_device(a):
    """Arrays on the device, and whatever else as it is."""
    if isinstance(a, tuple):
        return tuple(map(to_device, a))
    return sc.opencl.to_device(a) if isinstance(a, (np.ndarray, np.generic)) else a


def get(a):
    if isinstance(a, tuple):
        return tuple(map(get, a))
    assert isinstance(a, cl.array.Array)
    return a.get()


def on_device(name, *arguments, **options):
    """A function of softcore on copies of its arguments on the device, and what comes back."""
    return get(getattr(sc, name)(*map(to_device, arguments), **{key: to_device(value) for key, value in options.items()}))


def _largest(x, axis=-1, **options):
    with np.errstate(all="ignore"):
        m = np.abs(np.max(np.where(np.isfinite(x), x, 0), axis, initial=-np.inf))
    return np.where(np.isfinite(m), m, 0)


def judged(op):
    """logsumexp adds the maximum and a logarithm, which may cancel; on the CPU it then sums again in wider arithmetic."""
    return dataclasses.replace(op, terms=_largest) if op.name == "logsumexp" else op


def compare(op, x, options, rng, poison=None, axes=(-1, 0)):
    """Run an op on the device along the last axis and along the first, and compare with the reference."""
    options = {**op.apart, **options}
    has_axis = "axis" in op.options
    with np.errstate(all="ignore"):
        kept = {k: v for k, v in options.items() if k in ("where", "b", "reduction")} if has_axis else op.apart
        if op.name in ("softmax_backward", "log_softmax_backward"):
            kept = options
        arguments = op.inputs(x, rng, **({"axis": -1} if has_axis else {}), **kept)
        if poison is not None:
            arguments = tuple(poison(a) if np.shape(a) == x.shape and a.dtype.kind not in "iub" else a for a in arguments)
        expected = op.reference(*widened(arguments), **({"axis": -1} if has_axis else {}), **options)
    for axis in axes if has_axis else (-1,):
        if axis == 0:
            arguments, options, expected = turned(arguments), {k: turned(v) for k, v in options.items()}, turned(expected)
        given = {"axis": axis, **options} if has_axis else options
        actual = on_device(op.name, *arguments, **given)
        try:
            check(judged(op), actual, expected, arguments, {"axis": axis, **options})
        except AssertionError as error:
            raise AssertionError(f"{op.name} {x.dtype} {x.shape} axis {axis}, {sorted(options)}: {error}") from None


# ----------------------------------------------------------------------------------------------------- every op, every input


@pytest.mark.parametrize("op", HERE, ids=lambda op: op.name)
def test_awkward_inputs(op, rng):
    for length in (1, 7, 8, 9, 32, 65, 130, 1025, 5000):
        compare(op, batch(FLOAT32, length), {}, rng)


@pytest.mark.parametrize("dtype", OTHERS, ids=str)
@pytest.mark.parametrize("op", HERE, ids=lambda op: op.name)
def test_other_dtypes(op, dtype, rng):
    for length in (5, 65, 1025):
        compare(op, batch(dtype, length), {}, rng, axes=(-1,))
