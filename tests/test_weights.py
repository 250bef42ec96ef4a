"""logsumexp with weights at its edges: every combination of infinite, NaN and ordinary elements and weights.

The expected value is worked out here anew, element by element, in extended real numbers: a weight of 0 annihilates its element
whatever it is, exp(-inf) is 0, the exponential of anything else is positive, and inf - inf and inf * 0 are nan.
"""

import itertools
import math

import numpy as np
import pytest

import softcore as sc
from softcore import kernels

INF, NAN = np.inf, np.nan
X = [-INF, -1.0, 2.0, INF, NAN]
B = [0.0, 1.0, -1.0, 2.5, -40.0, INF, -INF, NAN]


def term(x, b):
    if b == 0:
        return 0.0
    if math.isnan(x) or math.isnan(b) or (x == -INF and math.isinf(b)):
        return NAN
    if x == INF or math.isinf(b):
        return math.copysign(INF, b)
    return b * math.exp(x)


def value_and_sign(row):
    """log|sum b exp x| and the sign of the sum, for pairs (x, b)."""
    terms = [term(x, b) for x, b in row]
    if any(map(math.isnan, terms)) or {INF, -INF} <= set(terms):
        return NAN, NAN
    infinite = [t for t in terms if math.isinf(t)]
    total = infinite[0] if infinite else math.fsum(terms)
    size = INF if infinite else math.log(abs(total)) if total else -INF
    return size, math.copysign(1, total) if total else 0.0


def gradient(x, b, y):
    """b exp(x - y) for one element, where no element has a share of a sum of 0."""
    if b == 0:
        return 0.0
    if any(map(math.isnan, (x, b, y))) or x == y == INF:
        return NAN
    share = 0.0 if x == -INF or y in (INF, -INF) else math.exp(x - y)
    return NAN if math.isinf(b) and share == 0 else b * share


def every_row(length):
    """x, b, and what is expected of them: value and sign."""
    pairs = list(itertools.product(X, B))
    rows = list(itertools.product(pairs, repeat=length) if length < 3 else itertools.combinations_with_replacement(pairs, length))
    x, b = np.moveaxis(np.array(rows), -1, 0)
    return (x, b, *np.array([value_and_sign(row) for row in rows]).T)


ROWS = {length: every_row(length) for length in (1, 2, 3)}


def laid_out(x, b, layout):
    """The same rows as positional and keyword arguments, and how to get one value per row back."""
    if layout == "axis 0":
        return np.ascontiguousarray(x.T), {"axis": 0, "b": np.ascontiguousarray(b.T)}
    if layout == "strided":
        return np.repeat(x, 2, -1)[:, ::2], {"b": np.repeat(b, 2, -1)[:, ::2]}
    if layout == "masked":  # elements that would show stand between, and are hidden
        wide = np.stack([x, np.full_like(x, NAN)], -1).reshape(len(x), -1)
        weights = np.stack([b, np.full_like(b, -INF)], -1).reshape(len(x), -1)
        return wide, {"b": weights, "where": np.arange(wide.shape[-1]) % 2 == 0}
    return x, {"b": b}


def assert_close(actual, expected, dtype):
    np.testing.assert_allclose(actual, expected, rtol=1e-6 if dtype == np.float32 else 1e-14, atol=0)


@pytest.fixture(params=["reference", *kernels.available()])
def ops(request):
    """The definitions, and the functions on each instruction set."""
    if request.param == "reference":
        yield sc.reference
    else:
        with kernels.use(request.param):
            yield sc


