"""Gates and gated linear units."""

from __future__ import annotations

import numpy as np

from softcore.reference._common import _axes, _sum_to, _wide, definition
from softcore.reference._maxima import relu
from softcore.reference._op import Op, forward, gradient_dtype, with_rival
from softcore.reference._softmax import sigmoid


def _shares(r, *others):
    """sigmoid(r) and 1 - sigmoid(r), exactly 0 and 1 where the sigmoid is in the dtype of arithmetic: float32 for what is no wider."""
    narrow = all(a.dtype.itemsize <= 4 and a.dtype.kind not in "biu" for a in map(np.asarray, (r, *others)))
    s, t, dtype = sigmoid(r), sigmoid(-_wide(r)), np.float32 if narrow else np.float64
    ends = [np.asarray(s).astype(dtype) == 0, t <= np.finfo(dtype).eps / 4]  # s rounds to 0, to 1
    return np.select(ends, [0, 1], s), np.select(ends, [1, 0], t)


@definition
def gate(x, y, r):
    """x s + y (1 - s) for s = sigmoid(r). Where s is exactly 0 or 1 the other branch is not read."""
    s, t = _shares(r, x, y)
    x, y = _wide(x), _wide(y)
    return np.select([s == 0, t == 0], [y, x], x * s + y * t)


@definition
def gate_backward(df, x, y, r):
    """(df s, df (1 - s), df (x - y) s (1 - s)), summed back to each shape. Where a factor s or 1 - s is exactly 0, so is the product."""
    (s, t), shapes = _shares(r, df, x, y), [np.shape(a) for a in (x, y, r)]
    df, x, y, s, t = np.broadcast_arrays(_wide(df), _wide(x), _wide(y), s, t)
    dx, dy = np.where(s == 0, 0, df * s), np.where(t == 0, 0, df * t)
    dr = np.where((s == 0) | (t == 0), 0, df * (x - y) * s * t)
    return tuple(_sum_to(d, shape) for d, shape in zip((dx, dy, dr), shapes))


def _normal(x):
    """The normal distribution function, by a power series within 2 and Laplace's continued fraction beyond, and the density."""
    density, u = np.exp(-x * x / 2) / np.sqrt(2 * np.arccos(-np.ones_like(x))), np.abs(x)
    near = np.minimum(u, 2)
    series = term = near
    for k in range(3, 80, 2):
        term = term * near * near / k
        series = series + term
    fraction = u
    for k in range(100, 0, -1):
        fraction = u + k / fraction
    tail = np.where(u < 2, 0.5 - density * series, density / fraction)
    return np.where(x < 0, tail, 1 - tail), density


def _activation(name, x):
    """An activation and its derivative, at infinities their limits."""
    below, between = np.maximum(x, -1e100), np.clip(x, -1e100, 1e100)
    if name == "none":
        return x, np.ones_like(x)
    if name == "relu":
        return relu(x), np.select([x > 0, x <= 0], [1, 0], np.nan)
    if name == "gelu":
        share, density = _normal(between)
        return below * share, share + between * density
    c = 2 * np.sqrt(2 / np.arccos(-np.ones_like(x))) if name == "gelu_tanh" else 1
    cubic = 0.044715 if name == "gelu_tanh" else 0
    u = c * (between + cubic * between**3)  # (1 + tanh(u / 2)) / 2 is sigmoid(u)
    s, t = sigmoid(u), sigmoid(-u)
    if name == "sigmoid":
        return s, s * t
    if name in ("silu", "gelu_tanh"):
        return below * s, s + between * s * t * c * (1 + 3 * cubic * between**2)
    raise ValueError(f"activation must be 'sigmoid', 'silu', 'gelu', 'gelu_tanh', 'relu' or 'none', not {name!r}")


def _halves(x, axis):
    """x cut in two along the axis, or the two if it is a tuple."""
    if isinstance(x, tuple):
        a, b = map(_wide, x)
        return a, b
    x = _wide(x)
    (axis,) = _axes(axis, x.ndim)
    if x.shape[axis] % 2:
        raise ValueError(f"x has length {x.shape[axis]} along axis {axis}, it must be even")
    return np.split(x, 2, axis)


@definition
def glu(x, axis=-1, *, activation="sigmoid"):
    """The first half of x times the activation of the second."""
    a, b = _halves(x, axis)
    return a * _activation(activation, b)[0]


@definition
def glu_backward(dy, x, axis=-1, *, activation="sigmoid"):
    """dy activation(b) and dy a activation'(b), put together as the halves a and b of x were."""
    a, b = _halves(x, axis)
    value, slope = _activation(activation, b)
    dy = np.broadcast_to(_wide(dy), a.shape)
    halves = dy * value, dy * a * slope
    return halves if isinstance(x, tuple) else np.concatenate(halves, axis)


# What tests and benchmarks call them with.


def _gate_inputs(x, rng, axis=-1, **options):
    """Two branches and a gate: the elements of x, each time in another order."""
    x, y = with_rival(x, rng)
    return x, y, with_rival(x, rng)[1]


def _largest_branch(x, y, r):
    s, t = _shares(r, x, y)
    return np.maximum(np.abs(np.where(s == 0, 0, _wide(x) * s)), np.abs(np.where(t == 0, 0, _wide(y) * t)))


def _glu_inputs(x, rng, axis=-1, **options):
    """The base array and its rows, each in another order, as the halves of one."""
    x = np.asarray(x)
    return (np.concatenate([x, np.take_along_axis(x, np.argsort(rng.random(x.shape), axis), axis)], axis),)


def _largest_slope(dy, x, axis=-1, *, activation="sigmoid"):
    """Of the gradient by b, dy a (phi(b) / b + the rest of phi'(b)), where phi is b times something."""
    a, b = _halves(x, axis)
    (value, slope), dy = _activation(activation, b), _wide(dy)
    first = np.where(b == 0, 0.5, value / b) if activation in ("silu", "gelu", "gelu_tanh") else 0
    return np.concatenate([np.abs(dy * value), np.abs(dy * a) * np.maximum(np.abs(first), np.abs(slope - first))], axis)


def _with_gradient(forward):
    """Inputs of a backward of an element-wise op: a gradient, and what forward takes."""

    def inputs(x, rng, axis=-1, **options):
        arguments = forward(x, rng, axis, **options)
        dtype = gradient_dtype(arguments[0])
        return rng.standard_normal(np.shape(x)).astype(dtype), *arguments

    return inputs


OPS = (
    forward(gate, "gates", "map", _gate_inputs, terms=_largest_branch),
    Op(gate_backward, "gates", "map", _with_gradient(_gate_inputs), forward="gate", ulp={"float32": 5, "float64": 6}),
    forward(glu, "gates", "halves", _glu_inputs),
    Op(
        glu_backward,
        "gates",
        "halves",
        _with_gradient(_glu_inputs),
        forward="glu",
        ulp={"float32": 5, "float64": 6},
        terms=_largest_slope,
    ),
)
