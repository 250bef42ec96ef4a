"""The max family: max, argmax, hardmax, the binary maximum, relu and step."""

from __future__ import annotations

from math import prod

import numpy as np

from softcore import check, kernels
from softcore.ops.run import by_row, result, run, run_gradients

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

_INDEX = np.dtype(np.int64)
_TIES = ("first", "last", "split", "all")


def max(
    x: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    keepdims: bool = False,
    where: ArrayLike | None = None,
    initial: float | None = None,
    out: NDArray | None = None,
) -> Any:
    """The largest element of each row.

    Parameters
    ----------
    x : array_like
        Real numbers of any shape.
    axis : int, tuple of ints or None, optional
        The axes that make up a row; None for all. An empty tuple makes each element its own row.
    keepdims : bool, optional
        Keep the reduced axes, with length 1.
    where : array_like of bool, optional
        Broadcast to x's shape; only elements where it is True take part.
    initial : real number, optional
        A least value for each result, which also serves rows in which no element takes part.
    out : ndarray, optional
        Where to write the result: of its shape and of x's dtype. It may overlap x.

    Returns
    -------
    ndarray or scalar
        In x's dtype. A NaN that takes part wins. Of zeros 0 is taken rather than -0, wherever it is.

    Raises
    ------
    TypeError
        If x is complex, an object or a string, or another argument has the wrong type.
    ValueError
        If no element of a row takes part and there is no `initial`, an integer dtype cannot hold `initial`, `where` does not
        broadcast, or `out` has the wrong shape.
    numpy.exceptions.AxisError
        If `axis` is out of bounds.

    See Also
    --------
    max_with_argmax : where the maximum is, in the same pass.
    max_backward : the gradient.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> sc.max(np.array([[1.0, 5.0, 2.0], [4.0, 3.0, 4.0]]))
    array([5., 4.])
    """
    if where is None and initial is None and keepdims is False:
        y = kernels.core.plain("max", (x,), axis, 1.0, out)
        if y is not None:
            return y
    (x,) = check.arrays("max", x=x)
    dtype = check.selecting(x)
    axes = check.axes("max", axis, x.ndim)
    keepdims = check.flag("max", "keepdims", keepdims)
    mask = check.mask("max", where, x.shape, x)
    if initial is None:
        check.taking_part("max", mask, x.shape, axes, " or there must be an initial")
    else:
        initial = check.initial("max", initial, dtype, x)
    y = check.out("max", out, check.reduced(x.shape, axes, keepdims), dtype, x)
    if initial is None:
        run("max", dtype, (x,), (by_row(y, axes, keepdims),), x.shape, axes, mask=mask)
    elif x.size == 0:
        y[...] = initial
    else:
        run("max", dtype, (x,), (by_row(y, axes, keepdims),), x.shape, axes, mask=mask)
        run("maximum", dtype, (y, np.broadcast_to(initial, y.shape)), (y,), y.shape)
    return result(y, out)


def max_backward(
    dy: ArrayLike,
    x: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    index: ArrayLike | None = None,
    ties: str = "first",
    keepdims: bool = False,
    where: ArrayLike | None = None,
    out: NDArray | None = None,
) -> Any:
    """The gradient of `max`: dy goes to where the maximum is, and 0 to the rest of the row.

    Parameters
    ----------
    dy : array_like
        The gradient of max's result, broadcast to its shape.
    x, axis, keepdims, where
        As for `max`.
    index : array_like of int, optional
        The indices that `max_with_argmax` gave, which save searching for the maximum: dy goes there, whatever `ties` says.
    ties : {"first", "last", "split", "all"}, optional
        Which of several equal maxima receives dy: one of them, each an even share, or each the whole.
    out : ndarray, optional
        Where to write the result. It may be x.

    Returns
    -------
    ndarray
        dx, of x's shape and dtype (float64 for integers and bool). It is 0 where an element is masked out.

    Raises
    ------
    TypeError
        If `index` has no integer dtype; otherwise as for `max`.
    ValueError
        If `ties` is none of the four, or `dy` or `index` has the wrong shape.
    IndexError
        If an index lies outside its row.
    numpy.exceptions.AxisError
        If `axis` is out of bounds.

    Notes
    -----
    The maximum is not differentiable where it is tied; each choice here is a subgradient but ``"all"``, which sums to more than dy.
    ``"split"`` is what PyTorch's ``amax`` and JAX's ``max`` do, ``"first"`` what a pooling layer does.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> sc.max_backward(6.0, np.array([1.0, 3.0, 3.0]))
    array([0., 6., 0.])
    >>> sc.max_backward(6.0, np.array([1.0, 3.0, 3.0]), ties="split")
    array([0., 3., 3.])
    """
    op = "max_backward"
    dy, x = check.arrays(op, dy=dy, x=x)
    dtype = check.computing(dy, x)
    axes = check.axes(op, axis, x.ndim)
    keepdims = check.flag(op, "keepdims", keepdims)
    option = check.choice(op, "ties", ties, _TIES)
    mask = check.mask(op, where, x.shape, x)
    shape = check.reduced(x.shape, axes, keepdims)
    dy = by_row(check.broadcast(op, "dy", dy, shape), axes, keepdims)
    index = check.index(op, index, shape, prod([x.shape[i] for i in axes]), x)
    dx = check.out(op, out, x.shape, check.computing(x), x)
    if index is not None:
        index, option = by_row(index, axes, keepdims), 0  # whatever `ties` says
    elif x.dtype.kind in "iu" and x.dtype.itemsize == 8 and x.size:
        # float64 would make neighbours above 2**53 tie; which elements are maxima is decided among the integers.
        x = _is_max(x, axes, mask)
    run(op, dtype, (dy, x, index), (dx,), x.shape, axes, mask=mask, option=option)
    return result(dx, out)


