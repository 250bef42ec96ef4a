"""The definition of every op, forward and backward, in plain NumPy.

This module says what softcore computes; the compiled kernels only say how. Each function has the signature of the public
function of its name and is written for the reader, not for speed. Arithmetic is done in float64, or in longdouble where an input
is longdouble: float16, bfloat16, float32, integers and bool are promoted first. The selections (``max``, ``relu``, ...) leave
integers as they are.

Below the definitions stands :data:`OPS`, one description per op. Tests, benchmarks and the tables in the docs iterate over it::

    for op in OPS.values():
        arguments = op.inputs(x, rng, axis=0)
        expected = op.reference(*arguments, axis=0)

Vocabulary: ``x`` goes in, ``y`` comes out, ``dy`` is the gradient of y, ``dx`` that of x. A *row* is the set of elements that
are reduced together. An element *takes part* if ``where`` does not mask it out. In every definition, ``axes`` is ``axis`` as a
tuple of non-negative ints and ``where`` a boolean array of x's shape.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.exceptions import AxisError

from softcore import check, windows

__all__ = ["OPS", "Op"]  # and the definitions, which add themselves


# --- Common to all definitions -----------------------------------------------------------------------------------------------


def definition(function):
    """Publish a definition: silence floating-point warnings and give it an ``out=`` (a tuple where there are several results)."""

    @functools.wraps(function)
    def defined(*args, out=None, **options):
        with np.errstate(all="ignore"):
            return _deliver(function(*args, **options), out)

    signature = inspect.signature(function)
    keyword = inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY, default=None)
    defined.__signature__ = signature.replace(parameters=[*signature.parameters.values(), keyword])
    __all__.append(function.__name__)
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


# --- The max family ----------------------------------------------------------------------------------------------------------


@definition
def max(x, axis=-1, *, keepdims=False, where=None, initial=None):
    """The largest element of each row. NaN wins. ``initial`` takes part as one more element."""
    x = _keep(x)
    axes, where = _axes(axis, x.ndim), _where(where, x)
    if initial is None:
        _some(where, axes)
    return _dropped(_max(x, axes, where, initial), axes, keepdims)


@definition
def argmax(x, axis=-1, *, keepdims=False, where=None, select_last=False):
    """The index of the first (or last) maximum; where NaN wins, of the first NaN. Flat over several axes."""
    x = _keep(x)
    axes, where = _axes(axis, x.ndim), _where(where, x)
    _some(where, axes)
    index = np.argmax(_flat(_place(x, axes, where, select_last), axes), axis=-1)
    return np.expand_dims(index, axes) if keepdims else index


@definition
def max_with_argmax(x, axis=-1, *, keepdims=False, where=None, select_last=False):
    """``(max, argmax)``."""
    options = {"keepdims": keepdims, "where": where}
    return max(x, axis, **options), argmax(x, axis, select_last=select_last, **options)


@definition
def hardmax(x, axis=-1):
    """1 at the first maximum (the argmax) of each row, 0 elsewhere, in x's dtype."""
    x = _keep(x)
    axes = _axes(axis, x.ndim)
    return _place(x, axes, _where(None, x)).astype(x.dtype)


@definition
def max_backward(dy, x, axis=-1, *, index=None, ties="first", keepdims=False, where=None):
    """dy, put where the maximum was: at ``index`` if given, else by ``ties`` at the first, the last, all, or split evenly.

    Where NaN wins, ``ties="last"`` too means the first NaN, as in argmax. Integers are compared as they are, but have a float64
    gradient. A row in which no element takes part has gradient 0.
    """
    x = _keep(x)
    axes, where = _axes(axis, x.ndim), _where(where, x)
    dy = _kept(_wide(dy), axes, keepdims)
    if index is not None:
        return np.where(_at(index, x.shape, axes, keepdims) & where, dy, 0.0)
    hits = _maxima(x, axes, where)
    if ties in ("first", "last"):
        hits = _place(x, axes, where, last=ties == "last")
    elif ties == "split":
        dy = dy / _sum(hits, axes)
    elif ties != "all":
        raise ValueError(f"ties must be 'first', 'last', 'split' or 'all', not {ties!r}")
    return np.where(hits, dy, 0.0)


def _at(index, shape, axes, keepdims):
    """True at ``index`` of each row, which counts along the reduced axis, or flat over several."""
    index = _kept(index, axes, keepdims)
    if index.dtype.kind not in "iu":
        raise TypeError(f"index must be integers, got {index.dtype}")
    length = int(np.prod([shape[i] for i in axes], dtype=int))
    if np.any((index < 0) | (index >= length)):
        raise IndexError(f"index must be at least 0 and below {length}")
    return _unflat(_flat(index, axes) == np.arange(length), axes, shape)


@definition
def maximum(a, b):
    """The larger of a and b. NaN wins."""
    return np.maximum(_keep(a), _keep(b))


@definition
def maximum_backward(dy, a, b):
    """(da, db): dy goes to the larger or to the only NaN, half to each of equals and of two NaNs; summed back to each shape."""
    dy, a, b = _wide(dy), _wide(a), _wide(b)
    equal = (a == b) | (np.isnan(a) & np.isnan(b))
    share = np.select([equal, (a > b) | np.isnan(a)], [dy / 2, dy], 0.0)
    other = np.select([equal, (b > a) | np.isnan(b)], [dy / 2, dy], 0.0)
    return _sum_to(share, a.shape), _sum_to(other, b.shape)


@definition
def relu(x):
    """max(x, 0), and 0 is +0. NaN stays."""
    x = _keep(x)
    return np.where(x <= 0, x.dtype.type(0), x)


@definition
def relu_backward(dy, x):
    """dy where x > 0, and 0 where x <= 0. NaN stays."""
    dy, x = _wide(dy), _wide(x)
    return np.select([x > 0, x <= 0], [dy, 0.0], np.nan)


@definition
def step(x):
    """1 where x > 0, and 0 where x <= 0. NaN stays."""
    return np.heaviside(_wide(x), 0.0)


# --- The softmax family ------------------------------------------------------------------------------------------------------


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
    e = np.exp(x - np.where(np.isfinite(m), m, 0.0))
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


