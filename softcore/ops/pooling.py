"""Pooling, also called tiling: the maximum, the mean and the soft maximum over windows.

Which axes are spatial follows from the window, of as many ints as there are spatial axes (1 to 3), and from `layout`; a batch and a
channel axis may stand beside them, and need not:

==================  ======================  ======================
window ``(2, 2)``   ``"channels_first"``    ``"channels_last"``
==================  ======================  ======================
two dimensions      (height, width)         (height, width)
three dimensions    (channel, h, w)         (h, w, channel)
four dimensions     (batch, channel, h, w)  (batch, h, w, channel)
==================  ======================  ======================

So a batch without channels is ``"channels_first"``. `max_pool_backward` and `max_unpool` have no window: they take the spatial axes to
be those that a batch and a channel axis leave over. Where the shape before pooling differs from that after it in one of these two, they
take one other axis to stand beside the spatial ones, and then none.
"""

from __future__ import annotations

from math import prod

import numpy as np

from softcore import check, kernels, windows
from softcore.ops.run import result, run, run_windows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

    Ints = int | tuple[int, ...]
    Padding = int | str | tuple[int | tuple[int, int], ...]

_INDEX = np.dtype(np.int64)


def max_pool(
    x: ArrayLike,
    window: Ints,
    *,
    stride: Ints | None = None,
    padding: Padding = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    layout: str = "channels_first",
    out: NDArray | tuple[NDArray | None, NDArray | None] | None = None,
) -> Any:
    """The largest element of each window.

    Parameters
    ----------
    x : array_like
        Real numbers: spatial axes, as many as `window` has ints, and perhaps a batch and a channel axis.
    window : int or tuple of 1 to 3 ints
        How many elements a window has along each spatial axis. An int is a window along one axis.
    stride : int or tuple of ints, optional
        Elements from one window to the next; the default is `window`, so that windows are tiles.
    padding : int, tuple of ints or of pairs of ints, "same" or "valid", optional
        How many elements of padding are on either side of x: the same along each axis, one number for each, or ``(before, after)``
        for each. ``"same"`` pads so that there are ``ceil(n / stride)`` windows along an axis of n, with the odd element after, as
        TensorFlow and JAX do; ``"valid"`` is no padding. Padding is never chosen.
    dilation : int or tuple of ints, optional
        Elements of x from one of a window to the next.
    ceil_mode : bool, optional
        Keep a last window that overhangs the end, if it starts inside x or the padding before it.
    return_indices : bool, optional
        Return as well where each maximum is: its flat index over the spatial axes of x.
    layout : {"channels_first", "channels_last"}, optional
        Where a channel axis is, if x has one: before the spatial axes, or last.
    out : ndarray, optional
        Where to write the result: of its shape and of x's dtype. It may overlap x. With `return_indices` a tuple of two, the second
        of intp; either may be None.

    Returns
    -------
    y : ndarray
        In x's dtype, with ``(n + before + after - dilation * (window - 1) - 1) // stride + 1`` windows along an axis of n. NaN wins.
    indices : ndarray of intp
        Only with `return_indices`. Of several maxima, or several NaN, the first in row-major order, which is also the one in y: -0
        where that is the first of zeros.

    Raises
    ------
    TypeError
        If x is complex, an object or a string, or another argument has the wrong type.
    ValueError
        If x has too few or too many dimensions, a window reaches over more elements than there are or lies wholly in padding, or
        `out` has the wrong shape.

    See Also
    --------
    max_pool_backward : the gradient.
    max_unpool : the inverse, as far as there is one.

    References
    ----------
    K. Yamaguchi, K. Sakamoto, T. Akabane and Y. Fujimoto, "A neural network for speaker-independent isolated word recognition",
    ICSLP 1990.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> x = np.array([[1, 2, 0, 4], [3, 0, 5, 4]])
    >>> sc.max_pool(x, (2, 2))
    array([[3, 5]])
    >>> sc.max_pool(x, 2)  # of one axis: the other is a batch, or channels
    array([[2, 4],
           [3, 5]])
    >>> sc.max_pool(x[..., None], (2, 2), layout="channels_last").shape
    (1, 2, 1)
    >>> y, indices = sc.max_pool(x, (2, 2), stride=1, return_indices=True)
    >>> indices
    array([[4, 6, 6]])
    """
    op = "max_pool"
    (x,) = check.arrays(op, x=x)
    dtype = check.selecting(x)
    places, axes = check.windows(op, x.shape, window, stride, padding, dilation, ceil_mode, layout)
    shape = windows.pooled_shape(x.shape, places, axes)
    if not check.flag(op, "return_indices", return_indices):
        y = check.out(op, out, shape, dtype, x)
        run_windows(op, dtype, (x,), (y,), places, axes)
        return result(y, out)
    y, indices = check.outs(op, out, (shape, shape), (dtype, np.dtype(np.intp)), x)
    storage = dtype
    if windows.reach(axes) >= 2**31 and dtype.itemsize <= 4:  # too far for the lanes of 32 bits
        storage = _INDEX if dtype.kind in "biu" else np.dtype(np.float64)
    value = dtype if dtype.kind in "biu" else storage
    run_windows(op, storage, (x,), (y, indices), places, axes, dtypes=(value, _INDEX))
    return tuple(map(result, (y, indices), out or (None, None)))


