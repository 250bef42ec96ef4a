"""The OpenCL core against the reference, and what is its own: devices, queues, views, launches.

A kernel that goes wrong on these runtimes may hang: every test here has a time limit, after which the whole run ends with a traceback.
"""

import dataclasses
import doctest
import faulthandler
import json
import os
import subprocess
import sys
import textwrap
import threading
import warnings

import numpy as np
import pytest
from calls import BFLOAT16, same_bits
from opencl_calls import CPU, GPU, every_result, use_tiles_of
from test_gates import ACTIVATIONS, ENDS, sweep
from test_kernels import batch, check, turned, widened

import softcore as sc
from softcore import planner
from softcore.reference import OPS
from softcore.testing import awkward, layouts, ulp_error

cl = pytest.importorskip("pyopencl", reason="pyopencl is not installed: pip install softcore[opencl]")
pytest.importorskip("pyopencl.array")

FLOAT32 = np.dtype(np.float32)
OTHERS = [np.dtype(np.float16), BFLOAT16, np.dtype(np.float64)]
HERE = [op for op in OPS.values() if op.name in sc.opencl.OPS and op.kind not in ("windows", "mixture")]


def _compiles(device):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", cl.CompilerWarning)  # Intel's always has something to say
            cl.Program(cl.Context([device]), "__kernel void nothing() {}").build()
        return True
    except cl.Error:
        return False


# A runtime that does not know its processor may hang or crash, and take the whole run with it: only `make test-opencl` asks for one.
ASKED = "SOFTCORE_TEST_OPENCL" in os.environ
DEVICE = next((d for d in sc.opencl.devices() if _compiles(d)), None) if ASKED else None
WITHOUT_A_DEVICE = ("test_oclgrind", "test_without_pyopencl", "test_nothing_is_touched_at_import", "test_every_op_is_here")


@pytest.fixture(autouse=True)
def limited(request):
    if DEVICE is None and not request.node.name.startswith(WITHOUT_A_DEVICE):
        pytest.skip("no OpenCL runtime here compiles for this machine" if ASKED else "on a device they run by make test-opencl")
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
    return np.max(np.abs(np.where(np.isfinite(x), x, 0).astype(float)), axis, initial=0)


def judged(op):
    """What a kernel without fused multiply-add, look-up and wider arithmetic is held to.

    A softmax of floats may be off by 3 units. logsumexp adds the maximum and a logarithm, and its error is that of the larger; on
    the CPU, where they cancel, it sums again in wider arithmetic.
    """
    ulp = {"float32": 3.0 if op.ulp["float32"] < 3 else op.ulp["float32"], "float64": op.ulp["float64"]}
    return dataclasses.replace(op, ulp=ulp, **({"terms": _largest} if op.name == "logsumexp" else {}))


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


@pytest.mark.parametrize("dtype", [np.dtype(t) for t in ("?", "i4", "u1", "i8")], ids=str)
@pytest.mark.parametrize("op", HERE, ids=lambda op: op.name)
def test_integers(op, dtype, rng):
    compare(op, batch(dtype, 130), {}, rng, axes=(-1,))


@pytest.mark.parametrize("op", [op for op in HERE if "where" in op.options and op.kind in ("fold", "rows")], ids=lambda op: op.name)
def test_masks(op, rng):
    def poison(a):
        return np.where(where, a, bad).astype(a.dtype)

    selecting = op.name in ("max", "argmax", "max_with_argmax")
    for length in (1, 9, 65, 1025):
        x = batch(FLOAT32, length)
        bad = rng.choice([np.nan, np.inf, -np.inf], x.shape)
        where = rng.random(x.shape) < rng.choice([0.1, 0.5, 0.9], (len(x), 1))
        where[::5] = selecting  # rows in which nothing takes part
        if selecting:
            where[:, rng.integers(length)] = True
        compare(op, poison(x), {"where": where}, rng, poison)


@pytest.mark.parametrize("scale", [0.3, -2.0, 0.0, 1e-3, np.inf])
@pytest.mark.parametrize("op", [op for op in HERE if op.kind == "rows" and "scale" in op.options], ids=lambda op: op.name)
def test_scale(op, scale, rng):
    for length in (17, 1025):
        compare(op, (5 * rng.standard_normal((5, length))).astype(np.float32), {"scale": scale}, rng)
    compare(op, batch(FLOAT32, 130), {"scale": scale}, rng, axes=(-1,))


@pytest.mark.parametrize("offset", [1e4, -3e5])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_offsets(name, offset, rng):
    for length in (1, 17, 1025):
        compare(OPS[name], (5 * rng.standard_normal((5, length)) + offset).astype(np.float32), {}, rng)


@pytest.mark.parametrize("name", ["logsumexp", "logsumexp_backward"])
def test_weights(name, rng):
    for length in (3, 130):
        x = batch(FLOAT32, length)
        b = rng.choice([0, 1, -1, 2.5, 1e-3], x.shape).astype(np.float32)
        x[:, 0], b[:, 0] = 1, 1000  # no sum is near to 0
        compare(OPS[name], x, {"b": b}, rng)
    x, b = np.float32([[np.inf, 1], [-np.inf, 0], [2, 3], [np.nan, 1]]), np.float32([[0, 1], [np.inf, 1], [np.inf, 1], [0, 1]])
    for options in ({"b": b}, {"b": b, "return_sign": True}, {"b": -b, "return_sign": True}, {"b": -b}):
        for actual, expected in zip(on_device("logsumexp", x, **options), sc.logsumexp(x, **options)):
            np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("name", ["softmax_backward", "log_softmax_backward"])