# --- Pooling -----------------------------------------------------------------------------------------------------------------
#
# A row is a window here. ``places`` are the flat indices, over the spatial axes, of what the windows hold, of shape (windows, taps);
# ``real`` is False where that is padding. Arrays are taken as (others, spatial): see _planes.


def _windows(op, shape, window, stride, padding, dilation, ceil_mode, layout):
    """Which axes are spatial, the shape of the result, and ``places``, ``real`` and what a tap counts in a mean with padding."""
    spatial, axes = check.windows(op, shape, window, stride, padding, dilation, ceil_mode, layout)
    places, real, counted = np.zeros((1, 1), int), np.ones((1, 1), bool), np.ones((1, 1), bool)
    for a in axes:
        at = np.arange(a.count)[:, None] * a.stride - a.before + np.arange(a.window) * a.dilation
        inside = (at >= 0) & (at < a.size)
        places = _outer(np.add, places * a.size, np.where(inside, at, 0))
        real, counted = _outer(np.logical_and, real, inside), _outer(np.logical_and, counted, at < a.size + a.after)
    return spatial, windows.pooled_shape(shape, spatial, axes), places, real, counted


def _outer(combine, a, b):
    """Windows and taps of several axes out of those along each."""
    return combine(a[:, None, :, None], b[None, :, None, :]).reshape(len(a) * len(b), -1)


def _planes(x, spatial):
    """x with its spatial axes last and flat: (others, spatial)."""
    return _flat(x, spatial).reshape(-1, int(np.prod([x.shape[i] for i in spatial])))


def _unplanes(planes, spatial, shape):
    """The inverse of _planes."""
    return _unflat(planes.reshape(*(n for i, n in enumerate(shape) if i not in spatial), -1), spatial, shape)


@definition
def max_pool(x, window, *, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False, layout="channels_first"):
    """The maximum of each window, and with ``return_indices`` its flat index over the spatial axes. Padding does not take part."""
    x = _keep(x)
    spatial, shape, places, real, _ = _windows("max_pool", x.shape, window, stride, padding, dilation, ceil_mode, layout)
    taps = _planes(x, spatial)[:, places]
    y, tap = max_with_argmax(taps, where=real)
    index = np.take_along_axis(np.broadcast_to(places, taps.shape), tap[..., None], -1)[..., 0]
    y, index = _unplanes(y, spatial, shape), _unplanes(index, spatial, shape)
    return (y, index) if return_indices else y


@definition
def max_pool_backward(dy, indices, shape, *, layout="channels_first"):
    """dy, added up where the maxima were."""
    dy, indices = _wide(dy), np.asarray(indices)
    spatial, places = _places("max_pool_backward", indices, shape, layout)
    dx = _planes(np.zeros(shape, dy.dtype), spatial)
    np.add.at(dx, (np.arange(len(dx))[:, None], places), _planes(np.broadcast_to(dy, indices.shape), spatial))
    return _unplanes(dx, spatial, shape)


@definition
def max_unpool(y, indices, shape, *, layout="channels_first"):
    """y, put where the maxima were, and 0 elsewhere. Of several at one place the last one stays."""
    y = _keep(y)
    spatial, places = _places("max_unpool", np.asarray(indices), shape, layout)
    x = _planes(np.zeros(shape, y.dtype), spatial)
    for i, values in zip(places.T, _planes(y, spatial).T):
        x[np.arange(len(x)), i] = values
    return _unplanes(x, spatial, shape)


def _places(op, indices, shape, layout):
    """Which axes of ``shape`` are spatial, and the flat indices over them as (others, windows)."""
    lowest, largest = (int(indices.min()), int(indices.max())) if indices.size else (0, 0)
    spatial = check.unpooled(op, indices.shape, shape, layout, lowest, largest)
    return spatial, _planes(check.places(op, indices, indices), spatial).astype(int)


@definition
def avg_pool(x, window, *, stride=None, padding=0, dilation=1, ceil_mode=False, count_include_pad=True, layout="channels_first"):
    """The mean of each window; padding, which is 0, counts only with ``count_include_pad``, and what overhangs it never does."""
    x = _wide(x)
    spatial, shape, places, real, counted = _windows("avg_pool", x.shape, window, stride, padding, dilation, ceil_mode, layout)
    total = np.sum(_planes(x, spatial)[:, places], axis=-1, where=real)
    return _unplanes(total / np.sum(counted if count_include_pad else real, axis=-1), spatial, shape)


@definition
def avg_pool_backward(
    dy, shape, window, *, stride=None, padding=0, dilation=1, ceil_mode=False, count_include_pad=True, layout="channels_first"
):
    """dy over the number of elements of its window, added up over the windows of each element."""
    dy = _wide(dy)
    spatial, pooled, places, real, counted = _windows(
        "avg_pool_backward", shape, window, stride, padding, dilation, ceil_mode, layout
    )
    dy = _planes(np.broadcast_to(dy, pooled), spatial) / np.sum(counted if count_include_pad else real, axis=-1)
    return _unplanes(_added(dy[..., None], places, real, shape, spatial), spatial, shape)


def _added(terms, places, real, shape, spatial):
    """The terms of all taps, (others, windows, taps), added up in their places: (others, spatial)."""
    dx = _planes(np.zeros(shape, terms.dtype), spatial)
    where = np.nonzero(np.broadcast_to(real, (len(dx), *real.shape)))
    np.add.at(dx, (where[0], places[where[1:]]), np.broadcast_to(terms, (len(dx), *real.shape))[where])
    return dx


@definition
def softmax_pool(x, window, *, stride=None, padding=0, dilation=1, ceil_mode=False, layout="channels_first"):
    """sum(softmax(x) x) over each window. Padding does not take part; what has no share, such as -inf, adds 0."""
    x = _wide(x)
    spatial, shape, places, real, _ = _windows("softmax_pool", x.shape, window, stride, padding, dilation, ceil_mode, layout)
    return _unplanes(_soft(_planes(x, spatial)[:, places], real)[1], spatial, shape)


def _soft(taps, real):
    """The share of each tap in its window, and the mean that they give: (windows, taps), (windows)."""
    share = softmax(taps, where=real)
    return share, np.sum(np.where(share == 0, 0.0, share * taps), axis=-1)


