"""Gradients of pooling, and max_unpool: that they are gradients, where they go, and the indices that say so."""

import itertools

import numpy as np
import pytest
from calls import FLOATING
from pooling_calls import GRID, agree, bits, case, shaped, wide

import softcore as sc
from softcore import kernels, planner
from softcore import reference as ref
from softcore.testing import check_grad

assert_equal = np.testing.assert_array_equal


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


def test_gradients_that_meet_are_added_in_float64():
    dy = np.array([2.0**24, 1, 1, 1, 1], np.float32)
    assert sc.max_pool_backward(dy, np.full(5, 2), (4,))[2] == 2**24 + 4
    assert sc.max_pool_backward(np.array([1e16, 1.0, 1.0]), np.zeros(3, int), (1,)) == 1e16 + 2
    half = np.array([2048, 0.5, 0.5], np.float16)
    assert sc.max_pool_backward(half, np.zeros(3, int), (1,)) == 2048  # 2049 is a tie


def test_of_several_with_one_index_the_last_stays():
    assert_equal(sc.max_unpool(np.array([5, 6, 7, 8], np.int16), [1, 3, 1, 3], (4,)), [0, 7, 0, 8])


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


# ------------------------------------------------------------------------------------------------------ maxima wherever they are


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


# ------------------------------------------------------------------------------------------------------ indices that are refused


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


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [1, 7, 16, 17, 40])
def test_each_index_is_looked_at_before_out_is_written(count, threads, monkeypatch):
    # Whatever holds the indices: one piece of memory, in this order or another, one with gaps or backwards, or another dtype.
    monkeypatch.setattr(planner, "GRAIN", 1)
    plane, layouts = 2 * count + 1, (
        lambda a: a,
        lambda a: a.swapaxes(0, 1).copy().swapaxes(0, 1),
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
        lambda a: a[..., ::-1].copy()[..., ::-1],
        lambda a: a.astype(">i8"),
        lambda a: a.astype(np.int32),
    )  # fmt: skip
    indices = np.broadcast_to(np.arange(count), (2, 3, 1, count)).copy()
    dy, out = np.ones(indices.shape, np.float32), np.full((2, 3, 1, plane), 7, np.float32)
    with sc.num_threads(threads):
        for lie in layouts:
            assert_equal(sc.max_pool_backward(dy, lie(indices), out.shape, out=out.copy())[..., :count], 1)
            for where, far in itertools.product(range(indices.size), (-1, plane)):
                bad = indices.copy()
                bad.flat[where] = far
                with pytest.raises(IndexError, match=f"indices holds {far}, it must be from 0 to {plane - 1}"):
                    sc.max_pool_backward(dy, lie(bad), out.shape, out=out)
        assert (out == 7).all()
        # What lies between two indices that overlap others is none of them.
        room = np.array([0, -5, 99, 1])
        assert_equal(sc.max_pool_backward(np.ones((2, 2)), np.lib.stride_tricks.as_strided(room, (2, 2), (0, 24)), (2, 5), out=np.empty((2, 5))), [[1, 1, 0, 0, 0]] * 2)


@pytest.mark.parametrize("name", ["max_pool_backward", "max_unpool"])
@pytest.mark.parametrize("core", [sc, ref], ids=["softcore", "reference"])
def test_of_four_and_five_axes_two_are_not_spatial(name, core, rng):
    # Whatever the indices are, and where every axis keeps its length.
    run = getattr(core, name)
    for shape, window in (((2, 3, 4, 6), (3, 3)), ((2, 3, 4, 6, 5), (3, 3, 3))):
        for layout in ("channels_first", "channels_last"):
            y, indices = sc.max_pool(rng.permutation(np.arange(np.prod(shape))).reshape(shape) + 1.0, window, stride=1, padding="same", return_indices=True, layout=layout)
            there = run(y, indices, shape, layout=layout)
            axes = sc.windows.spatial(len(shape), len(window), layout)
            flat, places = (np.moveaxis(a, axes, range(-len(axes), 0)).reshape(-1, np.prod([shape[i] for i in axes])) for a in (there, indices))
            for row, at in zip(flat, places):
                assert_equal(np.flatnonzero(row), np.unique(at))
    y, indices = sc.max_pool(np.array([[[[9.0, 8, 7, 6], [1, 2, 3, 4]]]]), (3, 3), stride=1, padding="same", return_indices=True)
    assert_equal(run(y, indices, (1, 1, 2, 4))[0, 0, 1], 0)  # all maxima lie in the first row


@pytest.mark.parametrize("name", ["max_pool_backward", "max_unpool"])
@pytest.mark.parametrize("core", [sc, ref], ids=["softcore", "reference"])
@pytest.mark.parametrize("far", [64, 191, 192, -1])
def test_planes_with_batch_and_channels_are_no_volumes(name, core, far, rng):
    # An index beyond its plane is an error, also where it would be inside all of the channels.
    y, indices = sc.max_pool(rng.standard_normal((2, 3, 8, 8)), (2, 2), return_indices=True)
    indices[-1, -1, -1, -1] = far
    for shape, given in (((2, 3, 8, 8), indices), ((2, 3, 1, 8, 8), indices[:, :, None])):
        with pytest.raises(IndexError, match=f"^{name}: indices holds {far}, it must be from 0 to 63, the spatial elements of "):
            getattr(core, name)(np.ones(given.shape), given, shape)


def test_an_index_beyond_its_plane_says_which_axes_are_spatial():
    y, indices = sc.max_pool(np.arange(768.0).reshape(3, 4, 8, 8), (1, 2, 2), return_indices=True)  # three spatial axes and no batch
    with pytest.raises(IndexError, match=r"of \(3, 4, 8, 8\): axes \(2, 3\) are spatial, unless an axis of one stands for a batch or channels"):
        sc.max_pool_backward(y, indices, (3, 4, 8, 8))
    assert sc.max_pool_backward(y[None], indices[None], (1, 3, 4, 8, 8)).sum() == y.sum()
