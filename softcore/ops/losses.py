"""The losses: cross-entropy of classes and binary cross-entropy, both from logits, each with its gradient in the same pass if asked for."""

from __future__ import annotations

import math
from math import prod

import numpy as np

from softcore import check, kernels
from softcore.ops.run import result, run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

_REDUCTIONS = ("mean", "sum", "none")


def cross_entropy(
    logits: ArrayLike,
    target: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
    out: NDArray | None = None,
) -> Any:
    """The cross-entropy of each row's softmax with its target: ``-sum(p * log_softmax(logits))``.

    For a label it is ``logsumexp(logits) - logits[label]``. PyTorch has it as ``nn.functional.cross_entropy``, whose classes lie
    along axis 1; thinc's ``SequenceCategoricalCrossentropy`` and ``CategoricalCrossentropy`` take the softmax, not the logits.

    Parameters
    ----------
    logits : array_like
        Real numbers of any shape.
    target : array_like
        Labels, of any integer dtype and logits' shape without `axis`; or floating probabilities of logits' shape. Probabilities are
        taken as they are, whatever they sum to.
    axis : int, tuple of ints or None, optional
        The axes along which the classes lie; None for all. Over several axes a label is flat, in the array's own axis order.
    weight : array_like, optional
        A factor for each class, of shape ``(classes,)``.
    ignore_index : int, optional
        Rows with this label have loss and gradient 0, whatever else they hold. Only labels have it.
    label_smoothing : real number, optional
        From 0 to 1: the part of the target that is spread evenly over all classes [1]_.
    z_loss : real number, optional
        ``z_loss * logsumexp(logits)**2`` is added to the loss of each row that is not ignored; it keeps logits from drifting [2]_.
    reduction : {"mean", "sum", "none"}, optional
        What becomes of the losses of the rows. The mean is their sum over the weight of the labels that are not ignored; over
        the number of rows, for probabilities.
    out : ndarray, optional
        Where to write the result.

    Returns
    -------
    ndarray or scalar
        One number, or with ``"none"`` one of each row. In the common dtype of logits, weight and probabilities (float64 for
        integers and bool), but float32 for float16 and bfloat16. The loss of a row is nan if it holds a NaN or +inf or nothing
        but -inf, and inf if a class of no probability is a target. A mean over nothing is nan, and over weights of 0 so is its gradient.

    Raises
    ------
    TypeError
        If an operand is complex, an object or a string, target is bool, or another argument has the wrong type.
    ValueError
        If target, weight or out has the wrong shape, an option is out of its range, or `ignore_index` is a class of probabilities.
    IndexError
        If a label is no class and not `ignore_index`.
    numpy.exceptions.AxisError
        If `axis` is out of bounds.

    See Also
    --------
    cross_entropy_with_grad : the same and its gradient.

    Notes
    -----
    With t the target, one-hot if it is a label, ::

        p = weight * ((1 - label_smoothing) * t + label_smoothing / classes)
        loss = sum(p * (lse - logits)) + z_loss * lse**2        lse = logsumexp(logits)

    as PyTorch weighs; a class whose p is 0 contributes 0 even where its logit is -inf. Losses are added exactly and the sum is
    rounded once, so that it depends on no order.

    References
    ----------
    .. [1] C. Szegedy, V. Vanhoucke, S. Ioffe, J. Shlens and Z. Wojna, "Rethinking the Inception architecture for computer vision",
       CVPR 2016.
    .. [2] A. Chowdhery et al., "PaLM: scaling language modeling with Pathways", arXiv:2204.02311 (2022), section 5.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> logits = np.log([[1.0, 3.0], [2.0, 2.0], [9.0, 1.0]])
    >>> sc.cross_entropy(logits, [1, 0, -100], reduction="none").round(3)
    array([0.288, 0.693, 0.   ])
    >>> print(sc.cross_entropy(logits, [1, 0, -100]).round(3))
    0.49
    >>> print(sc.cross_entropy(logits, [[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]]).round(3))
    1.278
    """
    op = "cross_entropy"
    return _cross_entropy(op, None, logits, target, axis, weight, ignore_index, label_smoothing, z_loss, reduction, True, False, out)[0]