@definition
def softmax_pool_backward(dy, x, window, *, stride=None, padding=0, dilation=1, ceil_mode=False, layout="channels_first"):
    """dy share (1 + x - y), added up over the windows of each element."""
    dy, x = _wide(dy), _wide(x)
    spatial, pooled, places, real, _ = _windows(
        "softmax_pool_backward", x.shape, window, stride, padding, dilation, ceil_mode, layout
    )
    taps = _planes(x, spatial)[:, places]
    share, y = _soft(taps, real)
    dy = _planes(np.broadcast_to(dy, pooled), spatial)[..., None]
    terms = np.where(share == 0, 0.0, dy * share * (1 + taps - y[..., None]))
    return _unplanes(_added(terms, places, real, x.shape, spatial), spatial, x.shape)


# --- The losses --------------------------------------------------------------------------------------------------------------


def _targets(x, target, axes, weight, ignore_index, label_smoothing):
    """p, which multiplies -log_softmax; the rows that are kept; and what a mean is over: the weight of the kept labels, or the rows."""
    target, rows = np.asarray(target), _flat(x, axes)
    length, weight = rows.shape[-1], 1.0 if weight is None else _wide(weight)
    if target.dtype.kind in "iu":
        label = target[..., np.newaxis]
        kept = label != ignore_index
        if np.any(kept & ((label < 0) | (label >= length))):
            raise IndexError(f"a label must be at least 0 and below {length}")
        p = (label == np.arange(length)) & kept
        total = np.sum(p * weight)
    else:
        p, kept = _flat(_wide(target), axes), np.ones((*rows.shape[:-1], 1), bool)
        total = kept.size
    p = ((1.0 - label_smoothing) * p + label_smoothing / (length or 1)) * weight
    return _unflat(p, axes, x.shape), np.expand_dims(kept[..., 0], axes), total


def _reduced(loss, total, reduction):
    """The losses, their sum, or that over ``total``."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', not {reduction!r}")
    return loss if reduction == "none" else np.sum(loss) / (total if reduction == "mean" else 1)


def _product(factor, x):
    """factor x, and 0 where the factor is 0 and x infinite."""
    return np.where((factor == 0) & np.isinf(x), 0.0, factor * x)


@definition
def cross_entropy(logits, target, axis=-1, *, weight=None, ignore_index=-100, label_smoothing=0.0, z_loss=0.0, reduction="mean"):
    """-sum p log_softmax(x) + z_loss logsumexp(x)^2 of each row; p is the target, one-hot if a label, smoothed, times the weight.

    Smoothing mixes the target with the same share of every class. A row whose label is ``ignore_index`` has the loss 0. The mean is over
    the weight of the labels kept, or over the rows of probabilities.
    """
    x = _wide(logits)
    axes = _axes(axis, x.ndim)
    p, kept, total = _targets(x, target, axes, weight, ignore_index, label_smoothing)
    loss = -_sum(_product(p, log_softmax(x, axes)), axes)
    if z_loss:
        loss = loss + z_loss * logsumexp(x, axes, keepdims=True) ** 2
    return _reduced(np.squeeze(np.where(kept, loss, 0.0), axes), total, reduction)


@definition
def cross_entropy_with_grad(
    logits, target, axis=-1, *, weight=None, ignore_index=-100, label_smoothing=0.0, z_loss=0.0, reduction="mean"
):
    """``(cross_entropy, cross_entropy_backward)`` for a dloss of 1."""
    options = {"weight": weight, "ignore_index": ignore_index, "label_smoothing": label_smoothing, "z_loss": z_loss, "reduction": reduction}
    return cross_entropy(logits, target, axis, **options), cross_entropy_backward(1.0, logits, target, axis, **options)


@definition
def cross_entropy_backward(
    dloss, logits, target, axis=-1, *, weight=None, ignore_index=-100, label_smoothing=0.0, z_loss=0.0, reduction="mean"
):
    """dloss ((sum p + 2 z_loss logsumexp(x)) softmax(x) - p), over what the mean is over; 0 in ignored rows."""
    x, dloss = _wide(logits), _wide(dloss)
    axes = _axes(axis, x.ndim)
    p, kept, total = _targets(x, target, axes, weight, ignore_index, label_smoothing)
    if reduction == "none":
        dloss = np.expand_dims(np.broadcast_to(dloss, np.squeeze(kept, axes).shape), axes)
    factor = _sum(p, axes)
    if z_loss:
        factor = factor + 2 * z_loss * logsumexp(x, axes, keepdims=True)
    dx = (factor * softmax(x, axes) - p) * (dloss / (total if reduction == "mean" else 1))
    return np.where(kept, dx, 0.0)


def _sides(x, target, weight, pos_weight):
    """What multiplies -log sigmoid(x), and -log sigmoid(-x)."""
    target, weight, pos_weight = (_wide(1.0 if a is None else a) for a in (target, weight, pos_weight))
    return np.broadcast_to(weight * pos_weight * target, x.shape), np.broadcast_to(weight * (1.0 - target), x.shape)


@definition
def binary_cross_entropy(logits, target, *, weight=None, pos_weight=None, reduction="mean"):
    """weight (pos_weight t softplus(-x) + (1 - t) softplus(x)), t the target; a factor of 0 annihilates. The mean is over all elements."""
    x = _wide(logits)
    up, down = _sides(x, target, weight, pos_weight)
    return _reduced(_product(up, softplus(-x)) + _product(down, softplus(x)), x.size, reduction)


@definition
def binary_cross_entropy_with_grad(logits, target, *, weight=None, pos_weight=None, reduction="mean"):
    """``(binary_cross_entropy, binary_cross_entropy_backward)`` for a dloss of 1."""
    options = {"weight": weight, "pos_weight": pos_weight, "reduction": reduction}
    return binary_cross_entropy(logits, target, **options), binary_cross_entropy_backward(1.0, logits, target, **options)


@definition
def binary_cross_entropy_backward(dloss, logits, target, *, weight=None, pos_weight=None, reduction="mean"):
    """dloss weight ((1 - t) sigmoid(x) - pos_weight t sigmoid(-x)), in a mean over the number of elements."""
    x = _wide(logits)
    up, down = _sides(x, target, weight, pos_weight)
    return _wide(dloss) / (x.size if reduction == "mean" else 1) * (down * sigmoid(x) - up * sigmoid(-x))
# --- Gates -------------------------------------------------------------------------------------------------------------------


def _shares(r, *others):
    """sigmoid(r) and 1 - sigmoid(r), exactly 0 and 1 where the sigmoid is in the dtype of arithmetic: float32 for what is no wider."""
    narrow = all(a.dtype.itemsize <= 4 and a.dtype.kind not in "biu" for a in map(np.asarray, (r, *others)))
    s, t, dtype = sigmoid(r), sigmoid(-_wide(r)), np.float32 if narrow else np.float64
    ends = [np.asarray(s).astype(dtype) == 0, t <= np.finfo(dtype).eps / 4]  # s rounds to 0, to 1
    return np.select(ends, [0, 1], s), np.select(ends, [1, 0], t)


@definition
def gate(x, y, r):
    """x s + y (1 - s) for s = sigmoid(r). Where s is exactly 0 or 1 the other branch is not read."""
    s, t = _shares(r, x, y)
    x, y = _wide(x), _wide(y)
    return np.select([s == 0, t == 0], [y, x], x * s + y * t)


@definition
def gate_backward(df, x, y, r):
    """(df s, df (1 - s), df (x - y) s (1 - s)), summed back to each shape. Where a factor s or 1 - s is exactly 0, so is the product."""
    (s, t), shapes = _shares(r, df, x, y), [np.shape(a) for a in (x, y, r)]
    df, x, y, s, t = np.broadcast_arrays(_wide(df), _wide(x), _wide(y), s, t)
    dx, dy = np.where(s == 0, 0, df * s), np.where(t == 0, 0, df * t)
    dr = np.where((s == 0) | (t == 0), 0, df * (x - y) * s * t)
    return tuple(_sum_to(d, shape) for d, shape in zip((dx, dy, dr), shapes))


def _normal(x):
    """The normal distribution function, by a power series within 2 and Laplace's continued fraction beyond, and the density."""
    density, u = np.exp(-x * x / 2) / np.sqrt(2 * np.arccos(-np.ones_like(x))), np.abs(x)
    near = np.minimum(u, 2)
    series = term = near
    for k in range(3, 80, 2):
        term = term * near * near / k
        series = series + term
    fraction = u
    for k in range(100, 0, -1):
        fraction = u + k / fraction
    tail = np.where(u < 2, 0.5 - density * series, density / fraction)
    return np.where(x < 0, tail, 1 - tail), density