def test_infinite_gradients(name, value, rng):
    y = on_device(name.removesuffix("_backward"), np.where(np.arange(40) < 8, -np.inf, rng.standard_normal((4, 40))).astype(np.float32))
    dy = rng.standard_normal(y.shape).astype(np.float32)
    dy[np.arange(4), [0, 9, 20, 39]] = value
    np.testing.assert_allclose(on_device(name, dy, y), getattr(sc.reference, name)(dy, y), rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------------------------------------------- the max family, gates


@pytest.mark.parametrize("ties", ["first", "last", "split", "all"])
def test_ties(ties, rng):
    x = batch(FLOAT32, 70)
    dy = rng.standard_normal(len(x)).astype(np.float32)
    for a in (x, rng.integers(0, 9, x.shape), np.int64(2**60) + rng.integers(0, 3, x.shape)):
        np.testing.assert_array_equal(on_device("max_backward", dy, a, ties=ties), sc.max_backward(dy, a, ties=ties))
    where = rng.random(x.shape) < 0.5
    np.testing.assert_array_equal(on_device("max_backward", dy, x, ties=ties, where=where), sc.max_backward(dy, x, ties=ties, where=where))


def test_select_last_and_index(rng):
    x = batch(FLOAT32, 70)
    dy = rng.standard_normal(len(x)).astype(np.float32)
    for function in ("argmax", "max_with_argmax"):
        for actual, expected in zip(on_device(function, x, select_last=True), getattr(sc, function)(x, select_last=True)):
            np.testing.assert_array_equal(actual, expected)
    index = rng.integers(0, 70, len(x))
    where = rng.random(x.shape) < 0.5
    for given in (index, index.astype(np.uint8)):
        np.testing.assert_array_equal(
            on_device("max_backward", dy, x, index=given, where=where), sc.max_backward(dy, x, index=index, where=where)
        )
    with pytest.raises(IndexError, match="max_backward: index holds 70, it must be from 0 to 69, for rows of 70 elements"):
        on_device("max_backward", dy, x, index=index + (70 - index.max()))
    with pytest.raises(TypeError, match="max_backward: index is not a pyopencl array and the other arrays are"):
        sc.max_backward(to_device(dy), to_device(x), index=index)


def test_initial_and_rows_in_which_nothing_takes_part(rng):
    x = rng.integers(-9, 9, (4, 30))
    where = np.ones(x.shape, bool)
    where[1] = False
    np.testing.assert_array_equal(on_device("max", x, where=where, initial=3), sc.max(x, where=where, initial=3))
    np.testing.assert_array_equal(get(sc.max(to_device(x[:, :0]), initial=3)), [3] * 4)
    for function in ("max", "argmax", "max_with_argmax"):
        with pytest.raises(ValueError, match=f"{function}: where masks out every element of a row"):
            on_device(function, x, where=where)


SHAPES = [((3, 4), (3, 4), (3, 4)), ((3, 40), (40,), (3, 1)), ((), (3, 1), (1, 40)), ((5, 3, 40), (3, 1), (5, 1, 40))]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["gate", "maximum"])
def test_gradients_of_what_was_broadcast(name, shapes, rng):
    arrays = [rng.standard_normal(s).astype(np.float32) for s in (shapes if name == "gate" else shapes[:2])]
    dy = rng.standard_normal(np.broadcast_shapes(*(a.shape for a in arrays))).astype(np.float32)
    np.testing.assert_allclose(on_device(name, *arrays), getattr(sc, name)(*arrays), rtol=1e-6, atol=1e-7)
    expected = getattr(sc, f"{name}_backward")(dy, *arrays)
    for actual, e in zip(on_device(f"{name}_backward", dy, *arrays), expected):
        assert actual.shape == np.shape(e)
        np.testing.assert_allclose(actual, e, rtol=1e-5, atol=1e-5)
    device = [to_device(a) for a in (dy, *arrays)]
    out = tuple(device[1:])
    results = getattr(sc, f"{name}_backward")(*device, out=out)  # over what is read
    for actual, given, e in zip(results, out, expected):
        assert actual is given
        np.testing.assert_allclose(actual.get(), e, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gates_at_the_edges(dtype, rng):
    one, zero = ENDS[np.dtype(dtype).itemsize]
    r = np.array([one, 1000, np.inf, zero, -1000, -np.inf, np.nextafter(one, zero), np.nextafter(zero, one), np.nan, 0], dtype)
    for a, b in ((2, np.nan), (np.nan, 2), (2, np.inf), (-np.inf, 2)):
        a, b = np.full_like(r, a), np.full_like(r, b)
        for name, arguments in (("gate", (a, b, r)), ("gate_backward", (a, a, b, r))):
            for actual, expected in zip(on_device(name, *arguments), getattr(sc, name)(*arguments)):
                np.testing.assert_allclose(actual, expected, rtol=1e-6)
    n, largest = 4000, np.finfo(dtype).maxexp - 1
    df, x, y = (np.ldexp(rng.uniform(1, 2, n) * rng.choice([-1, 1], n), rng.integers(-largest, largest, n)).astype(dtype) for _ in range(3))
    r = (10 * rng.standard_normal(n)).astype(dtype)
    assert ulp_error(on_device("gate", x, y, r), sc.reference.gate(*widened((x, y, r))), OPS["gate"].terms(*widened((x, y, r)))).max() <= 4
    for d, e in zip(on_device("gate_backward", df, x, y, r), sc.reference.gate_backward(*widened((df, x, y, r)))):
        assert ulp_error(d, e).max() <= 6


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation, dtype, rng):
    b = sweep(dtype, 200_003)
    one = np.ones_like(b)
    exact = activation in ("relu", "none")
    expected = sc.reference.glu(widened((one, b)), activation=activation)
    assert ulp_error(get(sc.glu((to_device(one), to_device(b)), activation=activation)), expected).max() <= (0.5 if exact else 3)
    x = np.concatenate([one, b])
    with np.errstate(all="ignore"):
        terms = OPS["glu_backward"].terms(*widened((one, x)), activation=activation)
        expected = sc.reference.glu_backward(*widened((one, x)), activation=activation)
    assert ulp_error(on_device("glu_backward", one, x, activation=activation), expected, terms).max() <= (0.5 if exact else 4.5)
    b = np.array([-np.inf, np.inf, np.nan, 0.0, -0.0], dtype)
    for actual, e in zip(
        get(sc.glu_backward(*map(to_device, (np.ones_like(b), (np.ones_like(b), b))), activation=activation)),
        sc.reference.glu_backward(np.ones_like(b), (np.ones_like(b), b), activation=activation),
    ):
        np.testing.assert_array_equal(actual, e)


