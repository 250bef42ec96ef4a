"""Every op, instruction set, dtype and awkward input against the reference, with errors in units in the last place.

The reference computes in float64, for float64 kernels in longdouble. A half-type result is the rounded exact one, or its
neighbour where the exact one is within 1e-3 of a tie. A backward is measured at the magnitude of its largest term, since its
sums may cancel.
"""

import decimal
import functools
import itertools

import ml_dtypes
import numpy as np
import pytest
from calls import FLOATING

import softcore as sc
from softcore import kernels, reference
from softcore.reference import OPS
from softcore.reference._losses import _sides, _targets
from softcore.testing import awkward, ulp_error

OPS = {name: op for name, op in OPS.items() if op.kind not in ("windows", "mixture", "attention")}  # which have tests of their own
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATING = [np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64)]
INTEGERS = [np.dtype(t) for t in "?bBhHiIqQ"]
ISAS = kernels.available()
REDUCING = [op for op in OPS.values() if op.kind in ("fold", "rows")]
MASKABLE = [op for op in REDUCING if "where" in op.options]
SELECTING = ("max", "argmax", "max_with_argmax")  # refuse a row in which nothing takes part


def lengths(dtype):
    """Row lengths around the widths that kernels work in: a vector, a tile, a frame, a chunk."""
    lanes = 8 if dtype.itemsize == 8 else 16
    tile = 64 * lanes
    frame, chunk = 4 * tile, 16 * tile
    return [1, lanes - 1, lanes, lanes + 1, 64, 65, 8 * lanes + 2, tile - 1, tile, tile + 1, frame - 1, frame, frame + 1, chunk + 1]


# ----------------------------------------------------------------------------------------------------- what is close enough


def largest_terms(op, arguments, options):
    """The magnitude of the terms that an op adds: of each element's largest, and of its row's. None where nothing is added.

    A sum has at least the magnitude of the root of its squared terms: it passes through that, whatever is left of it.
    """
    name = op.name
    if op.family == "losses" and op.direction == "backward":
        return loss_terms(name, *arguments, **options)
    if op.terms:
        with np.errstate(all="ignore"):
            own = op.terms(*widened(arguments), **{key: value for key, value in options.items() if key in op.options})
        return own, own
    if name not in ("softmax_backward", "log_softmax_backward"):
        return None
    with np.errstate(all="ignore"):
        dy, y = (a.astype(np.longdouble if a.dtype.kind in "biu" or a.dtype == np.float64 else float) for a in arguments)
        where = np.broadcast_to(True if options.get("where") is None else options["where"], y.shape)
        factor = np.where(where, y if name == "softmax_backward" else np.exp(y), 0)
        dy = np.where(where, dy, 0)
        added = dy * factor if name == "softmax_backward" else dy
        over = {"axis": options["axis"], "keepdims": True}
        total = np.hypot(np.sum(added, **over), np.sqrt(np.sum(added**2, **over)))
        own = np.abs(factor) * np.abs(dy) if name == "softmax_backward" else np.abs(dy)
        own = abs(options.get("scale", 1.0)) * np.maximum(own, np.abs(factor) * total)
        return own, np.broadcast_to(np.max(own, **over, initial=0), own.shape)


def loss_terms(name, dloss, x, target, axis=-1, reduction="none", **options):
    """Those of the gradient of a loss, whose dloss is one number or one of each row."""
    x = x.astype(float)
    with np.errstate(all="ignore"):
        if name.startswith("binary"):
            up, down = _sides(x, target, options.get("weight"), options.get("pos_weight"))
            size = np.maximum(np.abs(down) * reference.sigmoid(x), np.abs(up) * reference.sigmoid(-x))
            total = x.size
        else:
            given = [options.get(key, default) for key, default in (("weight", None), ("ignore_index", -100), ("label_smoothing", 0.0))]
            p, kept, total = _targets(x, target, (axis % x.ndim,), *given)
            factor = np.sum(np.abs(p), axis, keepdims=True)
            if options.get("z_loss"):
                factor = factor + 2 * options["z_loss"] * np.abs(reference.logsumexp(x, axis, keepdims=True))
            size = np.where(kept, np.maximum(factor * reference.softmax(x, axis), np.abs(p)), 0)
            if np.ndim(dloss):
                dloss = np.expand_dims(dloss, axis)
        size = size * np.abs(dloss) / (total if reduction == "mean" else 1)
    return size, size