def _is_max(x, axes, mask):
    if not isinstance(x, np.ndarray):
        y = check.new(x.shape, np.dtype(bool), x)
        run("is_max", x.dtype, (x,), (y,), x.shape, axes, mask=mask, dtypes=(y.dtype,))
        return y
    top = max(x, axes, keepdims=True, where=True if mask is None else mask, initial=np.iinfo(x.dtype).min)
    return np.asarray(x == top)  # which of 0-d arrays is a scalar


def argmax(
    x: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    keepdims: bool = False,
    where: ArrayLike | None = None,
    select_last: bool = False,
    out: NDArray | None = None,
) -> Any:
    """The index of the largest element of each row.

    Parameters
    ----------
    x : array_like
        Real numbers of any shape.
    axis : int, tuple of ints or None, optional
        The axes that make up a row; None for all. Over several axes the index is flat, in the array's own axis order.
    keepdims : bool, optional
        Keep the reduced axes, with length 1.
    where : array_like of bool, optional
        Broadcast to x's shape; only elements where it is True take part.
    select_last : bool, optional
        Take the last of several equal maxima rather than the first.
    out : ndarray of intp, optional
        Where to write the result.

    Returns
    -------
    ndarray of intp, or a scalar
        The first NaN that takes part wins, whatever `select_last` is.

    Raises
    ------
    TypeError
        If x is complex, an object or a string, or another argument has the wrong type.
    ValueError
        If no element of a row takes part, `where` does not broadcast, or `out` has the wrong shape.
    numpy.exceptions.AxisError
        If `axis` is out of bounds.

    See Also
    --------
    hardmax : the same as a one-hot row.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> x = np.array([[1.0, 5.0, 2.0], [4.0, 3.0, 4.0]])
    >>> sc.argmax(x)
    array([1, 0])
    >>> sc.argmax(x, select_last=True)
    array([1, 2])
    """
    if where is None and keepdims is False and select_last is False:
        y = kernels.core.plain("argmax", (x,), axis, 1.0, out)
        if y is not None:
            return y
    (x,) = check.arrays("argmax", x=x)
    axes = check.axes("argmax", axis, x.ndim)
    keepdims = check.flag("argmax", "keepdims", keepdims)
    option = check.flag("argmax", "select_last", select_last)
    mask = check.mask("argmax", where, x.shape, x)
    check.taking_part("argmax", mask, x.shape, axes)
    index = check.out("argmax", out, check.reduced(x.shape, axes, keepdims), np.dtype(np.intp), x)
    dtype = check.selecting(x)
    run("argmax", dtype, (x,), (by_row(index, axes, keepdims),), x.shape, axes, mask=mask, option=option, dtypes=(_INDEX,))
    return result(index, out)


