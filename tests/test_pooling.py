"""Pooling: every op against its definition over a grid of windows, the definitions against PyTorch, and the edges by name."""

import itertools

import ml_dtypes
import numpy as np
import pytest

import softcore as sc
from softcore import kernels, planner, windows
from softcore import reference as ref
from softcore.testing import awkward, broadcasts, check_grad, layouts, ulp_error

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATING = [np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64)]
INTEGERS = [np.dtype(t) for t in "?bBhHiIlLqQ"]
ISAS = kernels.available()
SERIAL = kernels.core.openmp_runtime().startswith("none")
INF, NAN = np.inf, np.nan
NAMES = ["max_pool", "avg_pool", "softmax_pool", "max_pool_backward", "max_unpool", "avg_pool_backward", "softmax_pool_backward"]
assert_equal = np.testing.assert_array_equal

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


def test_agree_fails_on_errors(rng):
    x = rng.standard_normal((2, 9)).astype(np.float32)
    for name in NAMES:
        given, options = arguments(name, x, 3, {}, rng)
        right = getattr(sc, name)(*given, **options)
        agree(name, right, given, options)
        for wrong in (right * np.float32(1.001), right[:1], np.where(right == right.flat[0], np.float32(NAN), right)):
            with pytest.raises(AssertionError):
                agree(name, wrong, given, options)


# ------------------------------------------------------------------------------------------------------- against the definitions


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize(("shape", "window", "options"), GRID, ids=case)
@pytest.mark.parametrize("name", NAMES)
def test_grid(name, shape, window, options, layout, rng):
    options = {**options, "layout": layout}
    shape = shaped(shape, window, layout)
    for dtype in FLOATING:
        given, taken = arguments(name, (3 * rng.standard_normal(shape)).astype(dtype), window, options, rng)
        for isa in ISAS:
            with kernels.use(isa):
                agree(name, getattr(sc, name)(*given, **taken), given, taken)
                if name == "max_pool":
                    both = {**taken, "return_indices": True}
                    agree(name, sc.max_pool(*given, **both), given, both)


@pytest.mark.parametrize("dtype", FLOATING + INTEGERS, ids=lambda t: t.name + t.char)
@pytest.mark.parametrize("name", NAMES)
def test_awkward_inputs(name, dtype, rng):
    for layout, window, options in [
        ("channels_first", (2, 2), {}),
        ("channels_first", (3, 3), {"stride": 2, "padding": 1}),
        ("channels_last", (3, 2), {"stride": 1, "padding": ((1, 0), (0, 1))}),
    ]:
        shape = shaped((2, 18, 6, 7), window, layout)
        for kind, x in awkward((int(np.prod(shape)),), dtype, rng).items():
            if x.size != np.prod(shape) or (name == "softmax_pool_backward" and kind in ("extremes", "huge", "nans", "both_inf")):
                continue
            given, taken = arguments(name, x.reshape(shape), window, {**options, "layout": layout}, rng)
            for isa in ISAS:
                with kernels.use(isa):
                    result = getattr(sc, name)(*given, **taken)
                    keep = name in ("max_pool", "max_unpool") or dtype in FLOATING
                    assert result.dtype == (dtype if keep else np.float64)
                    try:
                        agree(name, result, given, taken)
                        if name == "max_pool":
                            both = {**taken, "return_indices": True}
                            agree(name, sc.max_pool(*given, **both), given, both)
                    except AssertionError as error:
                        raise AssertionError(f"{kind} {layout} {isa}: {error}") from None


def test_random_windows(rng):
    tried = 0
    while tried < 150:
        rank = int(rng.integers(1, 4))
        sizes = tuple(int(n) for n in rng.integers(1, (0, 50, 12, 7)[rank], rank))
        window = tuple(int(n) for n in rng.integers(1, 6, rank))
        layout = ("channels_first", "channels_last")[rng.integers(2)]
        shape = shaped((*(int(n) for n in rng.integers(1, 5, rng.integers(3))), *sizes), window, layout)
        options = {
            "stride": tuple(int(n) for n in rng.integers(1, 5, rank)),
            "padding": tuple((int(a), int(b)) for a, b in rng.integers(0, 4, (rank, 2))),
            "dilation": tuple(int(n) for n in rng.integers(1, 4, rank)),
            "ceil_mode": bool(rng.integers(2)),
            "layout": layout,
        }
        x = np.round(rng.standard_normal(shape), 1).astype(FLOATING[rng.integers(4)])
        name = NAMES[rng.integers(len(NAMES))]
        try:
            given, taken = arguments(name, x, window, options, rng)
        except ValueError as error:  # the same as softcore's
            with pytest.raises(ValueError) as raised:
                sc.max_pool(x, window, **options)
            assert str(raised.value) == str(error)
            continue
        tried += 1
        try:
            agree(name, getattr(sc, name)(*given, **taken), given, taken)
        except IndexError:  # an array without batch and channels, of which less than a row was pooled
            assert name in ("max_pool_backward", "max_unpool")


# -------------------------------------------------------------------------------------------------------------- against PyTorch