def _activation(name, x):
    """An activation and its derivative, at infinities their limits."""
    below, between = np.maximum(x, -1e100), np.clip(x, -1e100, 1e100)
    if name == "none":
        return x, np.ones_like(x)
    if name == "relu":
        return relu(x), np.select([x > 0, x <= 0], [1, 0], np.nan)
    if name == "gelu":
        share, density = _normal(between)
        return below * share, share + between * density
    c = 2 * np.sqrt(2 / np.arccos(-np.ones_like(x))) if name == "gelu_tanh" else 1
    cubic = 0.044715 if name == "gelu_tanh" else 0
    u = c * (between + cubic * between**3)  # (1 + tanh(u / 2)) / 2 is sigmoid(u)
    s, t = sigmoid(u), sigmoid(-u)
    if name == "sigmoid":
        return s, s * t
    if name in ("silu", "gelu_tanh"):
        return below * s, s + between * s * t * c * (1 + 3 * cubic * between**2)
    raise ValueError(f"activation must be 'sigmoid', 'silu', 'gelu', 'gelu_tanh', 'relu' or 'none', not {name!r}")


def _halves(x, axis):
    """x cut in two along the axis, or the two if it is a tuple."""
    if isinstance(x, tuple):
        a, b = map(_wide, x)
        return a, b
    x = _wide(x)
    (axis,) = _axes(axis, x.ndim)
    if x.shape[axis] % 2:
        raise ValueError(f"x has length {x.shape[axis]} along axis {axis}, it must be even")
    return np.split(x, 2, axis)


@definition
def glu(x, axis=-1, *, activation="sigmoid"):
    """The first half of x times the activation of the second."""
    a, b = _halves(x, axis)
    return a * _activation(activation, b)[0]


@definition
def glu_backward(dy, x, axis=-1, *, activation="sigmoid"):
    """dy activation(b) and dy a activation'(b), put together as the halves a and b of x were."""
    a, b = _halves(x, axis)
    value, slope = _activation(activation, b)
    dy = np.broadcast_to(_wide(dy), a.shape)
    halves = dy * value, dy * a * slope
    return halves if isinstance(x, tuple) else np.concatenate(halves, axis)
# --- Mixtures ----------------------------------------------------------------------------------------------------------------


def _mixed(x, r, where, scale):
    """x and the scores scale r of its rows, over a common batch; which take part; and x with 0 for those that do not."""
    x, z = _wide(x), _wide(r) * scale
    if x.shape[-2:-1] != z.shape[-1:]:
        raise ValueError(f"x has {x.shape[-2:-1]} rows, r has {z.shape[-1:]}")
    batch = np.broadcast_shapes(x.shape[:-2], z.shape[:-1])
    z = np.broadcast_to(z, (*batch, *z.shape[-1:]))
    where = _where(where, z)
    return np.where(where[..., None], x, 0.0), z, where


@definition
def softmax_gate(x, r, *, where=None, scale=1.0, return_lse=False):
    """sum_j softmax(scale r)_j x_j over the rows x_j of x, and with ``return_lse`` logsumexp(scale r). Masked out: x_j is not read."""
    x, z, where = _mixed(x, r, where, scale)
    o = np.sum(softmax(z, where=where)[..., None] * x, axis=-2)
    return (o, logsumexp(z, where=where)) if return_lse else o


@definition
def softmax_gate_backward(do, x, r, *, where=None, scale=1.0):
    """dx_j = w_j do and dr = scale w (do . x_j - sum w_j do . x_j) for w = softmax(scale r), summed back to each shape."""
    shapes = np.shape(x), np.shape(r)
    (x, z, where), do = _mixed(x, r, where, scale), _wide(do)[..., None, :]
    w = softmax(z, where=where)
    dr = softmax_backward(np.sum(do * x, axis=-1), w, scale=scale, where=where)
    return _sum_to(np.where(where[..., None], w[..., None] * do, 0.0), shapes[0]), _sum_to(dr, shapes[1])


