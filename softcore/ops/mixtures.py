"""Mixtures: sums of rows under softmax weights, and the choice of the k largest weights."""

from __future__ import annotations

from math import prod

import numpy as np

from softcore import check, kernels
from softcore.ops.run import copy, is_same, overlaps, result, run, without_shared

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

_INDEX = np.dtype(np.intp)


def softmax_gate(
    x: ArrayLike,
    r: ArrayLike,
    *,
    where: ArrayLike | None = None,
    scale: float = 1.0,
    return_lse: bool = False,
    out: NDArray | tuple[NDArray | None, NDArray | None] | None = None,
) -> Any:
    """``softmax(scale * r) @ x``: the mean of the rows of x, under the weights that r asks for.

    Parameters
    ----------
    x : array_like
        Real numbers of shape (..., n, d): n branches, experts or values of d features each. It is read once.
    r : array_like
        Their scores, of shape (..., n). The batch axes of x and r broadcast against each other, without a copy.
    where : array_like of bool, optional
        Broadcast to the batch and n; only rows where it is True take part. Of the others neither x nor r is read.
    scale : float, optional
        A factor for r.
    return_lse : bool, optional
        Return ``logsumexp(scale * r)`` as well.
    out : ndarray, optional
        Where to write the result; with `return_lse` a tuple of two, either of which may be None. It may overlap the inputs.

    Returns
    -------
    o : ndarray
        Of shape (..., d), in the common dtype of x and r (float64 for integers and bool). It is 0 where no row takes part, and nan
        where r holds NaN or +inf, or nothing but -inf. A weight of 0 does not hide its row, as a mask does: 0 times a NaN shows.
    lse : ndarray or scalar
        Only with `return_lse`: of shape (...), in float32, or float64 where the common dtype is. It is -inf where no row takes part.

    Raises
    ------
    TypeError
        If an operand is complex, an object or a string, or another argument has the wrong type.
    ValueError
        If x has not two axes or r not one, their numbers of rows differ, the batch axes or `where` do not broadcast, or `out` has
        the wrong shape.

    See Also
    --------
    topk_gate : weights for a few rows only.

    Notes
    -----
    The weights are those of `softmax`. Rows are added in an order that n alone decides: eight in a tree, 64 in the dtype of
    arithmetic, and these sums in float64. That is made for an x of its own for each r, which is read once. Where all share one x, the
    product of two matrices ``softmax(r) @ x`` is faster, and rounds as BLAS does.

    References
    ----------
    R. A. Jacobs, M. I. Jordan, S. J. Nowlan and G. E. Hinton, "Adaptive mixtures of local experts", Neural Computation 3 (1991)
    79-87.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [np.nan, np.nan]])
    >>> sc.softmax_gate(x, np.log([1.0, 3.0, 5.0]), where=[True, True, False])
    array([0.25, 0.75])
    """
    op = "softmax_gate"
    x, r = check.arrays(op, x=x, r=r)
    dtype = check.computing(x, r)
    batch, x, r, mask, scale, storage = _mixture(op, x, r, where, scale, dtype)
    return_lse = check.flag(op, "return_lse", return_lse)
    shapes, dtypes = (batch + x.shape[-1:], batch), (dtype, _wide(dtype))
    if return_lse:
        results = check.outs(op, out, shapes, dtypes, x)
    else:
        results = [check.out(op, out, shapes[0], dtype, x)]
    if 0 not in batch:
        targets = [check.new(y.shape, y.dtype, y) if any(overlaps(y, a) for a in (x, r, mask)) else y for y in results]
        if isinstance(x, np.ndarray):
            kernels.core.mix(op, storage, x, r, targets[0], mask, targets[1] if return_lse else None, scale=scale)
        else:
            _mix_on_device(storage, x, r, mask, scale, *targets)
        for y, target in zip(results, targets):
            copy(y, target)
    if return_lse:
        return tuple(map(result, results, out or (None, None)))
    return result(results[0], out)


