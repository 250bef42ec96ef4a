"""Views of pyopencl arrays, for `check` and the ops to arrange as they arrange ndarrays."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import NamedTuple

import numpy as np
import pyopencl as cl
import pyopencl.array

from softcore import opencl
from softcore.opencl.replay import memory_of  # and with it what launches calls again


class _Flags(NamedTuple):
    writeable: bool
    aligned: bool = True


class View:
    """Where elements of a pyopencl array lie: what an ndarray is without its memory.

    NumPy's functions for views work on it (``broadcast_to``, ``squeeze``, ``moveaxis``, ``transpose``, slices), and so do
    ``copyto`` and ``may_share_memory``. It has no elements to compute with: whatever would need them fails.

    Attributes
    ----------
    array : pyopencl.array.Array
        The array that was given or made.
    shape, strides, dtype
        As of an ndarray.
    offset : int
        Where its first element lies in the buffer, in bytes.
    """

    __slots__ = ("array", "dtype", "offset", "shape", "strides")

    core = opencl  # what runs ops on it

    def __init__(self, array, shape=None, strides=None, offset=None):
        self.array = array
        self.dtype = array.dtype
        self.shape = array.shape if shape is None else shape
        self.strides = array.strides if strides is None else strides
        self.offset = array.offset if offset is None else offset

    @classmethod
    def empty(cls, shape: tuple[int, ...], dtype: np.dtype, like: View) -> View:
        """Of a new array on the queue of another, and from its allocator."""
        array = like.array
        size, strides = _contiguous(shape, dtype.itemsize)
        # As pyopencl makes one like another: looking at the shape again takes as long as a small kernel.
        known = {"_fast": True, "_size": size, "_context": array.context, "_queue": array.queue}
        return cls(cl.array.Array(None, shape, dtype, allocator=array.allocator, strides=strides, **known))

    @classmethod
    def of(cls, a, like: View) -> View:
        """Of a copy of an ndarray on the queue of another array."""
        return cls(cl.array.to_device(like.array.queue, np.asarray(a, order="C"), allocator=like.array.allocator))

    @classmethod
    def of_number(cls, a, like: View) -> View:
        """Of an ndarray of no axes on the queue of another array, only to be read: those of late are there already."""
        key = (like.array.queue, a.dtype, a.tobytes())
        array = _numbers.get(key)
        if array is None:
            if len(_numbers) >= 256:
                _numbers.clear()
            array = _numbers[key] = cl.array.to_device(key[0], a)  # and not from an allocator, which it would outlive
        return cls(array)

    def get(self) -> np.ndarray:
        """A copy of the elements, once they are there."""
        target = View.empty(self.shape, self.dtype, self)
        np.copyto(target, self)
        return target.array.get()

    def given(self) -> pyopencl.array.Array:
        """The elements as a pyopencl array, without a copy: what a user gets."""
        array = self.array
        if (self.shape, self.strides, self.offset) == (array.shape, array.strides, array.offset):
            return array
        place = {"data": array.base_data, "offset": self.offset, "strides": self.strides, "events": array.events}
        return cl.array.Array(array.queue, self.shape, self.dtype, allocator=array.allocator, **place)

    @property
    def flags(self):
        """What of an ndarray's flags is asked for."""
        data = self.array.base_data
        return _Flags(data is None or not data.flags & cl.mem_flags.READ_ONLY)

    @property
    def ndim(self):
        return len(self.shape)

    @property
    def size(self):
        return prod(self.shape)

    @property
    def start(self):
        """What the addresses of ndarrays are: the same for two views that start at the same element."""
        data = self.array.base_data
        buffer, start = (None, 0) if data is None else memory_of(data)
        return buffer, start + self.offset

    def overlaps(self, other: View) -> bool:
        """Whether the two may have bytes in common: elements that lie between those of the other are told apart where that is easy."""
        (p, first), (q, start) = self.start, other.start
        (below, above), (under, over) = [_reach(a.shape, a.strides, a.dtype.itemsize) for a in (self, other)]
        near = p == q and first + below < start + over and start + under < first + above
        return near and np.may_share_memory(self.places(first), other.places(start), max_work=1)

    def places(self, start: int) -> np.ndarray:
        """An array whose elements lie as those of this one do, from some address on: it must not be read."""
        lies = _Lies()
        place = {"data": (_SOMEWHERE + start, True), "shape": self.shape, "strides": self.strides}
        lies.__array_interface__ = {"version": 3, "typestr": f"|V{self.dtype.itemsize}", **place}
        return np.asarray(lies)

    def inside(self) -> bool:
        """Whether all elements lie in the buffer."""
        below, above = _reach(self.shape, self.strides, self.dtype.itemsize)
        return above == 0 or (self.offset >= -below and self.offset + above <= self.array.base_data.size)

    def view(self, dtype: np.dtype) -> View:
        """The same bytes as numbers of another type as wide."""
        return View(self.array.view(dtype), self.shape, self.strides, self.offset)

    def transpose(self, order) -> View:
        return View(self.array, tuple([self.shape[i] for i in order]), tuple([self.strides[i] for i in order]), self.offset)

    def swapaxes(self, i, j) -> View:
        order = list(range(self.ndim))
        order[i], order[j] = order[j], order[i]
        return self.transpose(order)

    def reshape(self, shape) -> View:
        """One axis as several, in their order."""
        (stride,) = self.strides
        return View(self.array, tuple(shape), tuple([stride * prod(shape[i + 1 :]) for i in range(len(shape))]), self.offset)

    def __getitem__(self, key):
        # Slices, None and an ellipsis: what the ops use.
        key = key if isinstance(key, tuple) else (key,)
        shape, strides, offset, i = [], [], self.offset, 0
        for place, k in enumerate(key):
            if k is None:
                shape.append(1)
                strides.append(0)
            elif k is Ellipsis:
                last = self.ndim - sum(isinstance(k, slice) for k in key[place:])
                shape += self.shape[i:last]
                strides += self.strides[i:last]
                i = last
            else:
                start, stop, step = k.indices(self.shape[i])
                shape.append(len(range(start, stop, step)))
                strides.append(self.strides[i] * step)
                offset += start * self.strides[i]
                i += 1
        return View(self.array, (*shape, *self.shape[i:]), (*strides, *self.strides[i:]), offset)

    def __setitem__(self, key, value):
        value = value if isinstance(value, View) else View.of(np.asarray(value, self.dtype), self)
        np.copyto(self[key], value)

    def __array_function__(self, function, types, args, kwargs):
        try:
            return _FUNCTIONS[function](*args, **kwargs)
        except KeyError:
            return NotImplemented


