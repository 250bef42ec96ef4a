"""One description per op."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np


def once(arguments, results):
    """Bytes moved by an op that reads every argument once and writes every result once."""
    results = results if isinstance(results, tuple) else (results,)
    return sum(np.asarray(a).nbytes for a in (*arguments, *results) if not isinstance(a, tuple))


@dataclass(frozen=True)
class Op:
    """What tests, benchmarks and docs need to know of one op.

    ``op.reference(*op.inputs(x, rng, axis=axis, **options), axis=axis, **options)`` is the expected result for a base array x;
    an op without an axis (``"axis" not in op.options``) is called without it.
    """

    reference: Callable  # the definition
    family: str  # "max", "softmax", "pooling", "losses", "gates", "mixtures" or "attention"
    # "fold": reduces the axis; "rows": of x's shape, from the whole row; "map": element by element; "windows": pools; "halves": element
    # by element of the two halves of an axis, of which the base array is one; "mixture": mixes or chooses by a row of its own; "attention"
    kind: str
    inputs: Callable  # (x, rng, axis=-1, **options) -> the positional arguments; dy and y in x's dtype, or promoted
    forward: str | None = None  # of a backward: the op it belongs to
    exact: bool = False  # a selection: equal to the reference, not close to it (but for split ties, and sums over broadcast axes)
    apart: Mapping[str, object] = field(default_factory=dict)  # the options under which a row's result is its own
    integers: str = "promote"  # to float64 before any arithmetic; or "keep"
    ulp: Mapping[str, float] = field(default_factory=lambda: {"float32": 4, "float64": 6})  # the bound tests hold an op to
    moved: Callable = once  # (arguments, results) -> bytes, for GB/s
    # (arguments, **options) -> of each result, the magnitude of the largest of terms that may cancel: errors are counted there
    terms: Callable | None = None

    @property
    def name(self):
        return self.reference.__name__

    @property
    def direction(self):
        return "forward" if self.forward is None else "backward"

    @property
    def options(self):
        """The names of the optional arguments, ``axis`` and ``out`` among them."""
        parameters = inspect.signature(self.reference).parameters.values()
        return frozenset(p.name for p in parameters if p.default is not p.empty)

    @property
    def default_axis(self):
        """The axis unless given; None for an op that has none."""
        axis = inspect.signature(self.reference).parameters.get("axis")
        return axis and axis.default


#: What several entries of a family have in common.
SELECTION = {"exact": True, "integers": "keep"}
CLOSE = {"ulp": {"float32": 2, "float64": 4}}


def _alone(x, rng, axis=-1, **options):
    return (np.asarray(x),)


def forward(reference, family, kind, inputs=_alone, **fields):
    """The entry of a forward."""
    return Op(reference, family, kind, inputs, **fields)


def backward(reference, family, kind, forward, saved, result=None, inputs=_alone, **fields):
    """The entry of a backward that takes dy and the ``saved`` ones of x, y and b; x and b are the ``inputs`` of `forward`. ``result`` is the
    forward with which y is made.
    """
    result = result or forward
    accepted = inspect.signature(result).parameters

    def saved_inputs(x, rng, axis=-1, **options):
        x, *b = inputs(x, rng)
        dtype = gradient_dtype(x)
        options = {name: value for name, value in {"axis": axis, **options}.items() if name in accepted}
        y = np.asarray(result(x, *b, **options))
        with np.errstate(all="ignore"):
            dy = rng.standard_normal(y.shape).astype(dtype)
            arrays = {"dy": dy, "x": x, "y": y.astype(dtype), "b": b and b[0]}
        return tuple(arrays[name] for name in ("dy", *saved))

    return Op(reference, family, kind, saved_inputs, forward=forward.__name__, **fields)


def with_rival(x, rng, axis=-1, **options):
    """x and a rival: the elements of x in another order, about a quarter of them in place."""
    x = np.asarray(x)
    order = np.where(rng.random(x.size) < 0.25, np.arange(x.size), rng.permutation(x.size))
    return x, x.reshape(-1)[order].reshape(x.shape)


def gradient_dtype(x):
    """That of a gradient of x: its own, or float64 of integers and bool."""
    return np.dtype(float) if x.dtype.kind in "biu" else x.dtype if x.dtype.isnative else x.dtype.newbyteorder("=")
