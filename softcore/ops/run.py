"""From checked operands to the kernels: views in the order that kernels read, and a temporary where writing would disturb reading.

A *full* operand has the shape of the op's input, a *value* operand one element per row, a row being the elements along the reduced
axes. The kernels see outer dimensions first, then the reduced ones, in the array's own order; both are views, whatever the strides.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod

import numpy as np

from softcore import check, kernels


def run(op, storage, inputs, outputs, shape, axes=(), *, mask=None, scale=1.0, option=0, dtypes=None, loss=None):
    """Run one kernel; of a loss that is summed, return the sum.

    Parameters
    ----------
    op : str
        The kernel's name.
    storage : numpy.dtype
        The dtype the kernel computes in; it converts the inputs, element by element.
    inputs, outputs : tuple of ndarray
        Full or value operands (see `by_row`); an input may be None, and an output of a loss.
    shape : tuple of int
        The shape of the full operands.
    axes : tuple of int
        The reduced axes, sorted.
    mask : ndarray of bool, optional
        A full operand, True where an element takes part.
    option : int
        What the kernel makes of it.
    dtypes : tuple of dtype, optional
        What the kernel writes, where that is not `storage`.
    loss : tuple, optional
        The numbers that the kernels of losses take, in place of mask, scale and option.
    """
    if 0 in shape:
        return None
    outer = [i for i in range(len(shape)) if i not in axes]
    order = (*outer, *axes) if axes and axes[0] < len(outer) else None
    core = kernels.core_of(inputs[0])
    # A temporary serves an output that overlaps an input out of step, or whose dtype is not the one of arithmetic (the
    # gradient of a float32 input whose incoming gradient is float64).
    read, targets = (*inputs, mask), outputs
    dtypes = dtypes or (storage,) * len(outputs)
    if not core.in_place(outputs, read, dtypes):
        apart = loss is None and core is kernels.core and not any(overlaps(o, a) for o in outputs if o is not None for a in read)
        if apart and (cut := _cut(shape, outer)):
            axis, options = cut[0], {"scale": scale, "option": option, "dtypes": dtypes}
            for part in _pieces(shape, *cut):
                read, written, masks = [
                    tuple([_piece(a, part, axis, axes, len(shape)) for a in arrays]) for arrays in (inputs, outputs, (mask,))
                ]
                run(op, storage, read, written, (*shape[:axis], part.stop - part.start, *shape[axis + 1 :]), axes, mask=masks[0], **options)
            return None
        targets = tuple([o if o is None or _is_direct(o, read, d) else check.new(o.shape, d, o) for o, d in zip(outputs, dtypes)])
    arranged = inputs, targets
    if order is not None:
        arranged = [tuple([_arranged(a, order) for a in arrays]) for arrays in arranged]
        mask = _arranged(mask, order)
    if loss is None:
        total = core.run(op, storage, *arranged, len(outer), mask, scale, option)
    else:
        total = core.run_loss(op, storage, *arranged, len(outer), *loss)
    if targets is not outputs:
        for output, target in zip(outputs, targets):
            copy(output, target)
    return total


_PIECE = 1 << 16  #: elements that go through a temporary at once


def _cut(shape, outer):
    """The axis along which to cut what needs a temporary, and the length of a piece, if it must be cut and can be."""
    size = prod(shape)
    axis = next((i for i in outer if shape[i] > 1), None)
    return (axis, max(1, _PIECE * shape[axis] // size)) if size > _PIECE and axis is not None else None


def _pieces(shape, axis, length):
    return [slice(start, min(start + length, shape[axis])) for start in range(0, shape[axis], length)]


def _piece(a, part, axis, axes, ndim):
    """The part of an operand along an axis, which values have fewer of."""
    return a if a is None else a[(slice(None),) * (axis if a.ndim == ndim else axis - sum(i < axis for i in axes)) + (part,)]


def run_gradients(op, storage, dy, operands, gradients, shape):
    """Run the backward of an element-wise op with broadcasting: a gradient for each operand, of its shape.

    The kernel `op` writes all gradients of the full shape in one sweep. Each of the others is a sum over the axes along which its
    operand was broadcast, and the kernel ``{op}_sum`` adds it up without a temporary.

    Parameters
    ----------
    op : str
        The kernel's name.
    storage : numpy.dtype
        The dtype the kernel computes in.
    dy : ndarray
        The incoming gradient, of the full shape.
    operands : tuple of ndarray
        What forward took, each of its own shape.
    gradients : list of ndarray
        Where to write. They may overlap the inputs, but not each other.
    shape : tuple of int
        The full shape.
    """
    inputs = (dy, *(np.broadcast_to(a, shape) for a in operands))
    full = [i for i, gradient in enumerate(gradients) if gradient.shape == shape]
    later = []
    for i, gradient in enumerate(gradients):
        if i in full:
            continue
        if 0 in shape:
            gradient[...] = 0
            continue
        # A sum must not overwrite what the others are computed from.
        target = check.new(gradient.shape, storage, gradient) if any(overlaps(gradient, a) for a in (dy, *operands)) else gradient
        later.append((gradient, target))
        target, axes = without_shared(target, shape)
        run(f"{op}_sum", storage, inputs, (target,), shape, axes, option=i)
    if full:
        run(op, storage, inputs, tuple(gradients[i] for i in full), shape, option=sum(1 << i for i in full))
    for gradient, target in later:
        copy(gradient, target)


def without_shared(a, shape):
    """A view of an array without the axes along which it is broadcast to `shape`, and these as axes of that shape."""
    added = len(shape) - a.ndim
    stretched = tuple(j for j, n in enumerate(a.shape) if n != shape[added + j])
    return by_row(a, stretched, True), (*range(added), *(added + j for j in stretched))


def _arranged(a, order):
    return a if a is None or a.ndim < len(order) else a.transpose(order)


def by_row(value: np.ndarray, axes: tuple[int, ...], keepdims: bool) -> np.ndarray:
    """A view of one value per row without the reduced axes."""
    return np.squeeze(value, axes) if keepdims else value


def result(y: np.ndarray, out):
    """What a function returns: a NumPy scalar rather than a 0-d array, unless the user brought the array; or a pyopencl array."""
    if not isinstance(y, np.ndarray):
        y.core.ended()
        return y.array
    if out is not None:
        return out
    return y if y.ndim else y[()]


def copy(output: np.ndarray, target: np.ndarray) -> None:
    """Bring a temporary to its place, rounding to the dtype there."""
    if target is not output:
        with np.errstate(all="ignore"):
            np.copyto(output, target, casting="unsafe")


def overlaps(output: np.ndarray, a: np.ndarray | None) -> bool:
    """Whether writing to `output` may change `a`."""
    if a is None:
        return False
    return np.may_share_memory(output, a, max_work=1) if isinstance(output, np.ndarray) else output.overlaps(a)


def _is_direct(output, read, dtype):
    if output.dtype != dtype or not output.flags.aligned:
        return False
    return not any(overlaps(output, a) and not is_same(output, a) for a in read)


def is_same(a, b):
    """Whether the two arrays are the same elements in the same order: a kernel reads each of them before it writes it."""
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and a.strides == b.strides
        and _start(a) == _start(b)
    )


def _start(a):
    return a.__array_interface__["data"][0] if isinstance(a, np.ndarray) else a.start


def run_windows(op, storage, inputs, outputs, places, axes=(), *, padding=False, dtypes=None, dry=False):
    """Run one kernel on windows, or with `dry` only plan to. Returns whether an index lies outside its plane: then the result is of no use.

    Parameters
    ----------
    op, storage, inputs, outputs, dtypes
        As for `run`; every array has the same number of axes.
    places : tuple of int
        The spatial axes, neighbours of each other.
    axes : list of softcore.windows.Axis
        How windows lie along them.
    padding : bool
        Whether a mean counts padding.
    """
    if 0 in outputs[0].shape:
        return None
    core, targets = kernels.core_of(inputs[0]), outputs
    dtypes = dtypes or (storage,) * len(outputs)
    if not core.in_place(outputs, inputs, dtypes, False):
        targets = [
            check.new(o.shape, d, o) if o.dtype != d or not o.flags.aligned or any(overlaps(o, a) for a in inputs) else o
            for o, d in zip(outputs, dtypes)
        ]
    outcome = core.pool(
        op,
        storage,
        tuple([_planes(a, places) for a in inputs]),
        tuple([_planes(a, places) for a in targets]),
        (_POINT,) * (3 - len(axes)) + tuple(axes),
        padding,
        dry,
    )
    if dry or outcome:
        return outcome
    for output, target in zip(outputs, targets):
        copy(output, target)
    return False


_POINT = (1, 1, 1, 1, 1, 0, 0)  # a window of one along an axis of one


def _planes(a, places):
    """A view of five axes: two others, then depth, height and width, with axes of one for those that `a` does not have."""
    order, axes = _order_of_planes(a.ndim, places)
    return a.transpose(order)[axes]


@lru_cache(maxsize=256)
def _order_of_planes(ndim, places):
    others = [i for i in range(ndim) if i not in places]
    one, every = (None,), (slice(None),)
    return (*others, *places), one * (2 - len(others)) + every * len(others) + one * (3 - len(places)) + every * len(places)