# ----------------------------------------------------------------------------------------------------------------- mixtures


def alike(actual, expected, rtol=2e-6, atol=1e-6):
    for a, e in zip(*[r if isinstance(r, tuple) else (r,) for r in (actual, expected)]):
        assert a.shape == np.shape(e) and a.dtype == np.asarray(e).dtype
        if a.dtype.kind in "iu":
            np.testing.assert_array_equal(a, e)
        else:
            np.testing.assert_allclose(np.asarray(a, float), np.asarray(e, float), rtol=rtol, atol=atol)


MIXTURES = [
    ((5, 70, 3), (5, 70)),
    ((3, 1, 1), (3, 1)),
    ((6, 40), (5, 6)),
    ((4, 6, 33), (6,)),
    ((3, 1, 20, 7), (1, 4, 20)),
    ((2, 0, 3), (2, 0)),
    ((2, 4, 0), (2, 4)),
]


@pytest.mark.parametrize("shapes", MIXTURES, ids=str)
def test_softmax_gate(shapes, rng):
    x, r = (rng.standard_normal(s).astype(np.float32) for s in shapes)
    batch_shape = np.broadcast_shapes(x.shape[:-2], r.shape[:-1])
    do = rng.standard_normal((*batch_shape, x.shape[-1])).astype(np.float32)
    where = rng.random((*batch_shape, r.shape[-1])) < 0.7
    for options in ({}, {"scale": -2.5}, {"where": where}, {"where": where, "scale": 0.5}):
        alike(on_device("softmax_gate", x, r, **options), sc.softmax_gate(x, r, **options))
        alike(on_device("softmax_gate", x, r, return_lse=True, **options), sc.softmax_gate(x, r, return_lse=True, **options))
        alike(on_device("softmax_gate_backward", do, x, r, **options), sc.softmax_gate_backward(do, x, r, **options), atol=1e-5)


@pytest.mark.parametrize("dtype", [FLOAT32, *OTHERS, np.dtype(np.int32)], ids=str)
def test_softmax_gate_of_awkward_scores(dtype, rng):
    r = batch(dtype, 9)
    x = rng.standard_normal((*r.shape, 3)).astype(dtype)
    where = rng.random(r.shape) < 0.6
    if dtype.kind != "i":
        x[~where] = np.nan  # not read
    tolerance = {"float16": 1e-3, "bfloat16": 8e-3}.get(dtype.name, 1e-6)
    alike(on_device("softmax_gate", x, r, where=where), sc.softmax_gate(x, r, where=where), rtol=tolerance)
    do = rng.standard_normal((len(r), 3)).astype(dtype)
    alike(
        on_device("softmax_gate_backward", do, x, r, where=where),
        sc.softmax_gate_backward(do, x, r, where=where),
        rtol=tolerance,
        atol=tolerance,
    )


@pytest.mark.parametrize("dtype", [FLOAT32, *OTHERS, np.dtype(np.int64)], ids=str)
@pytest.mark.parametrize("renormalize", [True, False])
def test_topk_gate(dtype, renormalize, rng):
    r = batch(dtype, 40)
    tolerance = {"float16": 1e-3, "bfloat16": 8e-3}.get(dtype.name, 1e-6)
    for k in (1, 5, 40):
        weights, indices = on_device("topk_gate", r, k, renormalize=renormalize)
        expected = sc.topk_gate(r, k, renormalize=renormalize)
        alike((weights, indices), expected, rtol=tolerance)
        dw = rng.standard_normal(weights.shape).astype(weights.dtype)
        alike(
            on_device("topk_gate_backward", dw, r, indices, renormalize=renormalize),
            sc.topk_gate_backward(dw, r, indices, renormalize=renormalize),
            rtol=4 * tolerance,
            atol=4 * tolerance,
        )
    alike(
        on_device("topk_gate", np.ascontiguousarray(r.T), 3, 0, renormalize=renormalize),
        sc.topk_gate(r.T, 3, 0, renormalize=renormalize),
        rtol=tolerance,
    )
    assert on_device("topk_gate", r, 0)[0].shape == (len(r), 0)


def test_topk_gate_of_large_integers_and_repeated_indices(rng):
    r = 2**60 + rng.integers(0, 40, (3, 20))
    np.testing.assert_array_equal(on_device("topk_gate", r, 7)[1], sc.topk_gate(r, 7)[1])
    r, dw = rng.standard_normal((3, 6)).astype(np.float32), rng.standard_normal((3, 9)).astype(np.float32)
    indices = rng.integers(0, 6, (3, 9))
    for renormalize in (True, False):
        alike(
            on_device("topk_gate_backward", dw, r, indices, renormalize=renormalize),
            sc.topk_gate_backward(dw, r, indices, renormalize=renormalize),
        )
    with pytest.raises(IndexError, match="topk_gate_backward: indices holds 6, it must be from 0 to 5, for rows of 6 elements"):
        on_device("topk_gate_backward", dw, r, indices + (6 - indices.max()))


