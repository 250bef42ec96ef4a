"""All validation of arguments. Every function here raises before any output is written, and names the argument, what it was and
what it must be; what it returns is what the kernels may trust.

``op`` is the public name of the function the user called.
"""

from __future__ import annotations

from math import prod
from numbers import Real

import numpy as np
from numpy.exceptions import AxisError

from softcore import windows as geometry

_CHARS = "bBhHiIlLqQefd"  # of NumPy's own among them, but for bool
_NUMBERS = "bool, an integer, float16, bfloat16, float32 or float64"


# ---------------------------------------------------------------------------------------------------------------- operands


def arrays(op: str, optional: tuple[str, ...] = (), **operands) -> list:
    """The operands as ndarrays of supported dtypes, or as views of pyopencl arrays; the optional ones may be None and stay so.

    A Python number takes the dtype of the arrays beside it unless it is of a higher kind (bool, int, float), as in NumPy.
    """
    arrays, numbers, on_device = {}, [], []
    for name, a in operands.items():
        if type(a) is np.ndarray:
            arrays[name] = a if a.dtype.char in _CHARS else _of_numbers(op, name, a)
        elif type(a) in (bool, int, float):
            numbers.append(name)
        elif _is_opencl(a):
            on_device.append(name)
        elif a is not None or name not in optional:
            arrays[name] = _array(op, name, a)
    if len(arrays) == len(operands):
        return list(arrays.values())
    scalars = [name for name in arrays if on_device and isinstance(operands[name], np.generic)]
    if on_device and len(arrays) > len(scalars):
        raise TypeError(f"{op}: {', '.join(on_device)} is a pyopencl array and {', '.join(arrays)} is not, all must be of one kind")
    for name in on_device:
        arrays[name] = _beside_view(op, name, _view(op, name, operands[name]), arrays.get(on_device[0]))
    for name in scalars:
        arrays[name] = type(arrays[on_device[0]]).of(arrays[name], arrays[on_device[0]])
    if numbers:
        like = next(iter(arrays.values()), None)
        beside = selecting(*arrays.values()) if arrays else None
        for name in numbers:
            a = operands[name]
            a = _array(op, name, a) if beside is None else _beside(op, name, a, beside)
            arrays[name] = type(like).of(a, like) if on_device else a
    return [arrays.get(name) for name in operands]


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


def _view(op, name, a):
    from softcore.opencl import OPS
    from softcore.views import View  # where there is such an array, there is pyopencl

    if isinstance(a, View):
        return a
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
        return type(like).of(a, like)
    is_one, are = ("is not a pyopencl array", "are") if isinstance(a, np.ndarray) else ("is a pyopencl array", "are not")
    raise TypeError(f"{op}: {name} {is_one} and the other arrays {are}; all must be of one kind")


def new(shape: tuple[int, ...], dtype: np.dtype, like) -> np.ndarray:
    """An array of the kind that `like` is."""
    return np.empty(shape, dtype) if isinstance(like, np.ndarray) else type(like).empty(shape, dtype, like)


def on_host(a) -> np.ndarray:
    """The elements of an array, whose values a check depends on."""
    return a if isinstance(a, np.ndarray) else a.get()


def not_masked(op: str, name: str, a) -> None:
    """Refuse a masked array: np.asarray would drop the mask, and what it hides would take part."""
    if type(a) is not np.ndarray and any(c.__name__ == "MaskedArray" for c in type(a).__mro__):
        raise TypeError(f"{op}: {name} is a masked array, it must be a plain one; what `where` is False for is masked out")


def _beside(op, name, number, dtype):
    if isinstance(number, float) and dtype.kind in "biu":
        dtype = np.dtype(np.float64)
    elif type(number) is int and dtype.kind == "b":
        dtype = np.dtype(np.int64)
    return as_dtype(op, name, number, dtype)