def cross_entropy_with_grad(
    logits: ArrayLike,
    target: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
    out: NDArray | tuple[NDArray | None, NDArray | None] | None = None,
) -> tuple[Any, Any]:
    """`cross_entropy` and its gradient with respect to the logits, in one sweep over them.

    Parameters
    ----------
    logits, target, axis, weight, ignore_index, label_smoothing, z_loss, reduction
        As for `cross_entropy`.
    out : ndarray or tuple of ndarray, optional
        Where to write the gradient, which may be logits; or a tuple of where to write the loss and the gradient, either of which
        may be None.

    Returns
    -------
    loss : ndarray or scalar
        As `cross_entropy` gives it.
    dlogits : ndarray or scalar
        As `cross_entropy_backward` gives it for a dloss of 1.

    Raises
    ------
    TypeError, ValueError, IndexError, numpy.exceptions.AxisError
        As for `cross_entropy`.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> logits = np.log([[1.0, 3.0], [2.0, 2.0]])
    >>> loss, dlogits = sc.cross_entropy_with_grad(logits, [1, 0], reduction="sum")
    >>> dlogits.round(3)
    array([[ 0.25, -0.25],
           [-0.5 ,  0.5 ]])
    >>> loss, dlogits = sc.cross_entropy_with_grad(logits, [1, 0], out=logits)
    >>> dlogits is logits
    True
    """
    op = "cross_entropy_with_grad"
    return _cross_entropy(op, None, logits, target, axis, weight, ignore_index, label_smoothing, z_loss, reduction, True, True, out)


def cross_entropy_backward(
    dloss: ArrayLike,
    logits: ArrayLike,
    target: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
    out: NDArray | None = None,
) -> Any:
    """The gradient of `cross_entropy`: ``dloss * (sum(p) * softmax(logits) - p)``, with ``2 * z_loss * lse`` beside ``sum(p)``.

    Parameters
    ----------
    dloss : array_like
        The gradient of cross_entropy's result, broadcast to its shape.
    logits, target, axis, weight, ignore_index, label_smoothing, z_loss, reduction
        As `cross_entropy` took them.
    out : ndarray, optional
        Where to write the result: of logits' shape and dtype. It may be logits.

    Returns
    -------
    ndarray or scalar
        dlogits, of logits' shape and dtype (float64 for integers and bool). It is 0 in ignored rows, whatever dloss is there.

    Raises
    ------
    TypeError, ValueError, IndexError, numpy.exceptions.AxisError
        As for `cross_entropy`; ValueError also if `dloss` does not broadcast.

    Notes
    -----
    p is defined in `cross_entropy`. For a mean the gradient is divided by what the mean is over.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> sc.cross_entropy_backward([1.0, 2.0], np.log([[1.0, 3.0], [2.0, 2.0]]), [1, 0], reduction="none").round(3)
    array([[ 0.25, -0.25],
           [-1.  ,  1.  ]])
    """
    op = "cross_entropy_backward"
    return _cross_entropy(op, dloss, logits, target, axis, weight, ignore_index, label_smoothing, z_loss, reduction, False, True, out)[1]


def _cross_entropy(op, dloss, logits, target, axis, weight, ignore_index, label_smoothing, z_loss, reduction, value, gradient, out):
    if not value:
        (dloss,) = check.arrays(op, dloss=dloss)
    logits, weight = check.arrays(op, logits=logits, weight=weight, optional=("weight",))
    axes = check.axes(op, axis, logits.ndim)
    target = check.target(op, target, logits.shape, axes, logits)
    classes = prod([logits.shape[i] for i in axes])
    weight = check.class_weight(op, weight, classes)
    ignore_index = check.integer(op, "ignore_index", ignore_index)
    label_smoothing = check.within(op, "label_smoothing", label_smoothing, 0, 1)
    z_loss = check.within(op, "z_loss", z_loss, 0)
    reduction = _REDUCTIONS[check.choice(op, "reduction", reduction, _REDUCTIONS)]
    batch = check.reduced(logits.shape, axes, False)
    soft = target.dtype.kind not in "iu"
    if soft and ignore_index >= 0:
        raise ValueError(f"{op}: ignore_index is {ignore_index}, it must be negative where target holds probabilities")
    dtype = check.computing(logits, weight, target if soft else None)
    loss, dlogits = _places(op, logits, batch if reduction == "none" else (), dtype, value, gradient, out)
    dloss = None if value else _slope_in(op, dloss, logits, batch, reduction)
    if soft:
        total = prod(batch)
    else:
        labels = check.on_host(target)
        bad, _, total = kernels.core.scan_targets_of(labels, classes, ignore_index, weight if weight is None else check.on_host(weight))
        if bad >= 0:
            check.label(op, int(labels[np.unravel_index(bad, batch)]), classes, ignore_index)
    spread = label_smoothing / classes if classes else 0.0
    weights = float(classes)
    if weight is not None:
        weights = kernels.core.exact_sum(check.on_host(weight)) if spread and not soft else 0.0
        shape = [n if i in axes else 1 for i, n in enumerate(logits.shape)]
        weight = np.broadcast_to(weight.reshape(shape), logits.shape)
    nothing = np.inf if soft and z_loss and not classes else 0.0  # the loss of a row without classes
    numbers = (1.0 - label_smoothing, spread, z_loss, weights)
    inputs = (logits, target, weight, None)
    _run(op, dtype, inputs, dloss, loss, dlogits, axes, batch, reduction, total, numbers, ignore_index, nothing)
    return _results(loss, dlogits, out)