# ------------------------------------------------------------------------------------------------------------------ losses


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"weight": True}, {"label_smoothing": 0.1}, {"z_loss": 0.1}, {"weight": True, "label_smoothing": 0.2, "z_loss": 0.1}],
    ids=str,
)
def test_cross_entropy(options, soft, rng):
    x = (3 * rng.standard_normal((6, 70))).astype(np.float32)
    target = rng.random(x.shape).astype(np.float32) if soft else np.where(rng.random(6) < 0.3, -100, rng.integers(0, 70, 6))
    if soft:
        x[1, 3], target[1, 3] = -np.inf, 0  # no loss
    options = {**options, **({"weight": rng.random(70).astype(np.float32)} if "weight" in options else {})}
    if soft and options.get("label_smoothing"):
        x[1, 3] = 0
    for reduction in ("mean", "sum", "none"):
        dloss = np.asarray(rng.standard_normal(6 if reduction == "none" else ())).astype(np.float32)
        alike(
            on_device("cross_entropy", x, target, reduction=reduction, **options),
            sc.cross_entropy(x, target, reduction=reduction, **options),
        )
        alike(
            on_device("cross_entropy_with_grad", x, target, reduction=reduction, **options),
            sc.cross_entropy_with_grad(x, target, reduction=reduction, **options),
        )
        alike(
            on_device("cross_entropy_backward", dloss, x, target, reduction=reduction, **options),
            sc.cross_entropy_backward(dloss, x, target, reduction=reduction, **options),
        )
    logits = to_device(x)
    loss, dlogits = sc.cross_entropy_with_grad(logits, to_device(target), out=logits, **{k: to_device(v) for k, v in options.items()})
    assert dlogits is logits
    alike((loss.get(), logits.get()), sc.cross_entropy_with_grad(x, target, **options))


def test_edges_of_cross_entropy(rng):
    x = rng.standard_normal((3, 5)).astype(np.float32)
    ignored = np.full(3, -100)
    for reduction in ("mean", "sum"):
        alike(
            on_device("cross_entropy_with_grad", x, ignored, reduction=reduction),
            sc.cross_entropy_with_grad(x, ignored, reduction=reduction),
        )
    alike(on_device("cross_entropy_backward", np.float32(np.nan), x, ignored), np.zeros_like(x))
    x = np.float32([[np.inf, 1, 2], [-np.inf, 1, 2], [-np.inf] * 3, [np.nan, 1, 2]])
    for label in range(3):
        target = np.full(4, label)
        for function in ("cross_entropy", "cross_entropy_with_grad"):
            alike(on_device(function, x, target, reduction="none"), getattr(sc, function)(x, target, reduction="none"))
    with pytest.raises(IndexError, match="cross_entropy: target holds 3, it must be from 0 to 2"):
        on_device("cross_entropy", x, np.array([0, 1, 3, 0]))
    with pytest.raises(TypeError, match="cross_entropy: target is not a pyopencl array and the other arrays are"):
        sc.cross_entropy(to_device(x), np.array([0, 1, 2, 0]))
    alike(on_device("cross_entropy", x[None, :3, :2], np.array([4]), (1, 2)), sc.cross_entropy(x[None, :3, :2], np.array([4]), (1, 2)))


def test_binary_cross_entropy(rng):
    x = (3 * rng.standard_normal((70, 90))).astype(np.float32)  # more than one chunk
    target, weight = rng.random(x.shape).astype(np.float32), rng.random(90).astype(np.float32)
    for reduction in ("mean", "sum", "none"):
        dloss = np.asarray(rng.standard_normal(x.shape if reduction == "none" else ())).astype(np.float32)
        for options in ({}, {"weight": weight}, {"pos_weight": weight}, {"weight": weight, "pos_weight": weight}):
            options = {"reduction": reduction, **options}
            for a, t in ((x, target), (np.ascontiguousarray(x.T).T[:, ::-1], target > 0.5)):
                alike(on_device("binary_cross_entropy", a, t, **options), sc.binary_cross_entropy(a, t, **options), atol=2e-6)
                alike(on_device("binary_cross_entropy_with_grad", a, t, **options), sc.binary_cross_entropy_with_grad(a, t, **options))
                alike(
                    on_device("binary_cross_entropy_backward", dloss, a, t, **options),
                    sc.binary_cross_entropy_backward(dloss, a, t, **options),
                )
    x, target = np.float32([np.inf, -np.inf, np.inf, np.nan]), np.float32([1, 0, 0.5, 1])
    alike(
        on_device("binary_cross_entropy_with_grad", x, target, reduction="none"),
        sc.binary_cross_entropy_with_grad(x, target, reduction="none"),
    )
    alike(on_device("binary_cross_entropy", x[1:3], 1.0), np.float32(np.inf))


# ----------------------------------------------------------------------------------------------------------------- pooling

WINDOWS = [
    ((2, 3, 7, 9), (2, 2), {}),
    ((2, 3, 7, 9), (3, 3), {"stride": 2, "padding": 1}),
    ((7, 9), (3, 2), {"stride": 1, "padding": "same", "dilation": 2}),
    ((2, 11), 3, {"ceil_mode": True}),
    ((2, 5, 6, 4), (2, 3), {"layout": "channels_last", "padding": ((0, 1), (1, 0))}),
    ((2, 3, 4, 5, 6), (2, 2, 3), {"stride": (1, 2, 2)}),
]