def max_pool_backward(
    dy: ArrayLike,
    indices: ArrayLike,
    shape: tuple[int, ...],
    *,
    layout: str = "channels_first",
    out: NDArray | None = None,
) -> Any:
    """The gradient of `max_pool`: dy, added up where the maxima were.

    Parameters
    ----------
    dy : array_like
        The gradient of max_pool's result, broadcast to the shape of `indices`.
    indices : array_like of int
        What max_pool returned beside its result.
    shape : tuple of int
        The shape of x, batch and channels included.
    layout : {"channels_first", "channels_last"}, optional
        As for `max_pool`.
    out : ndarray, optional
        Where to write the result: of `shape` and of dy's dtype. It may overlap dy or indices.

    Returns
    -------
    ndarray
        dx, of `shape` and of dy's dtype (float64 for integers and bool).

    Raises
    ------
    TypeError
        If dy is complex, an object or a string, or another argument has the wrong type.
    ValueError
        If `shape` has other batches or channels than `indices`, dy does not broadcast, or `out` has the wrong shape.
    IndexError
        If an index lies outside the spatial axes.

    Notes
    -----
    There is no window to tell which axes are spatial. They are taken to be all but a batch and a channel axis; where `shape` differs
    from that of `indices` in one of these, all but one axis (the channels, with ``"channels_last"``), or all. So where windows kept the
    length of an axis that might be one of these, insert the axes that are missing: four or five axes that may have a batch and channels
    have them, whatever the indices are. Of two or three axes whose shapes say a row, an index that reaches beyond it says that more are
    spatial.

    Gradients of several windows meet in float64, so that their order does not show.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> x = np.array([[1.0, 2.0, 0.0, 4.0], [3.0, 0.0, 5.0, 4.0]])
    >>> y, indices = sc.max_pool(x, (2, 2), stride=1, return_indices=True)
    >>> sc.max_pool_backward(np.array([[1.0, 2.0, 3.0]]), indices, x.shape)
    array([[0., 0., 0., 0.],
           [1., 0., 5., 0.]])
    """
    op = "max_pool_backward"
    (dy,) = check.arrays(op, dy=dy)
    indices = check.places(op, indices, dy)
    dy = check.broadcast(op, "dy", dy, indices.shape)
    return _to_indices(op, check.computing(dy), dy, indices, shape, layout, out)


def max_unpool(
    y: ArrayLike,
    indices: ArrayLike,
    shape: tuple[int, ...],
    *,
    layout: str = "channels_first",
    out: NDArray | None = None,
) -> Any:
    """The inverse of `max_pool`, as far as there is one: y, put where the maxima were, and 0 elsewhere.

    Parameters
    ----------
    y : array_like
        What max_pool returned, or another array of that shape.
    indices : array_like of int
        What max_pool returned beside it. Of several elements with the same index the last one in row-major order stays.
    shape : tuple of int
        The shape of the result, batch and channels included.
    layout : {"channels_first", "channels_last"}, optional
        As for `max_pool`. The spatial axes are found as `max_pool_backward` does.
    out : ndarray, optional
        Where to write the result: of `shape` and of y's dtype. It may overlap y or indices.

    Returns
    -------
    ndarray
        Of `shape` and of y's dtype.

    Raises
    ------
    TypeError
        If y is complex, an object or a string, or another argument has the wrong type.
    ValueError
        If `shape` has other batches or channels than `indices`, y has not the shape of `indices`, or `out` has the wrong shape.
    IndexError
        If an index lies outside the spatial axes.

    References
    ----------
    M. D. Zeiler and R. Fergus, "Visualizing and understanding convolutional networks", ECCV 2014.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> y, indices = sc.max_pool(np.array([1, 7, 3, 2, 5]), 2, return_indices=True)
    >>> sc.max_unpool(y, indices, (5,))
    array([0, 7, 3, 0, 0])
    """
    op = "max_unpool"
    (y,) = check.arrays(op, y=y)
    indices = check.places(op, indices, y)
    check.shape(op, "y", y, indices.shape)
    return _to_indices(op, check.selecting(y), y, indices, shape, layout, out)


