"""Options that are a number, a flag or a word."""

from __future__ import annotations

from numbers import Real

import numpy as np

_LARGEST = 2**31 - 1  # so that places computed in 64 bits cannot overflow


def number(op: str, name: str, value) -> Real:
    """A real number."""
    if type(value) is float:
        return value
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, (bool, np.bool_)) or not (isinstance(value, Real) or type(value).__name__ == "bfloat16"):
        raise TypeError(f"{op}: {name} is a {type(value).__name__}, it must be a real number")
    return value


def scale(op: str, value) -> float:
    """The factor that multiplies x."""
    return _float(op, "scale", number(op, "scale", value))


def within(op: str, name: str, value, low: float, high: float = np.inf) -> float:
    """A finite real number from `low` to `high`."""
    if type(value) is float and low <= value <= high and value < np.inf:
        return value
    value = _float(op, name, number(op, name, value))
    if not (low <= value <= high and np.isfinite(value)):
        bounds = f"from {low:g} to {high:g}" if np.isfinite(high) else f"finite and at least {low:g}"
        raise ValueError(f"{op}: {name} is {value:g}, it must be {bounds}")
    return value


def _float(op, name, value):
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{op}: {name} is {value}, which float64 cannot hold") from None


def as_dtype(op: str, name: str, number, dtype: np.dtype) -> np.ndarray:
    """A real number as a 0-d array. It may be rounded to a floating dtype; an integer dtype must hold it exactly."""
    if dtype.kind in "biu":
        low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        if not low <= number <= high or number != int(number):
            raise ValueError(f"{op}: {name} is {number}, which {dtype} cannot hold")
        return np.array(int(number), dtype)
    with np.errstate(all="ignore"):
        return np.array(_float(op, name, number)).astype(dtype)


def integer(op: str, name: str, value) -> int:
    """An int that int64 can hold."""
    value = _whole(op, name, value)
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{op}: {name} is {value}, which int64 cannot hold")
    return value


def _whole(op, name, value):
    if type(value) is int:
        return value
    if isinstance(value, (bool, np.bool_)) or not hasattr(type(value), "__index__"):
        raise TypeError(f"{op}: {name} is a {type(value).__name__}, it must be an int")
    try:
        return value.__index__()
    except TypeError:  # an array of more than one element
        raise TypeError(f"{op}: {name} is an array, it must be an int") from None


def _count(op, name, value, least, whole, most=_LARGEST):
    if type(value) is int and least <= value <= most:
        return value
    if isinstance(value, (bool, np.bool_)) or not hasattr(type(value), "__index__"):
        raise TypeError(f"{op}: {name} is {whole!r}, it must be made of ints")
    try:
        n = value.__index__()
    except TypeError:  # an array of more than one element
        raise TypeError(f"{op}: {name} is an array, it must be an int or a tuple of ints") from None
    if not least <= n <= most:
        raise ValueError(f"{op}: {name} is {whole!r}, it must be at least {least} and at most {most}")
    return n


def flag(op: str, name: str, value) -> bool:
    """True or False; 1 and 0 will do."""
    if value is True or value is False:
        return value
    if not isinstance(value, (bool, np.bool_, int, np.integer)):
        raise TypeError(f"{op}: {name} is a {type(value).__name__}, it must be a bool")
    if value not in (0, 1):
        raise ValueError(f"{op}: {name} is {value}, it must be True or False")
    return bool(value)


def choice(op: str, name: str, value, choices: tuple[str, ...]) -> int:
    """The place of `value` among `choices`."""
    if not isinstance(value, str):
        raise TypeError(f"{op}: {name} is a {type(value).__name__}, it must be a str")
    if value not in choices:
        raise ValueError(f"{op}: {name} is {value!r}, it must be one of {', '.join(map(repr, choices))}")
    return choices.index(value)
