"""Tools to test numerical code with: gradient checks, errors in ulp, awkward inputs, and an explanation of what is not finite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from softcore import check

__all__ = ["awkward", "broadcasts", "check_grad", "explain_nonfinite", "layouts", "ulp_error"]


# --- Gradients ---------------------------------------------------------------------------------------------------------------


def check_grad(
    f: Callable[..., Any],
    df: Callable[..., Any],
    *args: ArrayLike,
    eps: float | None = None,
    tol: float = 1e-6,
    projections: int = 3,
    seed: int = 0,
) -> float:
    r"""Compare a backward with central differences by random projection.

    With random normal directions v, of the shape of f's result, and u, of the shape of the floating arguments, both sides of

    .. math:: \frac{\langle v, f(x + \epsilon u)\rangle - \langle v, f(x - \epsilon u)\rangle}{2\epsilon}
              \approx \sum_i \langle df_i(v, x), u_i\rangle

    must agree. Two evaluations of f check the whole gradient: an error in a single element changes the right side. The error is
    taken relative to the larger of the left side and the norm of the gradient, the size that the right side has for a random u.

    Parameters
    ----------
    f : callable
        The forward: ``f(*args)`` returns an array.
    df : callable
        The backward: ``df(dy, *args)`` returns the gradient of each floating argument in turn, as an array or a tuple.
    *args : array_like
        Arguments of f. Floating ones are converted to float64 and differentiated, others are passed on as they are.
    eps : float, optional
        Length of the step. The default is the cube root of the machine epsilon, times the largest element if above 1.
    tol : float, optional
        The largest acceptable relative error.
    projections : int, optional
        The number of random projections.
    seed : int, optional
        Seed of the random directions.

    Returns
    -------
    float
        The largest relative error.

    Raises
    ------
    AssertionError
        If the error is larger than ``tol``, if a gradient does not have its argument's shape, or if their number is wrong.

    Examples
    --------
    >>> check_grad(np.sin, lambda dy, x: dy * np.cos(x), [0.0, 1.0, 2.0]) < 1e-9
    True
    >>> check_grad(np.sin, lambda dy, x: dy * np.sin(x), [0.0, 1.0, 2.0])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    AssertionError: the gradient is wrong by ... (relative, limit 1e-06): central differences give ..., the backward ...
    """
    arrays = [_floats(a) for a in args]
    moving = [i for i, a in enumerate(arrays) if _is_real(a)]
    if eps is None:
        size = max((float(np.max(np.abs(arrays[i]), initial=1.0)) for i in moving), default=1.0)
        eps = np.cbrt(np.finfo(float).eps) * size
    rng = np.random.default_rng(seed)
    worst = 0.0
    for _ in range(projections):
        u = {i: rng.standard_normal(arrays[i].shape) for i in moving}
        above, below = (np.asarray(f(*(a + sign * eps * u[i] if i in u else a for i, a in enumerate(arrays)))) for sign in (1.0, -1.0))
        v = rng.standard_normal(above.shape)
        numeric = float(np.sum(v * (above - below)) / (2 * eps))
        dx = df(v, *arrays)
        dx = [np.asarray(d) for d in (dx if isinstance(dx, (tuple, list)) else (dx,))]
        shapes = [arrays[i].shape for i in moving]
        if [d.shape for d in dx] != shapes:
            raise AssertionError(f"the backward gives gradients of shapes {[d.shape for d in dx]}, the arguments have {shapes}")
        analytic = float(sum(np.sum(d * u[i]) for d, i in zip(dx, moving)))
        norm = float(np.sqrt(sum(np.sum(np.square(d, dtype=float)) for d in dx)))
        size = max(abs(numeric), norm)
        error = abs(numeric - analytic) / size if size > 0 else abs(numeric - analytic)
        if not error <= tol:  # NaN is an error
            raise AssertionError(
                f"the gradient is wrong by {error:.3g} (relative, limit {tol:g}): "
                f"central differences give {numeric:.9g}, the backward {analytic:.9g}"
            )
        worst = max(worst, error)
    return worst


def _is_real(a):
    """Whether a is of a floating dtype, bfloat16 included."""
    return isinstance(a, np.ndarray) and (a.dtype.kind == "f" or a.dtype.name == "bfloat16")


def _floats(a):
    """a, in float64 if it is floating."""
    array = np.asarray(a)
    return array.astype(float) if _is_real(array) else a


# --- What is not finite ------------------------------------------------------------------------------------------------------


def explain_nonfinite(x: ArrayLike, axis: int | tuple[int, ...] | None = -1) -> str:
    """Say in one sentence which rows are bad for a softmax, and why.

    A row is bad if it has a NaN or a +inf, or if all of it is -inf. A -inf among finite elements is an ordinary value.

    Parameters
    ----------
    x : array_like
        Real numbers.
    axis : int, tuple of ints or None, optional
        The axes along which a row lies.

    Returns
    -------
    str
        One sentence, with the number of rows for each reason and the indices of the first few.

    Raises
    ------
    TypeError
        If x is complex, an object or a string: there is no softmax of it.

    Examples
    --------
    >>> explain_nonfinite([[0.0, 1.0], [np.nan, 2.0], [-np.inf, -np.inf], [3.0, np.nan]])
    '3 of 4 rows are bad: 2 have NaN (rows 1, 3), 1 is all -inf (row 2).'
    >>> explain_nonfinite([1.0, 2.0])
    'All 2 values are finite.'
    """
    x = np.asarray(x)
    if x.dtype.kind not in "biu" and not _is_real(x):
        raise TypeError(f"explain_nonfinite: x has dtype {x.dtype}, it must be real numbers")
    x = x if x.dtype == np.longdouble else x.astype(float)
    axis = check.axes("explain_nonfinite", axis, x.ndim)
    if np.isfinite(x).all():
        return f"All {x.size} values are finite."
    reasons = [
        ("has NaN", "have NaN", np.isnan(x).any(axis=axis)),
        ("has +inf", "have +inf", (x == np.inf).any(axis=axis)),
        ("is all -inf", "are all -inf", (x == -np.inf).all(axis=axis)),
    ]
    bad = np.logical_or.reduce([rows for _, _, rows in reasons])
    if not bad.any():
        return f"No row is bad: {np.sum(x == -np.inf)} of {x.size} values are -inf, an ordinary value."
    found = [(one, many, rows) for one, many, rows in reasons if rows.any()]
    if bad.ndim == 0:
        return f"The only row is bad: it {' and '.join(one for one, _, _ in found)}."
    why = ", ".join(f"{rows.sum()} {one if rows.sum() == 1 else many} ({_first(rows)})" for one, many, rows in found)
    return f"{bad.sum()} of {bad.size} rows {'is' if bad.sum() == 1 else 'are'} bad: {why}."


def _first(rows, limit=5):
    """The indices of the first few True of rows, in words."""
    where = [tuple(int(i) for i in index) for index in np.argwhere(rows)[: limit + 1]]
    names = [str(index[0] if len(index) == 1 else index) for index in where]
    return ("row " if len(names) == 1 else "rows ") + ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


# --- Errors ------------------------------------------------------------------------------------------------------------------

# Bits of the significand, and exponents of the smallest and the largest normal number: finfo does not know bfloat16.
_FORMATS = {
    "float16": (11, -14, 15),
    "bfloat16": (8, -126, 127),
    "float32": (24, -126, 127),
    "float64": (53, -1022, 1023),
}


def ulp_error(actual: ArrayLike, expected: ArrayLike, at: ArrayLike | None = None) -> np.ndarray:
    """The error of each element in units in the last place of ``actual``'s dtype.

    The unit is the spacing of that dtype's numbers at the expected value; below the smallest normal number it is the spacing of
    the subnormals. The correctly rounded result has an error of at most 0.5.

    Parameters
    ----------
    actual : array_like
        Results in float16, bfloat16, float32 or float64.
    expected : array_like
        The truth, in a wider dtype: float64, or longdouble for float64.
    at : array_like, optional
        Take the unit at this magnitude if it is larger than the expected value's: that of the largest term of a sum which
        cancels, say.

    Returns
    -------
    ndarray
        Errors, not negative. NaN for NaN and inf for the same inf are 0; a NaN or an inf in the place of a number, a number in
        the place of a NaN or an inf, and an inf of the wrong sign are inf. An inf is right for a number that rounds to it.

    Examples
    --------
    >>> one = np.float32(1)
    >>> ulp_error([one, np.nextafter(one, np.float32(2)), np.float32(np.nan)], [1.0, 1.0, np.nan])
    array([0., 1., 0.])
    """
    actual = np.asarray(actual)
    try:
        digits, smallest, largest = _FORMATS[actual.dtype.name]
    except KeyError:
        raise TypeError(f"ulp_error: actual must be float16, bfloat16, float32 or float64, not {actual.dtype}") from None
    expected = np.asarray(expected)
    wide = np.longdouble if actual.dtype.itemsize == 8 or expected.dtype == np.longdouble else np.float64
    actual, expected = actual.astype(wide), expected.astype(wide)
    with np.errstate(all="ignore"):
        size = np.abs(expected) if at is None else np.maximum(np.abs(expected), np.abs(np.asarray(at).astype(wide)))
        exponent = np.where(size > 0, np.frexp(size)[1] - 1, smallest)
        unit = np.ldexp(wide(1), np.clip(exponent, smallest, largest) - (digits - 1))
        overflow = np.ldexp(wide(1), largest + 1) - np.ldexp(wide(1), largest - digits)  # rounds to inf from here on
        same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
        same |= np.isinf(actual) & (np.abs(expected) >= overflow) & (np.sign(actual) == np.sign(expected))
        finite = np.isfinite(actual) & np.isfinite(expected)
        error = np.where(finite, np.abs(actual - expected) / unit, np.inf)
        return np.where(same, 0.0, error).astype(float)


# --- Awkward inputs ----------------------------------------------------------------------------------------------------------


def awkward(shape: tuple[int, ...], dtype: DTypeLike, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Inputs that numerical code gets wrong, by name.

    Parameters
    ----------
    shape : tuple of int
        Their shape; at least one axis, the last one being the row. Only ``one_element``, ``empty_axis`` and ``empty_batch``
        differ from it.
    dtype : dtype_like
        Any real dtype, or ``"bfloat16"`` where ml_dtypes is installed. Integers and bool have the names that make sense for
        them.
    rng : numpy.random.Generator
        Source of the random values.

    Returns
    -------
    dict of str to ndarray
        ``random``, ``ties``, ``equal``, ``extremes``, ``one_element``, ``empty_axis``, ``empty_batch``; floating also
        ``one_nan``, ``nans``, ``all_minus_inf``, ``some_minus_inf``, ``plus_inf``, ``both_inf``, ``spike``, ``underflow``,
        ``subnormal``, ``huge``, ``signed_zeros``.

    Examples
    --------
    >>> x = awkward((2, 5), "float32", np.random.default_rng(0))
    >>> x["one_nan"].shape, int(np.isnan(x["one_nan"]).sum())
    ((2, 5), 1)
    """
    storage = _dtype(dtype)
    shape = tuple(shape)
    if not shape:
        raise ValueError("awkward: shape must have at least one axis")
    normal = 3 * rng.standard_normal(shape)
    some = rng.random(shape) < 0.3
    empty = {"empty_axis": (*shape[:-1], 0), "empty_batch": (0, *shape[1 if len(shape) > 1 else 0 :])}
    inputs = {
        "random": normal,
        "ties": rng.integers(0, 3, shape),
        "equal": np.ones(shape),
        "one_element": 3 * rng.standard_normal((*shape[:-1], 1)),
        **{name: np.empty(emptied) for name, emptied in empty.items()},
    }
    if storage.kind in "iub":
        low, high = (0, 1) if storage == bool else (np.iinfo(storage).min, np.iinfo(storage).max)
        inputs = {name: np.abs(x) if storage.kind == "u" else x for name, x in inputs.items()}
        inputs["extremes"] = np.where(some, np.array(low, storage), np.array(high, storage))
        return {name: x.astype(storage) for name, x in inputs.items()}

    digits, smallest, largest = _FORMATS.get(storage.name, _FORMATS["float64"])
    top = np.ldexp(2.0 - np.ldexp(1.0, 1 - digits), largest)  # the largest finite number
    tiny = np.ldexp(1.0, smallest - digits + 1)  # the smallest positive number
    edge = (smallest - rng.uniform(0, digits + 1, shape)) * np.log(2.0)  # exp of it is subnormal, or just 0
    inputs |= {
        "extremes": np.where(some, -top, top),
        "one_nan": _with(normal, np.nan, [rng.integers(normal.size)] if normal.size else []),
        "nans": np.where(some, np.nan, normal),
        "all_minus_inf": np.full(shape, -np.inf),
        "some_minus_inf": np.where(some, -np.inf, normal),
        "plus_inf": _with(normal, np.inf, [rng.integers(normal.size)] if normal.size else []),
        "both_inf": np.where(some, np.where(normal > 0, np.inf, -np.inf), normal),
        "spike": np.where(np.arange(shape[-1]) == shape[-1] // 2, 80.0, normal),
        "underflow": np.where(np.arange(shape[-1]) == 0, 0.0, edge),
        "subnormal": rng.integers(-(2 ** (digits - 1)) + 1, 2 ** (digits - 1), shape) * tiny,
        "huge": rng.uniform(-top, top, shape) if storage.itemsize < 8 else rng.uniform(-1, 1, shape) * top,
        "signed_zeros": np.where(some, -0.0, 0.0),
    }
    with np.errstate(all="ignore"):
        return {name: np.asarray(x).astype(storage) for name, x in inputs.items()}


def _with(x, value, indices):
    """A copy of x with ``value`` at flat indices."""
    x = x.copy()
    x.reshape(-1)[indices] = value
    return x


def _dtype(dtype):
    """The dtype, with ml_dtypes imported only for the name that needs it."""
    if isinstance(dtype, str) and dtype == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(dtype)


def layouts(x: ArrayLike) -> dict[str, np.ndarray]:
    """Arrays with the values, shape and (but for its byte order) dtype of x, laid out differently in memory.

    Parameters
    ----------
    x : array_like
        Of at least one axis.

    Returns
    -------
    dict of str to ndarray
        ``contiguous``, ``fortran``, ``reversed`` (the last axis), ``all_reversed``, ``every_other`` (element), ``padded``
        (rows), ``read_only``; ``misaligned`` and ``byte_swapped`` where the dtype can be.

    Examples
    --------
    >>> {name: a.strides for name, a in layouts(np.zeros((2, 3))).items() if name in ("fortran", "reversed")}
    {'fortran': (8, 16), 'reversed': (24, -8)}
    """
    x = np.array(x, order="C", ndmin=1)
    flip = (slice(None, None, -1),) * x.ndim
    spaced = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    spaced[..., ::2] = x
    padded = np.zeros((*x.shape[:-1], x.shape[-1] + 3), x.dtype)
    padded[..., 1:-2] = x
    read_only = x.copy()
    read_only.flags.writeable = False
    result = {
        "contiguous": x,
        "fortran": np.array(x, order="F"),
        "reversed": x[..., ::-1].copy()[..., ::-1],
        "all_reversed": x[flip].copy()[flip],
        "every_other": spaced[..., ::2],
        "padded": padded[..., 1:-2],
        "read_only": read_only,
    }
    if x.dtype.itemsize > 1:
        misaligned = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
        misaligned[...] = x
        result["misaligned"] = misaligned
        if x.dtype.kind in "iuf":
            result["byte_swapped"] = x.astype(x.dtype.newbyteorder())
    return result


def broadcasts(x: ArrayLike) -> dict[str, np.ndarray]:
    """Read-only arrays of x's shape that repeat its elements through strides of zero.

    Parameters
    ----------
    x : array_like
        The source of the elements.

    Returns
    -------
    dict of str to ndarray
        ``axis 0``, ``axis 1``, ...: the first slice of x, repeated along that axis; ``all``: its first element, everywhere.
        None of them if x is empty.

    Examples
    --------
    >>> {name: a.strides for name, a in broadcasts(np.zeros((2, 3))).items()}
    {'axis 0': (0, 8), 'axis 1': (24, 0), 'all': (0, 0)}
    """
    x = np.ascontiguousarray(x)
    if x.size == 0:
        return {}
    slices = {f"axis {i}": x[(slice(None),) * i + (slice(0, 1),)] for i in range(x.ndim)}
    slices["all"] = x.reshape(-1)[0]
    return {name: np.broadcast_to(part, x.shape) for name, part in slices.items()}
