"""The arrays that results are written to."""

from __future__ import annotations

import numpy as np

from softcore.check._operands import _beside_view, _is_opencl, _view, not_masked


def out(op: str, array, shape: tuple[int, ...], dtype: np.dtype, like, name: str = "out") -> np.ndarray:
    """The array to write the result to: the user's, or a new one of the kind that `like` is."""
    if array is None:
        if isinstance(like, np.ndarray) and shape == like.shape and not like.flags.c_contiguous and 0 not in like.strides:
            return np.empty_like(like, dtype, subok=False)  # in the order of memory that the input has, as NumPy's functions do
        return new(shape, dtype, like)
    array = _own(op, name, array, like)
    if array.dtype != dtype:
        raise TypeError(f"{op}: {name} has dtype {array.dtype}, it must be {dtype}")
    if array.shape != shape:
        raise ValueError(f"{op}: {name} has shape {array.shape}, it must be {shape}")
    if not array.flags.writeable:
        raise ValueError(f"{op}: {name} is read-only, it must be writeable")
    if 0 in array.strides and any(n > 1 and not stride for n, stride in zip(array.shape, array.strides)) and 0 not in shape:
        raise ValueError(f"{op}: {name} has several elements in one place (its strides are {array.strides}), each must have its own")
    # A subclass may have its own notion of shapes, as np.matrix has.
    return array.view(np.ndarray) if isinstance(array, np.ndarray) and type(array) is not np.ndarray else array


def outs(op: str, arrays, shapes: tuple[tuple[int, ...], ...], dtypes: tuple[np.dtype, ...], like) -> list[np.ndarray]:
    """The same for a function of several results, whose ``out`` is a tuple."""
    if arrays is None:
        arrays = (None,) * len(shapes)
    if not isinstance(arrays, tuple):
        raise TypeError(f"{op}: out is a {type(arrays).__name__}, it must be a tuple of {len(shapes)} arrays")
    if len(arrays) != len(shapes):
        raise ValueError(f"{op}: out holds {len(arrays)} arrays, it must hold {len(shapes)}")
    # Those given are checked before those missing are made.
    given = [(i, _own(op, f"out[{i}]", a, like)) for i, a in enumerate(arrays) if a is not None]
    for i, a in given:
        for j, b in given:
            if j < i and np.may_share_memory(a, b, max_work=1):
                raise ValueError(f"{op}: out[{j}] and out[{i}] share memory, they must not")
    return [out(op, a, s, d, like, f"out[{i}]") for i, (a, s, d) in enumerate(zip(arrays, shapes, dtypes))]


def new(shape: tuple[int, ...], dtype: np.dtype, like) -> np.ndarray:
    """An array of the kind that `like` is."""
    return np.empty(shape, dtype) if isinstance(like, np.ndarray) else type(like).empty(shape, dtype, like)


def _own(op, name, a, like):
    """`a`, which must be an array of the kind that `like` is."""
    if isinstance(like, np.ndarray):
        if not isinstance(a, np.ndarray):
            raise TypeError(f"{op}: {name} is a {type(a).__name__}, it must be a numpy.ndarray")
        not_masked(op, name, a)
        return a
    if not _is_opencl(a):
        raise TypeError(f"{op}: {name} is a {type(a).__name__}, it must be a pyopencl.array.Array")
    return _beside_view(op, name, _view(op, name, a), like)
