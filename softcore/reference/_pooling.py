"""Pooling.

A row is a window here. ``places`` are the flat indices, over the spatial axes, of what the windows hold, of shape (windows, taps);
``real`` is False where that is padding. Arrays are taken as (others, spatial): see _planes.
"""

from __future__ import annotations

import numpy as np

from softcore import check, windows
from softcore.reference._common import _flat, _keep, _unflat, _wide, definition
from softcore.reference._maxima import max_with_argmax
from softcore.reference._op import CLOSE, SELECTION, Op, gradient_dtype
from softcore.reference._softmax import softmax


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
    spatial, pooled, places, real, counted = _windows("avg_pool_backward", shape, window, stride, padding, dilation, ceil_mode, layout)
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
    """dy share (1 + x - y), added up over the windows of each element. Of x and y is taken off the maximum: both may be huge."""
    dy, x = _wide(dy), _wide(x)
    spatial, pooled, places, real, _ = _windows("softmax_pool_backward", x.shape, window, stride, padding, dilation, ceil_mode, layout)
    taps = _planes(x, spatial)[:, places]
    taps = taps - np.max(taps, axis=-1, keepdims=True, where=real, initial=-np.inf)
    share, y = _soft(taps, real)
    dy = _planes(np.broadcast_to(dy, pooled), spatial)[..., None]
    terms = np.where(share == 0, 0.0, dy * share * (1 + taps - y[..., None]))
    return _unplanes(_added(terms, places, real, x.shape, spatial), spatial, x.shape)


# What tests and benchmarks call them with.


def _tiles(x):
    """Windows of two along each of the last two axes."""
    return tuple(int(n) for n in np.minimum(2, x.shape[-2:]))


def _pooled(reference, forward=None, **fields):
    """Inputs of an op on windows."""

    def inputs(x, rng, axis=-1, **options):
        x = np.asarray(x)
        dtype = gradient_dtype(x)
        y, indices = max_pool(x, _tiles(x), return_indices=True)
        dy = rng.standard_normal(y.shape).astype(dtype)
        return {
            "max_pool_backward": (dy, indices, x.shape),
            "max_unpool": (y.astype(x.dtype), indices, x.shape),
            "avg_pool_backward": (dy, x.shape, _tiles(x)),
            "softmax_pool_backward": (dy, x, _tiles(x)),
        }.get(reference.__name__, (x, _tiles(x)))

    return Op(reference, "pooling", "windows", inputs, forward=forward and forward.__name__, **fields)


OPS = (
    _pooled(max_pool, **SELECTION),
    _pooled(max_pool_backward, max_pool),
    _pooled(max_unpool, **SELECTION),
    _pooled(avg_pool, **CLOSE),
    _pooled(avg_pool_backward, avg_pool),
    _pooled(softmax_pool, **CLOSE),
    _pooled(softmax_pool_backward, softmax_pool),
)