class _Lies:
    """What has an array interface."""


_SOMEWHERE = 1 << 60  # an address that nothing has
_numbers: dict[tuple, cl.array.Array] = {}  # (queue, dtype, bytes)


@lru_cache(maxsize=256)
def _contiguous(shape, itemsize):
    """The size and the strides of a new array."""
    return prod(shape), tuple([itemsize * max(1, prod(shape[i + 1 :])) for i in range(len(shape))])


def _broadcast_to(a, shape):
    added = len(shape) - a.ndim
    if added < 0 or any(n not in (1, m) for n, m in zip(a.shape, shape[added:])):
        raise ValueError(f"{a.shape} does not broadcast to {shape}")
    strides = [0 if n == 1 and n != m else s for n, m, s in zip(a.shape, shape[added:], a.strides)]
    return View(a.array, tuple(shape), (*(0,) * added, *strides), a.offset)


def _squeeze(a, axis):
    axes = axis if isinstance(axis, tuple) else (axis,)
    kept = [i for i in range(a.ndim) if i not in axes]
    return View(a.array, tuple([a.shape[i] for i in kept]), tuple([a.strides[i] for i in kept]), a.offset)


def _moveaxis(a, source, destination):
    order = [i for i in range(a.ndim) if i != source % a.ndim]
    order.insert(destination % a.ndim, source % a.ndim)
    return a.transpose(order)


def _copyto(target, source, casting="unsafe"):
    if target.size:
        storage = source.dtype if source.dtype == np.float64 else target.dtype  # in which to round once
        opencl.run("copy", storage, (_broadcast_to(source, target.shape),), (target,), target.ndim)


def _may_share_memory(a, b, max_work=None):
    return a.overlaps(b)


@lru_cache(maxsize=256)
def _reach(shape, strides, itemsize):
    """From where to where bytes lie, seen from the first element."""
    if 0 in shape:
        return 0, 0
    ends = [(n - 1) * s for n, s in zip(shape, strides)]
    return sum([e for e in ends if e < 0]), sum([e for e in ends if e > 0]) + itemsize


_FUNCTIONS = {
    np.broadcast_to: _broadcast_to,
    np.squeeze: _squeeze,
    np.moveaxis: _moveaxis,
    np.copyto: _copyto,
    np.may_share_memory: _may_share_memory,
}
