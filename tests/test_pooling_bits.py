"""Pooling: strides, layouts, threads, instruction sets and `out` do not change a bit of a result."""

import itertools

import numpy as np
import pytest
from calls import FLOATING
from pooling_calls import GRID, NAMES, arguments, bits, case, shaped

import softcore as sc
from softcore import kernels, planner
from softcore.testing import broadcasts, layouts

ISAS = kernels.available()
SERIAL = kernels.core.openmp_runtime().startswith("none")
INF, NAN = np.inf, np.nan

BIT_CASES = [
    ((2, 20, 23, 24), (2, 2), {}),
    ((2, 20, 23, 40), (3, 3), {"stride": 2, "padding": 1}),
    ((3, 5, 14, 15), (3, 3), {"stride": 1, "padding": "same"}),
    ((2, 3, 700), 4, {"stride": 3}),
    ((2, 3, 5, 7, 9), (2, 3, 2), {"stride": (1, 2, 1)}),
    ((2, 20, 14, 21), (7, 7), {}),
    ((2, 5, 24, 26), (9, 24), {"stride": 1, "padding": ((0, 0), (1, 0))}),
    ((2, 3, 33, 70), (4, 8), {"stride": (4, 9), "padding": 2}),
    # one window that takes all of two axes or three
    ((2, 20, 7, 7), (7, 7), {}),
    ((2, 5, 3, 4, 5), (3, 4, 5), {"stride": 1}),
    ((2, 5, 4, 6, 7), (2, 6, 7), {"stride": (1, 9, 2)}),
    ((2, 5, 3, 4, 9), (3, 4, 2), {}),
    # a few large windows that share most of what they hold
    ((2, 3, 19, 25), (18, 23), {"stride": 1}),
    ((2, 3, 30, 9), (28, 8), {"stride": 1}),
    # rows that are brought piece by piece where they are no neighbours
    ((1, 2, 5, 1300), (5, 1300), {}),
    ((1, 2, 7, 1300), (6, 600), {"stride": (1, 350), "padding": ((0, 0), (3, 90))}),
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


def test_broadcast_strides(rng):
    x = rng.standard_normal((2, 3, 9, 10), np.float32)
    for a in broadcasts(x).values():
        for f in (sc.max_pool, sc.avg_pool, sc.softmax_pool):
            assert bits(f(a, (3, 3), stride=2)) == bits(f(a.copy(), (3, 3), stride=2))
    y, indices = sc.max_pool(x, (3, 3), return_indices=True)
    assert bits(sc.max_pool_backward(2.0, indices, x.shape)) == bits(sc.max_pool_backward(np.full(y.shape, 2.0), indices, x.shape))
    assert bits(sc.avg_pool_backward(np.float32(2), x.shape, (3, 3))) == bits(sc.avg_pool_backward(np.full_like(y, 2), x.shape, (3, 3)))


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


@pytest.mark.parametrize(("shape", "window", "options"), BIT_CASES, ids=case)
@pytest.mark.parametrize("name", NAMES)
def test_batch(name, shape, window, options, rng):
    for dtype in FLOATING:
        given, taken = arguments(name, rng.standard_normal(shape).astype(dtype), window, options, rng)
        expected = getattr(sc, name)(*given, **taken)
        for i, j in np.ndindex(shape[:2]):
            one = [a[i : i + 1, j : j + 1] if isinstance(a, np.ndarray) else (1, 1, *a[2:]) if a == shape else a for a in given]
            assert bits(getattr(sc, name)(*one, **taken)) == bits(expected[i : i + 1, j : j + 1])


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


# --------------------------------------------------------------------------------------------------------------------------- out


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
