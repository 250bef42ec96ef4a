"""Gates: a choice between two branches that can be learnt, and gated linear units. Each forward stands directly above its backward."""

from __future__ import annotations

import numpy as np

from softcore import check, kernels
from softcore.ops.run import result, run, run_gradients

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

_ACTIVATIONS = ("sigmoid", "silu", "gelu", "gelu_tanh", "relu", "none")  # in the order the kernels number them


def gate(x: ArrayLike, y: ArrayLike, r: ArrayLike, *, out: NDArray | None = None) -> Any:
    r"""A soft choice between two branches, with broadcasting.

    .. math:: f = x\,\sigma(r) + y\,(1 - \sigma(r)), \qquad \sigma(r) = \frac{1}{1 + e^{-r}}

    Where the sigmoid is exactly 1, f is x, and where it is exactly 0, f is y, whatever the other branch holds: NaN and inf there cannot
    leak. Exactly means in the dtype of arithmetic: in float32, from r = 17.33 on and up to r = -103.98; in float64, from 37.43 on and
    up to -745.14.

    Parameters
    ----------
    x, y : array_like
        The branches: real numbers, of shapes that broadcast together with that of r.
    r : array_like
        The gate before its sigmoid: large, and x passes; far below 0, and y does.
    out : ndarray, optional
        Where to write the result. It may overlap x, y and r.

    Returns
    -------
    ndarray or scalar
        Of the common shape and the common dtype, integers and bool counting as float64.

    Raises
    ------
    TypeError
        If an operand is complex, an object or a string, or `out` has the wrong dtype.
    ValueError
        If the shapes do not broadcast together, or `out` has the wrong shape.

    References
    ----------
    R. K. Srivastava, K. Greff and J. Schmidhuber, "Highway networks", arXiv:1505.00387, 2015.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> sc.gate(np.array([1.0, 2.0, 3.0]), np.array([-1.0, np.nan, np.nan]), np.array([0.0, 50.0, np.inf]))
    array([0., 2., 3.])
    """
    f = kernels.core.plain("gate", (x, y, r), -1, 1.0, out)
    if f is not None:
        return f
    x, y, r = check.arrays("gate", x=x, y=y, r=r)
    dtype = check.computing(x, y, r)
    shape = check.common_shape("gate", x=x, y=y, r=r)
    f = check.out("gate", out, shape, dtype, x)
    operands = tuple([check.broadcast("gate", name, a, shape) for name, a in (("x", x), ("y", y), ("r", r))])
    run("gate", dtype, operands, (f,), shape)
    return result(f, out)


def gate_backward(
    df: ArrayLike, x: ArrayLike, y: ArrayLike, r: ArrayLike, *, out: tuple[NDArray | None, NDArray | None, NDArray | None] | None = None
) -> tuple[Any, Any, Any]:
    r"""The gradients of `gate`.

    .. math:: dx = df\,\sigma(r), \qquad dy = df\,(1 - \sigma(r)), \qquad dr = df\,(x - y)\,\sigma(r)\,(1 - \sigma(r))

    Where the sigmoid is exactly 0 or 1, dr and the gradient of the branch that was not chosen are 0, and nothing in that branch can
    leak.

    Parameters
    ----------
    df : array_like
        The gradient of gate's result, broadcast to its shape.
    x, y, r : array_like
        As for `gate`.
    out : tuple of ndarray, optional
        Where to write dx, dy and dr. Each may be None. They may overlap the inputs, but not each other.

    Returns
    -------
    dx, dy, dr : ndarray or scalar
        Each of its input's dtype (float64 for integers and bool) and shape: summed over what was broadcast.

    Raises
    ------
    TypeError
        If an operand is complex, an object or a string, or `out` is not a tuple of arrays of the right dtype.
    ValueError
        If the shapes do not broadcast together, or the arrays in `out` have the wrong shape or share memory.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> dx, dy, dr = sc.gate_backward(np.ones(2), np.array([3.0, 5.0]), np.array([1.0, np.inf]), np.array([0.0, 100.0]))
    >>> dx, dy, dr
    (array([0.5, 1. ]), array([0.5, 0. ]), array([0.5, 0. ]))
    >>> print(sc.gate_backward(np.ones(2), np.array([3.0, 5.0]), 1.0, 0.0)[2])
    1.5
    """
    op = "gate_backward"
    gradients = kernels.core.plain(op, (df, x, y, r), -1, 1.0, out)
    if gradients is not None:
        return gradients
    df, x, y, r = check.arrays(op, df=df, x=x, y=y, r=r)
    shape = check.common_shape(op, x=x, y=y, r=r)
    df = check.broadcast(op, "df", df, shape)
    gradients = check.outs(op, out, (x.shape, y.shape, r.shape), tuple(map(check.computing, (x, y, r))), x)
    run_gradients(op, check.computing(df, x, y, r), df, (x, y, r), gradients, shape)
    return tuple(map(result, gradients, out or (None, None, None)))


