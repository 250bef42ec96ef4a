"""The windows of pooling, and the places in them."""

from __future__ import annotations

from math import prod

import numpy as np

from softcore import windows as geometry
from softcore.check._operands import _of_kind
from softcore.check._rows import _one_of
from softcore.check._scalars import _LARGEST, _count, choice, flag


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


def places(op: str, value, like) -> np.ndarray:
    """Places in an array, as integers, in an array of the kind that `like` is; `unpooled` says whether they lie in it."""
    value = _of_kind(op, "indices", value, like)
    if value.dtype.kind not in "iu":
        raise TypeError(f"{op}: indices has dtype {value.dtype}, it must be an integer dtype")
    return value


def unpooled(op: str, pooled: tuple[int, ...], shape: tuple[int, ...], layout: str, lowest: int, largest: int) -> tuple[int, ...]:
    """The spatial axes of `shape`, into which `indices` of shape `pooled` point, from `lowest` to `largest`.

    They are those that a batch and a channel axis leave over, or if the shapes differ elsewhere, those that one other axis leaves over,
    or all. How far indices reach decides only between a row and the planes, or the plane, that two or three axes may be.
    """
    layout = ("channels_first", "channels_last")[choice(op, "layout", layout, ("channels_first", "channels_last"))]
    if len(pooled) != len(shape):
        raise ValueError(f"{op}: shape is {shape}, it must have the {len(pooled)} dimensions of indices")
    readings = [
        axes
        for axes in [geometry.spatial(len(shape), rank, layout) for rank in range(max(1, len(shape) - 2), min(3, len(shape)) + 1)]
        if all([n == m for i, (n, m) in enumerate(zip(pooled, shape)) if i not in axes])
    ]
    if not readings:
        raise ValueError(
            f"{op}: shape is {shape}, it must have the batch and channels of indices, whose shape is {pooled}, and 1 to 3 more axes"
        )
    if 1 < len(readings[0]) == len(shape) - 2:
        del readings[1:]
    for axes in readings:
        if 0 in pooled or (lowest >= 0 and largest < prod([shape[i] for i in axes])):
            return axes
    wrong, size = lowest if lowest < 0 else largest, prod([shape[i] for i in readings[0]])
    hint = f": axes {readings[0]} are spatial, unless an axis of one stands for a batch or channels that are not there"
    hint = hint if 0 <= wrong < prod(shape) and len(shape) > 2 else ""
    raise IndexError(f"{op}: indices holds {wrong}, {_one_of(size)}, the spatial elements of {shape}{hint}")
