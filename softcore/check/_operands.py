"""Operands: arrays of NumPy's or pyopencl's, numbers, and what NumPy can make an array of."""

from __future__ import annotations

import numpy as np

from softcore.check._dtypes import is_floating, selecting
from softcore.check._scalars import as_dtype

_CHARS = "bBhHiIlLqQefd"  # of NumPy's own among them, but for bool
_NUMBERS = "bool, an integer, float16, bfloat16, float32 or float64"


def arrays(op: str, optional: tuple[str, ...] = (), **operands) -> list:
    """The operands as ndarrays of supported dtypes, or as views of pyopencl arrays; the optional ones may be None and stay so.

    A Python number takes the dtype of the arrays beside it unless it is of a higher kind (bool, int, float), as in NumPy.
    """
    arrays, numbers, on_device = {}, [], []
    for name, a in operands.items():
        if type(a) is np.ndarray:
            arrays[name] = a if a.dtype.char in _CHARS else _of_numbers(op, name, a)
        elif a is None and name in optional:
            continue
        elif type(a) in (bool, int, float):
            numbers.append(name)
        elif _is_opencl(a):
            on_device.append(name)
        else:
            arrays[name] = _array(op, name, a)
    if not numbers and not on_device:
        return list(arrays.values()) if len(arrays) == len(operands) else [arrays.get(name) for name in operands]
    scalars = [name for name in arrays if on_device and isinstance(operands[name], np.generic)]
    if on_device and len(arrays) > len(scalars):
        is_one, is_not = ("are pyopencl arrays" if len(on_device) > 1 else "is a pyopencl array"), "are not" if len(arrays) > 1 else "is not"
        raise TypeError(f"{op}: {', '.join(on_device)} {is_one} and {', '.join(arrays)} {is_not}, all must be of one kind")
    if on_device:
        _begin(op, [a for a in operands.values() if a is not None])
    for name in on_device:
        arrays[name] = _beside_view(op, name, _view(op, name, operands[name]), arrays.get(on_device[0]))
    for name in scalars:
        arrays[name] = type(arrays[on_device[0]]).of_number(arrays[name], arrays[on_device[0]])
    if numbers:
        like = next(iter(arrays.values()), None)
        beside = selecting(*arrays.values()) if arrays else None
        for name in numbers:
            a = operands[name]
            a = _array(op, name, a) if beside is None else _beside(op, name, a, beside)
            arrays[name] = type(like).of_number(a, like) if on_device else a
    return [arrays.get(name) for name in operands]


def _begin(op, operands):
    from softcore import opencl

    opencl.begun(op, operands)


def _array(op, name, a):
    not_masked(op, name, a)
    try:
        a = np.asarray(a)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{op}: {name} must be an array or what NumPy can make one of: {error}") from None
    return _of_numbers(op, name, a)


def _of_numbers(op, name, a):
    if a.dtype.kind == "b" and isinstance(a, np.ndarray):
        return _zeros_and_ones(a)
    if a.dtype.kind not in "biu" and not is_floating(a.dtype):
        raise TypeError(f"{op}: {name} has dtype {a.dtype}, it must be {_NUMBERS}")
    return a


def _zeros_and_ones(a):
    """A bool array; a copy of one whose bytes are others, as of the mask of an image, where True is 255: kernels take them for numbers."""
    held = a.view(np.uint8)
    return held != 0 if held.size and held.max() > 1 else a


def _beside(op, name, number, dtype):
    if isinstance(number, float) and dtype.kind in "biu":
        dtype = np.dtype(np.float64)
    elif type(number) is int and dtype.kind == "b":
        dtype = np.dtype(np.int64)
    return as_dtype(op, name, number, dtype)


def _is_opencl(a):
    # By name, since importing pyopencl to find out would make it a dependency. A view was checked before.
    return type(a).__module__.partition(".")[0] == "pyopencl" or type(a).__module__ == "softcore.opencl.views"


def _view(op, name, a):
    from softcore.opencl import OPS
    from softcore.opencl.views import View  # where there is such an array, there is pyopencl

    if isinstance(a, View):
        return a
    if not hasattr(a, "base_data"):
        raise TypeError(f"{op}: {name} is a pyopencl {type(a).__name__}, it must be a pyopencl.array.Array")
    if op not in OPS:
        raise TypeError(f"{op}: {name} is a pyopencl array, it must be a NumPy array: the OpenCL core has no {op} yet")
    if a.queue is None:
        raise ValueError(f"{op}: {name} has no queue, it must have one to run on: see pyopencl.array.Array.with_queue")
    if not a.dtype.isnative:
        raise TypeError(f"{op}: {name} has dtype {a.dtype}, which no device reads: a pyopencl array must have the machine's byte order")
    if a.base_data is not None and not hasattr(a.base_data, "int_ptr"):
        raise TypeError(f"{op}: {name} lies in shared virtual memory, it must lie in a pyopencl.Buffer")
    return _of_numbers(op, name, View(a))


def _beside_view(op, name, view, like):
    """The view, which must lie in its buffer and be of the context that `like`, an array of any kind or None, is of."""
    if not view.inside():
        raise ValueError(f"{op}: {name} has elements outside its buffer, it must not")
    if like is not None and not isinstance(like, np.ndarray) and view.array.context != like.array.context:
        raise ValueError(f"{op}: {name} is of another OpenCL context than the arrays before it, all must be of one")
    return view


def _of_kind(op, name, a, like):
    """`a` as an array of numbers, of the kind that `like` is."""
    if _is_opencl(a) == isinstance(like, np.ndarray):
        is_one, are = ("is a pyopencl array", "are not") if _is_opencl(a) else ("is not a pyopencl array", "are")
        raise TypeError(f"{op}: {name} {is_one} and the other arrays {are}; all must be of one kind")
    return _array(op, name, a) if isinstance(like, np.ndarray) else _beside_view(op, name, _view(op, name, a), like)


def same_kind(op: str, name: str, a, like):
    """`a`, an ndarray or a view, which must be of the kind that `like` is; a number goes where that is."""
    if isinstance(a, np.ndarray) == isinstance(like, np.ndarray):
        return a if isinstance(a, np.ndarray) else _beside_view(op, name, a, like)
    if isinstance(a, np.ndarray) and a.ndim == 0:
        return type(like).of_number(a, like)
    is_one, are = ("is not a pyopencl array", "are") if isinstance(a, np.ndarray) else ("is a pyopencl array", "are not")
    raise TypeError(f"{op}: {name} {is_one} and the other arrays {are}; all must be of one kind")


def on_host(a) -> np.ndarray:
    """The elements of an array, whose values a check depends on."""
    return a if isinstance(a, np.ndarray) else a.get()


def not_masked(op: str, name: str, a) -> None:
    """Refuse a masked array: np.asarray would drop the mask, and what it hides would take part."""
    if type(a) is not np.ndarray and any(c.__name__ == "MaskedArray" for c in type(a).__mro__):
        raise TypeError(f"{op}: {name} is a masked array, it must be a plain one; what `where` is False for is masked out")
