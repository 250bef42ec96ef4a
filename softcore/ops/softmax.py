"""The softmax family: softmax, log_softmax, logsumexp, and their cases of two classes: sigmoid, log_sigmoid, softplus."""

from __future__ import annotations

import numpy as np

from softcore import check, kernels
from softcore.ops.run import by_row, result, run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import ArrayLike, NDArray


def softmax(
    x: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    scale: float = 1.0,
    where: ArrayLike | None = None,
    out: NDArray | None = None,
) -> Any:
    """``exp(scale * x) / sum(exp(scale * x))`` over each row.

    Parameters
    ----------
    x : array_like
        Real numbers of any shape.
    axis : int, tuple of ints or None, optional
        The axes that make up a row; None for all.
    scale : real number, optional
        A factor on x: an inverse temperature.
    where : array_like of bool, optional
        Broadcast to x's shape; only elements where it is True take part.
    out : ndarray, optional
        Where to write the result: of x's shape and the result's dtype. It may be x.

    Returns
    -------
    ndarray or scalar
        Of x's shape and dtype (float64 for integers and bool). Each row sums to 1. Masked-out elements are 0; a row is nan if it
        holds a NaN or +inf, or nothing but -inf.

    Raises
    ------
    TypeError
        If x is complex, an object or a string, or another argument has the wrong type.
    ValueError
        If `where` does not broadcast or `out` has the wrong shape.
    numpy.exceptions.AxisError
        If `axis` is out of bounds.

    Notes
    -----
    The row's maximum is subtracted before the exponential, so that nothing overflows [1]_. Maximum and sum are found in the same
    pass [2]_: a partial sum is rescaled when the maximum grows.

    References
    ----------
    .. [1] P. Blanchard, D. J. Higham and N. J. Higham, "Accurately computing the log-sum-exp and softmax functions", IMA Journal of
       Numerical Analysis 41 (2021) 2311-2330.
    .. [2] M. Milakov and N. Gimelshein, "Online normalizer calculation for softmax", arXiv:1805.02867 (2018).

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> sc.softmax(np.log([[1.0, 3.0], [2.0, 2.0]])).round(3)
    array([[0.25, 0.75],
           [0.5 , 0.5 ]])
    >>> sc.softmax(np.array([5.0, 5.0, np.nan]), where=[True, True, False])
    array([0.5, 0.5, 0. ])
    """
    if where is None:
        y = kernels.core.plain("softmax", (x,), axis, scale, out)
        if y is not None:
            return y
    return _normalized("softmax", x, axis, scale, where, out)


def softmax_backward(
    dy: ArrayLike,
    y: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    scale: float = 1.0,
    where: ArrayLike | None = None,
    out: NDArray | None = None,
) -> Any:
    """The gradient of `softmax`: ``scale * y * (dy - sum(dy * y))``.

    Parameters
    ----------
    dy : array_like
        The gradient of softmax's result, broadcast to its shape.
    y : array_like
        What softmax returned.
    axis, scale, where
        As for `softmax`. Where an element is masked out, neither dy nor y is read.
    out : ndarray, optional
        Where to write the result: of y's shape and dtype. It may be dy or y.

    Returns
    -------
    ndarray or scalar
        dx, of y's shape and dtype; 0 where an element is masked out.

    Raises
    ------
    TypeError
        If an operand is complex, an object or a string, or another argument has the wrong type.
    ValueError
        If `dy` or `where` does not broadcast or `out` has the wrong shape.
    numpy.exceptions.AxisError
        If `axis` is out of bounds.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> sc.softmax_backward(np.array([1.0, 0.0]), np.array([0.5, 0.5]))
    array([ 0.25, -0.25])
    """
    if where is None:
        dx = kernels.core.plain("softmax_backward", (dy, y), axis, scale, out)
        if dx is not None:
            return dx
    return _normalized_backward("softmax_backward", dy, y, axis, scale, where, out)