def pools(torch, rank):
    F = torch.nn.functional
    return tuple(getattr(F, f"{name}{rank}d") for name in ("max_pool", "avg_pool", "max_unpool"))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_against_torch(rank, ceil_mode, rng):
    torch = pytest.importorskip("torch", reason="compared with PyTorch")
    max_pool, avg_pool, _ = pools(torch, rank)
    compared = 0
    for size, k, stride, padding, dilation in itertools.product((4, 7), (1, 2, 3), (1, 2, 3), (0, 1), (1, 2)):
        sizes = (size, size + 1, size + 2)[:rank]
        if 2 * padding > k or (k - 1) * dilation + 1 > size + 2 * padding:
            continue  # which PyTorch refuses, or softcore
        x = np.round(rng.standard_normal((2, 3, *sizes)), 1)
        t = torch.tensor(x, requires_grad=True)
        given = {"stride": stride, "padding": padding, "ceil_mode": ceil_mode}
        window = (k,) * rank
        y, indices = max_pool(t, k, dilation=dilation, return_indices=True, **given)
        ours = sc.max_pool(x, window, dilation=dilation, return_indices=True, **given)
        assert_equal(ours[0], y.detach().numpy())
        assert_equal(ours[1], indices.numpy())
        dy = rng.standard_normal(y.shape)
        y.backward(torch.tensor(dy))
        np.testing.assert_allclose(sc.max_pool_backward(dy, ours[1], x.shape), t.grad.numpy(), rtol=1e-14, atol=1e-15)
        compared += 1
        if dilation > 1:
            continue
        for counted in (True, False):
            t.grad = None
            y = avg_pool(t, k, count_include_pad=counted, **given)
            np.testing.assert_allclose(sc.avg_pool(x, window, count_include_pad=counted, **given), y.detach().numpy(), rtol=1e-13, atol=1e-15)
            y.backward(torch.tensor(dy))
            dx = sc.avg_pool_backward(dy, x.shape, window, count_include_pad=counted, **given)
            np.testing.assert_allclose(dx, t.grad.numpy(), rtol=1e-13, atol=1e-15)
    assert compared >= 30


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_unpool_against_torch(rank, rng):
    torch = pytest.importorskip("torch", reason="compared with PyTorch")
    max_pool, _, max_unpool = pools(torch, rank)
    x = rng.standard_normal((2, 3, *(8, 7, 6)[:rank]))
    y, indices = max_pool(torch.tensor(x), 2, return_indices=True)
    theirs = max_unpool(y, indices, 2, output_size=x.shape)
    assert_equal(sc.max_unpool(y.numpy(), indices.numpy(), x.shape), theirs.numpy())


# ------------------------------------------------------------------------------------------------------------------ gradients


@pytest.mark.parametrize(("shape", "window", "options"), [g for g in GRID if np.prod(g[0]) < 700], ids=case)
def test_backward_is_the_gradient(shape, window, options, rng):
    x = rng.permutation(np.linspace(-2, 2, int(np.prod(shape)))).reshape(shape)  # no ties, and none within the step
    assert check_grad(lambda x: ref.avg_pool(x, window, **options), lambda dy, x: ref.avg_pool_backward(dy, x.shape, window, **options), x) < 1e-7
    assert check_grad(lambda x: ref.softmax_pool(x, window, **options), lambda dy, x: ref.softmax_pool_backward(dy, x, window, **options), x) < 1e-7
    indices = ref.max_pool(x, window, return_indices=True, **options)[1]
    try:
        assert check_grad(lambda x: ref.max_pool(x, window, **options), lambda dy, x: ref.max_pool_backward(dy, indices, x.shape), x) < 1e-7
    except IndexError:
        assert len(shape) < 3


# ------------------------------------------------------------------------------------------------------------- edges, by name


def test_ties_go_to_the_first_in_row_major_order():
    x = np.zeros((1, 1, 5, 5), np.float32)
    _, indices = sc.max_pool(x, (3, 3), stride=1, return_indices=True)
    assert_equal(indices[0, 0], [[0, 1, 2], [5, 6, 7], [10, 11, 12]])
    zeros = np.array([[0.0, -0.0], [-0.0, 0.0]], np.float32)
    for order in (zeros, -zeros, zeros.T.copy()[::-1]):
        y, index = sc.max_pool(order, (2, 2), return_indices=True)
        assert index == 0 and np.signbit(y[0, 0]) == np.signbit(order[0, 0])
        assert bits(sc.max_pool(order, (2, 2))) == bits(y)
        across = np.repeat(order[..., None], 20, axis=-1)
        y, index = sc.max_pool(across, (2, 2), return_indices=True, layout="channels_last")
        assert (index == 0).all() and (np.signbit(y) == np.signbit(order[0, 0])).all()


def test_the_first_nan_of_a_window_wins():
    x = np.array([[1.0, NAN, 7.0, 2.0], [NAN, 9.0, INF, 3.0]], np.float32)
    y, indices = sc.max_pool(x, (2, 2), stride=(1, 1), return_indices=True)
    assert_equal(y, [[NAN, NAN, INF]])
    assert_equal(indices, [[1, 1, 6]])
    assert_equal(sc.max_pool(x, (2, 2), stride=1), y)
    assert_equal(sc.avg_pool(x, (2, 2)), [[NAN, INF]])
    assert_equal(sc.softmax_pool(x, (2, 2)), [[NAN, NAN]])


@pytest.mark.parametrize("dtype", [*FLOATING, np.dtype(np.int8), np.dtype(np.uint64)], ids=str)
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_padding_is_never_chosen(dtype, layout):
    lowest = -INF if dtype.kind not in "iu" else np.iinfo(dtype).min
    x = np.full(shaped((1, 20, 4, 5), (3, 3), layout), lowest).astype(dtype)
    y, indices = sc.max_pool(x, (3, 3), stride=2, padding=1, return_indices=True, layout=layout)
    assert_equal(y.astype(float), float(lowest))
    channels = 1 if layout == "channels_first" else -1
    assert_equal(np.moveaxis(indices, channels, 1)[0], np.broadcast_to([[0, 1, 3], [5, 6, 8]], (20, 2, 3)))


def test_infinities_of_soft_windows():
    x = np.array([1.0, -INF, INF, 1.0, -INF, -INF, 0.0, 0.0])
    assert_equal(sc.softmax_pool(x, 2), [1, NAN, NAN, 0])
    assert_equal(sc.softmax_pool_backward(np.ones(4), x, 2), [1, 0, NAN, NAN, NAN, NAN, 0.5, 0.5])
    assert sc.softmax_pool(np.array([1e308, 1e308, 1e308]), 3) == 1e308


@pytest.mark.parametrize("count", [2, 3, 4, 7, 10])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_soft_gradients_of_huge_elements(count, layout):
    # Each less the mean is what it is of the same elements around 0: 0 here.
    for size in (1e20, 7e307, 1.7e308, -1.7e308):
        x = np.full(shaped((2, 3, 1, 2 * count), (1, count), layout), size)
        expected = np.full(x.shape, 1 / count)
        np.testing.assert_allclose(sc.softmax_pool_backward(1.0, x, (1, count), layout=layout), expected, rtol=3e-16)
        np.testing.assert_allclose(ref.softmax_pool_backward(1.0, x, (1, count), layout=layout), expected, rtol=3e-16)
    x = np.array([1.7e308, -1.7e308, 1e300, 1e300])
    assert_equal(sc.softmax_pool_backward(np.ones(2), x, 2), [1, 0, 0.5, 0.5])
    assert_equal(ref.softmax_pool_backward(np.ones(2), x, 2), [1, 0, 0.5, 0.5])


