"""The losses."""

from __future__ import annotations

import numpy as np

from softcore.reference._common import _axes, _flat, _sum, _unflat, _wide, definition
from softcore.reference._op import Op, gradient_dtype
from softcore.reference._softmax import log_softmax, logsumexp, sigmoid, softmax, softplus


def _targets(x, target, axes, weight, ignore_index, label_smoothing):
    """p, which multiplies -log_softmax; the rows that are kept; and what a mean is over: the weight of the kept labels, or the rows."""
    target, rows = np.asarray(target), _flat(x, axes)
    length, weight = rows.shape[-1], 1.0 if weight is None else _wide(weight)
    if target.dtype.kind in "iu":
        label = target[..., np.newaxis]
        kept = label != ignore_index
        if np.any(kept & ((label < 0) | (label >= length))):
            raise IndexError(f"a label must be at least 0 and below {length}")
        p = (label == np.arange(length)) & kept
        total = np.sum(p * weight)
    else:
        p, kept = _flat(_wide(target), axes), np.ones((*rows.shape[:-1], 1), bool)
        total = kept.size
    p = ((1.0 - label_smoothing) * p + label_smoothing / (length or 1)) * weight
    return _unflat(p, axes, x.shape), np.expand_dims(kept[..., 0], axes), total


def _reduced(loss, total, reduction):
    """The losses, their sum, or that over ``total``."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', not {reduction!r}")
    return loss if reduction == "none" else np.sum(loss) / (total if reduction == "mean" else 1)


def _product(factor, x):
    """factor x, and 0 where the factor is 0 and x infinite."""
    return np.where((factor == 0) & np.isinf(x), 0.0, factor * x)


@definition
def cross_entropy(logits, target, axis=-1, *, weight=None, ignore_index=-100, label_smoothing=0.0, z_loss=0.0, reduction="mean"):
    """-sum p log_softmax(x) + z_loss logsumexp(x)^2 of each row; p is the target, one-hot if a label, smoothed, times the weight.

    Smoothing mixes the target with the same share of every class. A row whose label is ``ignore_index`` has the loss 0. The mean is over
    the weight of the labels kept, or over the rows of probabilities.
    """
    x = _wide(logits)
    axes = _axes(axis, x.ndim)
    p, kept, total = _targets(x, target, axes, weight, ignore_index, label_smoothing)
    loss = -_sum(_product(p, log_softmax(x, axes)), axes)
    if z_loss:
        loss = loss + z_loss * logsumexp(x, axes, keepdims=True) ** 2
    return _reduced(np.squeeze(np.where(kept, loss, 0.0), axes), total, reduction)


@definition
def cross_entropy_with_grad(logits, target, axis=-1, *, weight=None, ignore_index=-100, label_smoothing=0.0, z_loss=0.0, reduction="mean"):
    """``(cross_entropy, cross_entropy_backward)`` for a dloss of 1."""
    options = {"weight": weight, "ignore_index": ignore_index, "label_smoothing": label_smoothing, "z_loss": z_loss, "reduction": reduction}
    return cross_entropy(logits, target, axis, **options), cross_entropy_backward(1.0, logits, target, axis, **options)


@definition
def cross_entropy_backward(
    dloss, logits, target, axis=-1, *, weight=None, ignore_index=-100, label_smoothing=0.0, z_loss=0.0, reduction="mean"
):
    """dloss ((sum p + 2 z_loss logsumexp(x)) softmax(x) - p), over what the mean is over; 0 in ignored rows."""
    x, dloss = _wide(logits), _wide(dloss)
    axes = _axes(axis, x.ndim)
    p, kept, total = _targets(x, target, axes, weight, ignore_index, label_smoothing)
    if reduction == "none":
        dloss = np.expand_dims(np.broadcast_to(dloss, np.squeeze(kept, axes).shape), axes)
    factor = _sum(p, axes)
    if z_loss:
        factor = factor + 2 * z_loss * logsumexp(x, axes, keepdims=True)
    over = total if reduction == "mean" else 1
    dx = (factor * softmax(x, axes) - p) * (dloss / (over if over else np.nan))
    return np.where(kept, dx, 0.0)


def _sides(x, target, weight, pos_weight):
    """What multiplies -log sigmoid(x), and -log sigmoid(-x)."""
    target, weight, pos_weight = (_wide(1.0 if a is None else a) for a in (target, weight, pos_weight))
    return np.broadcast_to(weight * pos_weight * target, x.shape), np.broadcast_to(weight * (1.0 - target), x.shape)


@definition
def binary_cross_entropy(logits, target, *, weight=None, pos_weight=None, reduction="mean"):
    """weight (pos_weight t softplus(-x) + (1 - t) softplus(x)), t the target; a factor of 0 annihilates. The mean is over all elements."""
    x = _wide(logits)
    up, down = _sides(x, target, weight, pos_weight)
    return _reduced(_product(up, softplus(-x)) + _product(down, softplus(x)), x.size, reduction)


@definition
def binary_cross_entropy_with_grad(logits, target, *, weight=None, pos_weight=None, reduction="mean"):
    """``(binary_cross_entropy, binary_cross_entropy_backward)`` for a dloss of 1."""
    options = {"weight": weight, "pos_weight": pos_weight, "reduction": reduction}
    return binary_cross_entropy(logits, target, **options), binary_cross_entropy_backward(1.0, logits, target, **options)


@definition
def binary_cross_entropy_backward(dloss, logits, target, *, weight=None, pos_weight=None, reduction="mean"):
    """dloss weight ((1 - t) sigmoid(x) - pos_weight t sigmoid(-x)), in a mean over the number of elements."""
    x = _wide(logits)
    up, down = _sides(x, target, weight, pos_weight)
    return _wide(dloss) / (x.size if reduction == "mean" else 1) * (down * sigmoid(x) - up * sigmoid(-x))


# What tests and benchmarks call them with.


def _loss(reference, kind, forward=None, **fields):
    """A loss: x and labels, of which a few are ignored; or if binary zeros, ones and numbers between; after dloss, in a backward."""
    binary = reference.__name__.startswith("binary")

    def inputs(x, rng, axis=-1, reduction="mean", **options):
        x = np.asarray(x)
        dtype = gradient_dtype(x)
        axes = _axes(axis, x.ndim)
        shape = x.shape if binary else tuple(n for i, n in enumerate(x.shape) if i not in axes)
        length = int(np.prod([x.shape[i] for i in axes], dtype=int))
        if binary:
            target = np.clip(rng.uniform(-0.5, 1.5, shape), 0, 1).astype(dtype)
        else:
            target = np.where(rng.random(shape) < (0.1 if length else 1), -100, rng.integers(0, length or 1, shape))
        dloss = (np.asarray(rng.standard_normal(shape if reduction == "none" else ())).astype(dtype),) if forward else ()
        return (*dloss, x, target)

    return Op(reference, "losses", kind, inputs, forward=forward and forward.__name__, apart={"reduction": "none"}, **fields)


OPS = (
    _loss(cross_entropy, "fold"),
    _loss(cross_entropy_with_grad, "rows"),
    _loss(cross_entropy_backward, "rows", cross_entropy),
    _loss(binary_cross_entropy, "map"),
    _loss(binary_cross_entropy_with_grad, "map"),
    _loss(binary_cross_entropy_backward, "map", binary_cross_entropy),
)
