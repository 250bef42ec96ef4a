"""Forms of axis, and rows without elements."""

import numpy as np
import pytest
from calls import FOLDS, MAPS, ONE_RESULT, ROWS, same_bits, sample
from ml_dtypes import bfloat16
from numpy.exceptions import AxisError

import softcore as sc


@pytest.mark.parametrize("name", [*ROWS, *FOLDS])
@pytest.mark.parametrize(
    ("axis", "same"),
    [(-1, 2), (np.int8(1), 1), (-3, 0), ((1,), 1), ((2, 0), (0, 2)), ((-1, -3), (0, 2)), (None, (0, 1, 2)), ((0, 1, 2), None)],
)
def test_forms_of_axis(name, axis, same):
    x = sample((2, 3, 4))
    assert same_bits(ONE_RESULT[name](x, axis=axis), ONE_RESULT[name](x, axis=same))


@pytest.mark.parametrize("name", FOLDS)
@pytest.mark.parametrize("axis", [0, 1, (0, 2), None, ()])
def test_keepdims(name, axis):
    x = sample((2, 3, 4))
    kept = FOLDS[name](x, axis, keepdims=True)
    assert kept.shape == np.max(x, axis=axis, keepdims=True).shape
    assert same_bits(np.squeeze(kept), np.squeeze(FOLDS[name](x, axis)))


def test_several_axes_are_one_row_in_the_arrays_own_order():
    x = sample((2, 3, 4))
    rows = np.ascontiguousarray(x.transpose(1, 0, 2).reshape(3, 8))
    assert same_bits(sc.argmax(x, (2, 0)), sc.argmax(rows))
    assert same_bits(sc.softmax(x, (2, 0)).transpose(1, 0, 2).reshape(3, 8), sc.softmax(rows))
    assert sc.argmax(x, None) == np.argmax(x)


def test_no_axes_make_each_element_its_own_row():
    x = sample((2, 3))
    assert same_bits(sc.max(x, ()), x)
    assert same_bits(sc.logsumexp(x, ()), x)
    assert same_bits(sc.argmax(x, ()), np.zeros((2, 3), np.intp))
    assert same_bits(sc.softmax(x, ()), np.ones_like(x))
    assert same_bits(sc.max_backward(x, x, ()), x)


@pytest.mark.parametrize("n", [2, 5, 70, 20_001])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, bfloat16, np.int16, bool])
def test_many_rows_of_one_element(dtype, n):
    special = [0.0, -0.0, 3.0, -7.0, np.inf, -np.inf, np.nan, 1e-40, 6e4, -3e38]
    with np.errstate(all="ignore"):
        x = np.resize(np.nan_to_num(special) if np.dtype(dtype).kind in "bi" else special, n).astype(dtype)
    y = x.astype(sc.softmax(x[:1]).dtype)
    finite = np.isfinite(y.astype(np.float64))
    ones, zeros = np.where(finite, 1, np.nan).astype(y.dtype), np.where(finite, 0, np.nan).astype(y.dtype)
    twice = np.repeat(x, 2)[::2]
    for rows, axis in [(x[:, None], 1), (x[None], 0), (x[None, :, None], (0, 2)), (x, ()), (twice, ()), (x[::-1, None][::-1], -1)]:
        assert_equal(sc.softmax(rows, axis), ones.reshape(rows.shape))
        for scale in (2.5, 1e30, -1, 0):
            assert_equal(sc.softmax(rows, axis, scale=scale), ones.reshape(rows.shape))
        assert_equal(sc.log_softmax(rows, axis), zeros.reshape(rows.shape))
        assert_equal(sc.logsumexp(rows, axis).reshape(-1), y)
        out = np.empty(rows.shape[::-1], y.dtype).T
        assert sc.softmax(rows, axis, out=out) is out
        assert_equal(out, ones.reshape(rows.shape))
    if y.dtype == x.dtype:
        sc.softmax(x[:, None], out=x[:, None])
        assert_equal(x, ones)


def assert_equal(y, expected):
    assert y.dtype == expected.dtype
    assert y.shape == expected.shape
    np.testing.assert_array_equal(y.astype(np.float64), expected.astype(np.float64))