@pytest.mark.parametrize("given", WINDOWS, ids=str)
def test_pooling(given, rng):
    shape, window, options = given
    x = rng.integers(-9, 9, shape).astype(np.float32) / 4
    x.reshape(-1)[[3, 20]] = np.nan, -np.inf
    layout = {key: value for key, value in options.items() if key == "layout"}
    y, indices = on_device("max_pool", x, window, return_indices=True, **options)
    alike((y, indices), sc.max_pool(x, window, return_indices=True, **options))
    dy = rng.standard_normal(y.shape).astype(np.float32)
    alike(on_device("max_pool_backward", dy, indices, shape, **layout), sc.max_pool_backward(dy, indices, shape, **layout))
    alike(on_device("max_unpool", y, indices, shape, **layout), sc.max_unpool(y, indices, shape, **layout))
    alike(on_device("softmax_pool", x, window, **options), sc.softmax_pool(x, window, **options))
    alike(on_device("softmax_pool_backward", dy, x, window, **options), sc.softmax_pool_backward(dy, x, window, **options))
    for padding in (True, False):
        alike(
            on_device("avg_pool", x, window, count_include_pad=padding, **options),
            sc.avg_pool(x, window, count_include_pad=padding, **options),
        )
        gradient = sc.avg_pool_backward(dy, shape, window, count_include_pad=padding, **options)
        alike(on_device("avg_pool_backward", dy, shape, window, count_include_pad=padding, **options), gradient)


@pytest.mark.parametrize("dtype", [*OTHERS, np.dtype(np.int32), np.dtype(np.uint8)], ids=str)
def test_pooling_of_other_dtypes(dtype, rng):
    x = rng.integers(0, 40, (3, 9, 8)).astype(dtype)
    x = np.where(rng.random(x.shape) < 0.1, np.nan, x).astype(dtype) if dtype.kind not in "iu" else x
    tolerance = {"float16": 1e-3, "bfloat16": 8e-3}.get(dtype.name, 1e-6)
    y, indices = on_device("max_pool", x, (3, 3), stride=1, return_indices=True)
    alike((y, indices), sc.max_pool(x, (3, 3), stride=1, return_indices=True))
    alike(on_device("max_unpool", y, indices, x.shape), sc.max_unpool(y, indices, x.shape))
    dy = rng.standard_normal(y.shape).astype(dtype)
    alike(on_device("max_pool_backward", dy, indices, x.shape), sc.max_pool_backward(dy, indices, x.shape), rtol=tolerance)
    for name in ("avg_pool", "softmax_pool"):
        alike(on_device(name, x, (2, 2)), getattr(sc, name)(x, (2, 2)), rtol=tolerance)
    dy = rng.standard_normal((3, 4, 4)).astype(dtype)
    alike(on_device("softmax_pool_backward", dy, x, (2, 2)), sc.softmax_pool_backward(dy, x, (2, 2)), rtol=tolerance, atol=tolerance)


def test_pooling_in_place_and_with_bad_indices(rng):
    x = rng.standard_normal((2, 6, 6)).astype(np.float32)
    out = to_device(x)
    assert sc.avg_pool(out, (3, 3), stride=1, padding=1, out=out) is out
    alike(out.get(), sc.avg_pool(x, (3, 3), stride=1, padding=1))
    y, indices = sc.max_pool(x, (2, 2), return_indices=True)
    with pytest.raises(IndexError, match="max_unpool: indices holds 99"):
        on_device("max_unpool", y, np.where(indices == indices.max(), 99, indices), x.shape)
    with pytest.raises(TypeError, match="max_unpool: indices is not a pyopencl array and the other arrays are"):
        sc.max_unpool(to_device(y), indices, x.shape)


# --------------------------------------------------------------------------------------------------------- axes and layouts

ROWS = [op for op in HERE if op.kind in ("fold", "rows")]


@pytest.mark.parametrize("axis", [0, (0, 2), (2, 0), None, ()])
@pytest.mark.parametrize("op", ROWS, ids=lambda op: op.name)
def test_axes(op, axis, rng):
    x = (3 * rng.standard_normal((4, 5, 6))).astype(np.float32)
    arguments = op.inputs(x, rng, axis=axis)
    expected = getattr(sc, op.name)(*arguments, axis=axis)
    actual = on_device(op.name, *arguments, axis=axis)
    for a, e in zip(*[r if isinstance(r, tuple) else (r,) for r in (actual, expected)]):
        assert a.shape == np.shape(e)
        np.testing.assert_allclose(a, e, rtol=2e-6, atol=1e-7)


def laid_out(a, name):
    """The array on the device, laid out in another way: (array, whether it is)."""
    memory = layouts(a)[name]
    base = memory if memory.base is None else memory.base
    if base.nbytes == memory.nbytes and name not in ("fortran", "reversed", "all_reversed"):
        base = memory
    flat = np.ascontiguousarray(base.T if base.flags.f_contiguous else base).reshape(-1)
    buffer = sc.opencl.to_device(flat)
    offset = memory.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    return cl.array.Array(buffer.queue, a.shape, a.dtype, data=buffer.base_data, offset=offset, strides=memory.strides)


@pytest.mark.parametrize("layout", ["fortran", "reversed", "all_reversed", "every_other", "padded"])
@pytest.mark.parametrize("op", [op for op in HERE if op.kind in ("fold", "rows", "map")], ids=lambda op: op.name)
def test_layouts_give_the_same_bits(op, layout, rng):
    # In Fortran order rows lie side by side, more of them than a vector holds and not a multiple.
    x = (3 * rng.standard_normal((20, 70))).astype(np.float32)
    arguments = op.inputs(x, rng)
    expected = getattr(sc, op.name)(*map(to_device, arguments))
    changed = [laid_out(a, layout) if getattr(a, "shape", None) == x.shape else to_device(a) for a in arguments]
    for a, b in zip(arguments, changed):
        if getattr(a, "shape", None) == x.shape:
            assert b.strides == layouts(a)[layout].strides
    actual = getattr(sc, op.name)(*changed)
    for a, e in zip(*[r if isinstance(r, tuple) else (r,) for r in (get(actual), get(expected))]):
        assert same_bits(a, e)