def softmax_gate_backward(
    do: ArrayLike,
    x: ArrayLike,
    r: ArrayLike,
    *,
    where: ArrayLike | None = None,
    scale: float = 1.0,
    out: tuple[NDArray | None, NDArray | None] | None = None,
) -> tuple[NDArray, NDArray]:
    """The gradients of `softmax_gate`: ``dx_j = w_j * do`` and ``dr_j = scale * w_j * (do @ x_j - sum(w_i * do @ x_i))``.

    Parameters
    ----------
    do : array_like
        The gradient of softmax_gate's result, broadcast to its shape.
    x, r, where, scale
        As for `softmax_gate`.
    out : tuple of ndarray, optional
        Where to write dx and dr. Either may be None. They may overlap the inputs, but not each other.

    Returns
    -------
    dx, dr : ndarray
        Each of its input's dtype (float64 for integers and bool) and shape: summed over what was broadcast. 0 where a row does not
        take part.

    Raises
    ------
    TypeError
        If an operand is complex, an object or a string, or `out` is not a tuple of arrays of the right dtype.
    ValueError
        As for `softmax_gate`, or if `do` does not broadcast, or the arrays in `out` share memory.

    Notes
    -----
    x is read and dx written in one pass, unless x was broadcast.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> dx, dr = sc.softmax_gate_backward(np.array([1.0, 2.0]), np.eye(2), np.zeros(2))
    >>> dx
    array([[0.5, 1. ],
           [0.5, 1. ]])
    >>> dr
    array([-0.25,  0.25])
    """
    op = "softmax_gate_backward"
    do, x, r = check.arrays(op, do=do, x=x, r=r)
    dtype = check.computing(do, x, r)
    own = x, r
    batch, x, r, mask, scale, storage = _mixture(op, x, r, where, scale, dtype)
    do = check.broadcast(op, "do", do, batch + x.shape[-1:])
    gradients = check.outs(op, out, [a.shape for a in own], [check.computing(a) for a in own], x)
    out = out or (None, None)
    if 0 in batch:
        for gradient in gradients:
            gradient[...] = 0
        return tuple(map(result, gradients, out))
    if not isinstance(x, np.ndarray):
        _mix_backward_on_device(storage, do, x, r, mask, scale, *gradients)
        return tuple(map(result, gradients, out))
    shared_x, shared_r = (_shared(a.shape[: a.ndim - inner], batch) for a, inner in zip(own, (2, 1)))
    # dx may be written over x as that is read, and dr over r unless r is read again for the gradient of a shared x.
    others = (do, r, mask), (do, x, mask, *([r] if shared_x else []))
    targets = [
        np.empty(g.shape, g.dtype) if given is not None and (any(overlaps(g, b) for b in apart) or (overlaps(g, a) and not is_same(g, a))) else g
        for g, given, a, apart in zip(gradients, out, own, others)
    ]
    dx, dr = (check.broadcast(op, "out", target, a.shape) for target, a in zip(targets, (x, r)))
    _mix_grouped(op, storage, shared_r, do, x, r, mask, None if shared_x else dx, dr, scale)
    if shared_x:
        _mix_grouped("softmax_gate_spread", storage, shared_x, do, x, r, mask, dx, None, scale)
    for gradient, target in zip(gradients, targets):
        copy(gradient, target)
    return tuple(gradients)


# On OpenCL devices the weights of the mixture are kept, which takes the room of r.


def _weights_on_device(storage, r, mask, scale):
    weights = check.new(r.shape, storage, r)
    run("softmax", storage, (r,), (weights,), r.shape, (r.ndim - 1,), mask=mask, scale=scale)
    return weights


def _along_features(a, shape):
    """A value for each row of x as a view of x's shape."""
    return a if a is None else np.broadcast_to(a[..., None], shape)


