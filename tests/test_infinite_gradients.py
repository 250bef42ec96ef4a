"""Incoming gradients that are infinite or NaN: what each backward makes of them is what its definition says, in every walk."""

import ml_dtypes
import numpy as np
import pytest

import softcore as sc
from softcore import kernels

INF, NAN = np.inf, np.nan
LENGTHS = [1, 2, 3, 17, 65, 300, 1025, 5000, 20_000]  # inside a vector, a tile, a frame, a chunk, and past each
DTYPES = [np.float16, np.float32, np.float64]


def same_kind(actual, expected):
    """Finite where expected, and the same inf or NaN elsewhere."""
    actual, expected = np.asarray(actual, float), np.asarray(expected, float)
    return np.where(np.isfinite(expected), np.isfinite(actual), (actual == expected) | (np.isnan(actual) & np.isnan(expected))).all()


@pytest.fixture(params=kernels.available())
def isa(request):
    with kernels.use(request.param):
        yield request.param


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax(isa, name, dtype, rng):
    forward, backward, definition = getattr(sc, name), getattr(sc, f"{name}_backward"), getattr(sc.reference, f"{name}_backward")
    for length in LENGTHS:
        x = rng.standard_normal((9, length)).astype(dtype)
        x[3:6, 0] = 60  # a spike: the other shares are small
        x[6:, : length // 2] = -INF  # shares of 0
        y = forward(x)
        for bad in ([INF], [-INF], [INF, INF], [INF, -INF], [NAN], [INF, NAN]):
            dy = rng.standard_normal(x.shape).astype(dtype)
            for row in dy:
                row[rng.integers(length, size=len(bad))] = bad
            where = rng.random(x.shape) < 0.8
            for scale in (1.0, -2.0):
                expected = definition(dy, y, scale=scale)
                assert same_kind(backward(dy, y, scale=scale), expected)
                assert same_kind(backward(dy.T.copy(), y.T.copy(), 0, scale=scale).T, expected)
                assert same_kind(backward(np.repeat(dy, 2, -1)[:, ::2], y, scale=scale), expected)
                assert same_kind(backward(dy, y, scale=scale, where=where), definition(dy, y, scale=scale, where=where))


def test_a_share_of_a_softmax_is_positive_however_small(isa):
    # exp(-800) is less than the smallest float64, exp(-inf) is 0.
    y = np.array([0.0, -800.0, -INF])
    for ops in (sc, sc.reference):
        np.testing.assert_array_equal(ops.log_softmax_backward([1.0, INF, 1.0], y), [-INF, NAN, NAN])
        np.testing.assert_array_equal(ops.log_softmax_backward([-INF, 1.0, 1.0], y), [NAN, INF, NAN])
        np.testing.assert_array_equal(ops.log_softmax_backward([1.0, -1.0, 1.0], y), [0, -1, 1])


@pytest.mark.parametrize("length", [3, 16, 19, 65, 300])
@pytest.mark.parametrize("dtype", [np.float32, np.dtype(ml_dtypes.bfloat16)], ids=["float32", "bfloat16"])
def test_a_sum_that_only_float64_can_hold(isa, dtype, length):
    # It is infinite in the accumulator, and so in each of its products.
    dy, y = np.zeros((2, length), dtype), np.full((2, length), -1, dtype)
    dy[:, :2] = 3e38
    y[:, 2] = -200
    expected = np.full((2, length), -INF)
    for row in (sc.log_softmax_backward(dy[0], y[0]), sc.log_softmax_backward(np.repeat(dy, 2, -1)[0, ::2], y[0])):
        np.testing.assert_array_equal(row.astype(float), expected[0])
    np.testing.assert_array_equal(sc.log_softmax_backward(dy, y).astype(float), expected)
    np.testing.assert_array_equal(sc.log_softmax_backward(dy.T.copy(), y.T.copy(), 0).T.astype(float), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [0, 1])
def test_maximum_broadcast(isa, axis, dtype, rng):
    def turned(a):
        return a if axis == 1 else np.ascontiguousarray(a.T)

    for length in LENGTHS:
        a = np.zeros((6, length), dtype)
        b = np.array([[5], [-5], [0], [5], [-5], [0]], dtype)  # above, below and equal to every a
        for bad in ([INF], [-INF], [INF, INF], [INF, -INF], [NAN]):
            dy = rng.standard_normal(a.shape).astype(dtype)
            for row in dy:
                row[rng.integers(length, size=len(bad))] = bad
            da, db = sc.maximum_backward(turned(dy), turned(a), turned(b))
            expected = sc.reference.maximum_backward(dy, a, b)
            assert same_kind(da, turned(expected[0])) and same_kind(db, turned(expected[1]))
            np.testing.assert_array_equal(turned(da)[[0, 3]], 0)  # not chosen: 0, whatever the gradient
            np.testing.assert_array_equal(turned(db)[[1, 4]], 0)


def test_maximum_of_a_scalar():
    for ops in (sc, sc.reference):
        da, db = ops.maximum_backward([INF, 1.0], [1.0, 2.0], 2.0)
        np.testing.assert_array_equal(da, [0, 0.5])
        assert db == INF
        assert ops.maximum_backward([INF, -INF], [1.0, 1.0], 2.0)[1] != ops.maximum_backward([INF, -INF], [1.0, 1.0], 2.0)[1]
        assert ops.maximum_backward([INF, -INF], [3.0, 1.0], 2.0)[1] == -INF