def is_rounded(actual, expected, terms=None):
    """Where a half-type result is the exact one rounded, or its neighbour if the exact one is within 1e-3 of a tie.

    With ``terms``, float32 errors of that magnitude are allowed before the rounding.
    """
    with np.errstate(all="ignore"):
        nearest = expected.astype(actual.dtype)
        a, b = actual.astype(float), nearest.astype(float)
        slack = 1e-3 * np.abs(a - b) + (0 if terms is None else 4 * 2.0**-24 * terms)
        near_tie = np.isfinite(a) & (np.abs(expected - (a + b) / 2) <= slack)
        neighbours = (np.abs(a - b) <= slack) | (np.nextafter(actual, nearest) == nearest)
        return (a == b) | (np.isnan(a) & np.isnan(expected)) | (near_tie & neighbours)


def check(op, actual, expected, arguments, options):
    """Assert that a result is as close to the reference as its op promises; return the largest error in ulp."""
    if isinstance(actual, tuple):
        assert isinstance(expected, tuple) and len(actual) == len(expected)
        if op.family == "losses":
            value, slope = (OPS[op.name.replace("_with_grad", end)] for end in ("", "_backward"))
            error = check(value, actual[0], expected[0], arguments, options)
            return max(error, check(slope, actual[1], expected[1], (1.0, *arguments), options))
        return max(check(op, a, e, arguments, options) for a, e in zip(actual, expected))
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    if actual.size == 0:
        return 0.0
    if actual.dtype.kind in "biu":
        assert actual.dtype == expected.dtype and np.array_equal(actual, expected)
        return 0.0
    terms, of_row = largest_terms(op, arguments, options) or (None, None)
    error = ulp_error(actual, expected, of_row)
    worst = np.unravel_index(np.argmax(error), error.shape)
    found = f"{actual[worst]!r} for {expected[worst]!r} at {worst}: {error[worst]:.3g} ulp"
    if op.exact:
        with np.errstate(all="ignore"):
            error = ulp_error(actual, expected.astype(actual.dtype))
        assert error.max() == 0, found
    elif actual.dtype.itemsize == 2:
        wrong = np.argwhere(~is_rounded(actual, expected, terms))
        if len(wrong):
            at = tuple(wrong[0])
            raise AssertionError(f"{actual[at]!r} for {expected[at]!r} at {at}: not the nearest, nor near a tie")
    else:
        assert error.max() <= op.ulp[actual.dtype.name], found
        if terms is not None:  # of no more than twice that within the element: its own roundings come on top of the sum's
            own = ulp_error(actual, expected, terms)
            assert own.max() <= 2 * op.ulp[actual.dtype.name], f"{own.max():.3g} ulp of an element's own terms"
    return float(error.max())


def widened(arguments):
    """float64 arguments as longdouble ones, for the reference; others as they are."""
    return tuple(a.astype(np.longdouble) if np.asarray(a).dtype == np.float64 else a for a in arguments)


def call(op, arguments, options):
    if "axis" not in op.options:
        options = {name: value for name, value in options.items() if name != "axis"}
    return getattr(sc, op.name)(*arguments, **options)


def dtypes(op, dtype):
    """What an op on this dtype returns."""
    value = np.dtype(float) if dtype.kind in "biu" and op.integers != "keep" else dtype
    if op.family == "losses":
        loss = np.dtype(np.float32) if value.itemsize == 2 else value
        return [value] if op.direction == "backward" else [loss, value]
    return {"argmax": [np.dtype(np.intp)], "max_with_argmax": [value, np.dtype(np.intp)]}.get(op.name, [value] * 3)


def turned(a):
    """A matrix with its axes swapped, in memory too; a value per row, or None, as it is."""
    if isinstance(a, tuple):
        return tuple(map(turned, a))
    return np.ascontiguousarray(np.asarray(a).T) if np.ndim(a) == 2 else a