def _mix_on_device(storage, x, r, mask, scale, y, lse=None):
    if r.shape[-1] == 0:
        y[...] = 0
        if lse is not None:
            lse[...] = -np.inf
        return
    if lse is not None:
        run("logsumexp", storage, (r, None), (lse,), r.shape, (r.ndim - 1,), mask=mask, scale=scale)
    weights = _along_features(_weights_on_device(storage, r, mask, scale), x.shape)
    run("dot", storage, (x, weights), (y,), x.shape, (x.ndim - 2,), mask=_along_features(mask, x.shape), dtypes=(y.dtype,))


def _mix_backward_on_device(storage, do, x, r, mask, scale, dx, dr):
    if x.size == 0:
        dx[...] = dr[...] = 0
        return
    read = (do, x, r, mask)
    targets = [check.new(g.shape, g.dtype, g) if any(overlaps(g, a) for a in read) else g for g in (dx, dr)]
    weights = _weights_on_device(storage, r, mask, scale)
    do = np.broadcast_to(do[..., None, :], x.shape)
    dw = check.new(r.shape, storage, r)
    run("dot", storage, (do, x), (dw,), x.shape, (x.ndim - 1,))
    run("softmax_backward", storage, (dw, weights), (dw,), r.shape, (r.ndim - 1,), mask=mask, scale=scale)
    target, shared = without_shared(targets[1], r.shape)
    run("sum" if shared else "copy", storage, (dw,), (target,), r.shape, shared, dtypes=(dr.dtype,))
    target, shared = without_shared(targets[0], x.shape)
    weights, mask = (_along_features(a, x.shape) for a in (weights, mask))
    run("dot" if shared else "product", storage, (weights, do), (target,), x.shape, shared, mask=mask, dtypes=(dx.dtype,))
    for gradient, target in zip((dx, dr), targets):
        copy(gradient, target)


def _mix_grouped(op, storage, shared, do, x, r, mask, dx, dr, scale):
    """Run a backward with the batch axes in `shared` last, so that the items whose gradients are added lie next to each other."""
    if not shared:
        kernels.core.mix(op, storage, x, r, do, mask, None, dx, dr, scale=scale, group=1)
        return
    nbatch = r.ndim - 1
    order = [i for i in range(nbatch) if i not in shared] + shared

    def arranged(a):
        return a if a is None else a.transpose(order + list(range(nbatch, a.ndim)))

    do, x, r, mask, dx, dr = map(arranged, (do, x, r, mask, dx, dr))
    group = prod(r.shape[nbatch - len(shared) : nbatch])
    kernels.core.mix(op, storage, x, r, do, mask, None, dx, dr, scale=scale, group=group)


def _shared(shape, batch):
    """The axes of the batch along which an array whose own batch axes are `shape` was broadcast."""
    shape = (1,) * (len(batch) - len(shape)) + shape
    return [i for i, n in enumerate(batch) if shape[i] != n]


def _mixture(op, x, r, where, scale, dtype):
    """The batch, the operands and the mask over it, the scale, and the dtype of arithmetic."""
    for name, a, axes in (("x", x, "at least two axes, (..., n, d)"), ("r", r, "at least one axis, (..., n)")):
        if a.ndim < (2 if name == "x" else 1):
            raise ValueError(f"{op}: {name} has shape {a.shape}, it must have {axes}")
    if x.shape[-2] != r.shape[-1]:
        raise ValueError(f"{op}: r has shape {r.shape}, its last axis must be as long as the last but one of x, whose shape is {x.shape}")
    try:
        batch = check.broadcast_shape(x.shape[:-2], r.shape[:-1])
    except ValueError:
        raise ValueError(f"{op}: x has shape {x.shape} and r {r.shape}, the axes before (n, d) and (n,) must broadcast together") from None
    scale = check.scale(op, scale)
    mask = check.mask(op, where, batch + r.shape[-1:], r)
    return (
        batch,
        check.broadcast(op, "x", x, batch + x.shape[-2:]),
        check.broadcast(op, "r", r, batch + r.shape[-1:]),
        mask,
        scale,
        check.scaled(_wide(dtype), scale),
    )


def _wide(dtype):
    return dtype if dtype.itemsize == 8 else np.dtype(np.float32)


