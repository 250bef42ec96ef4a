"""The options of attention."""

from __future__ import annotations

import numpy as np

from softcore.check._operands import _array, _is_opencl, _view, arrays, on_host
from softcore.check._scalars import _LARGEST, _count, _float, _whole, number
from softcore.check._shapes import shape


def window(op: str, value) -> tuple[int, int]:
    """How many keys to the left and to the right of its own a query attends to; -1 where that is open."""
    if value is None:
        return -1, -1
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{op}: window is {value!r}, it must be a pair (left, right) of ints or None")
    sides = tuple(-1 if side is None else _whole(op, "window", side) for side in value)
    if min(sides) < -1:
        raise ValueError(f"{op}: window is {value!r}, its sides must be at least 0, or None or -1 where it is open")
    return tuple(min(side, _LARGEST) for side in sides)  # which is wider than any array


def count_of(op: str, name: str, value) -> int:
    """A number of things."""
    return _count(op, name, value, 0, value)


def causal_offset(op: str, value) -> int | None:
    """What is added to a query's index to make its position; None for "end", which lengths decide."""
    if isinstance(value, str):
        if value != "end":
            raise ValueError(f"{op}: causal_offset is {value!r}, it must be 'end' or an int")
        return None
    value = _whole(op, "causal_offset", value)
    if abs(value) > _LARGEST:
        raise ValueError(f"{op}: causal_offset is {value}, it must be from {-_LARGEST} to {_LARGEST}")
    return value


def softcap(op: str, value) -> float | None:
    """The bound of scores, or None."""
    if value is not None:
        value = _float(op, "softcap", number(op, "softcap", value))
        if not 0 < value < np.inf:
            raise ValueError(f"{op}: softcap is {value:g}, it must be positive and finite, or None")
    return value


def per_head(op: str, name: str, value, heads: int) -> np.ndarray | None:
    """One number for each query head, or None."""
    if value is None:
        return None
    (value,) = arrays(op, **{name: value})
    shape(op, name, value, (heads,))
    return value


def lengths(op: str, name: str, value, batch: tuple[int, ...], most: int) -> np.ndarray | None:
    """One length for each element of the batch, as int64, or None."""
    value = _integers(op, name, value)
    if value is None:
        return None
    shape(op, name, value, batch)
    if value.size and not (0 <= value.min() and value.max() <= most):
        wrong = value.max() if value.min() >= 0 else value.min()
        raise ValueError(f"{op}: {name} holds {wrong}, it must be from 0 to {most}")
    return value.astype(np.int64).reshape(-1)


def sequences(op: str, name: str, value, total: int) -> np.ndarray | None:
    """Where packed sequences begin, and where the last one ends, as int64, or None."""
    value = _integers(op, name, value)
    if value is None:
        return None
    value = value.astype(np.int64)
    if value.ndim != 1 or value.size < 1 or value[0] != 0 or value[-1] != total or np.any(np.diff(value) < 0):
        raise ValueError(f"{op}: {name} is {value.tolist()}, it must rise from 0 to {total}, the number of rows")
    return value


def _integers(op, name, value):
    if value is None:
        return None
    value = on_host(_view(op, name, value)) if _is_opencl(value) else _array(op, name, value)
    if value.dtype.kind not in "iu":
        raise TypeError(f"{op}: {name} has dtype {value.dtype}, it must be an integer dtype")
    return value