def _to_indices(op, dtype, values, indices, shape, layout, out):
    """Run a kernel that brings values to their indices, all of which lie within the spatial axes.

    The kernel finds out whether they do. What it has written by then nobody sees, if the result is new; otherwise, and on a device, all
    indices are looked at before.
    """
    shape = check.whole_shape(op, shape)
    inside = False
    if isinstance(indices, np.ndarray):
        places = check.unpooled(op, indices.shape, shape, layout, 0, 0)
        inside = out is None or kernels.core.all_inside(indices, prod([shape[i] for i in places]))
    if not inside:
        places = check.unpooled(op, indices.shape, shape, layout, *_range(indices))
    x = check.out(op, out, shape, dtype, values)
    if run_windows(op, dtype, (values, indices), (x,), places):
        places = check.unpooled(op, indices.shape, shape, layout, *_range(indices))
        run_windows(op, dtype, (values, indices), (x,), places)
    return result(x, out)


def _range(indices):
    """The lowest and the largest of indices."""
    if not indices.size:
        return 0, 0
    # One pass, since a negative number read as an unsigned one is larger than any other.
    unsigned = indices.view(np.dtype(indices.dtype.str.replace("i", "u")))
    found = check.new((), unsigned.dtype.newbyteorder("="), indices)
    run("max", found.dtype, (unsigned,), (found,), unsigned.shape, tuple(range(unsigned.ndim)))
    largest = int(check.on_host(found))
    if largest <= np.iinfo(indices.dtype).max:
        return 0, largest
    held = check.on_host(indices)
    return int(held.min()), int(held.max())


def avg_pool(
    x: ArrayLike,
    window: Ints,
    *,
    stride: Ints | None = None,
    padding: Padding = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    layout: str = "channels_first",
    out: NDArray | None = None,
) -> Any:
    """The mean of each window.

    Parameters
    ----------
    x, window, stride, padding, dilation, ceil_mode, layout
        As for `max_pool`. Padding is 0.
    count_include_pad : bool, optional
        Let padding count: a window's sum is divided by its elements in x and in the padding. Without it only those in x count. What
        overhangs the padding in `ceil_mode` never counts.
    out : ndarray, optional
        Where to write the result. It may overlap x.

    Returns
    -------
    ndarray
        In x's dtype (float64 for integers and bool).

    Raises
    ------
    TypeError, ValueError
        As for `max_pool`.

    Notes
    -----
    float32 and the half types are added in float64, and float64 in pairs of doubles, so that the mean of a large window is as exact as
    that of a small one.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> x = np.array([1.0, 3.0, 5.0])
    >>> sc.avg_pool(x, 3, stride=1, padding=1)
    array([1.33333333, 3.        , 2.66666667])
    >>> sc.avg_pool(x, 3, stride=1, padding=1, count_include_pad=False)
    array([2., 3., 4.])
    """
    op = "avg_pool"
    (x,) = check.arrays(op, x=x)
    dtype = check.computing(x)
    places, axes = check.windows(op, x.shape, window, stride, padding, dilation, ceil_mode, layout)
    count_include_pad = check.flag(op, "count_include_pad", count_include_pad)
    y = check.out(op, out, windows.pooled_shape(x.shape, places, axes), dtype, x)
    run_windows(op, dtype, (x,), (y,), places, axes, padding=count_include_pad)
    return result(y, out)