def test_a_mean_does_not_overflow():
    x = np.array([1.5e308, 1.5e308, -1.5e308, INF])
    assert_equal(sc.avg_pool(x, 2, stride=1), [1.5e308, 0, INF])
    assert sc.avg_pool(np.full(2, 65504, np.float16), 2) == 65504
    assert sc.avg_pool(np.full(3, 3e38, np.float32), 3) == np.float32(3e38)


def test_a_large_window_is_exact():
    x = np.full((1, 1, 300, 1000), 0.1, np.float32)
    assert sc.avg_pool(x, (300, 1000)) == np.float32(0.1)
    x = np.full(10**6, 0.1)
    assert sc.avg_pool(x, x.size) == 0.1
    assert sc.softmax_pool(x, x.size) == pytest.approx(0.1, rel=3e-16)
    assert sc.max_pool(np.arange(10**6), 10**6, return_indices=True)[1] == 10**6 - 1


def test_gradients_that_meet_are_added_in_float64():
    dy = np.array([2.0**24, 1, 1, 1, 1], np.float32)
    assert sc.max_pool_backward(dy, np.full(5, 2), (4,))[2] == 2**24 + 4
    assert sc.max_pool_backward(np.array([1e16, 1.0, 1.0]), np.zeros(3, int), (1,)) == 1e16 + 2
    half = np.array([2048, 0.5, 0.5], np.float16)
    assert sc.max_pool_backward(half, np.zeros(3, int), (1,)) == 2048  # 2049 is a tie


def test_of_several_with_one_index_the_last_stays():
    assert_equal(sc.max_unpool(np.array([5, 6, 7, 8], np.int16), [1, 3, 1, 3], (4,)), [0, 7, 0, 8])


@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda t: t.char)
def test_integers_stay_in_choices(dtype, rng):
    low, high = (0, 1) if dtype == bool else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    x = rng.choice(np.array([low, high, high // 2], dtype), (2, 7, 9))
    y, indices = sc.max_pool(x, (2, 2), return_indices=True)
    assert y.dtype == dtype
    assert_equal(y, np.lib.stride_tricks.sliding_window_view(x, (2, 2), (1, 2))[:, ::2, ::2].max((-2, -1)))
    assert_equal(sc.max_unpool(y, indices, x.shape), ref.max_unpool(y, indices, x.shape))
    assert sc.max_unpool(y, indices, x.shape).dtype == dtype
    for f in (sc.avg_pool, sc.softmax_pool):
        assert bits(f(x, (2, 2))) == bits(f(x.astype(float), (2, 2)))


def test_neighbouring_integers_do_not_tie():
    for big in (np.int64(2**62), np.uint64(2**63)):
        x = np.array([big, big + type(big)(1), big])
        assert sc.max_pool(x, 3) == big + type(big)(1)
        assert sc.max_pool(x, 3, return_indices=True)[1] == 1


def test_empty():
    x = np.empty((0, 3, 8, 8), np.float32)
    assert sc.max_pool(x, (2, 2)).shape == (0, 3, 4, 4)
    y, indices = sc.max_pool(x, (2, 2), return_indices=True)
    assert indices.shape == (0, 3, 4, 4)
    assert sc.max_pool_backward(y, indices, x.shape).shape == x.shape
    assert sc.softmax_pool_backward(y, x, (2, 2)).shape == x.shape
    with pytest.raises(ValueError, match=r"max_pool: the window reaches over 2 elements along axis 2 of x"):
        sc.max_pool(np.empty((2, 3, 0, 8)), (2, 2))
    with pytest.raises(ValueError, match="lies wholly in padding"):
        sc.max_pool(np.empty((2, 3, 0, 8)), (2, 2), padding=1)
    assert_equal(sc.max_unpool(np.empty((2, 0)), np.empty((2, 0), int), (2, 3)), np.zeros((2, 3)))


# ------------------------------------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize(
    ("size", "window", "stride", "dilation", "count", "before", "after"),
    [(7, 3, 2, 1, 4, 1, 1), (6, 3, 2, 1, 3, 0, 1), (5, 2, 1, 1, 5, 0, 1), (5, 1, 3, 1, 2, 0, 0), (6, 3, 1, 2, 6, 2, 2), (2, 7, 2, 1, 1, 2, 3)],
)
def test_same_is_as_in_tensorflow(size, window, stride, dilation, count, before, after):
    axis = windows.along(size, window, stride, "same", dilation, False)
    assert (axis.count, axis.before, axis.after) == (count, before, after)
    assert windows.along(size, window, stride, "same", dilation, True).count == count
    x = np.arange(size)
    explicit = sc.max_pool(x, window, stride=stride, dilation=dilation, padding=((before, after),))
    assert_equal(sc.max_pool(x, window, stride=stride, dilation=dilation, padding="same"), explicit)
    assert len(explicit) == count


def test_windows_wholly_in_padding_are_found(rng):
    for _ in range(3000):
        size, window, stride, dilation = (int(n) for n in rng.integers(1, 7, 4))
        before, after = (int(n) for n in rng.integers(0, 9, 2))
        axis = windows.along(size, window, stride, (before, after), dilation, bool(rng.integers(2)))
        if axis.count < 1:
            continue
        at = np.arange(axis.count)[:, None] * stride - before + np.arange(window) * dilation
        alone = ~((at >= 0) & (at < size)).any(axis=1)
        assert windows.padded_window(axis) == (int(np.argmax(alone)) if alone.any() else None), axis


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"window": 1, "padding": 1}, "window 0 along axis 0 of x lies wholly in padding, at -1 to -1 where x has 1 elements from 0"),
        ({"window": 2, "padding": ((0, 2),), "stride": 1}, "window 1 along axis 0 of x lies wholly in padding, at 1 to 2 where"),
        ({"window": 2, "padding": 1, "dilation": 2}, "window 0 along axis 0 of x lies wholly in padding, at -1 to 1 in steps of 2 where"),
    ],
)
def test_a_window_wholly_in_padding_is_told_by_its_places(options, told):
    for name in ("max_pool", "avg_pool", "softmax_pool"):
        with pytest.raises(ValueError, match=f"^{name}: {told}.*each must have an element of x$"):
            getattr(sc, name)(np.zeros(1), **options)