def _slope_in(op, dloss, logits, shape, reduction):
    """What comes in: for each element of a shape, or one number for all, which is wanted on the host."""
    none = reduction == "none"
    if none or dloss.ndim or not isinstance(dloss, np.ndarray):
        dloss = check.same_kind(op, "dloss", dloss, logits)
    return check.broadcast(op, "dloss", dloss, shape if none else ())


def _places(op, logits, shape, dtype, value, gradient, out):
    """Where to write the loss and the gradient, each None if not asked for."""
    # What is summed in float32 stays so.
    losses = np.dtype(np.float32) if dtype.itemsize == 2 else dtype
    if not gradient:
        return check.out(op, out, shape, losses, logits), None
    slopes = check.computing(logits)
    if not value:
        return None, check.out(op, out, logits.shape, slopes, logits)
    if out is not None and not isinstance(out, tuple):
        dlogits = check.out(op, out, logits.shape, slopes, logits)
        return check.new(shape, losses, logits), dlogits
    return check.outs(op, out, (shape, logits.shape), (losses, slopes), logits)


def _run(op, dtype, inputs, dloss, loss, dlogits, axes, batch, reduction, total, numbers, ignore_index=0, nothing=0.0):
    """Fill the loss and the gradient; a row costs ``nothing`` where there is nothing to run over."""
    shape = inputs[0].shape
    none = reduction == "none"
    over = float(total) if reduction == "mean" else 1.0
    factor = 1.0 / over if over else math.nan  # of a gradient
    if dloss is not None and not none:
        factor *= float(check.on_host(dloss))
    each = loss is not None and none
    sums = loss is not None and not none
    storage = np.dtype(np.float32) if dtype.itemsize == 2 else dtype
    summed = run(
        op,
        dtype,
        (*inputs, dloss if none else None),
        (loss if each else None, dlogits),
        shape,
        axes,
        dtypes=(storage, dtype),
        loss=(sums, *numbers, float(factor), ignore_index),
    )
    if 0 in shape and loss is not None:
        summed = nothing if 0 not in batch else 0.0
        if each:
            loss[...] = summed
    if sums:
        if isinstance(summed, float):
            _fill(loss, _quotient(summed, over))
        else:  # parts of the sum, on an OpenCL device
            run("sum", loss.dtype, (summed,), (loss,), summed.shape, (0,), scale=_quotient(1.0, over))


def _quotient(a: float, b: float) -> float:
    """a / b as IEEE 754 has it."""
    return a / b if b else a * math.copysign(math.inf, b)


def _fill(loss, number):
    """Round a number to the dtype of the loss, without a word where it overflows or vanishes there."""
    if number == 0 or 1e-30 < abs(number) < 1e30:
        loss[...] = number
        return
    with np.errstate(all="ignore"):
        loss[...] = number


def _results(loss, dlogits, out):
    if dlogits is None:
        return result(loss, out), None
    places = out if isinstance(out, tuple) else (None, out)
    return tuple([None if y is None else result(y, place) for y, place in zip((loss, dlogits), places)])


def binary_cross_entropy(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    reduction: str = "mean",
    out: NDArray | None = None,
) -> Any:
    """The cross-entropy of two classes, from the logit of one: ``target * softplus(-logits) + (1 - target) * softplus(logits)``.

    PyTorch has it as ``nn.functional.binary_cross_entropy_with_logits``.

    Parameters
    ----------
    logits : array_like
        Real numbers of any shape.
    target : array_like
        The probability of the class, from 0 to 1 (which is not checked), broadcast to logits' shape. Labels 0 and 1 may be
        integers or bool.
    weight : array_like, optional
        A factor for each element, broadcast to logits' shape.
    pos_weight : array_like, optional
        A factor for ``target * softplus(-logits)`` alone, broadcast to logits' shape.
    reduction : {"mean", "sum", "none"}, optional
        What becomes of the losses of the elements. The mean is over their number, whatever they weigh.
    out : ndarray, optional
        Where to write the result.

    Returns
    -------
    ndarray or scalar
        One number, or with ``"none"`` one of each element. In the common dtype of logits, weights and a floating target (float64 for
        integers and bool), but float32 for float16 and bfloat16. An infinite logit on the right side has the loss 0. A mean over
        nothing is nan.

    Raises
    ------
    TypeError
        If an operand is complex, an object or a string, or another argument has the wrong type.
    ValueError
        If target, weight or pos_weight does not broadcast, out has the wrong shape, or reduction is none of the three.

    See Also
    --------
    binary_cross_entropy_with_grad : the same and its gradient.

    References
    ----------
    C. M. Bishop, "Pattern recognition and machine learning", Springer (2006), section 4.3.2.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> sc.binary_cross_entropy(np.array([0.0, 2.0, -np.inf]), [1, 0, 0], reduction="none").round(3)
    array([0.693, 2.127, 0.   ])
    """
    return _binary("binary_cross_entropy", None, logits, target, weight, pos_weight, reduction, True, False, out)[0]