def topk_gate(
    r: ArrayLike,
    k: int,
    axis: int = -1,
    *,
    renormalize: bool = True,
    out: tuple[NDArray | None, NDArray | None] | None = None,
) -> tuple[NDArray, NDArray]:
    """The k largest of each row as softmax weights, and where they are: which few experts to ask, and how much to trust each.

    Parameters
    ----------
    r : array_like
        Real numbers of at least one axis.
    k : int
        How many to choose: from 0 to the length of a row.
    axis : int, optional
        The axis that makes up a row. The results have length k there.
    renormalize : bool, optional
        Whether the weights are the softmax over the chosen ones, which sums to 1, or over the whole row, at the chosen ones.
    out : tuple of ndarray, optional
        Where to write weights and indices. Either may be None. They may overlap r, but not each other.

    Returns
    -------
    weights : ndarray
        In descending order, in r's dtype (float64 for integers and bool).
    indices : ndarray of intp
        Where they are along the axis. r is compared in its own dtype, integers exactly; of equals the first comes first, and NaN
        is larger than all numbers, as it is for `max`.

    Raises
    ------
    TypeError
        If r is complex, an object or a string, k or `axis` no int, or `out` is not a tuple of arrays of the right dtype.
    ValueError
        If k is negative or larger than a row, r is a scalar, or the arrays in `out` have the wrong shape or share memory.
    numpy.exceptions.AxisError
        If `axis` is out of bounds.

    Notes
    -----
    A row whose largest is NaN or +inf has the weights nan, and so has one of which only -inf are chosen, as in `softmax`.

    References
    ----------
    N. Shazeer et al., "Outrageously large neural networks: the sparsely-gated mixture-of-experts layer", ICLR 2017.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> weights, indices = sc.topk_gate(np.log([1.0, 3.0, 2.0, 1.0]), 2)
    >>> weights.round(3), indices
    (array([0.6, 0.4]), array([1, 2]))
    >>> sc.topk_gate(np.log([1.0, 3.0, 2.0, 1.0]), 2, renormalize=False)[0].round(3)
    array([0.429, 0.286])
    """
    op = "topk_gate"
    (r,) = check.arrays(op, r=r)
    dtype = check.computing(r)
    axis = check.one_axis(op, "r", axis, r.ndim)
    k = check.count(op, "k", k, r.shape[axis])
    renormalize = check.flag(op, "renormalize", renormalize)
    shape = (*r.shape[:axis], k, *r.shape[axis + 1 :])
    results = check.outs(op, out, (shape, shape), (dtype, _INDEX), r)
    if 0 not in shape:
        targets = [check.new(y.shape, y.dtype, y) if overlaps(y, r) or not y.flags.aligned else y for y in results]
        last = [_along_last(a, axis) for a in (r, *targets)]
        if isinstance(r, np.ndarray):
            kernels.core.choose_largest(dtype, *last, renormalize)
        else:
            _largest_on_device(*last, renormalize)
        if renormalize:
            run("softmax", dtype, (targets[0],), (targets[0],), shape, (axis,))
        for y, target in zip(results, targets):
            copy(y, target)
    return tuple(map(result, results, out or (None, None)))


def _along_last(a, axis):
    return a if axis == a.ndim - 1 else np.moveaxis(a, axis, -1)


def _largest_on_device(r, weights, indices, renormalize):
    """The largest, or without `renormalize` their shares of the softmax over all, which takes room of the size of r."""
    k, nouter = weights.shape[-1], r.ndim - 1
    opencl = kernels.core_of(r)
    opencl.run("largest", r.dtype, (r,), (weights, indices), nouter, option=k, shape=r.shape)
    if not renormalize:
        shares = check.new(r.shape, weights.dtype, r)
        run("softmax", weights.dtype, (r,), (shares,), r.shape, (nouter,))
        opencl.run("take", weights.dtype, (shares, indices), (weights,), nouter, option=k, shape=r.shape)


