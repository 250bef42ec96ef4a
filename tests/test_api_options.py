"""The other options, and errors that leave ``out`` alone."""

import inspect

import numpy as np
import pytest
from calls import BFLOAT16, FLOATING, FOLDS, ONE_RESULT, read_only, same_bits, sample, valid_arguments

import softcore as sc
from softcore.testing import ulp_error

BAD_CALLS = [
    ("softmax", {"scale": "2"}, TypeError, "scale is a str, it must be a real number"),
    ("softmax", {"scale": True}, TypeError, "scale is a bool, it must be a real number"),
    ("softmax", {"scale": None}, TypeError, "scale is a NoneType"),
    ("softmax", {"scale": 1j}, TypeError, "scale is a complex"),
    ("softmax", {"scale": np.ones(2)}, TypeError, "scale is a ndarray"),
    ("softmax", {"scale": 10**400}, ValueError, "scale is 1000.*, which float64 cannot hold"),
    ("log_softmax", {"scale": {}}, TypeError, "scale is a dict"),
    ("softmax_backward", {"scale": "2"}, TypeError, "scale is a str"),
    ("log_softmax_backward", {"scale": [1.0]}, TypeError, "scale is a list"),
    ("max", {"keepdims": "yes"}, TypeError, "keepdims is a str, it must be a bool"),
    ("max", {"initial": "0"}, TypeError, "initial is a str, it must be a real number"),
    ("max", {"initial": 1j}, TypeError, "initial is a complex"),
    ("max", {"initial": np.zeros(2)}, TypeError, "initial is a ndarray"),
    ("max", {"initial": 10**400}, ValueError, "initial is 1000"),
    ("argmax", {"select_last": None}, TypeError, "select_last is a NoneType, it must be a bool"),
    ("argmax", {"keepdims": []}, TypeError, "keepdims is a list"),
    ("logsumexp", {"keepdims": 1.0}, TypeError, "keepdims is a float"),
    ("logsumexp", {"return_sign": "no"}, TypeError, "return_sign is a str"),
    ("logsumexp", {"b": np.ones((3, 2))}, ValueError, r"b has shape \(3, 2\), it must broadcast to \(2, 3\)"),
    ("logsumexp", {"b": "w"}, TypeError, "b has dtype"),
    ("logsumexp", {"b": 1j}, TypeError, "b has dtype complex128"),
    ("logsumexp_backward", {"b": np.ones(4)}, ValueError, "b has shape"),
    ("logsumexp_backward", {"y": np.zeros(3)}, ValueError, r"y has shape \(3,\), it must be \(2,\)"),
    ("logsumexp_backward", {"dy": np.zeros((2, 1))}, ValueError, "dy has shape"),
    ("max_backward", {"ties": "any"}, ValueError, "ties is 'any', it must be one of 'first', 'last', 'split', 'all'"),
    ("max_backward", {"ties": 0}, TypeError, "ties is a int, it must be a str"),
    ("max_backward", {"ties": ["first"]}, TypeError, "ties is a list"),
    ("max_backward", {"dy": np.zeros((2, 1))}, ValueError, r"dy has shape \(2, 1\), it must broadcast to \(2,\)"),
    ("max_backward", {"index": np.zeros(3, int)}, ValueError, r"index has shape \(3,\), it must be \(2,\)"),
    ("max_backward", {"index": [0.0, 1.0]}, TypeError, "index has dtype float64, it must be an integer dtype"),
    ("max_backward", {"index": [True, False]}, TypeError, "index has dtype bool"),
    ("max_backward", {"index": [0, 3]}, IndexError, "index holds 3, it must be from 0 to 2"),
    ("max_backward", {"index": [-1, 0]}, IndexError, "index holds -1"),
    ("max_backward", {"index": np.array([0, 2**64 - 1], np.uint64)}, IndexError, "index holds 18446744073709551615"),
    ("softmax_backward", {"dy": np.zeros((3, 2))}, ValueError, r"dy has shape \(3, 2\), it must broadcast to \(2, 3\)"),
    ("relu_backward", {"dy": np.zeros((2, 2, 3))}, ValueError, "dy has shape"),
    ("sigmoid_backward", {"dy": "x"}, TypeError, "dy has dtype"),
    ("maximum", {"b": np.zeros((4, 5))}, ValueError, r"the shapes must broadcast together, they are a \(2, 3\), b \(4, 5\)"),
]


@pytest.mark.parametrize(("name", "options", "error", "text"), BAD_CALLS, ids=lambda v: v if isinstance(v, str) else None)
def test_bad_options_leave_out_alone(name, options, error, text):
    x = sample((2, 3))
    function = getattr(sc, name)
    required = [p for p, v in inspect.signature(function).parameters.items() if v.default is v.empty]
    arguments = {**dict(zip(required, valid_arguments(name, x))), **options}
    folds = name in FOLDS
    out = np.full((2,) if folds else (2, 3), 7, np.intp if name == "argmax" else np.float32)
    with pytest.raises(error, match=f"^{name}: {text}"):
        function(**arguments, out=out)
    assert (out == 7).all()