def test_slices_are_not_copied(rng):
    x = rng.standard_normal((6, 40)).astype(np.float32)
    whole = to_device(x)
    out = to_device(np.full_like(x, 7))
    sc.softmax(whole[2:5, 3:20], out=out[2:5, 3:20])
    expected = np.full_like(x, 7)
    expected[2:5, 3:20] = on_device("softmax", np.ascontiguousarray(x[2:5, 3:20]))
    assert same_bits(out.get(), expected)


def test_a_row_is_the_same_in_any_batch(rng):
    x = (3 * rng.standard_normal((40, 1025))).astype(np.float32)
    for name in ("softmax", "log_softmax", "logsumexp"):
        y = on_device(name, x)
        for rows in (slice(3, 4), slice(7, 20)):
            assert same_bits(on_device(name, x[rows]), y[rows])


LONG = [op for op in HERE if op.name in sc.opencl._IN_PARTS]


def long_rows(rng):
    """Rows of several parts: far from zero and near it, with parts that hold nothing, NaN twice, and maxima in the last part."""
    n = 3 * planner.PART + 777
    x = (3 * rng.standard_normal((6, n))).astype(np.float32)
    x[1] += 1000
    x[2, : planner.PART], x[2, planner.PART : 2 * planner.PART], x[2, 2 * planner.PART :] = -np.inf, x[2, : planner.PART] + 290, 305
    x[3], x[3, [n - 9, n - 5]] = -np.inf, 2
    x[4, [planner.PART + 3, n - 9]] = np.nan
    x[5, n - 9] = np.inf
    return x


@pytest.mark.parametrize("op", LONG, ids=lambda op: op.name)
def test_long_rows(op, rng):
    x = long_rows(rng)
    compare(op, x, {}, rng)
    if op.name in ("argmax", "max_with_argmax"):
        np.testing.assert_array_equal(on_device(op.name, x, select_last=True)[-1], getattr(sc, op.name)(x, select_last=True)[-1])
    where = rng.random(x.shape) < 0.5
    where[:, 0] = True
    compare(op, x, {"where": where}, rng, axes=(-1,))
    if "scale" in op.options:
        compare(op, x, {"scale": -0.3}, rng, axes=(-1,))


@pytest.mark.parametrize("op", LONG, ids=lambda op: op.name)
def test_one_long_row_is_shared_and_the_same_as_in_a_batch(op, rng):
    arguments = op.inputs(long_rows(rng), rng)
    whole = get(getattr(sc, op.name)(*map(to_device, arguments)))
    sc.opencl._launches.clear()
    row = get(getattr(sc, op.name)(*(to_device(a[1:2]) for a in arguments)))
    for a, b in zip(*[r if isinstance(r, tuple) else (r,) for r in (row, whole)]):
        assert same_bits(a, b[1:2])
    ((launches, _),) = sc.opencl._launches.values()
    assert all(launch[3][1] >= 4 for launch in launches)  # work-groups: the row has so many parts


def test_more_axes_than_a_kernel_walks(rng):
    x = cl.array.to_device(sc.opencl.queue(), np.zeros((4,) * 10, np.float32))[(slice(None, None, 2),) * 10]
    with pytest.raises(ValueError, match="relu|softmax: there are 10 axes no two of which can be joined, the OpenCL core takes 8"):
        sc.softmax(x)


def test_empty(rng):
    for op in HERE:
        for shape in ((0, 5), (3, 0)):
            if shape == (3, 0) and op.name in ("max", "argmax", "max_with_argmax") or op.kind not in ("fold", "rows", "map"):
                continue
            arguments = op.inputs(awkward((3, 5), "float32", rng)["empty_axis" if shape == (3, 0) else "empty_batch"].reshape(shape), rng)
            actual, expected = on_device(op.name, *arguments), getattr(sc, op.name)(*arguments)
            for a, e in zip(*[r if isinstance(r, tuple) else (r,) for r in (actual, expected)]):
                np.testing.assert_array_equal(a, e)


# ------------------------------------------------------------------------------------------------------------ out and inputs


def test_out_is_written_and_returned(rng):
    x = rng.standard_normal((5, 40)).astype(np.float32)
    for name in ("softmax", "log_softmax", "logsumexp"):
        out = to_device(np.zeros_like(sc.logsumexp(x) if name == "logsumexp" else x))
        assert getattr(sc, name)(to_device(x), out=out) is out
        assert same_bits(out.get(), on_device(name, x))
        in_place = to_device(x)
        if name != "logsumexp":
            assert getattr(sc, name)(in_place, out=in_place) is in_place
            assert same_bits(in_place.get(), out.get())


@pytest.mark.parametrize("shift", [1, -1, 7])
def test_partial_overlap(shift, rng):
    memory = rng.standard_normal(6 * 5 + 7).astype(np.float32)
    first, second = (slice(max(0, s), max(0, s) + 30) for s in (shift, -shift))
    buffer = to_device(memory)
    x, out = (buffer[s].reshape(6, 5) for s in (first, second))
    sc.softmax(x, out=out)
    assert same_bits(buffer[second].get().reshape(6, 5), on_device("softmax", memory[first].reshape(6, 5)))


def test_mixed_dtypes(rng):
    dy, y = rng.standard_normal((4, 30)), on_device("softmax", rng.standard_normal((4, 30)).astype(np.float32))
    dx = on_device("softmax_backward", dy, y)
    assert dx.dtype == np.float32
    np.testing.assert_allclose(dx, sc.softmax_backward(dy, y), rtol=1e-6, atol=1e-8)


def test_a_number_beside_arrays(rng):
    x = rng.standard_normal((4, 30)).astype(np.float32)
    dx = get(sc.logsumexp_backward(2.0, to_device(x), sc.logsumexp(to_device(x))))
    np.testing.assert_allclose(dx, sc.logsumexp_backward(2.0, x, sc.logsumexp(x)), rtol=1e-5)