def test_layouts_of_fewer_axes(rng):
    x = rng.standard_normal((3, 6, 8))
    assert_equal(sc.max_pool(x, (2, 2)), np.stack([sc.max_pool(plane, (2, 2)) for plane in x]))
    last = sc.max_pool(np.moveaxis(x, 0, -1), (2, 2), layout="channels_last")
    assert_equal(np.moveaxis(last, -1, 0), sc.max_pool(x, (2, 2)))
    assert_equal(sc.max_pool(x[0], (2, 2), layout="channels_last"), sc.max_pool(x[0], (2, 2)))
    assert sc.max_pool(x, 2).shape == (3, 6, 4) and sc.max_pool(x, (2, 2, 2)).shape == (1, 3, 4)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("shape", [(6,), (6, 8), (3, 6, 8), (2, 3, 6, 8), (2, 3, 4, 6, 8)])
def test_a_backward_finds_the_spatial_axes(shape, layout, rng):
    for rank in range(max(1, len(shape) - 2), min(3, len(shape)) + 1):
        x = rng.standard_normal(shape)
        for options in ({}, {"stride": 1}):
            y, indices = sc.max_pool(x, (2,) * rank, return_indices=True, layout=layout, **options)
            dx = sc.max_pool_backward(np.ones_like(y), indices, shape, layout=layout)
            assert check_grad(lambda x: sc.max_pool(x, (2,) * rank, layout=layout, **options), lambda dy, x: sc.max_pool_backward(dy, indices, shape, layout=layout), x) < 1e-6
            assert dx.sum() == y.size


# ----------------------------------------------------------------------------------------------------------------- the same bits


BIT_CASES = [
    ((2, 20, 23, 24), (2, 2), {}),
    ((2, 20, 23, 40), (3, 3), {"stride": 2, "padding": 1}),
    ((3, 5, 14, 15), (3, 3), {"stride": 1, "padding": "same"}),
    ((2, 3, 700), 4, {"stride": 3}),
    ((2, 3, 5, 7, 9), (2, 3, 2), {"stride": (1, 2, 1)}),
]


@pytest.mark.parametrize(("shape", "window", "options"), BIT_CASES, ids=case)
@pytest.mark.parametrize("name", NAMES)
def test_strides_and_layout_do_not_matter(name, shape, window, options, rng):
    for dtype in FLOATING:
        given, taken = arguments(name, rng.standard_normal(shape).astype(dtype), window, options, rng)
        expected = bits(getattr(sc, name)(*given, **taken))
        arrays = [i for i, a in enumerate(given) if isinstance(a, np.ndarray)]
        for i in arrays:
            for way, a in layouts(given[i]).items():
                assert bits(getattr(sc, name)(*given[:i], a, *given[i + 1 :], **taken)) == expected, (i, way)
        # the same numbers with the channels last, in memory and by name
        last = [np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1) if i in arrays else a for i, a in enumerate(given)]
        assert bits(np.ascontiguousarray(getattr(sc, name)(*last, **taken))) == expected
        moved = [np.ascontiguousarray(np.moveaxis(a, 1, -1)) if i in arrays else a for i, a in enumerate(given)]
        moved = [(a[0], *a[2:], a[1]) if isinstance(a, tuple) and a == shape else a for a in moved]
        result = getattr(sc, name)(*moved, **taken, layout="channels_last")
        assert bits(np.ascontiguousarray(np.moveaxis(result, -1, 1))) == expected


@pytest.mark.skipif(SERIAL, reason="a build without OpenMP has one thread")
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize(
    ("shape", "window", "options"),
    [((2, 16, 70, 90), (3, 3), {"stride": 1, "padding": 1}), ((1, 1, 400, 401), (3, 2), {"stride": 2}), ((1, 1, 150_000), 5, {"stride": 2})],
    ids=case,
)
@pytest.mark.parametrize("name", NAMES)
def test_threads(name, shape, window, options, layout, rng):
    x = rng.standard_normal(shaped(shape, window, layout), np.float32)
    given, taken = arguments(name, x, window, {**options, "layout": layout}, rng)
    with sc.num_threads(1):
        expected = bits(getattr(sc, name)(*given, **taken))
    for n in (2, 3, 5):
        with sc.num_threads(n):
            assert bits(getattr(sc, name)(*given, **taken)) == expected


@pytest.mark.parametrize(("shape", "window", "options"), BIT_CASES, ids=case)
@pytest.mark.parametrize("name", NAMES)
def test_batch(name, shape, window, options, rng):
    for dtype in FLOATING:
        given, taken = arguments(name, rng.standard_normal(shape).astype(dtype), window, options, rng)
        expected = getattr(sc, name)(*given, **taken)
        for i, j in np.ndindex(shape[:2]):
            one = [a[i : i + 1, j : j + 1] if isinstance(a, np.ndarray) else (1, 1, *a[2:]) if a == shape else a for a in given]
            assert bits(getattr(sc, name)(*one, **taken)) == bits(expected[i : i + 1, j : j + 1])


@pytest.mark.skipif(not {"avx2", "avx512"} <= set(ISAS), reason="needs a CPU with AVX-512, and the kernels for it")
@pytest.mark.parametrize(("shape", "window", "options"), GRID, ids=case)
@pytest.mark.parametrize("name", NAMES)
def test_avx2_and_avx512(name, shape, window, options, rng):
    for dtype, layout in itertools.product(FLOATING, ("channels_first", "channels_last")):
        x = rng.standard_normal(shaped(shape, window, layout)).astype(dtype)
        given, taken = arguments(name, x, window, {**options, "layout": layout}, rng)
        results = []
        for isa in ("avx2", "avx512"):
            with kernels.use(isa):
                results.append(bits(getattr(sc, name)(*given, **taken)))
        assert results[0] == results[1]