def compare(op, x, options, rng, poison=None):
    """Run an op along both axes on every instruction set, and compare with the reference. Returns the largest error in ulp."""
    options = {**op.apart, **options}
    with np.errstate(all="ignore"):
        if op.name in ("softmax_backward", "log_softmax_backward"):  # y is what a forward of this dtype returns
            arguments = op.inputs(x, rng, axis=-1, **options)
        elif "axis" in op.options:
            arguments = op.inputs(x, rng, axis=-1, **{k: v for k, v in options.items() if k in ("where", "b", "reduction")})
        else:
            arguments = op.inputs(x, rng, **op.apart)
        if poison is not None:
            arguments = tuple(poison(a) if np.shape(a) == x.shape and a.dtype.kind not in "iub" else a for a in arguments)
        given = {"axis": -1, **options} if "axis" in op.options else options
        expected = op.reference(*widened(arguments), **given)
    worst = 0.0
    for axis in (-1, 0) if "axis" in op.options else (-1,):
        if axis == 0:
            arguments, options, expected = turned(arguments), {k: turned(v) for k, v in options.items()}, turned(expected)
        for isa in ISAS:
            with kernels.use(isa):
                actual = call(op, arguments, {"axis": axis, **options})
            try:
                results = actual if isinstance(actual, tuple) else (actual,)
                assert [r.dtype for r in results] == dtypes(op, x.dtype)[: len(results)]
                worst = max(worst, check(op, actual, expected, arguments, {"axis": axis, **options}))
            except AssertionError as error:
                raise AssertionError(f"{op.name} {x.dtype} {x.shape} axis {axis} on {isa}, {sorted(options)}: {error}") from None
    return worst


@functools.lru_cache(maxsize=64)
def batch(dtype, length, seed=0):
    """Every awkward input of this length, two rows of each, and their names in the order of the rows."""
    rng = np.random.default_rng(seed)
    inputs = {name: x for name, x in awkward((2, length), dtype, rng).items() if x.shape == (2, length)}
    return np.concatenate(list(inputs.values()))


# ----------------------------------------------------------------------------------------------------- the comparison itself


def test_check_fails_on_errors():
    softmax, relu = OPS["softmax"], OPS["relu"]
    options = {"axis": -1}
    exact = np.array([[0.1, 0.2, 0.7]])
    near = exact.astype(np.float32)
    assert check(softmax, near, exact, (near,), options) <= 0.5
    for wrong in (near * np.float32(1 + 4e-7), np.array([[0.1, np.nan, 0.7]], np.float32), near[0], near.astype(np.float64)):
        with pytest.raises(AssertionError):
            check(softmax, wrong, exact, (near,), options)
    with pytest.raises(AssertionError):
        check(relu, np.nextafter(near, np.float32(1)), near.astype(float), (near,), options)
    with pytest.raises(AssertionError):
        check(OPS["argmax"], np.array([1]), np.array([2]), (near,), options)


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BFLOAT16])
def test_is_rounded_fails_on_the_neighbour(dtype):
    one = np.array([1], dtype)
    above = np.nextafter(one, np.array([2], dtype))
    step = float(above[0]) - 1
    assert is_rounded(one, np.array([1 + 0.4 * step])).all()
    assert not is_rounded(above, np.array([1 + 0.4 * step])).any()
    assert not is_rounded(one, np.array([1 + 0.6 * step])).any()
    assert not is_rounded(above, np.array([1 + 0.49 * step])).any()
    for result in (one, above):
        assert is_rounded(result, np.array([1 + 0.4995 * step])).all()
        assert is_rounded(result, np.array([1 + 0.5005 * step])).all()
    assert not is_rounded(one, np.array([np.nan])).any()
    assert not is_rounded(np.array([np.nan], dtype), np.array([1.0])).any()
    assert not is_rounded(np.array([np.inf], dtype), np.array([1.0])).any()
    assert is_rounded(np.array([np.nan], dtype), np.array([np.nan])).all()


def test_comparison_fails_on_a_wrong_kernel(monkeypatch, rng):
    softmax = sc.softmax
    monkeypatch.setattr(sc, "softmax", lambda x, axis=-1: softmax(np.nextafter(np.nextafter(x, -x), -x), axis))
    with pytest.raises(AssertionError, match="softmax float32"):
        compare(OPS["softmax"], batch(np.dtype(np.float32), 65), {}, rng)


# ----------------------------------------------------------------------------------------------------- every op, every input


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("op", OPS.values(), ids=lambda op: op.name)
def test_awkward_inputs(op, dtype, rng):
    for length in lengths(dtype):
        compare(op, batch(dtype, length), {}, rng)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("op", OPS.values(), ids=lambda op: op.name)
def test_integers(op, dtype, rng):
    for length in (1, 17, 130, 1025):
        compare(op, batch(dtype, length), {}, rng)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("op", [op for op in OPS.values() if op.integers != "keep" or op.kind != "map"], ids=lambda op: op.name)
def test_empty(op, dtype, rng):
    inputs = awkward((3, 5), dtype, rng)
    compare(op, inputs["empty_batch"].reshape(0, 5), {}, rng)
    if op.name not in SELECTING:
        compare(op, inputs["empty_axis"], {}, rng)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("op", MASKABLE, ids=lambda op: op.name)
