"""How to call each function of pooling, on which windows, and how its results are compared with the definitions."""

import numpy as np

from softcore import reference as ref
from softcore.testing import ulp_error

NAMES = ["max_pool", "avg_pool", "softmax_pool", "max_pool_backward", "max_unpool", "avg_pool_backward", "softmax_pool_backward"]

# (shape, window, options): sizes odd and even, windows that overlap, leave gaps, hang over, and reach past a block of a row.
GRID = [
    ((2, 3, 9), 3, {}),
    ((7,), 7, {}),
    ((1,), 1, {}),
    ((2, 1), 1, {"stride": 3}),
    ((5, 12), 2, {"stride": 5}),
    ((1, 2, 300), 3, {"stride": 1, "padding": 1}),
    ((1, 1, 1100), 2, {"stride": 2}),
    ((2, 1900), 40, {"stride": 7, "dilation": 3, "padding": ((50, 9),)}),
    ((1, 1, 330), 70, {"stride": 1, "padding": "same"}),
    ((4, 6), (2, 2), {}),
    ((3, 5, 7), (2, 3), {"ceil_mode": True}),
    ((2, 3, 11, 13), (3, 3), {"stride": 2, "padding": 1}),
    ((2, 3, 11, 12), (3, 3), {"stride": 2, "padding": 1, "ceil_mode": True}),
    ((2, 17, 10, 10), (2, 2), {"stride": 2}),
    ((1, 1, 33, 37), (3, 3), {"stride": 1, "padding": "same"}),
    ((2, 2, 9, 40), (5, 4), {"stride": (3, 2), "padding": ((4, 1), (0, 3))}),
    ((2, 2, 9, 40), (1, 3), {"stride": (2, 1), "dilation": (1, 5)}),
    ((1, 3, 8, 9), (8, 9), {}),
    ((3, 2, 4), (2, 4), {"padding": ((1, 0), (3, 3)), "stride": (2, 3)}),
    ((1, 2, 70, 3), (66, 2), {"stride": 1}),
    ((5, 6, 7), (2, 2, 2), {}),
    ((2, 3, 5, 6, 7), (3, 2, 3), {"stride": 2, "padding": 1, "ceil_mode": True}),
    ((1, 2, 6, 7, 8), (2, 3, 2), {"stride": 1, "dilation": (2, 1, 3)}),
    ((2, 1, 5, 5, 5), (3, 3, 3), {"stride": 1, "padding": "same"}),
    ((2, 3, 7, 7), (7, 7), {}),  # of the whole plane
    ((2, 1, 21, 56), (21, 56), {"padding": ((3, 0), (0, 2))}),
    ((1, 2, 19, 70), (6, 8), {"stride": (6, 9), "padding": ((2, 1), (3, 5)), "ceil_mode": True}),
    ((1, 2, 9, 12), (6, 9), {"stride": 1}),
    ((3, 40), 17, {"stride": 5, "padding": 2}),
    ((1, 2, 4, 9, 26), (3, 4, 13), {}),
    ((2, 4), 1000, {"padding": 500}),
    ((2, 3, 19, 25), (18, 23), {"stride": 1}),  # a few large windows that share most of what they hold
    ((1, 2, 30, 9), (28, 8), {"stride": 1, "padding": ((1, 0), (0, 0))}),
    ((1, 2, 2700), 2650, {"ceil_mode": True}),  # more than a stretch of a row of gradients
]


def case(value):
    return str(value).replace(" ", "") if isinstance(value, (tuple, dict, int)) else None


def shaped(shape, window, layout):
    """The shape with its channels last, where it has any."""
    rank = len(window) if isinstance(window, tuple) else 1
    if layout == "channels_first" or len(shape) == rank:
        return shape
    others, spatial = shape[:-rank], shape[-rank:]
    return (*others[:-1], *spatial, others[-1])


def wide(a):
    return a.astype(np.longdouble) if a.dtype == np.float64 or a.dtype.kind in "biu" else a


def arguments(name, x, window, options, rng):
    """What an op takes for this x, and with which of the options."""
    layout = {k: v for k, v in options.items() if k == "layout"}
    dtype = np.dtype(float) if x.dtype.kind in "biu" else x.dtype
    y, indices = ref.max_pool(x, window, return_indices=True, **options)
    dy = rng.standard_normal(y.shape).astype(dtype)
    return {
        "max_pool": ((x, window), options),
        "avg_pool": ((x, window), options),
        "softmax_pool": ((x, window), options),
        "max_pool_backward": ((dy, indices, x.shape), layout),
        "max_unpool": ((y.astype(x.dtype), indices, x.shape), layout),
        "avg_pool_backward": ((dy, x.shape, window), options),
        "softmax_pool_backward": ((dy, x, window), options),
    }[name]


def bits(result):
    if isinstance(result, tuple):
        return tuple(map(bits, result))
    return result.dtype, result.shape, result.tobytes()


def same(actual, expected):
    floating = actual.dtype.kind not in "biu"
    return np.array_equal(actual, expected.astype(actual.dtype), equal_nan=floating)


def agree(name, actual, given, options):
    """The result is the definition's: equal for a choice, otherwise within so many ulp of the largest of the terms that it adds."""
    with np.errstate(all="ignore"):
        exact = name in ("max_pool", "max_unpool")
        terms = [wide(a) if isinstance(a, np.ndarray) and not exact and (i == 0 or "softmax" in name) else a for i, a in enumerate(given)]
        expected = getattr(ref, name)(*terms, **options)
        magnitude = None
        if name in ("avg_pool", "max_pool_backward", "avg_pool_backward"):
            magnitude = getattr(ref, name)(np.abs(terms[0]), *terms[1:], **options)
        elif name == "softmax_pool":
            magnitude = ref.max_pool(np.where(np.isfinite(wide(given[0])), np.abs(wide(given[0])), 0), *given[1:], **options)
        elif name == "softmax_pool_backward":
            dy, x = (np.where(np.isfinite(wide(a)), wide(a), 0).astype(float) for a in given[:2])
            magnitude = np.abs(dy).max(initial=0) * (1 + 2 * np.abs(x).max(initial=0)) * np.ones(1)
        if isinstance(actual, tuple):
            assert all(map(same, actual, expected))
            return
        assert actual.shape == expected.shape
        if exact:
            assert same(actual, expected)
        elif actual.dtype.itemsize == 2:  # rounded once: to the nearest, but for what is next to a tie
            e, slack = expected.astype(float), 0 if magnitude is None else 4 * 2.0**-24 * magnitude.astype(float)
            nearest = np.where(np.isfinite(e + slack), np.clip(actual.astype(float), e - slack, e + slack), e)  # what float32 may come to
            assert (ulp_error(actual, nearest) <= 0.501).all()
        else:
            error = ulp_error(actual, expected, magnitude).max(initial=0)
            assert error <= {"float32": 1, "float64": 2.5}[actual.dtype.name], error
