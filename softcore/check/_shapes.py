"""Shapes and axes."""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.exceptions import AxisError

from softcore.check._scalars import _count

_MOST = np.iinfo(np.intp).max // 16  # elements of an array, of any dtype


def whole_shape(op: str, value, name: str = "shape") -> tuple[int, ...]:
    """The shape of an array."""
    lengths = value if isinstance(value, (tuple, list)) else (value,)
    shape = tuple([_count(op, name, n, 0, value, _MOST) for n in lengths])
    if prod(n for n in shape if n) > _MOST:  # of NumPy's arrays none may have more, even if it is empty
        raise ValueError(f"{op}: {name} is {value!r}, it must have at most {_MOST} elements")
    return shape


def shape(op: str, name: str, a: np.ndarray, shape: tuple[int, ...]) -> None:
    """Refuse an array of any other shape."""
    if a.shape != shape:
        raise ValueError(f"{op}: {name} has shape {a.shape}, it must be {shape}")


def broadcast(op: str, name: str, a: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`a` as a view of `shape`."""
    if a.shape == shape:
        return a
    try:
        return np.broadcast_to(a, shape)
    except ValueError:
        raise ValueError(f"{op}: {name} has shape {a.shape}, it must broadcast to {shape}") from None


def broadcast_shape(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """np.broadcast_shapes, of as many axes as an array may have: that stops at 32."""
    most = max(map(len, shapes))
    lengths = [{n for n in along if n != 1} for along in zip(*[(1,) * (most - len(shape)) + shape for shape in shapes])]
    if any(len(along) > 1 for along in lengths):
        raise ValueError("the shapes do not broadcast together")
    return tuple([along.pop() if along else 1 for along in lengths])


def common_shape(op: str, **operands: np.ndarray) -> tuple[int, ...]:
    """The shape that all the operands broadcast to."""
    shapes = {a.shape for a in operands.values()}
    if len(shapes) == 1:
        return shapes.pop()
    try:
        return broadcast_shape(*shapes)
    except ValueError:
        shapes = ", ".join(f"{name} {a.shape}" for name, a in operands.items())
        raise ValueError(f"{op}: the shapes must broadcast together, they are {shapes}") from None


def axes(op: str, axis, ndim: int) -> tuple[int, ...]:
    """`axis` as a sorted tuple of ints from 0 to ndim - 1. A scalar has the axes -1 and 0 to name, and none to reduce."""
    if axis is None:
        return tuple(range(ndim))
    if type(axis) is int and -ndim <= axis < ndim:
        return (axis % ndim,)
    named = axis if isinstance(axis, tuple) else (axis,)
    result = set()
    for a in named:
        if isinstance(a, (bool, np.bool_)) or not hasattr(type(a), "__index__"):
            inside = " holding" if isinstance(axis, tuple) else ""
            raise TypeError(
                f"{op}: axis is a{' tuple' if inside else ''}{inside} {type(a).__name__}, it must be an int, a tuple of ints or None"
            )
        try:
            a = a.__index__()
        except TypeError:  # an array of more than one element
            raise TypeError(f"{op}: axis is an array, it must be an int, a tuple of ints or None") from None
        rank = ndim or 1
        if not -rank <= a < rank:
            raise AxisError(f"{op}: axis {a} is out of bounds for an array of {ndim} dimensions")
        if a % rank in result:
            raise ValueError(f"{op}: axis is {axis}, it must not name the same axis twice")
        result.add(a % rank)
    return tuple(sorted(result)) if ndim else ()


def one_axis(op: str, name: str, axis, ndim: int) -> int:
    """`axis` of an array that must have it, as an int from 0 to ndim - 1."""
    if isinstance(axis, tuple) or axis is None:
        raise TypeError(f"{op}: axis is {'None' if axis is None else 'a tuple'}, it must be an int")
    if ndim == 0:
        raise ValueError(f"{op}: {name} is a scalar, it must have at least one axis")
    return axes(op, axis, ndim)[0]


def reduced(shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool) -> tuple[int, ...]:
    """The shape of one value per row, a row being the elements along `axes`."""
    if keepdims:
        return tuple([1 if i in axes else n for i, n in enumerate(shape)])
    if len(axes) == 1:
        return shape[: axes[0]] + shape[axes[0] + 1 :]
    return tuple([n for i, n in enumerate(shape) if i not in axes])


def halves(op: str, name: str, a: np.ndarray, axis) -> tuple[np.ndarray, np.ndarray]:
    """Views of the two halves of an array along one axis."""
    if axis is None or isinstance(axis, tuple):
        raise TypeError(f"{op}: axis is {'None' if axis is None else 'a tuple'}, it must be an int")
    if not axes(op, axis, a.ndim):
        raise ValueError(f"{op}: {name} is a scalar, it must have an axis to be cut in two")
    (axis,) = axes(op, axis, a.ndim)
    if a.shape[axis] % 2:
        raise ValueError(f"{op}: {name} has length {a.shape[axis]} along axis {axis}, it must be even")
    before, half = (slice(None),) * axis, a.shape[axis] // 2
    return a[(*before, slice(half))], a[(*before, slice(half, None))]
