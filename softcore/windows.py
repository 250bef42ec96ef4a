"""Where the windows of a pooling lie: sizes, padding and which axes are spatial, in plain integers.

Along each spatial axis, tap t of window o reads element ``o * stride - before + t * dilation``; what lies outside the array is padding.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple


class Axis(NamedTuple):
    """The windows along one spatial axis."""

    size: int  #: elements of the input
    count: int  #: windows, which are elements of the output
    window: int  #: taps of a window
    stride: int
    dilation: int
    before: int  #: padding on either side
    after: int


def along(size: int, window: int, stride: int, padding: int | tuple[int, int] | str, dilation: int, ceil_mode: bool) -> Axis:
    """Lay windows along an axis of `size` elements.

    ``"same"`` pads so that there are ``ceil(size / stride)`` windows, with the odd element of padding after, as TensorFlow and JAX do.
    In ``ceil_mode`` a window may overhang the padding after, as long as it starts inside the input or the padding before. Where not
    one window fits, `count` is 0 or less.

    Examples
    --------
    >>> along(7, 3, 2, "same", 1, False)
    Axis(size=7, count=4, window=3, stride=2, dilation=1, before=1, after=1)
    >>> along(6, 3, 2, "same", 1, False)
    Axis(size=6, count=3, window=3, stride=2, dilation=1, before=0, after=1)
    >>> along(6, 3, 2, 0, 1, True).count, along(6, 3, 2, 0, 1, False).count
    (3, 2)
    """
    reach = (window - 1) * dilation + 1
    if padding == "same":
        count = -(-size // stride)
        total = max(0, (count - 1) * stride + reach - size)
        return Axis(size, count, window, stride, dilation, total // 2, total - total // 2)
    before, after = (0, 0) if padding == "valid" else padding if isinstance(padding, tuple) else (padding, padding)
    room = before + size + after - reach
    if ceil_mode:
        count = min(-(-room // stride) + 1, -(-(before + size) // stride))
    else:
        count = room // stride + 1
    return Axis(size, count, window, stride, dilation, before, after)


@lru_cache(maxsize=1024)
def lay(sizes: tuple, windows: tuple, strides: tuple, paddings: tuple, dilations: tuple, ceil_mode: bool) -> tuple[Axis, ...]:
    """Lay windows along several axes: see `along`."""
    return tuple(along(*each, ceil_mode) for each in zip(sizes, windows, strides, paddings, dilations))


@lru_cache(maxsize=1024)
def padded_window(axis: Axis) -> int | None:
    """The first window that lies wholly in padding; None if each has an element of the input."""
    for o in range(min(axis.count, -(-axis.before // axis.stride))):
        start = o * axis.stride - axis.before
        if -(start // axis.dilation) >= axis.window or start % axis.dilation >= axis.size:
            return o
        if axis.dilation <= axis.size:  # then all the others that begin before the input reach it too
            break
    beyond = -(-(axis.size + axis.before) // axis.stride)  # the first that begins after it
    return beyond if beyond < axis.count else None


def spatial(ndim: int, rank: int, layout: str) -> tuple[int, ...]:
    """The spatial axes of an array of `ndim` dimensions, `rank` of them: the last ones, but for the channels if those are last.

    Examples
    --------
    >>> spatial(4, 2, "channels_first"), spatial(4, 2, "channels_last"), spatial(3, 2, "channels_last"), spatial(2, 2, "channels_last")
    ((2, 3), (1, 2), (0, 1), (0, 1))
    """
    end = ndim - (layout == "channels_last" and ndim > rank)
    return tuple(range(end - rank, end))


def pooled_shape(shape: tuple[int, ...], places: tuple[int, ...], axes: tuple[Axis, ...]) -> tuple[int, ...]:
    """`shape` with the windows' counts in the places of the spatial axes, which are neighbours."""
    return (*shape[: places[0]], *[a.count for a in axes], *shape[places[-1] + 1 :])


def reach(axes: tuple[Axis, ...]) -> int:
    """How far apart the first and the last element of a window are, as flat indices."""
    far = 0
    for a in axes:
        far = far * a.size + (a.window - 1) * a.dilation
    return far