def log_softmax(
    x: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    scale: float = 1.0,
    where: ArrayLike | None = None,
    out: NDArray | None = None,
) -> Any:
    """The logarithm of `softmax`: ``scale * x - logsumexp(scale * x)`` over each row.

    It stays exact where softmax itself would round to 0 or 1.

    Parameters
    ----------
    x, axis, scale, where, out
        As for `softmax`.

    Returns
    -------
    ndarray or scalar
        Of x's shape and dtype (float64 for integers and bool). Masked-out elements are -inf; a row is nan if it holds a NaN or
        +inf, or nothing but -inf.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for `softmax`.

    References
    ----------
    P. Blanchard, D. J. Higham and N. J. Higham, "Accurately computing the log-sum-exp and softmax functions", IMA Journal of
    Numerical Analysis 41 (2021) 2311-2330.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> print(sc.log_softmax(np.array([0.0, -40.0]))[0])
    -4.248354255291589e-18
    """
    if where is None:
        y = kernels.core.plain("log_softmax", (x,), axis, scale, out)
        if y is not None:
            return y
    return _normalized("log_softmax", x, axis, scale, where, out)


def log_softmax_backward(
    dy: ArrayLike,
    y: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    scale: float = 1.0,
    where: ArrayLike | None = None,
    out: NDArray | None = None,
) -> Any:
    """The gradient of `log_softmax`: ``scale * (dy - exp(y) * sum(dy))``.

    Parameters
    ----------
    dy : array_like
        The gradient of log_softmax's result, broadcast to its shape.
    y : array_like
        What log_softmax returned.
    axis, scale, where
        As for `log_softmax`. Where an element is masked out, neither dy nor y is read.
    out : ndarray, optional
        Where to write the result: of y's shape and dtype. It may be dy or y.

    Returns
    -------
    ndarray or scalar
        dx, of y's shape and dtype; 0 where an element is masked out. Infinite dy make an infinite sum, and its product with exp(y)
        is infinite however small that is; it is nan where y is -inf.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for `softmax_backward`.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> sc.log_softmax_backward(np.array([1.0, 0.0]), np.log([0.25, 0.75])).round(3)
    array([ 0.75, -0.75])
    """
    if where is None:
        dx = kernels.core.plain("log_softmax_backward", (dy, y), axis, scale, out)
        if dx is not None:
            return dx
    return _normalized_backward("log_softmax_backward", dy, y, axis, scale, where, out)


def _normalized(op, x, axis, scale, where, out):
    (x,) = check.arrays(op, x=x)
    dtype = check.computing(x)
    axes = check.axes(op, axis, x.ndim)
    scale = check.scale(op, scale)
    mask = check.mask(op, where, x.shape, x)
    y = check.out(op, out, x.shape, dtype, x)
    run(op, check.scaled(dtype, scale), (x,), (y,), x.shape, axes, mask=mask, scale=scale)
    return result(y, out)


def _normalized_backward(op, dy, y, axis, scale, where, out):
    dy, y = check.arrays(op, dy=dy, y=y)
    dtype = check.computing(dy, y)
    axes = check.axes(op, axis, y.ndim)
    scale = check.scale(op, scale)
    mask = check.mask(op, where, y.shape, y)
    dy = check.broadcast(op, "dy", dy, y.shape)
    dx = check.out(op, out, y.shape, check.computing(y), y)
    run(op, check.scaled(dtype, scale), (dy, y), (dx,), y.shape, axes, mask=mask, scale=scale)
    return result(dx, out)


