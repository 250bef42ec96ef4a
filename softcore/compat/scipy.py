"""The softmax family of :mod:`scipy.special`, with SciPy's signatures and defaults: ``axis=None`` means the whole array.

Real input is computed by softcore and keeps its dtype; integers and bool become float64. Complex input, for which there are no
kernels, is computed by SciPy's formulas, written here in NumPy. SciPy itself is not needed.

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

from softcore import reference
from softcore.ops import softmax as ops

__all__ = ["expit", "log_expit", "log_softmax", "logsumexp", "softmax"]


def softmax(x: ArrayLike, axis: int | tuple[int, ...] | None = None) -> Any:
    """``exp(x) / sum(exp(x))``, as :func:`scipy.special.softmax`."""
    x = np.asarray(x)
    if x.dtype.kind != "c":
        return _core(x).softmax(x, axis)
    with np.errstate(all="ignore"):
        e = np.exp(x - np.max(x, axis=axis, keepdims=True))
        return e / np.sum(e, axis=axis, keepdims=True)


def log_softmax(x: ArrayLike, axis: int | tuple[int, ...] | None = None) -> Any:
    """``log(softmax(x))``, as :func:`scipy.special.log_softmax`."""
    x = np.asarray(x)
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
    """``log(sum(b * exp(a)))``, as :func:`scipy.special.logsumexp`. The sign of a complex sum is its phase."""
    a, b = (np.asarray(a), None) if b is None else np.broadcast_arrays(a, b)
    if a.dtype.kind != "c" and (b is None or b.dtype.kind != "c"):
        return _core(a, b).logsumexp(a, axis, b=b, keepdims=keepdims, return_sign=return_sign)
    b = 1 if b is None else b
    axis = axis if a.ndim else None
    with np.errstate(all="ignore"):
        a = np.where(b == 0, -np.inf, a)  # an element whose weight is 0 does not count, whatever it is
        largest = np.max(a.real, axis=axis, keepdims=True, initial=-np.inf)
        total = np.sum(b * np.exp(a - _finite_or_zero(largest)), axis=axis, keepdims=True)
        size = np.abs(total)
        log, sign = largest + np.log(size if return_sign else total), np.where(size > 0, total / size, total)
    if not keepdims:
        log, sign = (np.squeeze(part, axis=axis)[()] for part in (log, sign))
    return (log, sign) if return_sign else log


def expit(x: ArrayLike, out: NDArray | None = None) -> Any:
    """``1 / (1 + exp(-x))``, as :func:`scipy.special.expit`; float16 stays float16, and all integers become float64."""
    return _core(x).sigmoid(x, out=out)


def log_expit(x: ArrayLike, out: NDArray | None = None) -> Any:
    """``log(expit(x))``, as :func:`scipy.special.log_expit`; float16 stays float16, and all integers become float64."""
    return _core(x).log_sigmoid(x, out=out)


def _core(*arrays):
    """Where real arrays are computed: longdouble by the definitions, for there are no kernels for it."""
    return reference if any(np.asarray(a).dtype.char == "g" for a in arrays) else ops


def _finite_or_zero(m):
    return np.where(np.isfinite(m), m, 0)