def test_broadcast_strides(rng):
    x = rng.standard_normal((2, 3, 9, 10), np.float32)
    for a in broadcasts(x).values():
        for f in (sc.max_pool, sc.avg_pool, sc.softmax_pool):
            assert bits(f(a, (3, 3), stride=2)) == bits(f(a.copy(), (3, 3), stride=2))
    y, indices = sc.max_pool(x, (3, 3), return_indices=True)
    assert bits(sc.max_pool_backward(2.0, indices, x.shape)) == bits(sc.max_pool_backward(np.full(y.shape, 2.0), indices, x.shape))
    assert bits(sc.avg_pool_backward(np.float32(2), x.shape, (3, 3))) == bits(sc.avg_pool_backward(np.full_like(y, 2), x.shape, (3, 3)))


USUAL = [
    ((2, 2), {}),
    ((3, 3), {"stride": 2, "padding": 1}),
    ((3, 3), {"stride": 2}),
    ((3, 3), {"stride": 1, "padding": 1}),
    ((3, 2), {"stride": 3}),
]


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("window, options", USUAL, ids=case)
def test_gradients_of_maxima_wherever_they_are(window, options, layout, rng):
    # Channels last, the windows of ordinary indices are guessed, and their gradients taken row by row: one index elsewhere, or all, must
    # not matter.
    for dtype, (channels, width) in itertools.product(FLOATING, ((3, 40), (3, 130), (37, 83))):
        x = rng.standard_normal(shaped((2, channels, 37, width), window, layout)).astype(dtype)
        x[rng.random(x.shape) < 0.02] = 9  # where several windows meet
        y, found = sc.max_pool(x, window, return_indices=True, layout=layout, **options)
        dy = rng.standard_normal(y.shape).astype(dtype)
        strays = [found.copy() for _ in range(3)]
        for stray in strays:
            stray.flat[rng.integers(stray.size)] = rng.integers(37 * width)
        places = np.repeat(rng.integers(0, 37 * width, found.size), 2)[: found.size].reshape(found.shape)
        for indices in (found, *strays, places, np.sort(places, None).reshape(found.shape), np.zeros_like(found)):
            dx = sc.max_pool_backward(dy, indices, x.shape, layout=layout)
            agree("max_pool_backward", dx, (dy, indices, x.shape), {"layout": layout})
            apart = np.repeat(indices, 2, axis=-1)[..., ::2]  # which is not read as it lies
            assert bits(dx) == bits(sc.max_pool_backward(dy, apart, x.shape, layout=layout))


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_gradients_that_are_broadcast(layout, rng):
    # Rows that lie in one place are not one row: they differ in indices, and in how many elements their windows count.
    shape = shaped((2, 18, 37, 83), (3, 3), layout)
    options = {"stride": 2, "padding": 1, "layout": layout}
    y, indices = sc.max_pool(rng.standard_normal(shape, np.float32), (3, 3), return_indices=True, **options)
    for axis in range(4):
        dy = np.broadcast_to(rng.standard_normal((*y.shape[:axis], 1, *y.shape[axis + 1 :]), np.float32), y.shape)
        for count in (True, False):
            given, taken = (shape, (3, 3)), {**options, "count_include_pad": count}
            assert bits(sc.avg_pool_backward(dy, *given, **taken)) == bits(sc.avg_pool_backward(dy.copy(), *given, **taken))
        given, taken = (indices, shape), {"layout": layout}
        assert bits(sc.max_pool_backward(dy, *given, **taken)) == bits(sc.max_pool_backward(dy.copy(), *given, **taken))


@pytest.mark.parametrize("isa", ISAS)
def test_channels_last_has_the_bits_of_channels_first(isa, rng):
    # Rows in one block and in several, that are kept for the next windows, or joined as they come where windows are too tall for that.
    cases = [
        ((2, 9, 41, 600), (3, 3), {"stride": 2, "padding": 1}),
        ((2, 9, 41, 600), (2, 2), {}),
        ((1, 11, 30, 1100), (3, 2), {"stride": 1, "padding": ((1, 2), (0, 1)), "ceil_mode": True}),
        ((1, 3, 3, 9000), (2, 2), {"stride": 1}),
        ((3, 3, 9, 70), (3, 2), {"stride": 1, "padding": 1}),  # rows of the same numbers were kept of the plane before
        ((1, 3, 150, 600), (3, 2), {"stride": 1, "padding": 1}),
        ((1, 200, 5, 20), (150, 2), {"stride": 7, "padding": ((60, 0), (1, 1))}),
        ((1, 40, 12, 33), (4, 3), {"stride": (3, 2), "dilation": (5, 2)}),
        ((1, 7, 8, 9, 70), (3, 3, 3), {"stride": 2, "padding": 1}),
    ]
    with kernels.use(isa):
        for (shape, window, options), dtype in itertools.product(cases, FLOATING):
            x = np.round(3 * rng.standard_normal(shape)).astype(dtype)
            x.flat[rng.integers(0, x.size, 9)] = NAN
            x.flat[rng.integers(0, x.size, 99)] = -INF
            first = np.ascontiguousarray(np.moveaxis(x, -1, 1))
            for threads in (1, 3):
                with sc.num_threads(threads):
                    last = [*sc.max_pool(x, window, return_indices=True, layout="channels_last", **options), sc.avg_pool(x, window, layout="channels_last", **options)]
                    last.append(sc.max_pool(x, window, layout="channels_last", **options))
                expected = [*sc.max_pool(first, window, return_indices=True, **options), sc.avg_pool(first, window, **options)]
                for a, b in zip(last, [*expected, expected[0]]):
                    assert bits(a) == bits(np.ascontiguousarray(np.moveaxis(b, 1, -1))), (shape, window, dtype, threads)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("channels", [3, 7, 16, 70])
