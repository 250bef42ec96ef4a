"""The comparison tools work, and fail where they must."""

import doctest

import numpy as np
import pytest

from softcore import reference, testing
from softcore.testing import awkward, broadcasts, check_grad, explain_nonfinite, layouts, ulp_error


def test_doctests():
    assert doctest.testmod(testing).failed == 0


# check_grad


def product(a, b):
    return a * b


def product_backward(dy, a, b):
    return dy * b, np.sum(dy * a, axis=0)


def test_check_grad_accepts_a_right_gradient(rng):
    assert check_grad(product, product_backward, rng.normal(size=(3, 4)), rng.normal(size=4)) < 1e-8


def test_check_grad_holds_integer_arguments_fixed(rng):
    def take(x, index):
        return x[index]

    def take_backward(dy, x, index):
        dx = np.zeros_like(x)
        np.add.at(dx, index, dy)
        return dx

    assert check_grad(take, take_backward, rng.normal(size=5), np.array([0, 3, 3])) < 1e-8


def test_check_grad_takes_float32_as_float64(rng):
    x = rng.normal(size=5).astype(np.float32)
    assert check_grad(np.sin, lambda dy, x: dy * np.cos(x), x) < 1e-8


@pytest.mark.parametrize(
    "wrong",
    [
        lambda dy, x: dy * np.sin(x),
        lambda dy, x: -dy * np.cos(x),
        lambda dy, x: 0 * x,
        lambda dy, x: dy * np.cos(x) * 1.0001,
        lambda dy, x: dy * np.cos(x) + (np.arange(x.size) == 3) * 0.01,  # a single element
        lambda dy, x: dy * np.cos(x) * np.nan,
    ],
    ids=["other", "sign", "zero", "scaled", "one_element", "nan"],
)
def test_check_grad_rejects_a_wrong_gradient(wrong, rng):
    with pytest.raises(AssertionError, match="the gradient is wrong by"):
        check_grad(np.sin, wrong, rng.normal(size=20))


def test_check_grad_rejects_a_wrong_shape_and_a_wrong_number(rng):
    a, b = rng.normal(size=(3, 4)), rng.normal(size=4)
    with pytest.raises(AssertionError, match="shapes"):
        check_grad(product, lambda dy, a, b: (dy * b, dy * a), a, b)
    with pytest.raises(AssertionError, match="shapes"):
        check_grad(product, lambda dy, a, b: dy * b, a, b)


# explain_nonfinite

NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("x", "axis", "sentence"),
    [
        ([[1, 2], [3, 4]], -1, "All 4 values are finite."),
        ([[1, -INF], [3, 4]], -1, "No row is bad: 1 of 4 values are -inf, an ordinary value."),
        ([[1, NAN], [3, 4]], -1, "1 of 2 rows is bad: 1 has NaN (row 0)."),
        ([[1, NAN], [3, 4]], 0, "1 of 2 rows is bad: 1 has NaN (row 1)."),
        ([[INF, NAN], [-INF, -INF]], -1, "2 of 2 rows are bad: 1 has NaN (row 0), 1 has +inf (row 0), 1 is all -inf (row 1)."),
        ([[-INF, -INF]] * 7, 1, "7 of 7 rows are bad: 7 are all -inf (rows 0, 1, 2, 3, 4, ...)."),
        ([[1, NAN], [INF, 4]], None, "The only row is bad: it has NaN and has +inf."),
        ([[[1, 2], [NAN, 4]]], -1, "1 of 2 rows is bad: 1 has NaN (row (0, 1))."),
        (NAN, -1, "The only row is bad: it has NaN."),
        (np.zeros((2, 0)), -1, "All 0 values are finite."),
    ],
)
def test_explain_nonfinite(x, axis, sentence):
    assert explain_nonfinite(x, axis) == sentence


def test_explain_nonfinite_refuses_other_axes():
    for x in ([[1, NAN]], [[1, 2]]):
        with pytest.raises(np.exceptions.AxisError, match="^explain_nonfinite: axis 5 is out of bounds for an array of 2 dimensions$"):
            explain_nonfinite(x, 5)


# ulp_error


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_ulp_error_counts_neighbours(dtype):
    info = np.finfo(dtype)
    for value in (1, 1.5, -3, info.max / 2, info.tiny, info.tiny / 2, info.smallest_subnormal, 0):
        value = dtype(value)
        away = np.nextafter(value, dtype(-np.inf if value < 0 else np.inf))
        assert ulp_error(away, np.longdouble(value)) == 1
        assert ulp_error(value, np.longdouble(value)) == 0
    assert ulp_error(np.nextafter(dtype(1), dtype(0)), np.longdouble(1)) == 0.5  # below a power of two they are closer
    assert ulp_error(dtype(0), np.longdouble(info.smallest_subnormal)) == 1


