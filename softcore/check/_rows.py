"""Which elements of a row take part, which are named, and what their maximum starts from."""

from __future__ import annotations

import numpy as np

from softcore.check._operands import _beside_view, _is_opencl, _of_kind, not_masked, on_host
from softcore.check._scalars import _whole, as_dtype, number
from softcore.check._shapes import broadcast


def mask(op: str, where, shape: tuple[int, ...], like, name: str = "where") -> np.ndarray | None:
    """`where` as a boolean view of `shape`, of the kind that `like` is; None where every element takes part."""
    if where is None or where is True or (isinstance(where, np.bool_) and where):
        return None
    if _is_opencl(where) == isinstance(like, np.ndarray):
        is_one, are = ("is a pyopencl array", "are not") if _is_opencl(where) else ("is not a pyopencl array", "are")
        raise TypeError(f"{op}: {name} {is_one} and the other arrays {are}; all must be of one kind")
    not_masked(op, name, where)
    try:
        where = np.asarray(where) if isinstance(like, np.ndarray) else type(like)(where)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{op}: {name} must be a boolean array: {error}") from None
    if not isinstance(like, np.ndarray):
        _beside_view(op, name, where, like)
    if where.dtype != bool:
        raise TypeError(f"{op}: {name} has dtype {where.dtype}, it must be bool")
    return broadcast(op, name, where, shape)


def taking_part(op: str, mask: np.ndarray | None, shape: tuple[int, ...], axes: tuple[int, ...], remedy: str = "") -> None:
    """Refuse a row in which no element takes part: it has no maximum."""
    empty = next((i for i in axes if shape[i] == 0), None) if 0 in shape else None
    if empty is not None:
        raise ValueError(f"{op}: x is empty along axis {empty} (its shape is {shape}), it must have a maximum{remedy}")
    if mask is not None and not np.any(on_host(mask), axis=axes).all():
        raise ValueError(f"{op}: where masks out every element of a row, each row must have a maximum{remedy}")


def initial(op: str, value, dtype: np.dtype, like) -> np.ndarray:
    """What the maximum of elements of `dtype` starts from, as an array of the kind that `like` is."""
    if dtype.kind != "b" or not isinstance(value, (bool, np.bool_)):
        value = number(op, "initial", value)
    value = as_dtype(op, "initial", value, dtype)
    return value if isinstance(like, np.ndarray) else type(like).of(value, like)


def index(op: str, value, shape: tuple[int, ...], length: int, like) -> np.ndarray | None:
    """Positions along a row of `length` elements, one per row, as int64 in an array of the kind that `like` is."""
    if value is None:
        return None
    value = _of_kind(op, "index", value, like)
    if value.dtype.kind not in "iu":
        raise TypeError(f"{op}: index has dtype {value.dtype}, it must be an integer dtype")
    if value.shape != shape:
        raise ValueError(f"{op}: index has shape {value.shape}, it must be {shape}")
    held = on_host(value)
    if held.size and not (0 <= held.min() and held.max() < length):
        wrong = held.max() if held.min() >= 0 else held.min()
        raise IndexError(f"{op}: index holds {wrong}, {_one_of(length)}, for rows of {length} elements")
    return held.astype(np.int64, copy=False) if held is value else value


def indices(op: str, value, shape: tuple[int, ...], axis: int, like) -> np.ndarray:
    """Positions along one axis of an array of `shape`, any number of them in each row, in an array of the kind that `like` is."""
    value = _of_kind(op, "indices", value, like)
    if value.dtype.kind not in "iu" and value.size:  # an empty list is of floats
        raise TypeError(f"{op}: indices has dtype {value.dtype}, it must be an integer dtype")
    if value.ndim != len(shape) or any(n != m for i, (n, m) in enumerate(zip(value.shape, shape)) if i != axis):
        wanted = ", ".join("k" if i == axis else str(n) for i, n in enumerate(shape)) + ("," if len(shape) == 1 else "")
        raise ValueError(f"{op}: indices has shape {value.shape}, it must be ({wanted})")
    held = on_host(value)
    if held.size and not (0 <= held.min() and held.max() < shape[axis]):
        wrong = held.max() if held.min() >= 0 else held.min()
        raise IndexError(f"{op}: indices holds {wrong}, {_one_of(shape[axis])}, for rows of {shape[axis]} elements")
    return value


def count(op: str, name: str, value, most: int) -> int:
    """A number of elements, up to `most`."""
    value = _whole(op, name, value)
    if not 0 <= value <= most:
        raise ValueError(f"{op}: {name} is {value}, it must be from 0 to {most}, for rows of {most} elements")
    return value


def _one_of(n):
    """What an index of n places must be."""
    return f"it must be from 0 to {n - 1}" if n else "which no index can be"
