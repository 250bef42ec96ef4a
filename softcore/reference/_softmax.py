"""The softmax family."""

from __future__ import annotations

import numpy as np

from softcore.reference._common import _axes, _dropped, _kept, _max, _maxima, _one, _sum, _where, _wide, definition
from softcore.reference._op import CLOSE, backward, forward


@definition
def softmax(x, axis=-1, *, scale=1.0, where=None):
    """exp(scale x) / sum exp(scale x), shifted by the maximum, which cancels. Masked out: 0."""
    z = _wide(x) * scale
    axes, where = _axes(axis, z.ndim), _where(where, z)
    e = np.exp(z - _max(z, axes, where))
    return np.where(where, e / _sum(e, axes, where), 0.0)


@definition
def softmax_backward(dy, y, axis=-1, *, scale=1.0, where=None):
    """scale y (dy - sum y dy). Where masked out: 0, and neither dy nor y is read."""
    dy, y = _wide(dy), _wide(y)
    axes, where = _axes(axis, y.ndim), _where(where, y)
    return np.where(where, scale * y * (dy - _sum(y * dy, axes, where)), 0.0)


@definition
def log_softmax(x, axis=-1, *, scale=1.0, where=None):
    """scale x - logsumexp(scale x), in the order that keeps small results exact. Masked out: -inf."""
    z = _wide(x) * scale
    axes, where = _axes(axis, z.ndim), _where(where, z)
    z = z - _max(z, axes, where)
    one = _one(_maxima(z, axes, where), axes)  # its exponential is 1, which log1p adds
    return np.where(where, z - np.log1p(_sum(np.exp(z) - one, axes, where)), -np.inf)


@definition
def log_softmax_backward(dy, y, axis=-1, *, scale=1.0, where=None):
    """scale (dy - exp(y) sum dy). Where masked out: 0, and neither dy nor y is read.

    A share exp(y) is positive, however small, unless y is -inf: times an infinite sum it is infinite.
    """
    dy, y = _wide(dy), _wide(y)
    axes, where = _axes(axis, y.ndim), _where(where, y)
    total = _sum(dy, axes, where)
    share = np.where(np.isinf(total) & (y > -np.inf), 1.0, np.exp(y))
    return np.where(where, scale * (dy - share * total), 0.0)


@definition
def logsumexp(x, axis=-1, *, b=None, where=None, keepdims=False, return_sign=False):
    """log(sum b exp x), or with ``return_sign`` log|sum b exp x| and the sign of that sum.

    b == 0 annihilates its element, whatever it is; an infinite b makes any positive exponential infinite, however small.
    The sum follows IEEE 754: inf - inf and inf exp(-inf) are nan. Without ``return_sign`` a negative sum gives nan.
    """
    x, b = _wide(x), _wide(1.0 if b is None else b)
    axes, where = _axes(axis, x.ndim), _where(where, x) & (b != 0)
    m = _max(x, axes, where)
    e = np.exp(x - np.nan_to_num(m))  # beside an infinite one, what is finite must not overflow
    terms = b * np.where(np.isinf(b) & (x > -np.inf), 1.0, e)
    total = _sum(terms, axes, where)
    rest = _sum(terms - _one(_maxima(x, axes, where), axes), axes, where)  # total - 1, without the rounding
    log = m + np.where(np.abs(rest) < 0.5, np.log1p(rest), np.log(np.abs(total)))
    log, sign = (_dropped(a, axes, keepdims) for a in (log, np.sign(total)))
    return (log, sign) if return_sign else np.where(sign < 0, np.nan, log)


@definition
def logsumexp_backward(dy, x, y, axis=-1, *, b=None, where=None, keepdims=False):
    """dy b exp(x - y). Where masked out and where b == 0: 0. In rows where y is -inf exp(x - y) counts as 0.

    y is the logarithm of the sum's magnitude; where ``return_sign`` gave a sign, the caller multiplies dy by it.
    """
    dy, x, y, b = _wide(dy), _wide(x), _wide(y), _wide(1.0 if b is None else b)
    axes = _axes(axis, x.ndim)
    dy, y = _kept(dy, axes, keepdims), _kept(y, axes, keepdims)
    share = np.where(y == -np.inf, 0.0, np.exp(x - y))
    return np.where(_where(where, x) & (b != 0), b * (dy * share), 0.0)


@definition
def sigmoid(x):
    """1 / (1 + exp(-x)), through an exponential that cannot overflow: exactly 0 and 1 at -inf and +inf, small results kept."""
    x = _wide(x)
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1.0 + e)


@definition
def sigmoid_backward(dy, y):
    """dy y (1 - y)."""
    dy, y = _wide(dy), _wide(y)
    return dy * y * (1.0 - y)


@definition
def log_sigmoid(x):
    """log(sigmoid(x)) = min(x, 0) - log(1 + exp(-|x|))."""
    x = _wide(x)
    return np.minimum(x, 0.0) - np.log1p(np.exp(-np.abs(x)))


@definition
def log_sigmoid_backward(dy, x):
    """dy sigmoid(-x)."""
    return _wide(dy) * sigmoid(-_wide(x))


@definition
def softplus(x):
    """log(1 + exp x) = max(x, 0) + log(1 + exp(-|x|))."""
    x = _wide(x)
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


@definition
def softplus_backward(dy, x):
    """dy sigmoid(x)."""
    return _wide(dy) * sigmoid(x)


# What tests and benchmarks call them with.


def _log_magnitude(x, axis=-1, *, b=None, where=None, keepdims=False):
    return logsumexp(x, axis, b=b, where=where, keepdims=keepdims, return_sign=True)[0]


OPS = (
    forward(softmax, "softmax", "rows", **CLOSE),
    backward(softmax_backward, "softmax", "rows", softmax, "y"),
    forward(log_softmax, "softmax", "rows", **CLOSE),
    backward(log_softmax_backward, "softmax", "rows", log_softmax, "y"),
    forward(logsumexp, "softmax", "fold", **CLOSE),
    backward(logsumexp_backward, "softmax", "rows", logsumexp, "xy", result=_log_magnitude),
    forward(sigmoid, "softmax", "map", **CLOSE),
    backward(sigmoid_backward, "softmax", "map", sigmoid, "y", **CLOSE),
    forward(log_sigmoid, "softmax", "map", **CLOSE),
    backward(log_sigmoid_backward, "softmax", "map", log_sigmoid, "x"),
    forward(softplus, "softmax", "map", **CLOSE),
    backward(softplus_backward, "softmax", "map", softplus, "x"),
)
