"""What all definitions share: operands in the dtype of arithmetic, rows, and their results."""

from __future__ import annotations

import functools
import inspect

import numpy as np
from numpy.exceptions import AxisError


def definition(function):
    """Publish a definition: silence floating-point warnings and give it an ``out=`` (a tuple where there are several results)."""

    @functools.wraps(function)
    def defined(*args, out=None, **options):
        with np.errstate(all="ignore"):
            return _deliver(function(*args, **options), out)

    signature = inspect.signature(function)
    keyword = inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY, default=None)
    defined.__signature__ = signature.replace(parameters=[*signature.parameters.values(), keyword])
    return defined


def _deliver(result, out):
    """The result, a scalar if it is 0-dimensional, as in NumPy; or ``out``, filled with the result rounded to its dtype."""
    if isinstance(result, tuple):
        if isinstance(out, np.ndarray):  # with a gradient: where that goes
            out = (None, out)
        return tuple(map(_deliver, result, out or [None] * len(result)))
    if out is None:
        return np.asarray(result)[()]
    if out.shape != np.shape(result):
        raise ValueError(f"out has shape {out.shape}, it must be {np.shape(result)}")
    np.copyto(out, result, casting="unsafe")
    return out


def _wide(x):
    """x in the dtype of arithmetic: longdouble stays, everything else real becomes float64."""
    x = np.asarray(x)
    if x.dtype.kind not in "biuf" and x.dtype.name != "bfloat16":
        raise TypeError(f"expected real numbers, got {x.dtype}")
    return x if x.dtype == np.longdouble else x.astype(np.float64)


def _keep(x):
    """x in the dtype of selection: integers and bool stay, floating numbers become wide."""
    x = np.asarray(x)
    return x if x.dtype.kind in "biu" else _wide(x)


def _axes(axis, ndim):
    """``axis`` as a sorted tuple of non-negative ints. A scalar has one axis to name, and none to reduce."""
    if axis is None:
        return tuple(range(ndim))
    rank = ndim or 1
    axes = axis if isinstance(axis, tuple) else (axis,)
    for a in axes:
        if not -rank <= a < rank:
            raise AxisError(a, ndim)
    if len({a % rank for a in axes}) < len(axes):
        raise ValueError("duplicate value in 'axis'")
    return tuple(sorted(a % rank for a in axes)) if ndim else ()


def _where(where, x):
    """``where`` as a boolean array of x's shape."""
    where = np.asarray(True if where is None else where)
    if where.dtype != bool:
        raise TypeError(f"where must be boolean, got {where.dtype}")
    return np.broadcast_to(where, x.shape)


def _flat(x, axes):
    """x with the reduced axes last, in their own order, and flattened: (batch..., length)."""
    batch = [n for i, n in enumerate(x.shape) if i not in axes]
    length = int(np.prod([x.shape[i] for i in axes], dtype=int))
    return np.moveaxis(x, axes, range(-len(axes), 0)).reshape((*batch, length))


def _unflat(rows, axes, shape):
    """The inverse of _flat: rows (batch..., length) back in ``shape``."""
    batch = [n for i, n in enumerate(shape) if i not in axes]
    return np.moveaxis(rows.reshape((*batch, *(shape[i] for i in axes))), range(-len(axes), 0), axes)


def _kept(y, axes, keepdims):
    """y, a result of the reduction, with the reduced axes as axes of length 1."""
    y = np.asarray(y)
    return y if keepdims else np.expand_dims(y, axes)


def _dropped(y, axes, keepdims):
    """The inverse of _kept."""
    return y if keepdims else np.squeeze(y, axes)


def _some(where, axes):
    """Refuse a row in which no element takes part."""
    rows = _flat(where, axes)
    if rows.shape[-1] == 0 or not rows.any(axis=-1).all():
        raise ValueError("a row in which no element takes part has no maximum")


def _max(x, axes, where, initial=None):
    """The maximum of each row, with its axes kept; ``initial`` is the least value of x's dtype unless given."""
    if initial is None:
        initial = np.iinfo(x.dtype).min if x.dtype.kind in "iu" else False if x.dtype == bool else -np.inf
    return np.max(x, axis=axes, keepdims=True, where=where, initial=initial)


def _maxima(x, axes, where):
    """True at each maximum of a row; where NaN wins, at each NaN."""
    return where & ((x == _max(x, axes, where)) | np.isnan(x))


def _place(x, axes, where, last=False):
    """The first (or the last) maximum of each row, alone. Of NaNs, which win, always the first."""
    hits = _maxima(x, axes, where)
    nan = np.any(hits & np.isnan(x), axis=axes, keepdims=True)
    return np.where(nan, _one(hits, axes), _one(hits, axes, last))


def _one(hits, axes, last=False):
    """The first (or the last) True of each row, alone."""
    step = -1 if last else 1
    rows = _flat(hits, axes)[..., ::step]
    return _unflat((rows & (np.cumsum(rows, axis=-1) == 1))[..., ::step], axes, hits.shape)


def _sum(x, axes, where=True):
    return np.sum(x, axis=axes, keepdims=True, where=where)


def _sum_to(dx, shape):
    """dx summed over the axes along which ``shape`` was broadcast."""
    dx = dx.sum(axis=tuple(range(dx.ndim - len(shape))))
    return dx.sum(axis=tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True)