def max_with_argmax(
    x: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    keepdims: bool = False,
    where: ArrayLike | None = None,
    select_last: bool = False,
    out: tuple[NDArray | None, NDArray | None] | None = None,
) -> tuple[Any, Any]:
    """`max` and `argmax` in one pass.

    Parameters
    ----------
    x, axis, keepdims, where, select_last
        As for `argmax`.
    out : tuple of ndarray, optional
        Where to write the values, in x's dtype, and the indices, intp. Either may be None.

    Returns
    -------
    values, indices : ndarray or scalar
        As `max` and `argmax` give them, but that the value is the element at the index: -0 where that is the first of zeros.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for `argmax`.

    See Also
    --------
    max_backward : its `index` takes the indices.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> values, indices = sc.max_with_argmax(np.array([[1.0, 5.0, 2.0], [4.0, 3.0, 4.0]]))
    >>> values
    array([5., 4.])
    >>> indices
    array([1, 0])
    """
    op = "max_with_argmax"
    if where is None and keepdims is False and select_last is False:
        results = kernels.core.plain(op, (x,), axis, 1.0, out)
        if results is not None:
            return results
    (x,) = check.arrays(op, x=x)
    dtype = check.selecting(x)
    axes = check.axes(op, axis, x.ndim)
    keepdims = check.flag(op, "keepdims", keepdims)
    option = check.flag(op, "select_last", select_last)
    mask = check.mask(op, where, x.shape, x)
    check.taking_part(op, mask, x.shape, axes)
    shape = check.reduced(x.shape, axes, keepdims)
    y, index = check.outs(op, out, (shape, shape), (dtype, np.dtype(np.intp)), x)
    outputs = (by_row(y, axes, keepdims), by_row(index, axes, keepdims))
    run(op, dtype, (x,), outputs, x.shape, axes, mask=mask, option=option, dtypes=(dtype, _INDEX))
    out = out or (None, None)
    return result(y, out[0]), result(index, out[1])


def hardmax(x: ArrayLike, axis: int | tuple[int, ...] | None = -1, *, out: NDArray | None = None) -> Any:
    """A one-hot row: 1 at the first maximum of each row, 0 elsewhere.

    It is the limit of ``softmax(scale * x)`` as `scale` grows, where the maximum is not tied; deep learning often calls it argmax.

    Parameters
    ----------
    x : array_like
        Real numbers of any shape.
    axis : int, tuple of ints or None, optional
        The axes that make up a row; None for all.
    out : ndarray, optional
        Where to write the result: of x's shape and dtype. It may be x.

    Returns
    -------
    ndarray or scalar
        Of x's shape and dtype; empty where x is. In a row with NaN the first NaN is the maximum.

    Raises
    ------
    TypeError
        If x is complex, an object or a string, or `out` has the wrong dtype.
    ValueError
        If `out` has the wrong shape.
    numpy.exceptions.AxisError
        If `axis` is out of bounds.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> sc.hardmax(np.array([[1.0, 5.0, 2.0], [4.0, 3.0, 4.0]]))
    array([[0., 1., 0.],
           [1., 0., 0.]])
    """
    y = kernels.core.plain("hardmax", (x,), axis, 1.0, out)
    if y is not None:
        return y
    (x,) = check.arrays("hardmax", x=x)
    dtype = check.selecting(x)
    axes = check.axes("hardmax", axis, x.ndim)
    y = check.out("hardmax", out, x.shape, dtype, x)
    run("hardmax", dtype, (x,), (y,), x.shape, axes)
    return result(y, out)


def maximum(a: ArrayLike, b: ArrayLike, *, out: NDArray | None = None) -> Any:
    """The larger of two elements, ``max(a, b)``, with broadcasting.

    Parameters
    ----------
    a, b : array_like
        Real numbers, of shapes that broadcast together.
    out : ndarray, optional
        Where to write the result. It may overlap a and b.

    Returns
    -------
    ndarray or scalar
        Integers and bool keep NumPy's common dtype; an integer beside a floating number counts as float64. NaN wins.

    Raises
    ------
    TypeError
        If an operand is complex, an object or a string, or `out` has the wrong dtype.
    ValueError
        If the shapes do not broadcast together, an integer dtype cannot hold a Python int beside it, or `out` has the wrong shape.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> sc.maximum(np.array([1.0, 5.0]), np.array([[2.0], [6.0]]))
    array([[2., 5.],
           [6., 6.]])
    """
    y = kernels.core.plain("maximum", (a, b), -1, 1.0, out)
    if y is not None:
        return y
    a, b = check.arrays("maximum", a=a, b=b)
    dtype = check.selecting(a, b)
    shape = check.common_shape("maximum", a=a, b=b)
    y = check.out("maximum", out, shape, dtype, a)
    run("maximum", dtype, (np.broadcast_to(a, shape), np.broadcast_to(b, shape)), (y,), shape)
    return result(y, out)