def as_dtype(op: str, name: str, number, dtype: np.dtype) -> np.ndarray:
    """A real number as a 0-d array. It may be rounded to a floating dtype; an integer dtype must hold it exactly."""
    if dtype.kind in "biu":
        low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        if not low <= number <= high or number != int(number):
            raise ValueError(f"{op}: {name} is {number}, which {dtype} cannot hold")
        return np.array(int(number), dtype)
    with np.errstate(all="ignore"):
        return np.array(_float(op, name, number)).astype(dtype)


def _is_opencl(a):
    # By name, since importing pyopencl to find out would make it a dependency. A view was checked before.
    return type(a).__module__.partition(".")[0] == "pyopencl" or type(a).__module__ == "softcore.views"


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


def shape(op: str, name: str, a: np.ndarray, shape: tuple[int, ...]) -> None:
    """Refuse an array of any other shape."""
    if a.shape != shape:
        raise ValueError(f"{op}: {name} has shape {a.shape}, it must be {shape}")


# ------------------------------------------------------------------------------------------------------------------ dtypes


def computing(*arrays: np.ndarray | None) -> np.dtype:
    """The dtype of arithmetic on the arrays together: integers and bool count as float64, float16 with bfloat16 gives float32."""
    dtypes = {_native(a.dtype) if a.dtype.kind not in "biu" else np.dtype(np.float64) for a in arrays if a is not None}
    if len(dtypes) == 1:
        return dtypes.pop()
    return np.dtype(np.float64 if np.dtype(np.float64) in dtypes else np.float32)


def selecting(*arrays: np.ndarray) -> np.dtype:
    """The dtype of a choice among elements of the arrays: as for arithmetic, except that integers and bool stay what they are."""
    if len(arrays) == 1:
        return _native(arrays[0].dtype)
    if all(a.dtype.kind in "biu" for a in arrays):
        return np.result_type(*(_native(a.dtype) for a in arrays))
    return computing(*arrays)


def _native(dtype):
    return dtype if dtype.isnative else dtype.newbyteorder("=")


def is_floating(dtype: np.dtype) -> bool:
    """Whether it is one of the four floating dtypes."""
    # bfloat16 comes from ml_dtypes, which softcore does not need and so does not import.
    return dtype.char in "efd" or dtype.type.__name__ == "bfloat16"


# ------------------------------------------------------------------------------------------------------------------- axes


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


# ----------------------------------------------------------------------------------------------------------------- options


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


def scaled(dtype: np.dtype, scale: float) -> np.dtype:
    """The dtype of arithmetic on `dtype` with the factor `scale`: float64 where float32 would lose the factor's bits or overflow."""
    return dtype if scale == 0 or 1e-30 <= abs(scale) <= 1e30 or not np.isfinite(scale) else np.dtype(np.float64)


def _float(op, name, value):
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{op}: {name} is {value}, which float64 cannot hold") from None


def initial(op: str, value, dtype: np.dtype, like) -> np.ndarray:
    """What the maximum of elements of `dtype` starts from, as an array of the kind that `like` is."""
    if dtype.kind != "b" or not isinstance(value, (bool, np.bool_)):
        value = number(op, "initial", value)
    value = as_dtype(op, "initial", value, dtype)
    return value if isinstance(like, np.ndarray) else type(like).of(value, like)


def within(op: str, name: str, value, low: float, high: float = np.inf) -> float:
    """A finite real number from `low` to `high`."""
    if type(value) is float and low <= value <= high and value < np.inf:
        return value
    value = _float(op, name, number(op, name, value))
    if not (low <= value <= high and np.isfinite(value)):
        bounds = f"from {low:g} to {high:g}" if np.isfinite(high) else f"finite and at least {low:g}"
        raise ValueError(f"{op}: {name} is {value:g}, it must be {bounds}")
    return value


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


def _one_of(n):
    """What an index of n places must be."""
    return f"it must be from 0 to {n - 1}" if n else "which no index can be"


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