def test_channels_that_are_scattered_side_by_side(channels, streaming, rng):
    # Planes within a band and in several, windows that share maxima and that do not, and whatever is put anywhere.
    choose = planner.choose_windows
    for (height, width), (window, options) in itertools.product([(9, 10), (70, 101)], [((3, 3), {"stride": 2, "padding": 1}), ((2, 2), {}), ((3, 3), {"stride": 1})]):
        for dtype in FLOATING:
            x = rng.standard_normal((3, height, width, channels)).astype(dtype)
            y, indices = sc.max_pool(x, window, return_indices=True, layout="channels_last", **options)
            dy = np.round(8 * rng.standard_normal(y.shape)).astype(dtype)
            first = [np.ascontiguousarray(np.moveaxis(a, -1, 1)) for a in (dy, indices, y)]
            anywhere = rng.integers(0, height * width, indices.shape)
            shape = (3, channels, height, width)
            try:
                kernels.core.configure_windows(lambda *a, **k: (*choose(*a, **k)[:2], streaming, False))
                last = [
                    sc.max_pool_backward(dy, indices, x.shape, layout="channels_last"),
                    sc.max_pool_backward(dy, anywhere, x.shape, layout="channels_last"),
                    sc.max_unpool(y, indices, x.shape, layout="channels_last"),
                    sc.max_unpool(y, anywhere, x.shape, layout="channels_last"),
                ]
            finally:
                kernels.core.configure_windows(choose)
            elsewhere = np.ascontiguousarray(np.moveaxis(anywhere, -1, 1))
            expected = [
                sc.max_pool_backward(first[0], first[1], shape),
                sc.max_pool_backward(first[0], elsewhere, shape),
                sc.max_unpool(first[2], first[1], shape),
                sc.max_unpool(first[2], elsewhere, shape),
            ]
            for a, b in zip(last, expected):
                assert bits(a) == bits(np.ascontiguousarray(np.moveaxis(b, 1, -1))), (window, dtype, height)
            with sc.num_threads(3):
                assert bits(sc.max_pool_backward(dy, anywhere, x.shape, layout="channels_last")) == bits(last[1])


