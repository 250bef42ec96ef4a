"""Pooling: every op against its definition over a grid of windows, the definitions against PyTorch, and the edges by name."""

import itertools

import numpy as np
import pytest
from calls import FLOATING, INTEGERS
from pooling_calls import GRID, NAMES, agree, arguments, bits, case, shaped

import softcore as sc
from softcore import kernels, windows
from softcore import reference as ref
from softcore.testing import awkward, layouts

ISAS = kernels.available()
INF, NAN = np.inf, np.nan
assert_equal = np.testing.assert_array_equal


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
        ("channels_first", (6, 7), {}),
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
        except IndexError:  # an array without batch or channels, which were taken to be there
            assert name in ("max_pool_backward", "max_unpool") and x.ndim < rank + 2


# --------------------------------------------------------------------------------------------------------------- against PyTorch


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


# ---------------------------------------------------------------------------------------------------------------- edges, by name


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


@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda t: t.char)
def test_integers_of_large_windows(dtype, rng):
    # One after the other, in pieces of a row: what is the largest lies first, last, at the ends of a piece, and in several places.
    for shape in ((2, 3, 4, 1100), (2, 3, 7, 9)):
        x = rng.integers(0, 2, shape).astype(dtype)
        top = 1 if dtype == bool else np.iinfo(dtype).max
        x[0] = 0 if dtype == bool else np.iinfo(dtype).min
        for i, places in enumerate(([0], [-1], [511 % shape[-1], 512 % shape[-1]])):
            x[1, i].flat[places] = top
            x[0, i, 2, places] = top
        x[1, :, 1:, ::3] = top
        flat = x.reshape(*shape[:2], -1)
        for way, a in layouts(x).items():
            for options in ({}, {"stride": 1, "padding": ((0, 0), (0, 1))}):
                y, indices = sc.max_pool(a, shape[2:], return_indices=True, **options)
                assert y.dtype == dtype, way
                assert_equal(y[..., 0, 0], flat.max(-1), way)
                assert_equal(indices[..., 0, 0], flat.argmax(-1), way)
                assert_equal(sc.max_pool(a, shape[2:], **options), y, way)


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


# ---------------------------------------------------------------------------------------------------------------------- geometry


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


# ------------------------------------------------------------------------------------------------------------------------ errors


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


# ------------------------------------------------------------------------------------------------------------------------ memory


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


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_windows_may_be_as_long_as_int32_says(rank):
    # Nearly all of it padding, over which nothing walks.
    far = 2**31 - 1
    x = np.arange(4.0**rank).reshape((4,) * rank)
    options = {"stride": far, "padding": 2**30}
    y, indices = sc.max_pool(x, (far,) * rank, return_indices=True, **options)
    assert y == x.max() and indices == x.size - 1
    assert sc.avg_pool(x, (far,) * rank, **options) == x.sum() / float(far) ** rank
    assert sc.avg_pool(x, (far,) * rank, count_include_pad=False, **options) == x.mean()
    np.testing.assert_allclose(sc.softmax_pool(x, (far,) * rank, **options), (sc.softmax(x, None) * x).sum(), rtol=1e-14)
    dy = np.ones((1,) * rank)
    np.testing.assert_allclose(sc.avg_pool_backward(dy, x.shape, (far,) * rank, **options), float(far) ** -rank, rtol=1e-15)
    assert sc.softmax_pool_backward(dy, x, (far,) * rank, **options).shape == x.shape