def logsumexp(
    x: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    b: ArrayLike | None = None,
    where: ArrayLike | None = None,
    keepdims: bool = False,
    return_sign: bool = False,
    out: NDArray | tuple[NDArray | None, NDArray | None] | None = None,
) -> Any:
    """``log(sum(b * exp(x)))`` over each row.

    Parameters
    ----------
    x : array_like
        Real numbers of any shape.
    axis : int, tuple of ints or None, optional
        The axes that make up a row; None for all.
    b : array_like, optional
        Weights, of either sign, broadcast to x's shape. An element whose weight is 0 does not count, whatever it is; an infinite
        weight makes any positive exponential infinite, however small.
    where : array_like of bool, optional
        Broadcast to x's shape; only elements where it is True take part.
    keepdims : bool, optional
        Keep the reduced axes, with length 1.
    return_sign : bool, optional
        Return ``log(abs(sum))`` and the sign of the sum. Without it the logarithm of a negative sum is nan.
    out : ndarray, optional
        Where to write the result; with `return_sign` a tuple of two, either of which may be None. It may overlap x.

    Returns
    -------
    y : ndarray or scalar
        In the common dtype of x and b (float64 for integers and bool). It is -inf for a row that is empty, all masked out or all
        -inf, and inf for one that holds +inf. Infinite terms of both signs give nan, and so does an infinite weight at -inf.
    sign : ndarray or scalar
        Only with `return_sign`: 1, 0 or -1, in y's dtype.

    Raises
    ------
    TypeError
        If an operand is complex, an object or a string, or another argument has the wrong type.
    ValueError
        If `b` or `where` does not broadcast or `out` has the wrong shape.
    numpy.exceptions.AxisError
        If `axis` is out of bounds.

    Notes
    -----
    Maximum and sum are found in one pass [1]_, and the largest term enters the logarithm as ``log1p`` of the others [2]_.

    References
    ----------
    .. [1] M. Milakov and N. Gimelshein, "Online normalizer calculation for softmax", arXiv:1805.02867 (2018).
    .. [2] P. Blanchard, D. J. Higham and N. J. Higham, "Accurately computing the log-sum-exp and softmax functions", IMA Journal of
       Numerical Analysis 41 (2021) 2311-2330.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> print(sc.logsumexp(np.array([0.0, -40.0])))
    4.248354255291589e-18
    >>> y, sign = sc.logsumexp(np.zeros(3), b=[1.0, -2.0, -1.0], return_sign=True)
    >>> print(round(float(y), 3), sign)
    0.693 -1.0
    """
    if where is None and b is None and keepdims is False and return_sign is False:
        y = kernels.core.plain("logsumexp", (x,), axis, 1.0, out)
        if y is not None:
            return y
    x, b = check.arrays("logsumexp", x=x, b=b, optional=("b",))
    dtype = check.computing(x, b)
    axes = check.axes("logsumexp", axis, x.ndim)
    keepdims = check.flag("logsumexp", "keepdims", keepdims)
    return_sign = check.flag("logsumexp", "return_sign", return_sign)
    mask = check.mask("logsumexp", where, x.shape, x)
    b = b if b is None else check.broadcast("logsumexp", "b", b, x.shape)
    shape = check.reduced(x.shape, axes, keepdims)
    if return_sign:
        results = check.outs("logsumexp", out, (shape, shape), (dtype, dtype), x)
    else:
        results = [check.out("logsumexp", out, shape, dtype, x)]
    if x.size == 0:
        for y, empty in zip(results, (-np.inf, 0)):
            y[...] = empty
    run("logsumexp", dtype, (x, b), tuple([by_row(y, axes, keepdims) for y in results]), x.shape, axes, mask=mask)
    if return_sign:
        return tuple(map(result, results, out or (None, None)))
    return result(results[0], out)