def test_ulp_error_of_correct_rounding_is_at_most_half(rng):
    pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    import ml_dtypes

    exact = rng.normal(size=10000) * np.exp(rng.normal(size=10000) * 20)
    for dtype in (np.float16, np.float32, ml_dtypes.bfloat16):
        with np.errstate(all="ignore"):
            error = ulp_error(exact.astype(dtype), exact)
        assert 0.4 < error.max() <= 0.5
    assert ulp_error(np.array(1.0078125, ml_dtypes.bfloat16), 1.0) == 1.0


def test_ulp_error_of_what_is_not_finite():
    f = np.float32
    actual = np.array([NAN, NAN, 1, INF, -INF, INF, 1, INF, np.finfo(f).max, INF], f)
    expected = [NAN, 1, NAN, INF, INF, 1, INF, 3.41e38, 3.41e38, NAN]
    error = ulp_error(actual, expected)
    np.testing.assert_array_equal(np.isinf(error), [0, 1, 1, 0, 1, 1, 1, 0, 0, 1])
    np.testing.assert_array_equal(error[[0, 3, 7]], 0)
    assert error[8] > 0.5


def test_ulp_error_at_a_larger_magnitude():
    assert ulp_error(np.float32(2.0**-24), 0.0, at=1.0) == 0.5
    assert ulp_error(np.float32(2.0**-24), 0.0) > 1e30


def test_ulp_error_refuses_integers():
    with pytest.raises(TypeError, match="int64"):
        ulp_error(np.array([1]), [1.0])


# awkward, layouts, broadcasts

DTYPES = ["float16", "bfloat16", "float32", "float64", "int8", "uint8", "int64", "bool"]


@pytest.fixture(params=DTYPES)
def inputs(request, rng):
    if request.param == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    return awkward((4, 33), request.param, rng)


def test_awkward_inputs_are_what_their_names_say(inputs):
    dtype = inputs["random"].dtype
    shapes = {"one_element": (4, 1), "empty_axis": (4, 0), "empty_batch": (0, 33)}
    for name, x in inputs.items():
        assert x.dtype == dtype and x.shape == shapes.get(name, (4, 33)), name
    wide = {name: x.astype(np.longdouble) for name, x in inputs.items()}
    assert len(np.unique(wide["ties"])) <= 3 and len(np.unique(wide["equal"])) == 1
    assert len(np.unique(wide["extremes"])) == 2 and np.isfinite(wide["extremes"]).all()
    if dtype.kind in "iub":
        return
    assert np.isnan(wide["one_nan"]).sum() == 1 and (wide["plus_inf"] == np.inf).sum() == 1
    assert (wide["all_minus_inf"] == -np.inf).all()
    assert not np.isnan(wide["some_minus_inf"]).any() and 0 < (wide["some_minus_inf"] == -np.inf).mean() < 1
    assert 0 < np.isnan(wide["nans"]).mean() < 1
    assert {np.inf, -np.inf} <= set(wide["both_inf"].ravel())
    assert np.isfinite(wide["huge"]).all() and np.abs(wide["huge"]).max() > np.abs(wide["extremes"]).max() / 2
    assert np.signbit(wide["signed_zeros"]).any() and not wide["signed_zeros"].any()
    tiny = {"float16": 2.0**-14, "bfloat16": 2.0**-126, "float32": 2.0**-126, "float64": 2.0**-1022}[dtype.name]
    assert 0 < np.abs(wide["subnormal"]).max() < tiny
    small = reference.softmax(inputs["underflow"])[:, 1:]
    assert ((0 < small) & (small < tiny)).any()


def test_layouts_have_equal_values_in_different_memory(inputs):
    x = inputs["random"]
    found = layouts(x)
    assert len(found) >= 7
    for name, a in found.items():
        assert a.shape == x.shape and a.dtype.itemsize == x.dtype.itemsize, name
        np.testing.assert_array_equal(a, x, err_msg=name)
    assert found["reversed"].strides[-1] < 0 and min(found["all_reversed"].strides) < 0
    assert found["fortran"].flags.f_contiguous and not found["read_only"].flags.writeable
    assert not found["every_other"].flags.c_contiguous and not found["padded"].flags.c_contiguous
    if x.dtype.itemsize > 1:
        assert not found["misaligned"].flags.aligned
    if x.dtype.itemsize > 1 and x.dtype.kind in "iuf":
        assert not found["byte_swapped"].dtype.isnative


def test_layouts_of_an_empty_array():
    assert all(a.shape == (2, 0) for a in layouts(np.zeros((2, 0))).values())


def test_broadcasts_have_strides_of_zero(rng):
    x = rng.normal(size=(2, 3, 4))
    found = broadcasts(x)
    assert list(found) == ["axis 0", "axis 1", "axis 2", "all"]
    assert all(a.shape == x.shape and 0 in a.strides for a in found.values())
    assert broadcasts(np.zeros((2, 0))) == {}


@pytest.mark.parametrize("x", [np.array([1 + 2j, np.nan]), ["a"], [None]], ids=str)
def test_explain_nonfinite_of_what_has_no_softmax(x):
    with pytest.raises(TypeError, match="^explain_nonfinite: x has dtype .*, it must be real numbers$"):
        explain_nonfinite(x)