def glu(x: ArrayLike | tuple[ArrayLike, ArrayLike], axis: int = -1, *, activation: str = "sigmoid", out: NDArray | None = None) -> Any:
    r"""Gated linear units: one half of x times an activation of the other.

    .. math:: y = a\,\phi(b), \qquad x = [a, b]

    ==============  =====================================================================================
    activation      :math:`\phi(b)`
    ==============  =====================================================================================
    ``sigmoid``     :math:`\sigma(b)`
    ``silu``        :math:`b\,\sigma(b)` (SwiGLU)
    ``gelu``        :math:`b\,\Phi(b)`, by the normal distribution function (GEGLU)
    ``gelu_tanh``   :math:`b\,\sigma(2u)`, :math:`u = \sqrt{2/\pi}\,(b + 0.044715\,b^3)`; :math:`\sigma(2u)` is :math:`(1 + \tanh u)/2`
    ``relu``        :math:`\max(b, 0)` (ReGLU)
    ``none``        :math:`b` (bilinear)
    ==============  =====================================================================================

    Parameters
    ----------
    x : array_like or tuple of two array_like
        Real numbers. An array is cut in two along `axis`, without a copy; a tuple holds the halves a and b, of the same shape.
    axis : int, optional
        The axis that is cut. A tuple has no use for it.
    activation : str, optional
        One of those above.
    out : ndarray, optional
        Where to write the result. It may overlap x.

    Returns
    -------
    ndarray or scalar
        Of the shape of a half, and of x's dtype (float64 for integers and bool; the common dtype of two halves).
        At infinite b the activations take their limits: ``silu`` and the two of gelu vanish at -inf.

    Raises
    ------
    TypeError
        If x is complex, an object or a string, `axis` is no int, `activation` no str, or `out` has the wrong dtype.
    ValueError
        If x has an odd length along `axis`, a tuple does not hold two arrays of one shape, `activation` is unknown, or `out` has the
        wrong shape.
    numpy.exceptions.AxisError
        If `axis` is out of bounds.

    References
    ----------
    - Y. N. Dauphin, A. Fan, M. Auli and D. Grangier, "Language modeling with gated convolutional networks", ICML 2017.
    - N. Shazeer, "GLU variants improve Transformer", arXiv:2002.05202, 2020.
    - D. Hendrycks and K. Gimpel, "Gaussian error linear units", arXiv:1606.08415, 2016.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> sc.glu(np.array([[1.0, 2.0, 0.0, 50.0]]))
    array([[0.5, 2. ]])
    >>> sc.glu((np.array([1.0, 2.0]), np.array([3.0, -4.0])), activation="relu")
    array([3., 0.])
    """
    by = check.choice("glu", "activation", activation, _ACTIVATIONS)
    y = kernels.core.plain("glu", *_pieces(x, axis), 1.0, out, by)
    if y is not None:
        return y
    a, b = _halves("glu", x, axis)
    dtype = check.computing(a, b)
    y = check.out("glu", out, a.shape, dtype, a)
    run("glu", dtype, (a, b), (y,), a.shape, option=by)
    return result(y, out)


def glu_backward(
    dy: ArrayLike,
    x: ArrayLike | tuple[ArrayLike, ArrayLike],
    axis: int = -1,
    *,
    activation: str = "sigmoid",
    out: NDArray | tuple[NDArray | None, NDArray | None] | None = None,
) -> Any:
    r"""The gradient of `glu`.

    .. math:: da = dy\,\phi(b), \qquad db = dy\,a\,\phi'(b), \qquad dx = [da, db]

    Parameters
    ----------
    dy : array_like
        The gradient of glu's result, broadcast to its shape.
    x, axis, activation
        As for `glu`.
    out : ndarray or tuple of ndarray, optional
        Where to write the result: of x's shape, or two arrays where x is a tuple; either may be None. They may be dy or x.

    Returns
    -------
    ndarray, or tuple of two
        dx, of x's shape and dtype (float64 for integers and bool). For a tuple ``(da, db)``, each of its half's dtype.

    Raises
    ------
    TypeError
        If an operand is complex, an object or a string, `axis` is no int, `activation` no str, or `out` has the wrong type.
    ValueError
        If x has an odd length along `axis`, a tuple does not hold two arrays of one shape, `activation` is unknown, `dy` does not
        broadcast, or `out` has the wrong shape.
    numpy.exceptions.AxisError
        If `axis` is out of bounds.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> sc.glu_backward(np.ones((1, 2)), np.array([[1.0, 2.0, 0.0, -np.inf]]))
    array([[0.5 , 0.  , 0.25, 0.  ]])
    """
    op = "glu_backward"
    by = check.choice(op, "activation", activation, _ACTIVATIONS)
    inputs, along = _pieces(x, axis)
    dx = kernels.core.plain(op, (dy, *inputs), along, 1.0, out, by)
    if dx is not None:
        return dx
    a, b = _halves(op, x, axis)
    (dy,) = check.arrays(op, dy=dy)
    dy = check.broadcast(op, "dy", dy, a.shape)
    if isinstance(x, tuple):
        dx = halves = check.outs(op, out, (a.shape, b.shape), (check.computing(a), check.computing(b)), a)
    else:
        shape = np.shape(x)
        dx = check.out(op, out, shape, check.computing(a), a)
        halves = check.halves(op, "out", dx, axis)
    run(op, check.computing(dy, a, b), (dy, a, b), tuple(halves), a.shape, option=by)
    return tuple(map(result, dx, out or (None, None))) if isinstance(x, tuple) else result(dx, out)


def _pieces(x, axis):
    """What a short call is given, and the axis that is cut if that is one piece."""
    return (x, -1) if isinstance(x, tuple) and len(x) == 2 else ((x,), axis)


def _halves(op, x, axis):
    if not isinstance(x, tuple):
        (x,) = check.arrays(op, x=x)
        return check.halves(op, "x", x, axis)
    if len(x) != 2:
        raise ValueError(f"{op}: x is a tuple of {len(x)}, it must be an array or a tuple of two")
    a, b = check.arrays(op, **{"x[0]": x[0], "x[1]": x[1]})
    check.shape(op, "x[1]", b, a.shape)
    return a, b