def logsumexp_backward(
    dy: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    b: ArrayLike | None = None,
    where: ArrayLike | None = None,
    keepdims: bool = False,
    out: NDArray | None = None,
) -> Any:
    """The gradient of `logsumexp` with respect to x: ``dy * b * exp(x - y)``.

    Parameters
    ----------
    dy : array_like
        The gradient of logsumexp's result, broadcast to its shape. Where `return_sign` gave a sign, multiply dy by it.
    x : array_like
        What logsumexp took.
    y : array_like
        What logsumexp returned.
    axis, b, where, keepdims
        As for `logsumexp`.
    out : ndarray, optional
        Where to write the result: of x's shape and dtype. It may be x.

    Returns
    -------
    ndarray or scalar
        dx, of x's shape and dtype (float64 for integers and bool). It is 0 where an element is masked out or its weight is 0. In
        rows whose y is -inf no element has a share, so it is dy * b * 0: 0, or nan if dy or b is not finite.

    Raises
    ------
    TypeError
        If an operand is complex, an object or a string, or another argument has the wrong type.
    ValueError
        If y has not the shape of logsumexp's result, `dy`, `b` or `where` does not broadcast, or `out` has the wrong shape.
    numpy.exceptions.AxisError
        If `axis` is out of bounds.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> x = np.log([1.0, 3.0])
    >>> sc.logsumexp_backward(1.0, x, sc.logsumexp(x)).round(3)
    array([0.25, 0.75])
    """
    op = "logsumexp_backward"
    dy, x, y, b = check.arrays(op, dy=dy, x=x, y=y, b=b, optional=("b",))
    dtype = check.computing(dy, x, y, b)
    axes = check.axes(op, axis, x.ndim)
    keepdims = check.flag(op, "keepdims", keepdims)
    mask = check.mask(op, where, x.shape, x)
    shape = check.reduced(x.shape, axes, keepdims)
    check.shape(op, "y", y, shape)
    dy = check.broadcast(op, "dy", dy, shape)
    b = b if b is None else check.broadcast(op, "b", b, x.shape)
    dx = check.out(op, out, x.shape, check.computing(x), x)
    inputs = (by_row(dy, axes, keepdims), x, by_row(y, axes, keepdims), b)
    run(op, dtype, inputs, (dx,), x.shape, axes, mask=mask)
    return result(dx, out)


def sigmoid(x: ArrayLike, *, out: NDArray | None = None) -> Any:
    """``1 / (1 + exp(-x))``: the softmax of ``[x, 0]``, first element.

    Parameters
    ----------
    x : array_like
        Real numbers of any shape.
    out : ndarray, optional
        Where to write the result: of x's shape and the result's dtype. It may be x.

    Returns
    -------
    ndarray or scalar
        Of x's shape and dtype (float64 for integers and bool). Exactly 0 and 1 at -inf and inf; small results are kept, down to
        subnormal numbers.

    Raises
    ------
    TypeError
        If x is complex, an object or a string, or `out` has the wrong dtype.
    ValueError
        If `out` has the wrong shape.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> sc.sigmoid(np.array([-np.inf, 0.0, np.inf]))
    array([0. , 0.5, 1. ])
    """
    y = kernels.core.plain("sigmoid", (x,), -1, 1.0, out)
    return y if y is not None else _elementwise("sigmoid", x, out)


def sigmoid_backward(dy: ArrayLike, y: ArrayLike, *, out: NDArray | None = None) -> Any:
    """The gradient of `sigmoid`: ``dy * y * (1 - y)``.

    Parameters
    ----------
    dy : array_like
        The gradient of sigmoid's result, broadcast to its shape.
    y : array_like
        What sigmoid returned.
    out : ndarray, optional
        Where to write the result: of y's shape and dtype. It may be dy or y.

    Returns
    -------
    ndarray or scalar
        dx, of y's shape and dtype.

    Raises
    ------
    TypeError
        If an operand is complex, an object or a string, or `out` has the wrong dtype.
    ValueError
        If `dy` does not broadcast or `out` has the wrong shape.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> sc.sigmoid_backward(np.ones(2), np.array([0.5, 1.0]))
    array([0.25, 0.  ])
    """
    dx = kernels.core.plain("sigmoid_backward", (dy, y), -1, 1.0, out)
    return dx if dx is not None else _elementwise_backward("sigmoid_backward", dy, out, y=y)