@pytest.mark.parametrize("axis", [-1, 0, None, ()])
@pytest.mark.parametrize("x", [3.0, np.float32(3), np.array(3.0)])
def test_a_scalar_is_one_row(x, axis):
    dtype = np.asarray(x).dtype
    for name, expected in [("max", 3), ("logsumexp", 3), ("softmax", 1), ("log_softmax", 0), ("hardmax", 1)]:
        y = getattr(sc, name)(x, axis)
        assert type(y) is dtype.type and y == expected
    assert type(sc.argmax(x, axis)) is np.intp


@pytest.mark.parametrize("name", [*ROWS, *FOLDS])
@pytest.mark.parametrize(
    ("axis", "error", "text"),
    [
        (3, AxisError, "axis 3 is out of bounds for an array of 2 dimensions"),
        (-3, AxisError, "axis -3 is out of bounds for an array of 2 dimensions"),
        ((0, 2), AxisError, "axis 2 is out of bounds for an array of 2 dimensions"),
        (10**30, AxisError, "is out of bounds"),
        ((0, -2), ValueError, "axis is \\(0, -2\\), it must not name the same axis twice"),
        (1.0, TypeError, "axis is a float, it must be an int, a tuple of ints or None"),
        ("0", TypeError, "axis is a str"),
        (True, TypeError, "axis is a bool"),
        ([0], TypeError, "axis is a list"),
        ((0, None), TypeError, "axis is a tuple holding NoneType"),
        (np.array([0, 1]), TypeError, "axis is an array"),
        ({}, TypeError, "axis is a dict"),
    ],
)
def test_bad_axis(name, axis, error, text):
    with pytest.raises(error, match=text):
        ONE_RESULT[name](sample((2, 3)), axis=axis)


def test_axis_of_a_scalar_out_of_bounds():
    with pytest.raises(AxisError, match="softmax: axis 1 is out of bounds for an array of 0 dimensions"):
        sc.softmax(3.0, 1)


# ---------------------------------------------------------------------------------------------------------- empty arrays


def test_empty_rows():
    x = np.empty((2, 0), np.float32)
    for function in ROWS.values():
        assert function(x).shape == (2, 0)
    assert same_bits(sc.logsumexp(x), np.full(2, -np.inf, np.float32))
    y, sign = sc.logsumexp(x, return_sign=True)
    assert (y == -np.inf).all() and (sign == 0).all()
    assert same_bits(sc.max(x, initial=2), np.full(2, 2, np.float32))
    with pytest.raises(ValueError, match=r"max: x is empty along axis 1 \(its shape is \(2, 0\)\)"):
        sc.max(x)
    for function in (sc.argmax, sc.max_with_argmax):
        with pytest.raises(ValueError, match="is empty along axis 1"):
            function(x)
    assert sc.max_backward(np.ones(2), x).shape == (2, 0)
    with pytest.raises(IndexError, match="max_backward: index holds 0, which no index can be, for rows of 0 elements"):
        sc.max_backward(np.ones(2), x, index=[0, 0])


@pytest.mark.parametrize("shape, axis", [((0, 0), 0), ((0, 0), 1), ((0, 0, 2), 1), ((0, 2, 0), (1, 2)), ((0, 0), None)])
def test_empty_rows_of_which_there_are_none(shape, axis):
    # As NumPy has it: what has no identity refuses an empty axis, even where nothing would be written.
    x = np.zeros(shape)
    for module in (sc, sc.reference):
        for name in ("max", "argmax", "max_with_argmax"):
            with pytest.raises(ValueError, match="is empty along axis|no element takes part"):
                getattr(module, name)(x, axis)
        assert np.shape(module.max(x, axis, initial=0)) == np.shape(np.sum(x, axis))


def test_no_rows():
    x = np.empty((0, 3), np.float32)
    for name in (*ROWS, *FOLDS, *MAPS):
        assert ONE_RESULT[name](x).shape == ((0,) if name in FOLDS else (0, 3))


def test_gradient_of_a_broadcast_over_nothing():
    da, db = sc.maximum_backward(np.empty((0, 3)), np.ones((1, 3)), np.empty((0, 3)))
    np.testing.assert_array_equal(da, np.zeros((1, 3)))
    assert db.shape == (0, 3)
