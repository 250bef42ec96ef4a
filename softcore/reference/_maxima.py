"""The max family: what is chosen is an element, and its gradient goes there."""

from __future__ import annotations

import numpy as np

from softcore.reference._common import (
    _axes,
    _dropped,
    _flat,
    _keep,
    _kept,
    _max,
    _maxima,
    _place,
    _some,
    _sum,
    _sum_to,
    _unflat,
    _where,
    _wide,
    definition,
)
from softcore.reference._op import SELECTION, backward, forward, with_rival


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
    """``(max, argmax)``: the element at the index, so of equal zeros the first (or last)."""
    x = _keep(x)
    axes = _axes(axis, x.ndim)
    index = argmax(x, axis, keepdims=True, where=where, select_last=select_last)
    value = np.take_along_axis(_flat(x, axes), _flat(np.asarray(index), axes), axis=-1)
    return tuple(_dropped(a, axes, keepdims) for a in (_unflat(value, axes, np.shape(index)), index))


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


# What tests and benchmarks call them with.


def _max_or_zero(x, axis=-1, *, keepdims=False, where=None):
    return max(x, axis, keepdims=keepdims, where=where, initial=0)


OPS = (
    forward(max, "max", "fold", **SELECTION),
    forward(argmax, "max", "fold", **SELECTION),
    forward(max_with_argmax, "max", "fold", **SELECTION),
    forward(hardmax, "max", "rows", **SELECTION),
    backward(max_backward, "max", "rows", max, "x", result=_max_or_zero, exact=True),
    forward(maximum, "max", "map", with_rival, **SELECTION),
    backward(maximum_backward, "max", "map", maximum, "xb", inputs=with_rival, exact=True),
    forward(relu, "max", "map", **SELECTION),
    backward(relu_backward, "max", "map", relu, "x", exact=True),
    forward(step, "max", "map", exact=True),
)
