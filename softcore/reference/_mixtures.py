"""Mixtures: many branches, weighed by a softmax or by the largest of it."""

from __future__ import annotations

import numpy as np

from softcore.reference._common import _axes, _keep, _sum_to, _where, _wide, definition
from softcore.reference._op import Op, gradient_dtype
from softcore.reference._softmax import logsumexp, softmax, softmax_backward


def _mixed(x, r, where, scale):
    """x and the scores scale r of its rows, over a common batch; which take part; and x with 0 for those that do not."""
    x, z = _wide(x), _wide(r) * scale
    if x.shape[-2:-1] != z.shape[-1:]:
        raise ValueError(f"x has {x.shape[-2:-1]} rows, r has {z.shape[-1:]}")
    batch = np.broadcast_shapes(x.shape[:-2], z.shape[:-1])
    z = np.broadcast_to(z, (*batch, *z.shape[-1:]))
    where = _where(where, z)
    return np.where(where[..., None], x, 0.0), z, where


@definition
def softmax_gate(x, r, *, where=None, scale=1.0, return_lse=False):
    """sum_j softmax(scale r)_j x_j over the rows x_j of x, and with ``return_lse`` logsumexp(scale r). Masked out: x_j is not read."""
    x, z, where = _mixed(x, r, where, scale)
    o = np.sum(softmax(z, where=where)[..., None] * x, axis=-2)
    return (o, logsumexp(z, where=where)) if return_lse else o


@definition
def softmax_gate_backward(do, x, r, *, where=None, scale=1.0):
    """dx_j = w_j do and dr = scale w (do . x_j - sum w_j do . x_j) for w = softmax(scale r), summed back to each shape."""
    shapes = np.shape(x), np.shape(r)
    (x, z, where), do = _mixed(x, r, where, scale), _wide(do)[..., None, :]
    w = softmax(z, where=where)
    dr = softmax_backward(np.sum(do * x, axis=-1), w, scale=scale, where=where)
    return _sum_to(np.where(where[..., None], w[..., None] * do, 0.0), shapes[0]), _sum_to(dr, shapes[1])


@definition
def topk_gate(r, k, axis=-1, *, renormalize=True):
    """The softmax over the k largest of each row, or without ``renormalize`` over all; and where they are, in descending order.

    NaN is larger than all numbers; of equals the first comes first.
    """
    r = _keep(r)
    (axis,) = _axes(axis, r.ndim)
    rows = np.moveaxis(r, axis, -1)
    if not 0 <= k <= rows.shape[-1]:
        raise ValueError(f"k must be from 0 to {rows.shape[-1]}, not {k}")
    ascending = np.argsort(rows[..., ::-1], axis=-1, kind="stable")  # of equals the last first
    index = (rows.shape[-1] - 1 - ascending)[..., ::-1][..., :k]
    return np.moveaxis(_shares_at(rows, index, renormalize), -1, axis), np.moveaxis(index, -1, axis)


def _shares_at(rows, index, renormalize):
    return softmax(np.take_along_axis(rows, index, -1)) if renormalize else np.take_along_axis(softmax(rows), index, -1)


@definition
def topk_gate_backward(dw, r, indices, axis=-1, *, renormalize=True):
    """w (dw - sum w dw), put where the weights came from; without ``renormalize`` the gradient of the softmax over all.

    What an index that occurs twice receives is added up.
    """
    r = _wide(r)
    (axis,) = _axes(axis, r.ndim)
    rows, index = np.moveaxis(r, axis, -1), np.moveaxis(np.asarray(indices), axis, -1)
    if np.any((index < 0) | (index >= rows.shape[-1])):
        raise IndexError(f"indices must be at least 0 and below {rows.shape[-1]}")
    dw = np.moveaxis(np.broadcast_to(_wide(dw), np.shape(indices)), axis, -1)
    g = softmax_backward(dw, _shares_at(rows, index, True)) if renormalize else dw
    dr = np.sum(np.where(index[..., None] == np.arange(rows.shape[-1]), g[..., None], 0.0), axis=-2)
    return np.moveaxis(dr if renormalize else softmax_backward(dr, softmax(rows)), -1, axis)


# What tests and benchmarks call them with.


def _mixture(reference, forward=None, **fields):
    """Inputs of a mixture: x is the scores; rows of three features, or the two largest, come with them."""

    def inputs(x, rng, axis=-1, **options):
        r = np.asarray(x)
        dtype = gradient_dtype(r)
        if reference.__name__.startswith("topk_gate"):
            k = int(np.minimum(2, r.shape[axis]))
            indices = np.ascontiguousarray(topk_gate(r, k, axis)[1])
            return (r, k) if forward is None else (rng.standard_normal(indices.shape).astype(dtype), r, indices)
        rows = rng.standard_normal((*r.shape, 3)).astype(dtype)
        do = () if forward is None else (rng.standard_normal((*r.shape[:-1], 3)).astype(dtype),)
        return (*do, rows, r)

    return Op(reference, "mixtures", "mixture", inputs, forward=forward and forward.__name__, **fields)


OPS = (
    _mixture(softmax_gate),
    _mixture(softmax_gate_backward, softmax_gate),
    _mixture(topk_gate),
    _mixture(topk_gate_backward, topk_gate),
)
