"""The softmax family of :mod:`scipy.special`, with SciPy's signatures and defaults: ``axis=None`` means the whole array.

Real input is computed by softcore and keeps its dtype. Complex input, for which there are no kernels, is computed by SciPy's
formulas, written here in NumPy. SciPy itself is not needed.

Dtypes, shapes, scalars and values are SciPy's, but for these: integers and bool always count as float64 (SciPy gives softmax of int8
in float16, and refuses bool), and so does float16 in expit and log_expit, where SciPy's dtype depends on its version; empty input
gives an empty softmax, and a logsumexp of -inf with the sign 0, along any axes; a row of log_softmax with +inf is nan throughout;
in logsumexp a weight of 0 hides inf and NaN even where the result is infinite; and a complex sum that is infinite has a sign.

Examples
--------
>>> from softcore.compat.scipy import softmax
>>> softmax([[0.0, 0.0], [0.0, 0.0]])
array([[0.25, 0.25],
       [0.25, 0.25]])
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softcore import check, reference
from softcore.ops import softmax as ops

__all__ = ["expit", "log_expit", "log_softmax", "logsumexp", "softmax"]


def softmax(x: ArrayLike, axis: int | tuple[int, ...] | None = None) -> Any:
    """``exp(x) / sum(exp(x))``, as :func:`scipy.special.softmax`.

    Examples
    --------
    >>> from softcore.compat import scipy
    >>> scipy.softmax([[0.0, 0.0], [0.0, 0.0]], axis=1)
    array([[0.5, 0.5],
           [0.5, 0.5]])
    """
    x = _array("softmax", x)
    if x.dtype.kind != "c":
        return _core(x).softmax(x, axis)
    with np.errstate(all="ignore"):
        e = np.exp(x - np.max(x, axis=axis, keepdims=True))
        return e / np.sum(e, axis=axis, keepdims=True)


def log_softmax(x: ArrayLike, axis: int | tuple[int, ...] | None = None) -> Any:
    """``log(softmax(x))``, as :func:`scipy.special.log_softmax`.

    Examples
    --------
    >>> from softcore.compat import scipy
    >>> scipy.log_softmax([0.0, 0.0]).round(3)
    array([-0.693, -0.693])
    """
    x = _array("log_softmax", x)
    if x.dtype.kind != "c":
        return _core(x).log_softmax(x, axis)
    with np.errstate(all="ignore"):
        z = x - _finite_or_zero(np.max(x, axis=axis, keepdims=True))
        return z - np.log(np.sum(np.exp(z), axis=axis, keepdims=True))


def logsumexp(
    a: ArrayLike,
    axis: int | tuple[int, ...] | None = None,
    b: ArrayLike | None = None,
    keepdims: bool = False,
    return_sign: bool = False,
) -> Any:
    """``log(sum(b * exp(a)))``, as :func:`scipy.special.logsumexp`. The sign of a complex sum is its phase.

    Examples
    --------
    >>> from softcore.compat import scipy
    >>> log, sign = scipy.logsumexp([0.0, 0.0], b=[1.0, -3.0], return_sign=True)
    >>> print(log.round(3), sign)
    0.693 -1.0
    """
    a, b = _promoted(a, b)
    if keepdims:
        a = np.atleast_1d(a)
    if a.dtype.kind != "c":
        return _core(a, b).logsumexp(a, axis, b=b, keepdims=keepdims, return_sign=return_sign)
    a = np.atleast_1d(a)
    with np.errstate(all="ignore"):
        if b is not None:
            a = np.where(b == 0, -np.inf, a)  # an element whose weight is 0 does not count, whatever it is
        largest = np.max(a.real, axis=axis, keepdims=True, initial=-np.inf)
        terms = (np.exp(e) if b is None else b * np.exp(e) for e in (a - _finite_or_zero(largest), a))
        total, plain = (np.sum(t, axis=axis, keepdims=True) for t in terms)
        size = np.abs(total)
        log, sign = largest + np.log(size if return_sign else total), np.where(size > 0, total / size, total)
        finite = np.isfinite(log)  # else C's rules for exp and log say what there is
        log = np.where(finite, log, np.log(np.abs(plain) if return_sign else plain))
        sign = np.where(finite, sign, np.sign(plain))
    if not keepdims:
        log, sign = (np.squeeze(part, axis=axis)[()] for part in (log, sign))
    return (log, sign) if return_sign else log


def expit(x: ArrayLike, out: NDArray | None = None) -> Any:
    """``1 / (1 + exp(-x))``, as :func:`scipy.special.expit`; float16 and all integers become float64.

    Examples
    --------
    >>> from softcore.compat import scipy
    >>> scipy.expit([-1000, 0, 1000])
    array([0. , 0.5, 1. ])
    """
    return _core(x).sigmoid(_not_half("expit", x), out=out)


def log_expit(x: ArrayLike, out: NDArray | None = None) -> Any:
    """``log(expit(x))``, as :func:`scipy.special.log_expit`; float16 and all integers become float64.

    Examples
    --------
    >>> from softcore.compat import scipy
    >>> scipy.log_expit([-1000, 1000])
    array([-1000.,     0.])
    """
    return _core(x).log_sigmoid(_not_half("log_expit", x), out=out)


def _core(*arrays):
    """Where real arrays are computed: longdouble by the definitions, for there are no kernels for it."""
    return reference if any(np.asarray(a).dtype.char == "g" for a in arrays) else ops


def _array(function, x):
    check.not_masked(function, "x", x)
    return np.asarray(x)


def _not_half(function, x):
    x = _array(function, x)
    return x.astype(np.float64) if x.dtype == np.float16 else x


def _promoted(a, b):
    """The operands with one shape, and one dtype where it is complex. Python numbers take on the dtype beside them, as in NumPy."""
    if b is None:
        return _array("logsumexp", a), None
    numbers = (bool, int, float, complex)
    a, b = (x if type(x) in numbers else _array("logsumexp", x) for x in (a, b))
    dtype = np.result_type(a, b)
    if dtype.kind == "c" or dtype.kind == "f" and numbers.count(type(a)) != numbers.count(type(b)):
        a, b = (np.asarray(x, dtype) for x in (a, b))
    return np.broadcast_arrays(a, b)


def _finite_or_zero(m):
    return np.where(np.isfinite(m), m, 0)