def test_errors(rng):
    x = rng.standard_normal((4, 30)).astype(np.float32)
    device = to_device(x)
    with pytest.raises(TypeError, match="softmax_backward: y is a pyopencl array and dy is not, all must be of one kind"):
        sc.softmax_backward(x, device)
    with pytest.raises(TypeError, match="softmax: where is not a pyopencl array and the other arrays are"):
        sc.softmax(device, where=x > 0)
    with pytest.raises(TypeError, match="softmax: where has dtype float32, it must be bool"):
        sc.softmax(device, where=device)
    with pytest.raises(TypeError, match="softmax: where is a pyopencl array"):
        sc.softmax(x, where=device)
    with pytest.raises(TypeError, match="softmax: out is a ndarray, it must be a pyopencl.array.Array"):
        sc.softmax(device, out=x)
    with pytest.raises(TypeError, match="softmax: out has dtype int32, it must be float32"):
        sc.softmax(device, out=to_device(np.zeros((4, 30), np.int32)))
    with pytest.raises(ValueError, match=r"softmax: out has shape \(30, 4\), it must be \(4, 30\)"):
        sc.softmax(device, out=to_device(np.zeros((30, 4), np.float32)))
    with pytest.raises(TypeError, match="softmax: x has dtype complex64"):
        sc.softmax(cl.array.to_device(sc.opencl.queue(), x.astype(np.complex64)))
    with pytest.raises(ValueError, match="softmax: x has no queue"):
        sc.softmax(device.with_queue(None))


def test_every_op_is_here():
    assert {op.name for op in OPS.values() if op.family != "attention"} == sc.opencl.OPS


def test_an_op_that_is_missing(monkeypatch):
    monkeypatch.setattr(sc.opencl, "OPS", sc.opencl.OPS - {"softmax"})
    with pytest.raises(TypeError, match="softmax: x is a pyopencl array, it must be a NumPy array: the OpenCL core has no softmax yet"):
        sc.softmax(to_device(np.zeros((4, 4), np.float32)))


def test_a_device_without_float64(rng, monkeypatch):
    use_tiles_of(monkeypatch, planner.Device(cpu=True, units=2, largest=64, double=False))
    x = rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    alike(on_device("avg_pool", x, (2, 2)), sc.avg_pool(x, (2, 2)))
    alike(on_device("softmax_pool", x, (2, 2)), sc.softmax_pool(x, (2, 2)))
    for a in (x.astype(float), np.arange(6)):
        with pytest.raises(TypeError, match="softmax: the device '.*' has no float64, in which this call computes"):
            on_device("softmax", a)
    np.testing.assert_array_equal(on_device("max", np.arange(6)), 5)
    sc.opencl._launches.clear()


def test_to_device_keeps_the_order(rng):
    x = rng.standard_normal((4, 6))
    for a in (x, np.asfortranarray(x), x[::-1, ::2], x.astype(">f8"), x[0, 0], [[1, 2], [3, 4]]):
        device = sc.opencl.to_device(a)
        np.testing.assert_array_equal(device.get(), a)
        assert device.shape == np.shape(a) and device.dtype.isnative


# ------------------------------------------------------------------------------------------------ queues, threads, processes


def test_a_result_is_on_its_operands_queue(rng):
    other = cl.CommandQueue(sc.opencl.queue().context)
    x = sc.opencl.to_device(rng.standard_normal((300, 1000)).astype(np.float32))
    y = sc.softmax(x.with_queue(other))
    assert y.queue == other
    z = sc.log_softmax(y.with_queue(sc.opencl.queue()))  # of what another queue may not have written yet
    np.testing.assert_allclose(z.get(), sc.log_softmax(sc.softmax(x.get())), atol=1e-5)


def test_out_of_order_queue(rng):
    queue = cl.CommandQueue(sc.opencl.queue().context, properties=cl.command_queue_properties.OUT_OF_ORDER_EXEC_MODE_ENABLE)
    x = sc.opencl.to_device(rng.standard_normal((300, 1000)).astype(np.float32)).with_queue(queue)
    y = x
    for _ in range(5):
        y = sc.softmax(sc.log_softmax(y))
    expected = x.get()
    for _ in range(5):
        expected = sc.softmax(sc.log_softmax(expected))
    np.testing.assert_allclose(y.get(), expected, rtol=1e-4)