@definition
def topk_gate(r, k, axis=-1, *, renormalize=True):
    """The softmax over the k largest of each row, or without ``renormalize`` over all; and where they are, in descending order.

    NaN is larger than all numbers; of equals the first comes first.
    """
    r = _keep(r)
    (axis,) = _axes(axis, r.ndim)
    rows = np.moveaxis(r, axis, -1)
    if not 0 <= k <= rows.shape[-1]:
        raise ValueError(f"k must be from 0 to {rows.shape[-1]}, not {k}")
    ascending = np.argsort(rows[..., ::-1], axis=-1, kind="stable")  # of equals the last first
    index = (rows.shape[-1] - 1 - ascending)[..., ::-1][..., :k]
    return np.moveaxis(_shares_at(rows, index, renormalize), -1, axis), np.moveaxis(index, -1, axis)


def _shares_at(rows, index, renormalize):
    return softmax(np.take_along_axis(rows, index, -1)) if renormalize else np.take_along_axis(softmax(rows), index, -1)


@definition
def topk_gate_backward(dw, r, indices, axis=-1, *, renormalize=True):
    """w (dw - sum w dw), put where the weights came from; without ``renormalize`` the gradient of the softmax over all.

    What an index that occurs twice receives is added up.
    """
    r = _wide(r)
    (axis,) = _axes(axis, r.ndim)
    rows, index = np.moveaxis(r, axis, -1), np.moveaxis(np.asarray(indices), axis, -1)
    if np.any((index < 0) | (index >= rows.shape[-1])):
        raise IndexError(f"indices must be at least 0 and below {rows.shape[-1]}")
    dw = np.moveaxis(np.broadcast_to(_wide(dw), np.shape(indices)), axis, -1)
    g = softmax_backward(dw, _shares_at(rows, index, True)) if renormalize else dw
    dr = np.sum(np.where(index[..., None] == np.arange(rows.shape[-1]), g[..., None], 0.0), axis=-2)
    return np.moveaxis(dr if renormalize else softmax_backward(dr, softmax(rows)), -1, axis)


# --- Attention ---------------------------------------------------------------------------------------------------------------


def _heads_first(layout, packed, *arrays):
    """Operands as (..., heads, rows, elements)."""
    return [_wide(a).swapaxes(-3, -2) if packed or layout == "BLHD" else _wide(a) for a in arrays]


def _reach(shape, causal, causal_offset, window, mask, q_lengths, kv_lengths, cu_seqlens_q, cu_seqlens_kv):
    """Which keys each query attends to, and the distance p - j from its position to theirs, both (..., Hq, Lq, Lk)."""
    lq, lk = shape[-2:]
    i, j = np.arange(lq)[:, None], np.arange(lk)
    n, m = (np.asarray(most if lengths is None else lengths)[..., None, None, None] for most, lengths in ((lq, q_lengths), (lk, kv_lengths)))
    allowed = (i < n) & (j < m)
    if cu_seqlens_q is not None:
        starts_q, starts_k = np.asarray(cu_seqlens_q), np.asarray(cu_seqlens_kv)
        of_q, of_k = (np.searchsorted(starts, x, side="right") - 1 for starts, x in ((starts_q, i), (starts_k, j)))
        allowed = of_q == of_k
        i, j = i - starts_q[of_q], j - starts_k[of_k]
        n, m = (np.append(np.diff(starts), 0)[of_q] for starts in (starts_q, starts_k))
    away = i + (m - n if causal_offset == "end" else causal_offset) - j
    left, right = (None if side == -1 else side for side in window or (None, None))
    allowed = allowed & (away >= 0 if causal else True)
    allowed = allowed & (True if left is None else away <= left) & (True if right is None else away >= -right)
    return np.broadcast_to(allowed & (True if mask is None else mask), shape), np.broadcast_to(away, shape)


def _scores(q, k, allowed, away, scale, bias, alibi_slopes, softcap):
    """The scores, -inf where a key does not count, and what softcap's tanh gave."""
    s = np.where(allowed, (q * (q.shape[-1] or 1) ** -0.5 if scale is None else q * scale) @ k.swapaxes(-1, -2), 0.0)
    bend = np.tanh(s / softcap) if softcap else 0.0
    s = bend * softcap if softcap else s
    s = s + (0.0 if bias is None else _wide(bias))
    s = s - (0.0 if alibi_slopes is None else _wide(alibi_slopes)[:, None, None] * np.abs(away))
    return np.where(allowed, s, -np.inf), bend


def _blend(weights, values, allowed):
    """weights @ values, where a value counts only for the rows that are allowed it, whatever it is."""
    finite = np.isfinite(values).all(axis=-1)
    o = np.where(allowed, weights, 0.0) @ np.where(finite[..., None], values, 0.0)
    for j in np.flatnonzero(~finite.all(axis=tuple(range(finite.ndim - 1)))):
        odd = np.where(finite[..., j, None], 0.0, values[..., j, :])[..., None, :]
        o = o + np.where((allowed[..., j] & ~finite[..., j, None])[..., None], weights[..., j, None] * odd, 0.0)
    return o