def count(op: str, name: str, value, most: int) -> int:
    """A number of elements, up to `most`."""
    value = _whole(op, name, value)
    if not 0 <= value <= most:
        raise ValueError(f"{op}: {name} is {value}, it must be from 0 to {most}, for rows of {most} elements")
    return value


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


# ----------------------------------------------------------------------------------------------------------------- windows


def windows(op, shape, window, stride, padding, dilation, ceil_mode, layout, name="x"):
    """The spatial axes of an array of `shape` and how windows lie along each: ``(places, axes)``, see `softcore.windows`."""
    layout = ("channels_first", "channels_last")[choice(op, "layout", layout, ("channels_first", "channels_last"))]
    ceil_mode = flag(op, "ceil_mode", ceil_mode)
    rank = len(window) if isinstance(window, (tuple, list)) else 1
    if not 1 <= rank <= 3:
        raise ValueError(f"{op}: window is {window}, it must be an int or a tuple of 1 to 3 ints")
    window = _counts(op, "window", window, rank, 1)
    stride = window if stride is None else _counts(op, "stride", stride, rank, 1)
    dilation = _counts(op, "dilation", dilation, rank, 1)
    padding = _padding(op, padding, rank)
    if not rank <= len(shape) <= rank + 2:
        raise ValueError(
            f"{op}: {name} has {len(shape)} dimensions, it must have {rank} to {rank + 2} for a window of {rank}: "
            "the spatial ones and, if there are, a batch and a channel axis"
        )
    places = geometry.spatial(len(shape), rank, layout)
    axes = geometry.lay(tuple([shape[i] for i in places]), window, stride, padding, dilation, ceil_mode)
    for i, a in zip(places, axes):
        if a.count < 1:
            raise ValueError(
                f"{op}: the window reaches over {(a.window - 1) * a.dilation + 1} elements along axis {i} of {name}, it must be no more "
                f"than there are with padding, {a.before + a.size + a.after}"
            )
        alone = geometry.padded_window(a)
        if alone is not None:
            first = alone * a.stride - a.before
            steps = f" in steps of {a.dilation}" if a.dilation > 1 and a.window > 1 else ""
            raise ValueError(
                f"{op}: window {alone} along axis {i} of {name} lies wholly in padding, at {first} to {first + (a.window - 1) * a.dilation}"
                f"{steps} where {name} has {a.size} elements from 0, each must have an element of {name}"
            )
    return places, axes


_LARGEST = 2**31 - 1  # so that places computed in 64 bits cannot overflow
_MOST = np.iinfo(np.intp).max // 16  # elements of an array, of any dtype


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


def _counts(op, name, value, rank, least):
    """One int for each of `rank` axes, or one for all."""
    if type(value) is int and least <= value <= _LARGEST:
        return (value,) * rank
    if not isinstance(value, (tuple, list)):
        return (_count(op, name, value, least, value),) * rank
    if len(value) != rank:
        raise ValueError(f"{op}: {name} is {value!r}, it must be an int or {rank} ints, one for each axis of the window")
    return tuple([_count(op, name, n, least, value) for n in value])


def _padding(op, padding, rank):
    """A pair of ints for each of `rank` axes, or the name of a rule."""
    if type(padding) is int and 0 <= padding <= _LARGEST:
        return ((padding, padding),) * rank
    if isinstance(padding, str):
        choice(op, "padding", padding, ("same", "valid"))
        return (padding,) * rank
    if not isinstance(padding, (tuple, list)):
        return ((_count(op, "padding", padding, 0, padding),) * 2,) * rank
    if len(padding) != rank:
        raise ValueError(f"{op}: padding is {padding!r}, it must be an int, or an int or a pair of ints for each of {rank} axes")
    pairs = []
    for p in padding:
        pair = p if isinstance(p, (tuple, list)) else (p, p)
        if len(pair) != 2:
            raise ValueError(f"{op}: padding is {padding!r}, it must be an int, or an int or a pair of ints for each of {rank} axes")
        pairs.append(tuple(_count(op, "padding", n, 0, padding) for n in pair))
    return tuple(pairs)