def binary_cross_entropy_with_grad(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    reduction: str = "mean",
    out: NDArray | tuple[NDArray | None, NDArray | None] | None = None,
) -> tuple[Any, Any]:
    """`binary_cross_entropy` and its gradient with respect to the logits, in one sweep over them.

    Parameters
    ----------
    logits, target, weight, pos_weight, reduction
        As for `binary_cross_entropy`.
    out : ndarray or tuple of ndarray, optional
        Where to write the gradient, which may be logits; or a tuple of where to write the loss and the gradient, either of which
        may be None.

    Returns
    -------
    loss : ndarray or scalar
        As `binary_cross_entropy` gives it.
    dlogits : ndarray or scalar
        As `binary_cross_entropy_backward` gives it for a dloss of 1.

    Raises
    ------
    TypeError, ValueError
        As for `binary_cross_entropy`.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> loss, dlogits = sc.binary_cross_entropy_with_grad(np.array([0.0, -1.0]), [1, 0], reduction="sum")
    >>> print(loss.round(3))
    1.006
    >>> dlogits.round(3)
    array([-0.5  ,  0.269])
    """
    return _binary("binary_cross_entropy_with_grad", None, logits, target, weight, pos_weight, reduction, True, True, out)


def binary_cross_entropy_backward(
    dloss: ArrayLike,
    logits: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    reduction: str = "mean",
    out: NDArray | None = None,
) -> Any:
    """The gradient of `binary_cross_entropy`: ``dloss * weight * ((1 - t) * sigmoid(x) - pos_weight * t * sigmoid(-x))``.

    Parameters
    ----------
    dloss : array_like
        The gradient of binary_cross_entropy's result, broadcast to its shape.
    logits, target, weight, pos_weight, reduction
        As `binary_cross_entropy` took them: x and t are logits and target.
    out : ndarray, optional
        Where to write the result: of logits' shape and dtype. It may be logits.

    Returns
    -------
    ndarray or scalar
        dlogits, of logits' shape and dtype (float64 for integers and bool). For a mean it is divided by the number of elements.

    Raises
    ------
    TypeError, ValueError
        As for `binary_cross_entropy`; ValueError also if `dloss` does not broadcast.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> sc.binary_cross_entropy_backward(1.0, np.array([0.0, 0.0]), [1, 0])
    array([-0.25,  0.25])
    """
    return _binary("binary_cross_entropy_backward", dloss, logits, target, weight, pos_weight, reduction, False, True, out)[1]


def _binary(op, dloss, logits, target, weight, pos_weight, reduction, value, gradient, out):
    if not value:
        (dloss,) = check.arrays(op, dloss=dloss)
    # A target of integers or bool is exact in any dtype: it raises neither that of logits nor that of a Python number.
    if not isinstance(target, float):
        (target,) = check.arrays(op, target=target)
    labels = not isinstance(target, float) and target.dtype.kind in "biu"
    beside = {"logits": logits, "weight": weight, "pos_weight": pos_weight} | ({} if labels else {"target": target})
    checked = {"target": target} | dict(zip(beside, check.arrays(op, **beside, optional=("weight", "pos_weight"))))
    logits = checked["logits"]
    checked["target"] = check.same_kind(op, "target", checked["target"], logits)
    reduction = _REDUCTIONS[check.choice(op, "reduction", reduction, _REDUCTIONS)]
    shape = logits.shape
    target, weight, pos_weight = (
        None if checked[name] is None else check.broadcast(op, name, checked[name], shape) for name in ("target", "weight", "pos_weight")
    )
    dtype = check.computing(logits, weight, pos_weight, None if labels else target)
    none = reduction == "none"
    loss, dlogits = _places(op, logits, shape if none else (), dtype, value, gradient, out)
    dloss = None if value else _slope_in(op, dloss, logits, shape, reduction)
    # Summed, all elements are one row.
    axes = tuple(range(logits.ndim)) if value and not none else ()
    _run(op, dtype, (logits, target, weight, pos_weight), dloss, loss, dlogits, axes, shape, reduction, logits.size, (1.0, 0.0, 0.0, 0.0))
    return _results(loss, dlogits, out)