def _largest_backward_on_device(storage, dw, r, indices, dr, renormalize):
    opencl = kernels.core_of(r)
    if r.shape[-1] == 1 and indices.shape[-1] > 1:  # rows of one element have no axis, along which indices had a stride
        gapless = check.new(indices.shape, indices.dtype, indices), check.new(indices.shape, dw.dtype, dw)
        for a, given in zip(gapless, (indices, np.broadcast_to(dw, indices.shape))):
            np.copyto(a, given)
        indices, dw = gapless
    k, axes = indices.shape[-1], (r.ndim - 1,)
    if renormalize:
        weights, dw = check.new(indices.shape, storage, r), np.broadcast_to(dw, indices.shape)
        opencl.run("take", storage, (r, indices), (weights,), *axes, option=k, shape=r.shape)
        run("softmax", storage, (weights,), (weights,), weights.shape, axes)
        run("softmax_backward", storage, (dw, weights), (weights,), weights.shape, axes)
        dw = weights
    spread = check.new(r.shape, storage, r)
    opencl.run("spread", storage, (dw, indices), (spread,), *axes, option=k, shape=r.shape)
    if not renormalize:
        shares = check.new(r.shape, storage, r)
        run("softmax", storage, (r,), (shares,), r.shape, axes)
        run("softmax_backward", storage, (spread, shares), (spread,), r.shape, axes)
    np.copyto(dr, spread)


def topk_gate_backward(
    dw: ArrayLike, r: ArrayLike, indices: ArrayLike, axis: int = -1, *, renormalize: bool = True, out: NDArray | None = None
) -> NDArray:
    """The gradient of `topk_gate`: ``w * (dw - sum(w * dw))`` where the weights came from.

    Parameters
    ----------
    dw : array_like
        The gradient of topk_gate's weights, broadcast to the shape of `indices`.
    r, axis, renormalize
        As for `topk_gate`.
    indices : array_like of int
        What topk_gate returned. Any other choice will do; what an index that occurs twice in a row receives is added up.
    out : ndarray, optional
        Where to write the result: of r's shape. It may be r.

    Returns
    -------
    ndarray
        dr, of r's shape and dtype (float64 for integers and bool). It is 0 where nothing was chosen; without `renormalize` the
        elements not chosen have a gradient too, since they are part of the softmax.

    Raises
    ------
    TypeError
        If `indices` has no integer dtype; otherwise as for `topk_gate`.
    ValueError
        If `indices` has not r's shape but for the axis, `dw` does not broadcast, or `out` has the wrong shape.
    IndexError
        If an index lies outside its row.
    numpy.exceptions.AxisError
        If `axis` is out of bounds.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> r = np.log([1.0, 3.0, 2.0, 1.0])
    >>> weights, indices = sc.topk_gate(r, 2)
    >>> sc.topk_gate_backward(np.array([1.0, 0.0]), r, indices).round(3)
    array([ 0.  ,  0.24, -0.24,  0.  ])
    """
    op = "topk_gate_backward"
    dw, r = check.arrays(op, dw=dw, r=r)
    dtype = _wide(check.computing(dw, r))
    axis = check.one_axis(op, "r", axis, r.ndim)
    indices = check.indices(op, indices, r.shape, axis, r)
    renormalize = check.flag(op, "renormalize", renormalize)
    dw = check.broadcast(op, "dw", dw, indices.shape)
    dr = check.out(op, out, r.shape, check.computing(r), r)
    if indices.size == 0:
        dr[...] = 0
    elif not isinstance(r, np.ndarray):
        _largest_backward_on_device(dtype, *[_along_last(a, axis) for a in (dw, r, indices, dr)], renormalize)
    else:
        over = overlaps(dr, dw) or overlaps(dr, indices) or (overlaps(dr, r) and not is_same(dr, r))
        target = np.empty(dr.shape, dr.dtype) if over else dr
        last = [_along_last(a, axis) for a in (dw, r, indices, target)]
        kernels.core.choose_backward(dtype, *last, renormalize)
        copy(dr, target)
    return result(dr, out)