def whole_shape(op: str, value, name: str = "shape") -> tuple[int, ...]:
    """The shape of an array."""
    lengths = value if isinstance(value, (tuple, list)) else (value,)
    shape = tuple([_count(op, name, n, 0, value, _MOST) for n in lengths])
    if prod(n for n in shape if n) > _MOST:  # of NumPy's arrays none may have more, even if it is empty
        raise ValueError(f"{op}: {name} is {value!r}, it must have at most {_MOST} elements")
    return shape


def places(op: str, value, like) -> np.ndarray:
    """Places in an array, as integers, in an array of the kind that `like` is; `unpooled` says whether they lie in it."""
    value = _of_kind(op, "indices", value, like)
    if value.dtype.kind not in "iu":
        raise TypeError(f"{op}: indices has dtype {value.dtype}, it must be an integer dtype")
    return value


def unpooled(op: str, pooled: tuple[int, ...], shape: tuple[int, ...], layout: str, lowest: int, largest: int) -> tuple[int, ...]:
    """The spatial axes of `shape`, into which `indices` of shape `pooled` point, from `lowest` to `largest`.

    They are those that a batch and a channel axis leave over, or if the shapes differ elsewhere or the indices reach further, those
    that one other axis leaves over, or all.
    """
    layout = ("channels_first", "channels_last")[choice(op, "layout", layout, ("channels_first", "channels_last"))]
    if len(pooled) != len(shape):
        raise ValueError(f"{op}: shape is {shape}, it must have the {len(pooled)} dimensions of indices")
    size = None
    for others in (2, 1, 0):
        rank = len(shape) - others
        if not 1 <= rank <= 3:
            continue
        axes = geometry.spatial(len(shape), rank, layout)
        if any([n != m for i, (n, m) in enumerate(zip(pooled, shape)) if i not in axes]):
            continue
        size = prod([shape[i] for i in axes])
        if 0 in pooled or (lowest >= 0 and largest < size):
            return axes
    if size is None:
        raise ValueError(f"{op}: shape is {shape}, it must have the batch and channels of indices, whose shape is {pooled}, and 1 to 3 more axes")
    wrong = lowest if lowest < 0 else largest
    raise IndexError(f"{op}: indices holds {wrong}, {_one_of(size)}, the spatial elements of {shape}")


# ----------------------------------------------------------------------------------------------------------------- targets


def target(op: str, value, shape: tuple[int, ...], axes: tuple[int, ...], like) -> np.ndarray:
    """Class labels, one per row of logits of `shape`, or a probability for each of them, in an array of the kind that `like` is."""
    (value,) = arrays(op, target=value)
    value = same_kind(op, "target", value, like)
    if value.dtype.kind == "b":
        raise TypeError(f"{op}: target has dtype bool, it must be an integer dtype (labels) or a floating one (probabilities)")
    labels = value.dtype.kind in "iu"
    expected = reduced(shape, axes, False) if labels else shape
    if value.shape != expected:
        kind = "labels" if labels else "probabilities"
        raise ValueError(f"{op}: target has shape {value.shape}, it must be {expected} for {kind} of logits of shape {shape}")
    return value


def class_weight(op: str, weight: np.ndarray | None, classes: int) -> np.ndarray | None:
    """A weight for each class."""
    if weight is not None:
        shape(op, "weight", weight, (classes,))
    return weight


def label(op: str, label: int, classes: int, ignore_index: int) -> None:
    """Refuse a label that names no class."""
    if not classes:
        raise IndexError(f"{op}: target holds {label}, it must be {ignore_index}, to be ignored, since logits have no classes")
    raise IndexError(
        f"{op}: target holds {label}, it must be from 0 to {classes - 1}, for {classes} classes, or {ignore_index} to be ignored"
    )


# --------------------------------------------------------------------------------------------------------------- attention


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


# ----------------------------------------------------------------------------------------------------------------- outputs


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