@pytest.mark.parametrize("layout", ["contiguous", "axis 0", "strided", "masked"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("length", ROWS)
def test_every_combination(ops, length, dtype, layout):
    x, b, size, sign = ROWS[length]
    given, options = laid_out(x.astype(dtype), b.astype(dtype), layout)
    y, s = ops.logsumexp(given, **options, return_sign=True)
    assert_close(y, size, dtype)
    np.testing.assert_array_equal(s, sign)
    assert_close(ops.logsumexp(given, **options), np.where(sign < 0, NAN, size), dtype)


@pytest.mark.parametrize("layout", ["contiguous", "axis 0", "strided", "masked"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("length", ROWS)
def test_every_gradient(ops, length, dtype, layout):
    x, b, size, _ = ROWS[length]
    y = size.astype(dtype)
    expected = np.array([[gradient(*pair, v) for pair in zip(u, w)] for u, w, v in zip(x.tolist(), b.tolist(), y.tolist())])
    given, options = laid_out(x.astype(dtype), b.astype(dtype), layout)
    dx = ops.logsumexp_backward(np.ones(len(x), dtype), given, y, **options)
    if layout == "axis 0":
        dx = dx.T
    if layout == "masked":
        assert not dx[:, 1::2].any()
        dx = dx[:, ::2]
    assert_close(dx, expected, dtype)


@pytest.mark.parametrize("filler", [(NAN, 0.0), (-INF, 1.0), (-INF, -2.0)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_long_rows(ops, dtype, filler, rng):
    # The three elements lie in different chunks, among elements that change nothing.
    x, b, size, sign = ROWS[3]
    some = rng.choice(len(x), 100, replace=False)
    wide, weights = (np.full((100, 40_000), f, dtype) for f in filler)
    for a, rows in ((wide, x), (weights, b)):
        a[:, [5, 20_000, 39_999]] = rows[some]
    y, s = ops.logsumexp(wide, b=weights, return_sign=True)
    assert_close(y, size[some], dtype)
    np.testing.assert_array_equal(s, sign[some])


@pytest.mark.parametrize("order", [1, -1])
def test_a_row_cut_over_threads(order, rng):
    x, b, size, sign = ROWS[3]
    wide, weights = np.full(200_000, -INF), np.ones(200_000)
    with sc.num_threads(2):
        for i in rng.choice(len(x), 60, replace=False):
            wide[[3, 100_000, 190_000][::order]], weights[[3, 100_000, 190_000][::order]] = x[i], b[i]
            y, s = sc.logsumexp(wide, b=weights, return_sign=True)
            assert_close(y, size[i], np.float64)
            np.testing.assert_array_equal(s, sign[i])


def test_an_infinite_weight_on_a_small_exponential(ops):
    # SciPy gives nan where exp(x) underflows.
    for x in ([2000.0, 0.0], [0.0, -800.0]):
        assert ops.logsumexp(x, b=[1, INF]) == INF
        np.testing.assert_array_equal(ops.logsumexp(x, b=[1, -INF], return_sign=True), (INF, -1))
        np.testing.assert_array_equal(ops.logsumexp(x, b=[-INF, INF], return_sign=True), (NAN, NAN))


def test_nan_that_takes_part_shows_in_the_gradient(ops):
    np.testing.assert_array_equal(ops.logsumexp_backward(1.0, [-INF, -INF], -INF, b=[1, NAN]), [0, NAN])
    np.testing.assert_array_equal(ops.logsumexp_backward(NAN, [-INF, -INF], -INF, b=[1, 0]), [NAN, 0])
    np.testing.assert_array_equal(ops.logsumexp_backward(NAN, [-INF, -INF], -INF), [NAN, NAN])
    np.testing.assert_array_equal(ops.logsumexp_backward(NAN, [-INF, 1.0], 1.0, where=[False, True]), [0, NAN])


@pytest.mark.parametrize("length", ROWS)
def test_as_scipy(length):
    # But for the two rules above: SciPy does not let a weight of 0 annihilate inf or NaN where the result is not finite anyhow.
    special = pytest.importorskip("scipy.special", reason="compared with SciPy")
    x, b, size, sign = ROWS[length]
    kept = ~((b == 0) & ((x == INF) | np.isnan(x))).any(-1)
    with np.errstate(all="ignore"):
        if np.isnan(special.logsumexp([1.0, 2.0], b=[INF, 1.0])):
            pytest.skip("SciPy 1.15, the last for Python 3.10, has other rules for infinities and for sums of 0")
        y, s = special.logsumexp(x[kept], axis=-1, b=b[kept], return_sign=True)
        np.testing.assert_allclose(size[kept], y, rtol=1e-13)
        np.testing.assert_array_equal(sign[kept], s)
        np.testing.assert_allclose(np.where(sign < 0, NAN, size)[kept], special.logsumexp(x[kept], axis=-1, b=b[kept]), rtol=1e-13)
