r"""The states that every forward op folds, and the laws they obey.

A reduction cuts its row into tiles, absorbs each tile into a state, merges the states in tile order and finishes the last one:

============  ==========  ============  ===================================================  ========================
op            state       empty         merge                                                finish
============  ==========  ============  ===================================================  ========================
max           m           -inf          larger m; NaN stays                                  m
argmax        (m, i)      (-inf, inf)   larger m; equal m: smaller i; the first NaN stays    i
logsumexp     (m, l)      (-inf, 0)     m = max m_k, l = sum of l_k exp(m_k - shift(m))      m + log l
softmax       (m, l)      as above      as above                                             maps x to exp(x - m) / l
attention     (m, l, o)   (-inf, 0, 0)  as above, o rescaled with l                          o / l
============  ==========  ============  ===================================================  ========================

The laws, which ``tests/test_fold.py`` checks with every awkward value in every order:

- ``empty`` is the identity of ``merge``, on both sides;
- ``merge`` is associative: exactly for selections, to rounding for sums;
- ``merge(absorb(empty, a), absorb(empty, b)) == absorb(absorb(empty, a), b) == absorb(empty, a ++ b)``;
- ``finish`` of the fold is the definition in :mod:`softcore.reference`.

So threads over rows, threads within a row, and the chunks of a cache may be merged freely, and a fold over no tiles has a result.
States are tuples of arrays of shape (batch...), tiles have shape (batch..., n), and all functions work on whole batches at once.
The kernels keep the same four functions, in this order, for each op.

Examples
--------
A row in two tiles, folded one after the other and then apart:

>>> import numpy as np
>>> from softcore.fold import ArgmaxState, SoftmaxState
>>> a, b = np.log([1.0, 3.0]), np.log([4.0, 2.0, 6.0])
>>> left, right = SoftmaxState.empty().absorb(a), SoftmaxState.empty().absorb(b)
>>> whole = left.merge(right)
>>> print(np.exp(whole.finish()).round(12), np.exp(left.absorb(b).finish()).round(12))
16.0 16.0
>>> whole.share(a).round(4)
array([0.0625, 0.1875])
>>> print(ArgmaxState.empty().absorb(a).absorb(b, start=2).finish())
4
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["ArgmaxState", "MaxState", "SoftmaxGateState", "SoftmaxState", "shift"]

Array = np.ndarray


def shift(m: Array) -> Array:
    """What to subtract before ``exp``: m, or 0 where m is not finite.

    This alone makes empty states, rows of -inf, +inf and NaN come out right in every merge order. With m itself, two empty
    states would merge into exp(-inf + inf) = nan.
    """
    return np.where(np.isfinite(m), m, 0.0)


class MaxState(NamedTuple):
    """m, the largest value so far."""

    m: Array

    @classmethod
    def empty(cls, batch: tuple[int, ...] = ()) -> MaxState:
        return cls(np.full(batch, -np.inf))

    def absorb(self, x: Array) -> MaxState:
        return MaxState(np.maximum(self.m, x.max(axis=-1, initial=-np.inf)))

    def merge(self, other: MaxState) -> MaxState:
        return MaxState(np.maximum(self.m, other.m))

    def finish(self) -> Array:
        return self.m


class ArgmaxState(NamedTuple):
    """m, the largest value so far, and i, the index of its first occurrence. A NaN is larger than everything."""

    m: Array
    i: Array

    @classmethod
    def empty(cls, batch: tuple[int, ...] = ()) -> ArgmaxState:
        # No index is the largest index, so that it loses to every element, -inf included.
        return cls(np.full(batch, -np.inf), np.full(batch, np.iinfo(np.intp).max))

    def absorb(self, x: Array, start: int = 0) -> ArgmaxState:
        """Absorb the tile x, whose first element has the index ``start``."""
        if x.shape[-1] == 0:
            return self
        i = x.argmax(axis=-1)
        return self.merge(ArgmaxState(np.take_along_axis(x, i[..., None], axis=-1)[..., 0], i + start))

    def merge(self, other: ArgmaxState) -> ArgmaxState:
        nan, other_nan = np.isnan(self.m), np.isnan(other.m)
        equal = (self.m == other.m) | (nan & other_nan)
        larger = (self.m > other.m) | (nan & ~other_nan)
        mine = larger | (equal & (self.i <= other.i))  # by index, never by who came first
        return ArgmaxState(np.where(mine, self.m, other.m), np.where(mine, self.i, other.i))

    def finish(self) -> Array:
        return self.i


class SoftmaxState(NamedTuple):
    """m, the largest value so far, and l, the sum of exp(x - shift(m)) over the values so far."""

    m: Array
    l: Array

    @classmethod
    def empty(cls, batch: tuple[int, ...] = ()) -> SoftmaxState:
        return cls(np.full(batch, -np.inf), np.zeros(batch))

    def absorb(self, x: Array) -> SoftmaxState:
        with np.errstate(all="ignore"):
            m = np.maximum(self.m, x.max(axis=-1, initial=-np.inf))
            s = shift(m)
            return SoftmaxState(m, self.l * np.exp(self.m - s) + np.exp(x - s[..., None]).sum(axis=-1))

    def merge(self, other: SoftmaxState) -> SoftmaxState:
        with np.errstate(all="ignore"):
            m = np.maximum(self.m, other.m)
            s = shift(m)
            return SoftmaxState(m, self.l * np.exp(self.m - s) + other.l * np.exp(other.m - s))

    def finish(self) -> Array:
        """logsumexp of the values so far."""
        with np.errstate(all="ignore"):
            return self.m + np.log(self.l)

    def share(self, x: Array) -> Array:
        """softmax of a tile of those values. An infinite m makes the whole row nan: m - m is 0 if m is finite."""
        with np.errstate(all="ignore"):
            return np.exp(x - self.m[..., None]) / (self.l + (self.m - self.m))[..., None]


class SoftmaxGateState(NamedTuple):
    """The softmax state (m, l) of the scores so far and o, the sum of exp(score - shift(m)) times its value."""

    m: Array
    l: Array
    o: Array  # (batch..., d)

    @classmethod
    def empty(cls, batch: tuple[int, ...] = (), d: int = 1) -> SoftmaxGateState:
        return cls(np.full(batch, -np.inf), np.zeros(batch), np.zeros((*batch, d)))

    def absorb(self, x: Array, v: Array) -> SoftmaxGateState:
        """Absorb the scores x (batch..., n) with their values v (batch..., n, d)."""
        with np.errstate(all="ignore"):
            m = np.maximum(self.m, x.max(axis=-1, initial=-np.inf))
            s = shift(m)
            old, p = np.exp(self.m - s), np.exp(x - s[..., None])
            o = self.o * old[..., None] + np.einsum("...n,...nd->...d", p, v)
            return SoftmaxGateState(m, self.l * old + p.sum(axis=-1), o)

    def merge(self, other: SoftmaxGateState) -> SoftmaxGateState:
        with np.errstate(all="ignore"):
            m = np.maximum(self.m, other.m)
            s = shift(m)
            a, b = np.exp(self.m - s), np.exp(other.m - s)
            o = self.o * a[..., None] + other.o * b[..., None]
            return SoftmaxGateState(m, self.l * a + other.l * b, o)

    def finish(self) -> Array:
        """softmax(scores) @ values; 0 / 0 = nan without a finite score. Whoever masked all of them out writes 0 instead."""
        with np.errstate(all="ignore"):
            return self.o / self.l[..., None]