def log_sigmoid(x: ArrayLike, *, out: NDArray | None = None) -> Any:
    """``log(sigmoid(x))``, which is ``-softplus(-x)``.

    Parameters
    ----------
    x, out
        As for `sigmoid`.

    Returns
    -------
    ndarray or scalar
        Of x's shape and dtype (float64 for integers and bool).

    Raises
    ------
    TypeError, ValueError
        As for `sigmoid`.

    References
    ----------
    M. Maechler, "Accurately computing ``log(1 - exp(-|a|))``", vignette of the R package Rmpfr (2012).

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> print(*sc.log_sigmoid(np.array([-1000.0, 40.0])))
    -1000.0 -4.248354255291589e-18
    """
    y = kernels.core.plain("log_sigmoid", (x,), -1, 1.0, out)
    return y if y is not None else _elementwise("log_sigmoid", x, out)


def log_sigmoid_backward(dy: ArrayLike, x: ArrayLike, *, out: NDArray | None = None) -> Any:
    """The gradient of `log_sigmoid`: ``dy * sigmoid(-x)``.

    Parameters
    ----------
    dy : array_like
        The gradient of log_sigmoid's result, broadcast to its shape.
    x : array_like
        What log_sigmoid took.
    out : ndarray, optional
        Where to write the result. It may be dy or x.

    Returns
    -------
    ndarray or scalar
        dx, of x's shape and dtype (float64 for integers and bool).

    Raises
    ------
    TypeError, ValueError
        As for `sigmoid_backward`.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> sc.log_sigmoid_backward(np.ones(2), np.array([0.0, np.inf]))
    array([0.5, 0. ])
    """
    dx = kernels.core.plain("log_sigmoid_backward", (dy, x), -1, 1.0, out)
    return dx if dx is not None else _elementwise_backward("log_sigmoid_backward", dy, out, x=x)


def softplus(x: ArrayLike, *, out: NDArray | None = None) -> Any:
    """``log(1 + exp(x))``: the logsumexp of ``[x, 0]``, a smooth `relu`.

    Parameters
    ----------
    x, out
        As for `sigmoid`.

    Returns
    -------
    ndarray or scalar
        Of x's shape and dtype (float64 for integers and bool).

    Raises
    ------
    TypeError, ValueError
        As for `sigmoid`.

    References
    ----------
    C. Dugas, Y. Bengio, F. Belisle, C. Nadeau and R. Garcia, "Incorporating second-order functional knowledge for better option
    pricing", NIPS 2000.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> print(*sc.softplus(np.array([-40.0, 1000.0])))
    4.248354255291589e-18 1000.0
    """
    y = kernels.core.plain("softplus", (x,), -1, 1.0, out)
    return y if y is not None else _elementwise("softplus", x, out)


def softplus_backward(dy: ArrayLike, x: ArrayLike, *, out: NDArray | None = None) -> Any:
    """The gradient of `softplus`: ``dy * sigmoid(x)``.

    Parameters
    ----------
    dy : array_like
        The gradient of softplus's result, broadcast to its shape.
    x : array_like
        What softplus took.
    out : ndarray, optional
        Where to write the result. It may be dy or x.

    Returns
    -------
    ndarray or scalar
        dx, of x's shape and dtype (float64 for integers and bool).

    Raises
    ------
    TypeError, ValueError
        As for `sigmoid_backward`.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> sc.softplus_backward(np.ones(2), np.array([0.0, np.inf]))
    array([0.5, 1. ])
    """
    dx = kernels.core.plain("softplus_backward", (dy, x), -1, 1.0, out)
    return dx if dx is not None else _elementwise_backward("softplus_backward", dy, out, x=x)


def _elementwise(op, x, out):
    (x,) = check.arrays(op, x=x)
    y = check.out(op, out, x.shape, check.computing(x), x)
    run(op, check.computing(x), (x,), (y,), x.shape)
    return result(y, out)


def _elementwise_backward(op, dy, out, **saved):
    dy, a = check.arrays(op, dy=dy, **saved)
    dy = check.broadcast(op, "dy", dy, a.shape)
    dx = check.out(op, out, a.shape, check.computing(a), a)
    run(op, check.computing(dy, a), (dy, a), (dx,), a.shape)
    return result(dx, out)