@pytest.mark.parametrize("streaming", [False, True])
def test_of_guessed_windows_every_index_is_looked_at(streaming, rng):
    # One index of many belongs to another window, or to none: to the end of the row before where a window hangs over its row.
    choose = planner.choose_windows
    x = rng.standard_normal((1, 31, 30, 40), np.float32)
    for (window, options), dtype in itertools.product([((2, 2), {}), ((3, 3), {"stride": 2, "padding": 1}), ((2, 2), {"stride": 3})], FLOATING):
        y, indices = sc.max_pool(x.astype(dtype), window, return_indices=True, layout="channels_last", **options)
        for where in [(0, 0, 0, 0), (0, -1, -1, -1), (0, 4, 0, 33), (0, 5, 3, 16), (0, 0, 7, 39)]:
            for far in (-1, 1, 2, -30, 30, 60, 61, 400):
                moved = indices.copy()
                moved[where] = np.clip(moved[where] + far, 0, 31 * 30 - 1)
                dy = rng.standard_normal(y.shape).astype(dtype)
                try:
                    kernels.core.configure_windows(lambda *a, **k: (*choose(*a, **k)[:2], streaming, False))
                    dx = sc.max_pool_backward(dy, moved, x.shape, layout="channels_last")
                finally:
                    kernels.core.configure_windows(choose)
                expected = sc.max_pool_backward(np.moveaxis(dy, -1, 1).copy(), np.moveaxis(moved, -1, 1).copy(), (1, 40, 31, 30))
                assert bits(dx) == bits(np.ascontiguousarray(np.moveaxis(expected, 1, -1))), (window, dtype, where, far)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("shape, layout", [
    ((2, 3, 9, 10), "channels_first"),  # planes that are written straight, through a ring, in bands
    ((2, 3, 90, 100), "channels_first"),
    ((1, 2, 150, 160), "channels_first"),
    ((2, 9, 10, 3), "channels_last"),
    ((1, 90, 100, 3), "channels_last"),
    ((1, 31, 30, 40), "channels_last"),  # whose windows are guessed
])  # fmt: skip
def test_an_index_outside_is_found(shape, layout, streaming, rng):
    # In a new result the kernel looks, whichever way it takes; one that is too large for its lanes must not look like one that is not.
    choose = planner.choose_windows
    for dtype in (*FLOATING, np.dtype(np.int16)):
        y, indices = sc.max_pool((9 * rng.standard_normal(shape)).astype(dtype), (2, 2), return_indices=True, layout=layout)
        for far, where in itertools.product((-1, np.prod(shape), 2**32, -(2**63), 2**63 - 1), (0, indices.size // 2, -1)):
            bad = indices.copy()
            bad.flat[where] = far + bad.flat[where] if far == 2**32 else far
            for given, name in itertools.product((bad, np.repeat(bad, 2, axis=-1)[..., ::2]), ("max_pool_backward", "max_unpool")):
                try:
                    kernels.core.configure_windows(lambda *a, **k: (*choose(*a, **k)[:2], streaming, False))
                    with pytest.raises(IndexError, match=f"^{name}: indices holds {bad.flat[where]}, "):
                        getattr(sc, name)(y, given, shape, layout=layout)
                finally:
                    kernels.core.configure_windows(choose)


@pytest.mark.parametrize("size", [30, 1024, 1025, 4097, 9000, 16384, 16385, 40000])
@pytest.mark.parametrize("streaming", [False, True])
def test_places_near_and_far(size, streaming, rng):
    # What windows have waits in a ring until none that comes later can reach it: where they come in order, far apart, backwards, anyhow.
    choose = planner.choose_windows
    windows_of = size // 4
    near = np.sort(rng.integers(0, size, windows_of)) + rng.integers(-40, 40, windows_of)
    orders = {
        "apart": np.sort(rng.permutation(size)[:windows_of]),
        "near": near.clip(0, size - 1),
        "anyhow": rng.integers(0, size, windows_of),
        "backwards": np.arange(size - 1, -1, -4)[:windows_of],
        "one late": np.concatenate([np.sort(rng.integers(0, size, windows_of - 1)), [0]]),
        "at the ends": rng.choice([0, size - 1], windows_of),
    }
    for dtype, (order, places) in itertools.product((*FLOATING, np.dtype(np.uint8)), orders.items()):
        indices = np.stack([places, places[::-1], places])[:, None]
        v = (9 * rng.standard_normal(indices.shape)).astype(dtype)
        v.flat[rng.integers(0, v.size, v.size // 9)] = 0
        if dtype.kind != "u":
            v.flat[rng.integers(0, v.size, v.size // 9)] = -0.0
        for name in ("max_pool_backward", "max_unpool"):
            if name == "max_pool_backward" and dtype.kind == "u":
                continue
            given = (v, indices, (3, 1, size))
            expected = getattr(ref, name)(wide(v), *given[1:])
            for start in (0, 1, 5):
                room = np.full(3 * size + 200, 7, dtype)
                line = -(room.ctypes.data // dtype.itemsize) % (64 // dtype.itemsize)
                out = room[line + start :][: 3 * size].reshape(3, 1, size)
                try:
                    kernels.core.configure_windows(lambda *a, **k: (*choose(*a, **k)[:2], streaming, False))
                    getattr(sc, name)(*given, out=out)
                finally:
                    kernels.core.configure_windows(choose)
                assert (out.astype(expected.dtype) == expected.astype(dtype).astype(expected.dtype)).all(), (name, dtype, order, start)
                assert not np.signbit(out[out == 0]).any() or name == "max_unpool"
                assert (room[: line + start] == 7).all() and (room[line + start + out.size :] == 7).all()
            apart = np.repeat(v, 2, axis=-1)[..., ::2], np.repeat(indices, 3, axis=-1)[..., ::3].astype(np.int32)
            assert bits(out.copy()) == bits(getattr(sc, name)(*apart, given[2])), (name, dtype, order)  # which are not read as they lie


@pytest.mark.skipif(SERIAL, reason="a build without OpenMP has one thread")
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_past_the_cache(layout, rng):
    # Streaming is for arrays past the cache; here it is forced on small ones, of every alignment, with guards around them.
    choose = planner.choose_windows
    for channels in (1, 3, 16, 20, 32):
        x = rng.standard_normal(shaped((2, channels, 12, 14), (2, 2), layout), np.float32)
        for name, window, options in [(n, w, o) for n in NAMES for w, o in [((2, 2), {}), ((3, 3), {"stride": 2, "padding": 1})]]:
            given, taken = arguments(name, x, window, {**options, "layout": layout}, rng)
            expected = getattr(sc, name)(*given, **taken)
            for start in (0, 1, 5, 15):
                room = np.full(expected.size + 80, 7, np.float32)
                line = -(room.ctypes.data // 4) % 16
                out = room[line + start :][: expected.size].reshape(expected.shape)
                try:
                    kernels.core.configure_windows(lambda *a, **k: (*choose(*a, **k)[:2], True, False))
                    getattr(sc, name)(*given, **taken, out=out)
                finally:
                    kernels.core.configure_windows(choose)
                assert out.tobytes() == expected.tobytes(), (name, channels, start)
                assert (room[: line + start] == 7).all() and (room[line + start + out.size :] == 7).all()


# ---------------------------------------------------------------------------------------------------------------- out and errors


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_out(name, dtype, rng):
    x = rng.standard_normal((2, 3, 6, 7)).astype(dtype)
    given, taken = arguments(name, x, (2, 2), {"stride": 1}, rng)
    y = getattr(sc, name)(*given, **taken)
    out = np.zeros_like(y)
    assert getattr(sc, name)(*given, **taken, out=out) is out and bits(out) == bits(y)
    spaced = np.full((2, 3, 2 * y.shape[2], y.shape[3]), 7, dtype)[:, :, ::-2]
    assert getattr(sc, name)(*given, **taken, out=spaced) is spaced and bits(spaced) == bits(y)
    for i, a in enumerate(given):  # over an operand, or overlapping it
        if isinstance(a, np.ndarray) and a.dtype == y.dtype:
            room = np.zeros(a.size + y.size, dtype)
            for start in (0, 1, 17):
                fresh = [b.copy() if isinstance(b, np.ndarray) else b for b in given]
                fresh[i] = room[: a.size].reshape(a.shape)
                fresh[i][...] = a
                getattr(sc, name)(*fresh, **taken, out=room[start : start + y.size].reshape(y.shape))
                assert bits(room[start : start + y.size].reshape(y.shape)) == bits(y), (i, start)


def test_out_of_values_and_indices(rng):
    x = rng.standard_normal((3, 8), np.float32)
    y, indices = sc.max_pool(x, 2, return_indices=True)
    outs = np.zeros_like(y), np.zeros_like(indices)
    result = sc.max_pool(x, 2, return_indices=True, out=outs)
    assert result[0] is outs[0] and result[1] is outs[1]
    assert bits(result) == bits((y, indices))
    assert bits(sc.max_pool(x, 2, return_indices=True, out=(None, outs[1]))) == bits((y, indices))
    with pytest.raises(TypeError, match="max_pool: out is a ndarray, it must be a tuple of 2 arrays"):
        sc.max_pool(x, 2, return_indices=True, out=y)


X = np.zeros((2, 3, 6, 8), np.float32)
BAD = [
    ({"window": 0}, ValueError, "window is 0, it must be at least 1"),
    ({"window": 2.0}, TypeError, "window is 2.0, it must be made of ints"),
    ({"window": True}, TypeError, "window is True"),
    ({"window": ()}, ValueError, r"window is \(\), it must be an int or a tuple of 1 to 3 ints"),
    ({"window": (2, 2, 2, 2)}, ValueError, "it must be an int or a tuple of 1 to 3 ints"),
    ({"window": 2}, ValueError, "has 4 dimensions, it must have 1 to 3 for a window of 1"),
    ({"window": (7, 2)}, ValueError, "the window reaches over 7 elements along axis 2 of [a-z]+, it must be no more than there are with padding, 6"),
    ({"dilation": 9}, ValueError, "the window reaches over 10 elements along axis 2"),
    ({"stride": 0}, ValueError, "stride is 0, it must be at least 1"),
    ({"stride": (1, 2, 3)}, ValueError, r"stride is \(1, 2, 3\), it must be an int or 2 ints"),
    ({"stride": "2"}, TypeError, "stride is '2'"),
    ({"dilation": (0, 1)}, ValueError, r"dilation is \(0, 1\)"),
    ({"padding": -1}, ValueError, "padding is -1, it must be at least 0"),
    ({"padding": "full"}, ValueError, "padding is 'full', it must be one of 'same', 'valid'"),
    ({"padding": ((1, 2, 3), 0)}, ValueError, "padding is"),
    ({"padding": (1,)}, ValueError, "an int or a pair of ints for each of 2 axes"),
    ({"padding": 2}, ValueError, "window 0 along axis 2 of [a-z]+ lies wholly in padding"),
    ({"padding": ((0, 2), 0), "stride": 1}, ValueError, "window 6 along axis 2 of [a-z]+ lies wholly in padding"),
    ({"layout": "NCHW"}, ValueError, "layout is 'NCHW', it must be one of 'channels_first', 'channels_last'"),
    ({"layout": 1}, TypeError, "layout is a int, it must be a str"),
    ({"ceil_mode": "yes"}, TypeError, "ceil_mode is a str, it must be a bool"),
    ({"window": 2**40}, ValueError, "window is"),
]


@pytest.mark.parametrize("name", ["max_pool", "avg_pool", "softmax_pool", "avg_pool_backward", "softmax_pool_backward"])
@pytest.mark.parametrize(("options", "error", "text"), BAD, ids=lambda v: str(v) if isinstance(v, dict) else None)
def test_bad_windows_leave_out_alone(name, options, error, text):
    backward = name.endswith("_backward")
    out = np.full(X.shape if backward else (2, 3, 3, 4), 7, np.float32)
    options = {"window": (2, 2), **options}
    first = {"avg_pool_backward": (np.float32(1), X.shape), "softmax_pool_backward": (np.float32(1), X)}.get(name, (X,))
    with pytest.raises(error, match=f"^{name}: .*{text}"):
        getattr(sc, name)(*first, **options, out=out)
    assert (out == 7).all()


@pytest.mark.parametrize("name", ["max_pool_backward", "max_unpool"])
@pytest.mark.parametrize(
    ("indices", "shape", "error", "text"),
    [
        ([[0, 6]], (1, 6), IndexError, "indices holds 6, it must be from 0 to 5"),
        ([[-1, 2]], (1, 6), IndexError, "indices holds -1, it must be from 0 to 5"),
        (np.array([[2**63, 2]], np.uint64), (1, 6), IndexError, "indices holds 9223372036854775808"),
        (np.array([[-1, 2]], np.int8), (1, 6), IndexError, "indices holds -1"),
        ([[0.0, 1.0]], (1, 6), TypeError, "indices has dtype float64, it must be an integer dtype"),
        ([[True, False]], (1, 6), TypeError, "indices has dtype bool"),
        ([[0, 1]], (6,), ValueError, r"shape is \(6,\), it must have the 2 dimensions of indices"),
        ([[0, 1]], (1, -6), ValueError, r"shape is \(1, -6\), it must be at least 0"),
        ([[0, 1]], (1, 6.0), TypeError, "shape is"),
        ([[0, 1]], (1, 2**60), ValueError, r"shape is \(1, 1152921504606846976\), it must be at least 0 and at most 576460752303423487"),
        ([[[0, 1]]], (1, 2**40, 2**40), ValueError, "it must have at most 576460752303423487 elements"),
        ([[[[[0]]]]], (1, 2, 3, 4, 5, 6)[:5], None, ""),
        ([[[[[0]]]]], (2, 1, 3, 4, 5), ValueError, "it must have the batch and channels of indices"),
    ],
)
def test_bad_indices_leave_out_alone(name, indices, shape, error, text):
    y = np.ones(np.shape(indices), np.float32)
    if error is None:
        with pytest.raises(ValueError, match="it must have the batch and channels"):
            getattr(sc, name)(y, indices, shape)
        return
    out = np.full([abs(int(n)) % 2**20 for n in shape], 7, np.float32)
    with pytest.raises(error, match=f"^{name}: .*{text}"):
        getattr(sc, name)(y, indices, shape, out=out)
    assert (out == 7).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("x", [np.zeros((2, 4), complex), np.zeros((2, 4), object), np.array([["a"] * 4] * 2), None], ids=lambda x: str(getattr(x, "dtype", x)))
def test_types_that_are_not_taken(name, x):
    given = {
        "max_pool_backward": (x, np.zeros((2, 2), int), (2, 4)),
        "max_unpool": (x, np.zeros((2, 4), int), (2, 4)),
        "avg_pool_backward": (x, (2, 4), 2),
        "softmax_pool_backward": (1.0, x, 2),
    }.get(name, (x, 2))
    with pytest.raises(TypeError, match=f"^{name}: "):
        getattr(sc, name)(*given)


def test_wrong_shapes():
    with pytest.raises(ValueError, match=r"max_unpool: y has shape \(3,\), it must be \(2,\)"):
        sc.max_unpool(np.zeros(3), [0, 1], (4,))
    with pytest.raises(ValueError, match=r"max_pool_backward: dy has shape \(3,\), it must broadcast to \(2,\)"):
        sc.max_pool_backward(np.zeros(3), [0, 1], (4,))
    with pytest.raises(ValueError, match=r"avg_pool: out has shape \(3,\), it must be \(2,\)"):
        sc.avg_pool(np.zeros(4), 2, out=np.zeros(3))
    with pytest.raises(TypeError, match="softmax_pool: out has dtype float32, it must be float64"):
        sc.softmax_pool(np.zeros(4), 2, out=np.zeros(2, np.float32))


def test_no_floating_point_warnings():
    x = np.array([[NAN, INF, -INF, 0], [-1e38, 1e38, 3e38, 1e-45]], np.float32)
    with np.errstate(all="raise"):
        for f in (sc.max_pool, sc.avg_pool, sc.softmax_pool):
            f(x, (2, 2))
        sc.softmax_pool_backward(np.full((1, 2), 1e300), x, (2, 2))
        sc.avg_pool_backward(np.full((1, 2), 3e38, np.float32), x.shape, (2, 2), stride=2)


# ----------------------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_memory(layout):
    import tracemalloc

    x = np.random.default_rng(0).standard_normal(shaped((4, 32, 256, 256), (2, 2), layout), np.float32)
    y, indices = sc.max_pool(x, (2, 2), return_indices=True, layout=layout)
    for call in (
        lambda: sc.max_pool(x, (3, 3), stride=2, layout=layout, return_indices=True),
        lambda: sc.avg_pool(x, (2, 2), layout=layout),
        lambda: sc.softmax_pool(x, (2, 2), layout=layout),
        lambda: sc.max_pool_backward(y, indices, x.shape, layout=layout),
        lambda: sc.max_unpool(y, indices, x.shape, layout=layout),
        lambda: sc.avg_pool_backward(y, x.shape, (2, 2), layout=layout),
        lambda: sc.softmax_pool_backward(y, x, (2, 2), layout=layout),
    ):
        tracemalloc.start()
        result = call()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak - sum(r.nbytes for r in (result if isinstance(result, tuple) else (result,))) < 1 << 20