def test_threads(rng):
    x = [(3 * rng.standard_normal((20, 50 + i))).astype(np.float32) for i in range(8)]
    expected = [on_device("softmax", a) for a in x]
    wrong = []

    def work(i):
        for _ in range(50):
            if not same_bits(on_device("softmax", x[i]), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_a_new_size_builds_nothing(rng, monkeypatch):
    on_device("softmax", np.zeros((3, 40), np.float32))
    monkeypatch.setattr(sc.opencl, "_program", None)
    for shape in ((3, 41), (70, 8), (1, 1000), (2, 3, 4)):
        on_device("softmax", np.zeros(shape, np.float32))


def test_results_come_from_the_allocator_of_the_input(rng):
    pool = cl.tools.MemoryPool(cl.tools.ImmediateAllocator(sc.opencl.queue()))
    x = cl.array.to_device(sc.opencl.queue(), np.zeros((3, 40), np.float32), allocator=pool)
    assert isinstance(sc.softmax(x).base_data, cl.tools.PooledBuffer)


def test_tiles_of_a_gpu(rng, monkeypatch):
    """The settings for GPUs, with work-groups that share a row: no GPU was at hand, so CPU runtimes say whether they are right.

    Building takes PoCL a second for each of them: one of each kind here, and every one under Oclgrind.
    """
    use_tiles_of(monkeypatch, GPU)
    assert planner.choose_opencl(1025, 4, GPU).wg == 64 and planner.choose_opencl(20, 4, GPU).rows == 32
    for name in ("softmax", "log_softmax", "softmax_backward", "logsumexp", "max_with_argmax", "max_backward", "sigmoid"):
        compare(OPS[name], batch(FLOAT32, 1025), {}, rng, axes=(-1,))
    sc.opencl._launches.clear()


def test_examples_in_docstrings():
    tested = doctest.testmod(sc.opencl)
    assert tested.attempted and not tested.failed


def child(code, **environment):
    """What a new process prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_nothing_is_touched_at_import():
    code = """
        import sys, softcore as sc
        assert "pyopencl" not in sys.modules
        sc.opencl
        import pyopencl as cl
        def touch(): raise SystemExit("touched")
        cl.get_platforms = touch
        import numpy as np
        sc.softmax(np.zeros((3, 4)))
        print("ok")
    """
    assert child(code) == "ok"


def test_without_pyopencl():
    code = """
        import sys
        sys.modules["pyopencl"] = None
        import softcore as sc
        print(sc.opencl.available(), sc.opencl.devices(), sc.info()["opencl"])
        for call in (sc.opencl.queue, lambda: sc.opencl.to_device([1.0]), lambda: sc.opencl.use("any")):
            try:
                call()
            except ImportError as error:
                print(error)
    """
    lines = child(code).splitlines()
    assert lines[0] == "False [] []" and len(lines) == 4
    assert all("pip install softcore[opencl]" in line for line in lines[1:])


def test_a_device_is_chosen_by_name():
    code = "import softcore as sc; print([d.name for d in sc.opencl.devices()])"
    assert child(code, SOFTCORE_OPENCL="no such device") == "[]"
    assert DEVICE.name in child(code, SOFTCORE_OPENCL=DEVICE.platform.name.upper())
    assert "Oclgrind" not in child(code, SOFTCORE_OPENCL="")
    with pytest.raises(ValueError, match="opencl.use: no device is named 'no such device'; there are "):
        sc.opencl.use("no such device")
    code = "import softcore as sc; sc.opencl.queue()"
    with pytest.raises(AssertionError, match=r"found no OpenCL device named 'no such' \(SOFTCORE_OPENCL\): install it with"):
        child(code, SOFTCORE_OPENCL="no such")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_after_fork():
    code = f"""
        import os, sys, warnings
        warnings.simplefilter("ignore")
        import numpy as np, softcore as sc
        sc.opencl.use({DEVICE.name!r})
        x = sc.opencl.to_device(np.zeros((2, 4), np.float32))
        sc.softmax(x).get()
        if os.fork() == 0:
            for call in (lambda: sc.softmax(x), sc.opencl.queue, sc.opencl.devices):
                try:
                    call()
                except RuntimeError as error:
                    print("does not survive os.fork()" in str(error), flush=True)
            print(sc.softmax(np.zeros(2)), flush=True)
            os._exit(0)
        print(os.wait()[1])
    """
    assert child(code).splitlines() == ["True"] * 3 + ["[0.5 0.5]", "0"]


def test_exit_with_work_pending():
    code = f"""
        import numpy as np, softcore as sc
        sc.opencl.use({DEVICE.name!r})
        x = sc.opencl.to_device(np.zeros((2000, 1000), np.float32))
        for _ in range(20):
            x = sc.softmax(x)
        print("ok")
    """
    assert child(code) == "ok"


# ----------------------------------------------------------------------------------------------------------------- oclgrind

OCLGRIND = {
    "SOFTCORE_OPENCL": "oclgrind",
    "OCL_ICD_VENDORS": "",  # what pip installed
    "PYOPENCL_NO_CACHE": "1",
    "OCLGRIND_BUILD_OPTIONS": "-cl-opt-disable",
    "OCLGRIND_DATA_RACES": "1",
    "OCLGRIND_UNINITIALIZED": "1",
}


def simulated(tmp_path, *arguments):
    """Run a script under Oclgrind; what it logged."""
    log = tmp_path / "oclgrind.log"
    environment = {**os.environ, **OCLGRIND, "OCLGRIND_LOG": str(log)}
    environment.pop("OCL_ICD_VENDORS")
    code = "import softcore as sc; raise SystemExit(not sc.opencl.devices())"
    if subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=120, check=False).returncode:
        pytest.skip("Oclgrind is not installed: pip install pyopencl[oclgrind]")
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return log.read_text()


@pytest.mark.parametrize("tiles", ["cpu", "gpu"])
def test_oclgrind_finds_nothing(tiles, tmp_path):
    faulthandler.cancel_dump_traceback_later()  # a thousand times slower than a device; the process has a time limit of its own
    facts = GPU if tiles == "gpu" else sc.opencl._facts(DEVICE) if DEVICE else CPU
    script = os.path.join(os.path.dirname(__file__), "opencl_calls.py")
    assert simulated(tmp_path, script, str(tmp_path / "results.npz"), json.dumps(facts)) == ""
    with np.load(tmp_path / "results.npz") as results:
        for name, expected in every_result(opencl=DEVICE is not None).items():
            if DEVICE and tiles == "cpu":
                assert same_bits(results[name], expected), name
            np.testing.assert_allclose(results[name], expected, rtol=3e-6, atol=2e-6, err_msg=name)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("x[get_global_id(0) + 1] = 0;", "Invalid write"),
        ("if (get_local_id(0) < 2) x[0] = get_local_id(0);", "data race"),
    ],
)
def test_oclgrind_finds_what_was_planted(body, found, tmp_path):
    code = f"""
import numpy as np, pyopencl.array, pyopencl as cl, softcore as sc
x = sc.opencl.to_device(np.zeros(4, np.float32))
program = cl.Program(x.context, "__kernel void planted(__global float *x) {{ {body} }}").build()
program.planted(x.queue, (4,), (4,), x.base_data).wait()
"""
    assert found in simulated(tmp_path, "-c", code)