def _grouped(x, hkv):
    """x, (..., Hq, L, D), summed over the query heads of each key head."""
    return x.reshape((*x.shape[:-3], hkv, x.shape[-3] // hkv, *x.shape[-2:])).sum(axis=-3)


@definition
def attention(
    q,
    k,
    v,
    *,
    scale=None,
    causal=False,
    causal_offset=0,
    window=None,
    mask=None,
    bias=None,
    alibi_slopes=None,
    softcap=None,
    sinks=None,
    q_lengths=None,
    kv_lengths=None,
    cu_seqlens_q=None,
    cu_seqlens_kv=None,
    return_lse=False,
    layout="BHLD",
):
    """softmax(scale q k^T) v, over the keys that each query may attend to; and with ``return_lse`` the log of the denominators.

    Scores are scaled, capped (c tanh(s / c)), biased, and masked. A sink is one more score, without a value. A query without a key
    gives 0, and -inf.
    """
    last = cu_seqlens_q is not None or layout == "BLHD"
    q, k, v = _heads_first(layout, cu_seqlens_q is not None, q, k, v)
    k, v = (np.repeat(a, q.shape[-3] // a.shape[-3], axis=-3) for a in (k, v))
    allowed, away = _reach(
        (*q.shape[:-1], k.shape[-2]), causal, causal_offset, window, mask, q_lengths, kv_lengths, cu_seqlens_q, cu_seqlens_kv
    )
    s, _ = _scores(q, k, allowed, away, scale, bias, alibi_slopes, softcap)
    sink = np.full(s.shape[-3], -np.inf) if sinks is None else _wide(sinks)
    s = np.concatenate([s, np.broadcast_to(sink[:, None, None], (*s.shape[:-1], 1))], axis=-1)
    some = allowed.any(axis=-1)
    o = np.where(some[..., None], _blend(softmax(s)[..., :-1], v, allowed), 0.0)
    o = o.swapaxes(-3, -2) if last else o
    return (o, np.where(some, logsumexp(s), -np.inf)) if return_lse else o


@definition
def attention_backward(
    do,
    q,
    k,
    v,
    o,
    lse,
    *,
    scale=None,
    causal=False,
    causal_offset=0,
    window=None,
    mask=None,
    bias=None,
    alibi_slopes=None,
    softcap=None,
    sinks=None,
    q_lengths=None,
    kv_lengths=None,
    cu_seqlens_q=None,
    cu_seqlens_kv=None,
    bias_grad=False,
    sinks_grad=False,
    layout="BHLD",
):
    """dq = scale ds k, dk = scale ds^T q and dv = p^T do, for p = exp(s - lse) and ds = p (do v^T - sum do o).

    A softcap multiplies ds by 1 - tanh^2 on its way to q and k, not on that to the bias. Query heads that share a key head are added.
    """
    last = cu_seqlens_q is not None or layout == "BLHD"
    do = np.broadcast_to(_wide(do), np.shape(o))
    q, k, v, do, o = _heads_first(layout, cu_seqlens_q is not None, q, k, v, do, o)
    hkv, lse = k.shape[-3], np.where(np.isposinf(_wide(lse)), np.nan, _wide(lse))[..., None]
    k, v = (np.repeat(a, q.shape[-3] // hkv, axis=-3) for a in (k, v))
    scale = (q.shape[-1] or 1) ** -0.5 if scale is None else scale
    allowed, away = _reach(
        (*q.shape[:-1], k.shape[-2]), causal, causal_offset, window, mask, q_lengths, kv_lengths, cu_seqlens_q, cu_seqlens_kv
    )
    s, bend = _scores(q, k, allowed, away, scale, bias, alibi_slopes, softcap)
    delta = np.sum(do * o, axis=-1, keepdims=True)
    p = np.where(allowed, np.exp(s - lse), 0.0)
    ds = np.where(allowed, p * (do @ v.swapaxes(-1, -2) - delta), 0.0)
    dz = scale * ds * (1.0 - bend * bend)
    turned = allowed.swapaxes(-1, -2)
    dq = _blend(dz, k, allowed)
    dk, dv = (_grouped(_blend(g.swapaxes(-1, -2), a, turned), hkv) for g, a in ((dz, q), (p, do)))
    gradients = [a.swapaxes(-3, -2) if last else a for a in (dq, dk, dv)]
    if bias_grad:
        gradients.append(_sum_to(ds, np.shape(bias)))
    if sinks_grad:
        share = np.where(np.isneginf(lse), 0.0, np.exp(_wide(sinks)[:, None, None] - lse) * delta)
        gradients.append(-share.sum(axis=(*range(share.ndim - 3), -2, -1)))
    return tuple(gradients)


@definition
def merge_attention(parts):
    """(sum of exp(lse_i - lse) o_i, lse) for lse = log(sum of exp(lse_i)): attention over all keys, from parts of them."""
    os, lses = (np.stack([_wide(a) for a in arrays]) for arrays in zip(*parts))
    w = np.where(np.isneginf(lses), 0.0, np.exp(lses - np.maximum(np.max(lses, axis=0), np.finfo(float).min)))
    total = np.sum(w, axis=0)[..., None]
    o = np.sum(np.where((w[..., None] == 0) & ~np.isnan(os), 0.0, w[..., None] * os), axis=0)
    return np.where(total == 0, o, o / total), logsumexp(lses, axis=0)


# --- One description per op --------------------------------------------------------------------------------------------------


def once(arguments, results):
    """Bytes moved by an op that reads every argument once and writes every result once."""
    results = results if isinstance(results, tuple) else (results,)
    return sum(np.asarray(a).nbytes for a in (*arguments, *results) if not isinstance(a, tuple))


@dataclass(frozen=True)
class Op:
    """What tests, benchmarks and docs need to know of one op.

    ``op.reference(*op.inputs(x, rng, axis=axis, **options), axis=axis, **options)`` is the expected result for a base array x;
    an op without an axis (``"axis" not in op.options``) is called without it.
    """

    reference: Callable  # the definition
    family: str  # "max", "softmax", "pooling", "losses", "gates", "mixtures" or "attention"
    # "fold": reduces the axis; "rows": of x's shape, from the whole row; "map": element by element; "windows": pools; "halves": element
    # by element of the two halves of an axis, of which the base array is one; "mixture": mixes or chooses by a row of its own; "attention"
    kind: str
    inputs: Callable  # (x, rng, axis=-1, **options) -> the positional arguments; dy and y in x's dtype, or promoted
    forward: str | None = None  # of a backward: the op it belongs to
    exact: bool = False  # a selection: equal to the reference, not close to it (but for split ties, and sums over broadcast axes)
    apart: Mapping[str, object] = field(default_factory=dict)  # the options under which a row's result is its own
    integers: str = "promote"  # to float64 before any arithmetic; or "keep"
    ulp: Mapping[str, float] = field(default_factory=lambda: {"float32": 4, "float64": 6})  # the bound tests hold an op to
    moved: Callable = once  # (arguments, results) -> bytes, for GB/s
    # (arguments, **options) -> of each result, the magnitude of the largest of terms that may cancel: errors are counted there
    terms: Callable | None = None

    @property
    def name(self):
        return self.reference.__name__

    @property
    def direction(self):
        return "forward" if self.forward is None else "backward"

    @property
    def options(self):
        """The names of the optional arguments, ``axis`` and ``out`` among them."""
        parameters = inspect.signature(self.reference).parameters.values()
        return frozenset(p.name for p in parameters if p.default is not p.empty)

    @property
    def default_axis(self):
        """The axis unless given; None for an op that has none."""
        axis = inspect.signature(self.reference).parameters.get("axis")
        return axis and axis.default


def _forward(reference, family, kind, inputs=lambda x, rng, axis=-1, **options: (x,), **fields):
    return Op(reference, family, kind, inputs, **fields)


def _backward(reference, family, kind, forward, saved, result=None, **fields):
    """A backward that takes dy and the ``saved`` ones of x, y and b. ``result`` is the forward with which y is made."""
    result = result or forward
    accepted = inspect.signature(result).parameters

    def inputs(x, rng, axis=-1, **options):
        x = np.asarray(x)
        dtype = np.dtype(float) if x.dtype.kind in "biu" else x.dtype if x.dtype.isnative else x.dtype.newbyteorder("=")
        options = {name: value for name, value in {"axis": axis, **options}.items() if name in accepted}
        b = () if result is not maximum else _with_rival(x, rng)[1:]
        y = np.asarray(result(x, *b, **options))
        with np.errstate(all="ignore"):
            dy = rng.standard_normal(y.shape).astype(dtype)
            arrays = {"dy": dy, "x": x, "y": y.astype(dtype), "b": b and b[0]}
        return tuple(arrays[name] for name in ("dy", *saved))

    return Op(reference, family, kind, inputs, forward=forward.__name__, **fields)


def _with_rival(x, rng, axis=-1, **options):
    """x and a rival for maximum: the elements of x in another order, about a quarter of them in place."""
    x = np.asarray(x)
    order = np.where(rng.random(x.size) < 0.25, np.arange(x.size), rng.permutation(x.size))
    return x, x.reshape(-1)[order].reshape(x.shape)


def _max_or_zero(x, axis=-1, *, keepdims=False, where=None):
    return max(x, axis, keepdims=keepdims, where=where, initial=0)


def _log_magnitude(x, axis=-1, *, b=None, where=None, keepdims=False):
    return logsumexp(x, axis, b=b, where=where, keepdims=keepdims, return_sign=True)[0]


def _tiles(x):
    """Windows of two along each of the last two axes."""
    return tuple(int(n) for n in np.minimum(2, x.shape[-2:]))


def _pooled(reference, forward=None, **fields):
    """Inputs of an op on windows."""

    def inputs(x, rng, axis=-1, **options):
        x = np.asarray(x)
        dtype = np.dtype(float) if x.dtype.kind in "biu" else x.dtype if x.dtype.isnative else x.dtype.newbyteorder("=")
        y, indices = max_pool(x, _tiles(x), return_indices=True)
        dy = rng.standard_normal(y.shape).astype(dtype)
        return {
            "max_pool_backward": (dy, indices, x.shape),
            "max_unpool": (y.astype(x.dtype), indices, x.shape),
            "avg_pool_backward": (dy, x.shape, _tiles(x)),
            "softmax_pool_backward": (dy, x, _tiles(x)),
        }.get(reference.__name__, (x, _tiles(x)))

    return Op(reference, "pooling", "windows", inputs, forward=forward and forward.__name__, **fields)


def _loss(reference, kind, forward=None, **fields):
    """A loss: x and labels, of which a few are ignored; or if binary zeros, ones and numbers between; after dloss, in a backward."""
    binary = reference.__name__.startswith("binary")

    def inputs(x, rng, axis=-1, reduction="mean", **options):
        x = np.asarray(x)
        dtype = np.dtype(float) if x.dtype.kind in "biu" else x.dtype if x.dtype.isnative else x.dtype.newbyteorder("=")
        axes = _axes(axis, x.ndim)
        shape = x.shape if binary else tuple(n for i, n in enumerate(x.shape) if i not in axes)
        length = int(np.prod([x.shape[i] for i in axes], dtype=int))
        if binary:
            target = np.clip(rng.uniform(-0.5, 1.5, shape), 0, 1).astype(dtype)
        else:
            target = np.where(rng.random(shape) < (0.1 if length else 1), -100, rng.integers(0, length or 1, shape))
        dloss = (np.asarray(rng.standard_normal(shape if reduction == "none" else ())).astype(dtype),) if forward else ()
        return (*dloss, x, target)

    return Op(reference, "losses", kind, inputs, forward=forward and forward.__name__, apart={"reduction": "none"}, **fields)
def _gate_inputs(x, rng, axis=-1, **options):
    """Two branches and a gate: the elements of x, each time in another order."""
    x, y = _with_rival(x, rng)
    return x, y, _with_rival(x, rng)[1]


def _largest_branch(x, y, r):
    s, t = _shares(r, x, y)
    return np.maximum(np.abs(np.where(s == 0, 0, _wide(x) * s)), np.abs(np.where(t == 0, 0, _wide(y) * t)))


def _glu_inputs(x, rng, axis=-1, **options):
    """The base array and its rows, each in another order, as the halves of one."""
    x = np.asarray(x)
    return (np.concatenate([x, np.take_along_axis(x, np.argsort(rng.random(x.shape), axis), axis)], axis),)


def _largest_slope(dy, x, axis=-1, *, activation="sigmoid"):
    """Of the gradient by b, dy a (phi(b) / b + the rest of phi'(b)), where phi is b times something."""
    a, b = _halves(x, axis)
    (value, slope), dy = _activation(activation, b), _wide(dy)
    first = np.where(b == 0, 0.5, value / b) if activation in ("silu", "gelu", "gelu_tanh") else 0
    return np.concatenate([np.abs(dy * value), np.abs(dy * a) * np.maximum(np.abs(first), np.abs(slope - first))], axis)


def _with_gradient(forward):
    """Inputs of a backward of an element-wise op: a gradient, and what forward takes."""

    def inputs(x, rng, axis=-1, **options):
        arguments = forward(x, rng, axis, **options)
        dtype = np.dtype(float) if arguments[0].dtype.kind in "biu" else arguments[0].dtype.newbyteorder("=")
        return rng.standard_normal(np.shape(x)).astype(dtype), *arguments

    return inputs
def _mixture(reference, forward=None, **fields):
    """Inputs of a mixture: x is the scores; rows of three features, or the two largest, come with them."""

    def inputs(x, rng, axis=-1, **options):
        r = np.asarray(x)
        dtype = np.dtype(float) if r.dtype.kind in "biu" else r.dtype if r.dtype.isnative else r.dtype.newbyteorder("=")
        if reference.__name__.startswith("topk_gate"):
            k = int(np.minimum(2, r.shape[axis]))
            indices = np.ascontiguousarray(topk_gate(r, k, axis)[1])
            return (r, k) if forward is None else (rng.standard_normal(indices.shape).astype(dtype), r, indices)
        rows = rng.standard_normal((*r.shape, 3)).astype(dtype)
        do = () if forward is None else (rng.standard_normal((*r.shape[:-1], 3)).astype(dtype),)
        return (*do, rows, r)

    return Op(reference, "mixtures", "mixture", inputs, forward=forward and forward.__name__, **fields)


def _attention_inputs(x, rng, axis=-1, **options):
    """Self-attention of x, (..., L, D), whose rows come in other orders as keys and as values."""
    x = np.asarray(x)
    x = x.reshape((1,) * (3 - x.ndim) + x.shape)
    return x, *(np.ascontiguousarray(x[..., rng.permutation(x.shape[-2]), :]) for _ in range(2))


def _attention_gradient_inputs(x, rng, axis=-1, **options):
    q, k, v = _attention_inputs(x, rng)
    o, lse = attention(q, k, v, return_lse=True)
    dtype = np.dtype(float) if q.dtype.kind in "biu" else q.dtype if q.dtype.isnative else q.dtype.newbyteorder("=")
    return rng.standard_normal(o.shape).astype(dtype), q, k, v, o.astype(dtype), lse.astype(np.result_type(dtype, np.float32))


def _largest_value(q, k, v, **options):
    """A mean of values is counted in units of the largest of them, times that of its weights' scores, which are rounded too."""
    scores = np.max(np.abs(_wide(q)).max(axis=(-2, -1)) * np.abs(_wide(k)).max(axis=(-2, -1)) * np.sqrt(q.shape[-1]), initial=1)
    return np.max(np.abs(_wide(v))) * np.maximum(1, scores)


def _largest_gradient(do, q, k, v, o, lse, **options):
    """The same of gradients, of which each is a sum over rows or keys."""
    size = [np.max(np.abs(_wide(a))) for a in (do, q, k, v)]
    scores, rows = np.maximum(1, size[1] * size[2] * np.sqrt(q.shape[-1])), np.maximum(q.shape[-2], k.shape[-2])
    slope = size[0] * size[3] * v.shape[-1] * scores
    return slope * size[2], slope * size[1] * np.sqrt(rows), size[0] * scores * np.sqrt(rows)


_selection = {"exact": True, "integers": "keep"}
_close = {"ulp": {"float32": 2, "float64": 4}}

OPS: Mapping[str, Op] = MappingProxyType(
    {
        op.name: op
        for op in [
            _forward(max, "max", "fold", **_selection),
            _forward(argmax, "max", "fold", **_selection),
            _forward(max_with_argmax, "max", "fold", **_selection),
            _forward(hardmax, "max", "rows", **_selection),
            _backward(max_backward, "max", "rows", max, "x", result=_max_or_zero, exact=True),
            _forward(maximum, "max", "map", _with_rival, **_selection),
            _backward(maximum_backward, "max", "map", maximum, "xb", exact=True),
            _forward(relu, "max", "map", **_selection),
            _backward(relu_backward, "max", "map", relu, "x", exact=True),
            _forward(step, "max", "map", exact=True),
            _forward(softmax, "softmax", "rows", **_close),
            _backward(softmax_backward, "softmax", "rows", softmax, "y"),
            _forward(log_softmax, "softmax", "rows", **_close),
            _backward(log_softmax_backward, "softmax", "rows", log_softmax, "y"),
            _forward(logsumexp, "softmax", "fold", **_close),
            _backward(logsumexp_backward, "softmax", "rows", logsumexp, "xy", result=_log_magnitude),
            _forward(sigmoid, "softmax", "map", **_close),
            _backward(sigmoid_backward, "softmax", "map", sigmoid, "y", **_close),
            _forward(log_sigmoid, "softmax", "map", **_close),
            _backward(log_sigmoid_backward, "softmax", "map", log_sigmoid, "x"),
            _forward(softplus, "softmax", "map", **_close),
            _backward(softplus_backward, "softmax", "map", softplus, "x"),
            _pooled(max_pool, **_selection),
            _pooled(max_pool_backward, max_pool),
            _pooled(max_unpool, **_selection),
            _pooled(avg_pool, **_close),
            _pooled(avg_pool_backward, avg_pool),
            _pooled(softmax_pool, **_close),
            _pooled(softmax_pool_backward, softmax_pool),
            _loss(cross_entropy, "fold"),
            _loss(cross_entropy_with_grad, "rows"),
            _loss(cross_entropy_backward, "rows", cross_entropy),
            _loss(binary_cross_entropy, "map"),
            _loss(binary_cross_entropy_with_grad, "map"),
            _loss(binary_cross_entropy_backward, "map", binary_cross_entropy),
            _forward(gate, "gates", "map", _gate_inputs, terms=_largest_branch),
            Op(gate_backward, "gates", "map", _with_gradient(_gate_inputs), forward="gate", ulp={"float32": 5, "float64": 6}),
            _forward(glu, "gates", "halves", _glu_inputs),
            Op(
                glu_backward,
                "gates",
                "halves",
                _with_gradient(_glu_inputs),
                forward="glu",
                ulp={"float32": 5, "float64": 6},
                terms=_largest_slope,
            ),
            _mixture(softmax_gate),
            _mixture(softmax_gate_backward, softmax_gate),
            _mixture(topk_gate),
            _mixture(topk_gate_backward, topk_gate),
            Op(attention, "attention", "attention", _attention_inputs, terms=_largest_value),
            Op(
                attention_backward,
                "attention",
                "attention",
                _attention_gradient_inputs,
                forward="attention",
                terms=_largest_gradient,
            ),
        ]
    }
)