def test_masks(op, dtype, rng):
    def poison(a):
        return np.where(where, a, bad).astype(dtype)

    for length in lengths(dtype):
        x = batch(dtype, length)
        bad = rng.choice([np.nan, np.inf, -np.inf], x.shape)
        where = rng.random(x.shape) < rng.choice([0.1, 0.5, 0.9], (len(x), 1))
        where[::5] = op.name in SELECTING  # rows in which nothing takes part
        if op.name in SELECTING:
            where[:, rng.integers(length)] = True
        compare(op, poison(x), {"where": where}, rng, poison)


@pytest.mark.parametrize("scale", [0.3, -2.0, 0.0, 1e-3])
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("op", [op for op in OPS.values() if "scale" in op.options], ids=lambda op: op.name)
def test_scale(op, dtype, scale, rng):
    for length in (1, 17, 65, 130, 1025, 16385):
        x = (5 * rng.standard_normal((5, length))).astype(dtype)
        compare(op, x, {"scale": scale}, rng)
    compare(op, batch(dtype, 130), {"scale": scale}, rng)


@pytest.mark.parametrize("offset", [1e4, -3e5])
@pytest.mark.parametrize("op", [op for op in REDUCING if op.family == "softmax"], ids=lambda op: op.name)
def test_offsets(op, offset, rng):
    for length in (1, 17, 65, 130, 1025, 16385):
        x = (5 * rng.standard_normal((5, length)) + offset).astype(np.float32)
        compare(op, x, {}, rng)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
@pytest.mark.parametrize("length", [100_000, 1_000_000])
def test_long_rows(name, dtype, length, rng):
    for x in (3 * rng.standard_normal((1, length)), np.zeros((1, length)), np.linspace(-30, 0, length)[None]):
        x = x.astype(dtype)
        expected = OPS[name].reference(*widened((x,)))
        for isa in ISAS:
            with kernels.use(isa):
                check(OPS[name], getattr(sc, name)(x), expected, (x,), {"axis": -1})


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_relu_of_minus_zero_is_plus_zero(dtype):
    x = np.tile(np.array([-0.0, -1, 0.0, 2], dtype), 40)
    assert not np.signbit(sc.relu(x).astype(float)).any()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n", [2, 100, 1000, 2049, 16389, 300_001])
def test_logsumexp_that_is_nearly_0(isa, n):
    # Rows of equal numbers are the worst: nothing that is lost to one of them is made up for by another.
    decimal.getcontext().prec = 60
    even = np.log(np.full(n, 1 / n))
    rows = [even, even + 1e-3, even - 0.1, sc.log_softmax(np.where(np.arange(n) % 2, 0.0, -1.0))]
    with kernels.use(isa):
        for row in rows:
            values, counts = np.unique(row, return_counts=True)
            exact = sum(int(c) * decimal.Decimal(v).exp() for v, c in zip(values.tolist(), counts)).ln()
            for found in (sc.logsumexp(row), sc.logsumexp(np.stack([row] * 3, 1), 0)[1]):
                error = float(abs(decimal.Decimal(float(found)) - exact))
                assert error < 3e-18 + 5 * np.spacing(abs(float(exact))), (found, exact)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("ties", ["first", "last", "split", "all"])
def test_ties_in_short_rows_and_in_columns(ties, isa, rng):
    for dtype, length in itertools.product(FLOATING, (1, 2, 7, 16, 63, 64, 65, 130)):
        x = rng.integers(-2, 3, (67, length)).astype(dtype)
        x[1], x[2, -1], x[3, :2], x[4, 0], x[5] = -np.inf, np.nan, np.nan, np.inf, -0.0
        dy = rng.standard_normal(67).astype(dtype)
        expected = reference.max_backward(dy, x, ties=ties)
        with kernels.use(isa):
            rows, columns = sc.max_backward(dy, x, ties=ties), sc.max_backward(dy, np.ascontiguousarray(x.T), 0, ties=ties)
            one = sc.max_backward(dy[6], x[6], ties=ties)
            hot, hot_columns = sc.hardmax(x), sc.hardmax(np.ascontiguousarray(x.T), 0)
        for result, wanted in ((rows, expected), (columns.T, expected), (one, expected[6]), (hot, reference.hardmax(x)), (hot_columns.T, hot)):
            np.testing.assert_array_equal(np.asarray(result).astype(float), np.asarray(wanted).astype(dtype).astype(float))