def avg_pool_backward(
    dy: ArrayLike,
    shape: tuple[int, ...],
    window: Ints,
    *,
    stride: Ints | None = None,
    padding: Padding = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    layout: str = "channels_first",
    out: NDArray | None = None,
) -> Any:
    """The gradient of `avg_pool`: dy over the size of its window, added up over the windows of each element.

    Parameters
    ----------
    dy : array_like
        The gradient of avg_pool's result, broadcast to its shape.
    shape : tuple of int
        The shape of x, batch and channels included.
    window, stride, padding, dilation, ceil_mode, count_include_pad, layout
        As for `avg_pool`.
    out : ndarray, optional
        Where to write the result: of `shape` and of dy's dtype. It may overlap dy.

    Returns
    -------
    ndarray
        dx, of `shape` and of dy's dtype (float64 for integers and bool).

    Raises
    ------
    TypeError, ValueError
        As for `avg_pool`, and if dy does not broadcast.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> sc.avg_pool_backward(np.array([2.0, 4.0, 6.0]), (4,), 2, stride=1)
    array([1., 3., 5., 3.])
    """
    op = "avg_pool_backward"
    (dy,) = check.arrays(op, dy=dy)
    dtype = check.computing(dy)
    shape = check.whole_shape(op, shape)
    places, axes = check.windows(op, shape, window, stride, padding, dilation, ceil_mode, layout, name="shape")
    count_include_pad = check.flag(op, "count_include_pad", count_include_pad)
    dy = check.broadcast(op, "dy", dy, windows.pooled_shape(shape, places, axes))
    dx = check.out(op, out, shape, dtype, dy)
    run_windows(op, dtype, (dy,), (dx,), places, axes, padding=count_include_pad)
    return result(dx, out)


def softmax_pool(
    x: ArrayLike,
    window: Ints,
    *,
    stride: Ints | None = None,
    padding: Padding = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    layout: str = "channels_first",
    out: NDArray | None = None,
) -> Any:
    r"""The mean of each window, weighted with its softmax (SoftPool).

    .. math:: y = \sum_i \frac{e^{x_i}}{\sum_j e^{x_j}} x_i

    Parameters
    ----------
    x, window, stride, padding, dilation, ceil_mode, layout
        As for `max_pool`. Padding has no weight.
    out : ndarray, optional
        Where to write the result. It may overlap x.

    Returns
    -------
    ndarray
        In x's dtype (float64 for integers and bool). As for `softmax`, a window that holds +inf or nothing but -inf gives nan; what has
        a weight of 0, such as -inf beside finite numbers, adds nothing.

    Raises
    ------
    TypeError, ValueError
        As for `max_pool`.

    References
    ----------
    A. Stergiou, R. Poppe and G. Kalliatakis, "Refining activation downsampling with SoftPool", ICCV 2021.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> sc.softmax_pool(np.array([0.0, 0.0, 1.0, -np.inf]), 2)
    array([0., 1.])
    """
    op = "softmax_pool"
    (x,) = check.arrays(op, x=x)
    dtype = check.computing(x)
    places, axes = check.windows(op, x.shape, window, stride, padding, dilation, ceil_mode, layout)
    y = check.out(op, out, windows.pooled_shape(x.shape, places, axes), dtype, x)
    run_windows(op, dtype, (x,), (y,), places, axes)
    return result(y, out)


def softmax_pool_backward(
    dy: ArrayLike,
    x: ArrayLike,
    window: Ints,
    *,
    stride: Ints | None = None,
    padding: Padding = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    layout: str = "channels_first",
    out: NDArray | None = None,
) -> Any:
    r"""The gradient of `softmax_pool`, added up over the windows of each element.

    .. math:: \mathrm{d}x_i = \mathrm{d}y\, p_i (1 + x_i - y), \quad p = \mathrm{softmax}(x)

    Parameters
    ----------
    dy : array_like
        The gradient of softmax_pool's result, broadcast to its shape.
    x, window, stride, padding, dilation, ceil_mode, layout
        As for `softmax_pool`.
    out : ndarray, optional
        Where to write the result: of x's shape and dtype. It may overlap dy or x.

    Returns
    -------
    ndarray
        dx, of x's shape and dtype (float64 for integers and bool). It is 0 where an element has no weight.

    Raises
    ------
    TypeError, ValueError
        As for `softmax_pool`, and if dy does not broadcast.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> sc.softmax_pool_backward(np.array([1.0]), np.array([0.0, 1.0]), 2).round(3)
    array([0.072, 0.928])
    """
    op = "softmax_pool_backward"
    dy, x = check.arrays(op, dy=dy, x=x)
    dtype = check.computing(dy, x)
    places, axes = check.windows(op, x.shape, window, stride, padding, dilation, ceil_mode, layout)
    dy = check.broadcast(op, "dy", dy, windows.pooled_shape(x.shape, places, axes))
    dx = check.out(op, out, x.shape, check.computing(x), x)
    run_windows(op, dtype, (dy, x), (dx,), places, axes)
    return result(dx, out)
