"""softcore.compat.scipy is scipy.special, as far as it goes."""

import inspect

import numpy as np
import pytest

from softcore.compat import scipy as compat

special = pytest.importorskip("scipy.special", reason="the functions are compared with SciPy's")

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
