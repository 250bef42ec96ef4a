"""softcore.compat.scipy is scipy.special, as far as it goes."""

import inspect

import numpy as np
import pytest

from softcore.compat import scipy as compat

scipy = pytest.importorskip("scipy", reason="the functions are compared with SciPy's")
special = pytest.importorskip("scipy.special")

INF, NAN = np.inf, np.nan
FUNCTIONS = ["softmax", "log_softmax", "logsumexp"]
AXES = [None, 0, 1, -1, (0, 2), (2, 1)]


def assert_like_scipy(name, *args, dtype=True, rtol=1e-12, **options):
    with np.errstate(all="ignore"):
        expected = getattr(special, name)(*args, **options)
    actual = getattr(compat, name)(*args, **options)
    pairs = zip(actual, expected) if isinstance(expected, tuple) else [(actual, expected)]
    for a, e in pairs:
        np.testing.assert_allclose(a, e, rtol=rtol, atol=1e-14)
        assert np.shape(a) == np.shape(e) and isinstance(a, np.ndarray) == isinstance(e, np.ndarray)
        assert not dtype or np.asarray(a).dtype == np.asarray(e).dtype


@pytest.fixture(params=["real", "complex"])
def x(request, rng):
    x = 3 * rng.normal(size=(3, 4, 5))
    return x if request.param == "real" else x + 2j * rng.normal(size=x.shape)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signature(name):
    ours, theirs = (inspect.signature(getattr(module, name)).parameters.values() for module in (compat, special))
    assert [(p.name, p.kind, p.default) for p in ours] == [(p.name, p.kind, p.default) for p in theirs]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("axis", AXES)
def test_axis(name, axis, x):
    assert_like_scipy(name, x, axis=axis)
    assert_like_scipy(name, x, axis)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_default_axis_is_the_whole_array(name, x):
    assert_like_scipy(name, x)


@pytest.mark.parametrize("return_sign", [False, True])
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", AXES)
def test_logsumexp(axis, keepdims, return_sign, x, rng):
    b = rng.normal(size=x.shape)
    b[0, 0] = 0
    options = {"axis": axis, "keepdims": keepdims, "return_sign": return_sign}
    assert_like_scipy("logsumexp", x, **options)
    assert_like_scipy("logsumexp", x, b=b, **options)
    assert_like_scipy("logsumexp", x, b=np.abs(b[0, 0] + 1), **options)


def test_logsumexp_weights_may_be_larger_than_a():
    assert_like_scipy("logsumexp", np.array([1.0, 2.0]), b=np.array([[1.0, 2.0], [3.0, 0.0]]), axis=-1)
    assert_like_scipy("logsumexp", 1.0, b=[1.0, 2.0])


def test_logsumexp_weight_zero_annihilates():
    for a in ([NAN, 1.0], [INF, 1.0], [1.0 + NAN * 1j, 1.0]):
        assert compat.logsumexp(a, b=[0, 1]) == 1


def test_logsumexp_of_a_complex_sum_is_in_the_principal_branch(rng):
    a = rng.normal(size=100) + 50j * rng.normal(size=100)
    assert np.all(np.abs(np.imag(compat.logsumexp(a[:, None], axis=1))) <= np.pi)
    np.testing.assert_allclose(np.exp(compat.logsumexp(a)), np.exp(a).sum(), rtol=1e-12)


@pytest.mark.parametrize("row", [[-INF, -INF], [-INF, 0.0], [INF, 0.0], [NAN, 0.0], [1e300, -1e300], [0.0, -40.0]])
def test_logsumexp_edges(row):
    assert_like_scipy("logsumexp", np.array(row))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("value", [3.0, 3, 1 + 2j])
def test_scalars_give_scalars(name, value):
    assert_like_scipy(name, value)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "longdouble", "int32", "int64"])
def test_dtype(name, dtype):
    x = np.array([[1, 2, 3], [6, 5, 4]], dtype)
    assert_like_scipy(name, x, axis=1, rtol=1e-6 if dtype == "float32" else 1e-12)


@pytest.mark.parametrize("name", ["expit", "log_expit"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "longdouble", "int64"])
def test_expit(name, dtype):
    x = np.array([-800, -100, -1, 0, 1, 40, 800], dtype)
    assert_like_scipy(name, x, rtol=1e-6 if dtype == "float32" else 1e-12)
    out = np.empty(x.shape, np.result_type(dtype, np.float64) if dtype == "int64" else dtype)
    assert getattr(compat, name)(x, out=out) is out
    assert getattr(compat, name)(x, out) is out
    np.testing.assert_array_equal(out, getattr(compat, name)(x))


def test_expit_edges():
    x = np.array([-INF, INF, NAN, 0.0])
    assert_like_scipy("expit", x)
    assert_like_scipy("log_expit", x)


# ------------------------------------------------------------------------------------------- dtype, shape and kind, throughout

BEFORE_1_17 = tuple(map(int, scipy.__version__.split(".")[:2])) < (1, 17)
newest = pytest.mark.skipif(BEFORE_1_17, reason="before 1.17 SciPy's own results were of other dtypes and shapes")
SHAPES = [(), (1,), (3,), (2, 3), (2, 3, 4)]
WEIGHTS = {
    "none": lambda shape: None,
    "int": lambda shape: 2,
    "negative": lambda shape: -1,
    "float": lambda shape: 2.0,
    "complex": lambda shape: 1j,
    "float64": lambda shape: np.linspace(-1, 2, int(np.prod(shape))).reshape(shape),
    "float32": lambda shape: np.float32(2),
    "integers": lambda shape: np.arange(int(np.prod(shape))).reshape(shape),
    "last axis": lambda shape: np.ones(shape[-1:], np.float32),
}


