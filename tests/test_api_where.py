"""``where=``: what it hides, and what it may be."""

import numpy as np
import pytest
from calls import MASKED, ONE_RESULT, same_bits, sample, valid_arguments

import softcore as sc


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("shape", [(), (1,), (4,), (3, 1), (1, 1, 4), (2, 3, 4)])
def test_where_broadcasts_to_x(name, shape):
    x = sample((2, 3, 4))
    where = np.ones(shape, bool)
    if shape and shape[-1] == 4:
        where[..., 1] = False
    full = np.ascontiguousarray(np.broadcast_to(where, x.shape))
    assert same_bits(ONE_RESULT[name](x, where=where), ONE_RESULT[name](x, where=full))
    assert same_bits(ONE_RESULT[name](x, where=where.tolist()), ONE_RESULT[name](x, where=full))


@pytest.mark.parametrize("name", MASKED)
def test_where_true_is_no_mask(name):
    x = sample((3, 4))
    assert same_bits(ONE_RESULT[name](x, where=True), ONE_RESULT[name](x))


def test_what_is_masked_out_cannot_leak():
    x = np.array([[1.0, np.nan, 2.0], [np.inf, 3.0, 4.0]])
    where = np.array([[True, False, True], [False, True, True]])
    few = np.array([[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_array_equal(sc.max(x, where=where), [2, 4])
    np.testing.assert_array_equal(sc.argmax(x, where=where), [2, 2])
    np.testing.assert_allclose(sc.logsumexp(x, where=where), sc.logsumexp(few), rtol=1e-15)
    np.testing.assert_allclose(sc.softmax(x, where=where)[where], sc.softmax(few).ravel(), rtol=1e-15)
    assert (sc.softmax(x, where=where)[~where] == 0).all()
    assert (sc.log_softmax(x, where=where)[~where] == -np.inf).all()
    dx = sc.softmax_backward(x, np.where(where, 0.5, np.nan), where=where)
    assert np.isfinite(dx).all() and (dx[~where] == 0).all()


@pytest.mark.parametrize("scale", [2.0, 0.0, -0.0, -1.0])
def test_a_mask_hides_under_any_scale(scale):
    x = np.array([[1.0, 2.0, np.nan], [3.0, -1.0, np.inf]])
    where = np.array([True, True, False])
    for function, hidden in ((sc.softmax, 0), (sc.log_softmax, -np.inf)):
        y = function(x, scale=scale, where=where)
        np.testing.assert_allclose(y[:, :2], function(x[:, :2], scale=scale), rtol=1e-14)
        assert (y[:, 2] == hidden).all()


def test_rows_in_which_nothing_takes_part():
    x = sample((2, 3))
    where = np.array([[True, True, False], [False, False, False]])
    out = np.full(2, 7, np.float32)
    with pytest.raises(ValueError, match="max: where masks out every element of a row"):
        sc.max(x, where=where, out=out)
    assert (out == 7).all()
    for function in (sc.argmax, sc.max_with_argmax):
        with pytest.raises(ValueError, match="where masks out every element of a row"):
            function(x, where=where)
    assert sc.max(x, where=where, initial=-9)[1] == -9
    assert (sc.softmax(x, where=where)[1] == 0).all()
    assert (sc.log_softmax(x, where=where)[1] == -np.inf).all()
    assert sc.logsumexp(x, where=where)[1] == -np.inf
    for ties in ("first", "last", "split", "all"):
        assert (sc.max_backward(1.0, x, where=where, ties=ties)[1] == 0).all()
    assert (sc.logsumexp_backward(1.0, x, sc.logsumexp(x, where=where), where=where)[1] == 0).all()


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize(
    ("where", "error", "text"),
    [
        (np.ones((2, 3)), TypeError, "where has dtype float64, it must be bool"),
        (np.ones((2, 3), np.int8), TypeError, "where has dtype int8, it must be bool"),
        (1, TypeError, "where has dtype"),
        ("yes", TypeError, "where has dtype"),
        (object, TypeError, "where has dtype object"),
        (np.ones((3, 2), bool), ValueError, r"where has shape \(3, 2\), it must broadcast to \(2, 3\)"),
        (np.ones((1, 2, 3), bool), ValueError, "where has shape"),
        ([[True], [True, False]], ValueError, "where must be a boolean array"),
    ],
    ids=str,
)
def test_bad_where(name, where, error, text):
    with pytest.raises(error, match=f"{name}: {text}"):
        getattr(sc, name)(*valid_arguments(name, sample((2, 3))), where=where)