def maximum_backward(
    dy: ArrayLike, a: ArrayLike, b: ArrayLike, *, out: tuple[NDArray | None, NDArray | None] | None = None
) -> tuple[Any, Any]:
    """The gradients of `maximum`: dy to the larger of the two, half each where they are equal.

    Parameters
    ----------
    dy : array_like
        The gradient of maximum's result, broadcast to its shape.
    a, b : array_like
        As for `maximum`.
    out : tuple of ndarray, optional
        Where to write da and db. Either may be None. They may overlap the inputs, but not each other.

    Returns
    -------
    da, db : ndarray or scalar
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
    >>> da, db = sc.maximum_backward(np.ones(3), np.array([1.0, 2.0, 3.0]), 2.0)
    >>> da
    array([0. , 0.5, 1. ])
    >>> print(db)
    1.5
    """
    op = "maximum_backward"
    gradients = kernels.core.plain(op, (dy, a, b), -1, 1.0, out)
    if gradients is not None:
        return gradients
    dy, a, b = check.arrays(op, dy=dy, a=a, b=b)
    dtype = check.computing(dy, a, b)
    shape = check.common_shape(op, a=a, b=b)
    dy = check.broadcast(op, "dy", dy, shape)
    gradients = check.outs(op, out, (a.shape, b.shape), (check.computing(a), check.computing(b)), a)
    run_gradients(op, dtype, dy, (a, b), gradients, shape)
    out = out or (None, None)
    return tuple(map(result, gradients, out))


def relu(x: ArrayLike, *, out: NDArray | None = None) -> Any:
    """``max(x, 0)``.

    Parameters
    ----------
    x : array_like
        Real numbers of any shape.
    out : ndarray, optional
        Where to write the result: of x's shape and dtype. It may be x.

    Returns
    -------
    ndarray or scalar
        Of x's shape and dtype. NaN stays NaN.

    Raises
    ------
    TypeError
        If x is complex, an object or a string, or `out` has the wrong dtype.
    ValueError
        If `out` has the wrong shape.

    References
    ----------
    X. Glorot, A. Bordes and Y. Bengio, "Deep sparse rectifier neural networks", AISTATS 2011.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> sc.relu(np.array([-1, 0, 2]))
    array([0, 0, 2])
    """
    y = kernels.core.plain("relu", (x,), -1, 1.0, out)
    if y is not None:
        return y
    (x,) = check.arrays("relu", x=x)
    dtype = check.selecting(x)
    y = check.out("relu", out, x.shape, dtype, x)
    run("relu", dtype, (x,), (y,), x.shape)
    return result(y, out)


def relu_backward(dy: ArrayLike, x: ArrayLike, *, out: NDArray | None = None) -> Any:
    """The gradient of `relu`: dy where x > 0, else 0.

    Parameters
    ----------
    dy : array_like
        The gradient of relu's result, broadcast to its shape.
    x : array_like
        What relu took. What it returned will do as well.
    out : ndarray, optional
        Where to write the result. It may be dy or x.

    Returns
    -------
    ndarray or scalar
        dx, of x's shape and dtype (float64 for integers and bool). NaN in x gives NaN.

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
    >>> sc.relu_backward(np.array([5.0, 6.0, 7.0]), np.array([-1.0, 0.0, 2.0]))
    array([0., 0., 7.])
    """
    dx = kernels.core.plain("relu_backward", (dy, x), -1, 1.0, out)
    if dx is not None:
        return dx
    dy, x = check.arrays("relu_backward", dy=dy, x=x)
    dy = check.broadcast("relu_backward", "dy", dy, x.shape)
    dx = check.out("relu_backward", out, x.shape, check.computing(x), x)
    run("relu_backward", check.computing(dy, x), (dy, x), (dx,), x.shape)
    return result(dx, out)


def step(x: ArrayLike, *, out: NDArray | None = None) -> Any:
    """1 where x > 0, else 0. NaN stays NaN.

    Parameters
    ----------
    x : array_like
        Real numbers of any shape.
    out : ndarray, optional
        Where to write the result. It may be x.

    Returns
    -------
    ndarray or scalar
        Of x's shape and dtype (float64 for integers and bool).

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
    >>> sc.step(np.array([-1.0, 0.0, 2.0]))
    array([0., 0., 1.])
    """
    y = kernels.core.plain("step", (x,), -1, 1.0, out)
    if y is not None:
        return y
    (x,) = check.arrays("step", x=x)
    dtype = check.computing(x)
    y = check.out("step", out, x.shape, dtype, x)
    run("step", dtype, (x,), (y,), x.shape)
    return result(y, out)