def test_bad_maximum_backward_leaves_out_alone():
    x, out = sample((2, 3)), (np.full((2, 3), 7, np.float32), np.full((2, 3), 7, np.float32))
    for dy, a, b, error in [(x[:, :2], x, x, ValueError), (x, x, x[:, :2], ValueError), (x, x, "b", TypeError)]:
        with pytest.raises(error, match="^maximum_backward: "):
            sc.maximum_backward(dy, a, b, out=out)
    with pytest.raises(ValueError, match=r"out\[1\] is read-only"):
        sc.maximum_backward(x, x, x, out=(out[0], read_only(out[1])))
    assert (out[0] == 7).all() and (out[1] == 7).all()


def test_initial_must_fit_an_integer_dtype():
    x = np.array([1, 2], np.int8)
    assert sc.max(x, initial=5).dtype == np.int8 and sc.max(x, initial=5) == 5
    assert sc.max(x, initial=3.0) == 3
    for initial in (300, 2.5, -np.inf, np.nan):
        with pytest.raises(ValueError, match=f"max: initial is {initial}, which int8 cannot hold"):
            sc.max(x, initial=initial)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_initial_takes_part_as_one_more_element(dtype):
    x = np.array([[1, 2], [3, -4]], dtype)
    np.testing.assert_array_equal(sc.max(x, initial=2.5).astype(float), [2.5, 3])
    assert np.isnan(sc.max(x, initial=np.nan).astype(float)).all()
    x[0, 0] = np.nan
    assert np.isnan(float(sc.max(x, initial=np.inf)[0]))


@pytest.mark.parametrize("scale", [2, np.float32(2), np.int16(2), np.array(2.0), BFLOAT16.type(2)], ids=lambda s: type(s).__name__)
def test_any_real_number_is_a_scale(scale):
    x = sample((2, 3))
    assert same_bits(sc.softmax(x, scale=scale), sc.softmax(x, scale=2.0))


def test_dy_broadcasts_to_the_result():
    x = sample((2, 3))
    assert same_bits(sc.max_backward(1.0, x), sc.max_backward(np.ones(2, np.float32), x))
    assert same_bits(sc.max_backward(1.0, x, keepdims=True), sc.max_backward(np.ones((2, 1), np.float32), x, keepdims=True))
    assert same_bits(sc.relu_backward(1, x), sc.relu_backward(np.ones_like(x), x))
    y = sc.logsumexp(x, None)
    assert same_bits(sc.logsumexp_backward(1.0, x, y, None), sc.logsumexp_backward(np.float32(1), x, y, None))


@pytest.mark.parametrize("ties", ["first", "last", "split", "all"])
@pytest.mark.parametrize("axis", [-1, 0, None])
def test_index_says_where_the_gradient_goes_whatever_ties_says(ties, axis):
    x = np.array([[2, 2, 1], [2, 0, 2]])  # an index may even point to what is no maximum
    dy = np.full(np.max(x, axis).shape, 6.0)
    for place in range(2):
        for mask in (None, x != 0):
            options = {"index": np.full(dy.shape, place), "ties": ties, "where": mask}
            expected = sc.reference.max_backward(dy, x, axis, **options)
            for dtype in (np.float32, np.float64, np.int64):
                np.testing.assert_array_equal(sc.max_backward(dy, x.astype(dtype), axis, **options), expected)


def test_inputs_are_not_changed():
    x = read_only(sample((2, 3)))
    before = x.copy()
    for function in ONE_RESULT.values():
        function(x)
    assert same_bits(x, before)


def test_no_floating_point_warnings():
    x = np.array([[np.nan, np.inf, -np.inf, 0], [-1e38, 1e38, 3e38, 1e-45]], np.float32)
    with np.errstate(all="raise"):
        for function in ONE_RESULT.values():
            function(x)
        sc.softmax_backward(np.full((2, 4), 1e300), x)  # narrows to float32


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16, np.float32, np.float64], ids=str)
@pytest.mark.parametrize("scale", [1e-300, -1e-50, 1e-44, 1e-38, 1e31, -1e39, 1e300])
def test_a_scale_that_float32_cannot_hold(scale, dtype):
    x = np.array([[1, 2, 0.5], [0, 0, 0], [-3, 1, 1]]).astype(dtype)
    for name in ("softmax", "log_softmax"):
        expected = getattr(sc.reference, name)(x.astype(np.longdouble), scale=scale)
        for y in (getattr(sc, name)(x, scale=scale), np.stack([getattr(sc, name)(row, scale=scale) for row in x])):
            assert y.dtype == dtype and ulp_error(y, expected).max() <= 2, (name, y, expected)
    zero = np.zeros((1, 2), dtype)
    assert (sc.softmax_backward(zero, np.full((1, 2), 0.5, dtype), scale=scale) == 0).all()
