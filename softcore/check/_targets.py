"""The targets of losses."""

from __future__ import annotations

import numpy as np

from softcore.check._operands import arrays, same_kind
from softcore.check._shapes import reduced, shape


def target(op: str, value, shape: tuple[int, ...], axes: tuple[int, ...], like) -> np.ndarray:
    """Class labels, one per row of logits of `shape`, or a probability for each of them, in an array of the kind that `like` is."""
    labels = type(value) is np.ndarray and value.dtype.kind in "iu" and isinstance(like, np.ndarray)
    if not labels:  # or not yet known to be
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