def same_outcome(name, *args, **options):
    """Both libraries raise the same error, or agree as assert_like_scipy says."""
    try:
        with np.errstate(all="ignore"):
            expected = getattr(special, name)(*args, **options)
    except np.exceptions.AxisError:
        with pytest.raises(np.exceptions.AxisError):
            getattr(compat, name)(*args, **options)
        return
    precision = max((np.finfo(np.asarray(e).dtype).eps for e in (expected if isinstance(expected, tuple) else (expected,))), default=0)
    assert_like_scipy(name, *args, rtol=max(1e-12, 20 * float(precision)), **options)


def array(shape, dtype):
    x = np.random.default_rng(1).uniform(0, 2 if dtype == "?" else 5, shape)
    return np.asarray(x + 1j * x**2 if np.dtype(dtype).kind == "c" else x).astype(dtype)


@newest
@pytest.mark.parametrize("b", WEIGHTS)
@pytest.mark.parametrize("dtype", "?bBhHiqQefdFDg")
def test_every_form_of_logsumexp(dtype, b):
    if b in ("float32", "last axis") and np.dtype(dtype).kind in "biu":
        pytest.skip("softcore takes integers for float64, as NumPy does: SciPy takes them for float32 beside float32")
    for shape in SHAPES:
        for axis in (None, 0, -1, 1, (0, 1), (0,)):
            for keepdims in (False, True):
                for return_sign in (False, True):
                    given = WEIGHTS[b](shape)
                    same_outcome("logsumexp", array(shape, dtype), axis=axis, b=given, keepdims=keepdims, return_sign=return_sign)


@newest
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("dtype", "iqefdFDg")  # SciPy gives smaller integers smaller floating dtypes, and gets unsigned ones wrong
def test_every_form_of_softmax(name, dtype):
    for shape in SHAPES:
        for axis in (None, 0, -1, 1, (0, 1)):
            same_outcome(name, array(shape, dtype), axis=axis)


@pytest.mark.parametrize("name", ["expit", "log_expit"])
@pytest.mark.parametrize("dtype", "?bBhHiqQefdg")
def test_every_form_of_expit(name, dtype):
    for shape in SHAPES:
        x = array(shape, dtype)
        wide = x if dtype in "fdg" else x.astype(float)  # SciPy 1.18 takes float16 and small integers for float32, 1.17 for float64
        assert_like_scipy(name, wide, rtol=1e-6)
        y = getattr(compat, name)(x)
        assert np.asarray(y).dtype == wide.dtype
        np.testing.assert_array_equal(y, getattr(compat, name)(wide))


@newest
@pytest.mark.parametrize("name", [*FUNCTIONS, "expit", "log_expit"])
def test_python_numbers_and_lists(name):
    for x in (1, 2.5, [1, 2], [1.5, 2], [[1, 2], [3, 4]], np.float32(1), np.float64(1)):
        same_outcome(name, x)


def test_logsumexp_python_weights_do_not_widen():
    for dtype in (np.float16, np.float32):
        for b in (2, 2.0, True):
            assert compat.logsumexp(np.ones(3, dtype), b=b).dtype == dtype
    assert compat.logsumexp(np.ones(3, np.uint8), b=-1, return_sign=True)[1] == -1
    assert compat.logsumexp(2.0, b=np.float32([1, 2])).dtype == np.float32


def test_logsumexp_of_nothing():
    # SciPy gives an empty sum the sign -1, and fails along axes after the first.
    for dtype in (np.float32, np.float64, np.int64):
        for shape, axis in (((0,), None), ((0, 3), 0), ((3, 0), 1), ((3, 0), None)):
            y, sign = compat.logsumexp(np.empty(shape, dtype), axis=axis, return_sign=True)
            assert (y == -INF).all() and (sign == 0).all()


@newest
@pytest.mark.parametrize(
    ("row", "y", "sign"),
    [
        ([INF + 0j], INF, 1),
        ([-INF + 0j, INF + 0j], INF, 1),
        ([INF + 0j, 1 + 1j], INF, 1),
        ([-INF + 0j], -INF, 0),
        ([complex(0, INF)], NAN, NAN),
        ([complex(NAN, 0), 1j], NAN, NAN),
    ],
)
def test_logsumexp_of_infinite_complex_numbers(row, y, sign):
    assert_like_scipy("logsumexp", np.array(row))
    np.testing.assert_array_equal(np.real(compat.logsumexp(np.array(row), return_sign=True)), [y, sign])


def test_masked_arrays_are_refused():
    x = np.ma.masked_invalid([1.0, NAN])
    for name in (*FUNCTIONS, "expit", "log_expit"):
        with pytest.raises(TypeError, match=f"^{name}: x is a masked array, it must be a plain one"):
            getattr(compat, name)(x)
    with pytest.raises(TypeError, match="masked array"):
        compat.logsumexp([1.0, 2.0], b=x)
