"""The OpenCL core on any axis and layout, on rows of any length and into any output.

See test_opencl.py for where these tests run.
"""

import numpy as np
import pytest
from calls import same_bits

cl = pytest.importorskip("pyopencl", reason="pyopencl is not installed: pip install softcore[opencl]")

from test_opencl import HERE, compare, device, get, limited, on_device, to_device  # noqa: F401  # fixtures among them

import softcore as sc
from softcore import planner
from softcore.testing import awkward, layouts

# --------------------------------------------------------------------------------------------------------- axes and layouts

ROWS = [op for op in HERE if op.kind in ("fold", "rows")]


@pytest.mark.parametrize("axis", [0, (0, 2), (2, 0), None, ()])
@pytest.mark.parametrize("op", ROWS, ids=lambda op: op.name)
def test_axes(op, axis, rng):
    x = (3 * rng.standard_normal((4, 5, 6))).astype(np.float32)
    arguments = op.inputs(x, rng, axis=axis)
    expected = getattr(sc, op.name)(*arguments, axis=axis)
    actual = on_device(op.name, *arguments, axis=axis)
    for a, e in zip(*[r if isinstance(r, tuple) else (r,) for r in (actual, expected)]):
        assert a.shape == np.shape(e)
        np.testing.assert_allclose(a, e, rtol=2e-6, atol=1e-7)


def laid_out(a, name):
    """The array on the device, laid out in another way: (array, whether it is)."""
    memory = layouts(a)[name]
    base = memory if memory.base is None else memory.base
    if base.nbytes == memory.nbytes and name not in ("fortran", "reversed", "all_reversed"):
        base = memory
    flat = np.ascontiguousarray(base.T if base.flags.f_contiguous else base).reshape(-1)
    buffer = sc.opencl.to_device(flat)
    offset = memory.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    return cl.array.Array(buffer.queue, a.shape, a.dtype, data=buffer.base_data, offset=offset, strides=memory.strides)


@pytest.mark.parametrize("layout", ["fortran", "reversed", "all_reversed", "every_other", "padded"])
@pytest.mark.parametrize("op", [op for op in HERE if op.kind in ("fold", "rows", "map")], ids=lambda op: op.name)
def test_layouts_give_the_same_bits(op, layout, rng):
    # In Fortran order rows lie side by side, more of them than a vector holds and not a multiple.
    x = (3 * rng.standard_normal((20, 70))).astype(np.float32)
    arguments = op.inputs(x, rng)
    expected = getattr(sc, op.name)(*map(to_device, arguments))
    changed = [laid_out(a, layout) if getattr(a, "shape", None) == x.shape else to_device(a) for a in arguments]
    for a, b in zip(arguments, changed):
        if getattr(a, "shape", None) == x.shape:
            assert b.strides == layouts(a)[layout].strides
    actual = getattr(sc, op.name)(*changed)
    for a, e in zip(*[r if isinstance(r, tuple) else (r,) for r in (get(actual), get(expected))]):
        assert same_bits(a, e)


def test_slices_are_not_copied(rng):
    x = rng.standard_normal((6, 40)).astype(np.float32)
    whole = to_device(x)
    out = to_device(np.full_like(x, 7))
    sc.softmax(whole[2:5, 3:20], out=out[2:5, 3:20])
    expected = np.full_like(x, 7)
    expected[2:5, 3:20] = on_device("softmax", np.ascontiguousarray(x[2:5, 3:20]))
    assert same_bits(out.get(), expected)


@pytest.mark.parametrize("first", [0, -40, -400, -np.inf, np.inf, np.nan])
def test_columns_whose_first_elements_are_not_like_the_others(first, rng):
    # Longer than what waits in a cache: their frame is that of the first elements, if it can be.
    x = (3 * rng.standard_normal((1100, 70))).astype(np.float32)
    x[:64, ::3] = first
    x[:64, ::7] = 5
    for shift in (0, 20, 290):
        moved = x + np.float32(shift)
        assert same_bits(on_device("softmax", moved, axis=0), on_device("softmax", np.ascontiguousarray(moved.T)).T)


@pytest.mark.parametrize("shape", [(70, 64), (70, 70), (3, 4200), (70, 20, 32)])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_results_past_the_cache(name, shape, rng, monkeypatch):
    x = (3 * rng.standard_normal(shape)).astype(np.float32)
    axes = [-1, 0]
    expected = [on_device(name, x, axis=axis) for axis in axes]
    monkeypatch.setattr(planner, "LAST_LEVEL", 0)
    monkeypatch.setattr(sc.opencl.launches, "cache", {})
    for axis, e in zip(axes, expected):
        assert same_bits(on_device(name, x, axis=axis), e)
        buffer = to_device(np.zeros(x.size + 1, np.float32))  # whose results begin elsewhere in a line
        out = cl.array.Array(buffer.queue, shape, x.dtype, data=buffer.base_data, offset=4)
        getattr(sc, name)(to_device(x), axis, out=out)
        assert same_bits(out.get(), e)


def test_a_row_is_the_same_in_any_batch(rng):
    x = (3 * rng.standard_normal((40, 1025))).astype(np.float32)
    for name in ("softmax", "log_softmax", "logsumexp"):
        y = on_device(name, x)
        for rows in (slice(3, 4), slice(7, 20)):
            assert same_bits(on_device(name, x[rows]), y[rows])


LONG = [op for op in HERE if op.name in sc.opencl.programs.IN_PARTS]


def long_rows(rng):
    """Rows of several parts: far from zero and near it, with parts that hold nothing, NaN twice, and maxima in the last part."""
    n = 3 * planner.PART + 777
    x = (3 * rng.standard_normal((6, n))).astype(np.float32)
    x[1] += 1000
    x[2, : planner.PART], x[2, planner.PART : 2 * planner.PART], x[2, 2 * planner.PART :] = -np.inf, x[2, : planner.PART] + 290, 305
    x[3], x[3, [n - 9, n - 5]] = -np.inf, 2
    x[4, [planner.PART + 3, n - 9]] = np.nan
    x[5, n - 9] = np.inf
    return x


@pytest.mark.parametrize("op", LONG, ids=lambda op: op.name)
def test_long_rows(op, rng):
    x = long_rows(rng)
    compare(op, x, {}, rng)
    if op.name in ("argmax", "max_with_argmax"):
        np.testing.assert_array_equal(on_device(op.name, x, select_last=True)[-1], getattr(sc, op.name)(x, select_last=True)[-1])
    compare(op, np.ascontiguousarray(np.concatenate([x, x[::-1]]).T), {}, rng, axes=(0,))  # columns are not cut on a CPU
    where = rng.random(x.shape) < 0.5
    where[:, 0] = True
    compare(op, x, {"where": where}, rng, axes=(-1,))
    if "scale" in op.options:
        compare(op, x, {"scale": -0.3}, rng, axes=(-1,))


@pytest.mark.parametrize("top", [60, 75, 90, 120, 1000])
def test_what_is_left_beside_a_spike_in_a_long_row(top):
    # Parts of the row lie far below it, and their sums with them: down to subnormal numbers, and then nothing is left.
    x = np.zeros(300_000, np.float32)
    x[-1] = top
    exact = -(x.size - 1) * np.exp(-np.float64(top))
    assert on_device("log_softmax", x)[-1] == pytest.approx(exact, rel=3e-7, abs=1e-44)


@pytest.mark.parametrize("op", LONG, ids=lambda op: op.name)
def test_one_long_row_is_shared_and_the_same_as_in_a_batch(op, rng):
    arguments = op.inputs(long_rows(rng), rng)
    whole = get(getattr(sc, op.name)(*map(to_device, arguments)))
    sc.opencl.launches.cache.clear()
    row = get(getattr(sc, op.name)(*(to_device(a[1:2]) for a in arguments)))
    for a, b in zip(*[r if isinstance(r, tuple) else (r,) for r in (row, whole)]):
        assert same_bits(a, b[1:2])
    (((launches, _), _),) = sc.opencl.launches.cache.values()
    assert all(launch[3][1] >= 4 for launch in launches)  # work-groups: the row has so many parts


def test_more_axes_than_a_kernel_walks(rng):
    x = cl.array.to_device(sc.opencl.queue(), np.zeros((4,) * 10, np.float32))[(slice(None, None, 2),) * 10]
    with pytest.raises(ValueError, match="relu|softmax: there are 10 axes no two of which can be joined, the OpenCL core takes 8"):
        sc.softmax(x)


def test_empty(rng):
    for op in HERE:
        for shape in ((0, 5), (3, 0)):
            if shape == (3, 0) and op.name in ("max", "argmax", "max_with_argmax") or op.kind not in ("fold", "rows", "map"):
                continue
            arguments = op.inputs(awkward((3, 5), "float32", rng)["empty_axis" if shape == (3, 0) else "empty_batch"].reshape(shape), rng)
            actual, expected = on_device(op.name, *arguments), getattr(sc, op.name)(*arguments)
            for a, e in zip(*[r if isinstance(r, tuple) else (r,) for r in (actual, expected)]):
                np.testing.assert_array_equal(a, e)


# ------------------------------------------------------------------------------------------------------------ out and inputs


def test_out_is_written_and_returned(rng):
    x = rng.standard_normal((5, 40)).astype(np.float32)
    for name in ("softmax", "log_softmax", "logsumexp"):
        out = to_device(np.zeros_like(sc.logsumexp(x) if name == "logsumexp" else x))
        assert getattr(sc, name)(to_device(x), out=out) is out
        assert same_bits(out.get(), on_device(name, x))
        in_place = to_device(x)
        if name != "logsumexp":
            assert getattr(sc, name)(in_place, out=in_place) is in_place
            assert same_bits(in_place.get(), out.get())


@pytest.mark.parametrize("values", [[3e38, 1e38], [3e38, -3e38], [1e38, 3e38, np.inf], [np.nan, 3e38]])
@pytest.mark.parametrize("scale", [3.7, -3.7, 0.5, 1e30])
def test_a_scale_of_huge_numbers(values, scale):
    x = np.array(values, np.float32)
    for given, axis in ((x, -1), (x[:, None], 0)):
        np.testing.assert_array_equal(on_device("log_softmax", given, axis=axis, scale=scale), sc.log_softmax(given, axis, scale=scale))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("window", [1, 2, 3])
def test_pooling_from_anywhere_in_a_buffer(window, dtype, rng):
    x = rng.standard_normal(70).astype(dtype)
    for first in (1, 3, 8):
        assert same_bits(sc.max_pool(to_device(x)[first:], window).get(), sc.max_pool(x[first:], window))


@pytest.mark.parametrize("name", ["relu", "maximum", "step", "sigmoid"])
def test_every_half_from_anywhere_in_a_buffer(name):
    x = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    for first, last in ((0, 1 << 16), (1, 1 << 16), (5, 12), (5, 13), (0x7BF9, 0x7C0A)):
        given = [x[first:last], x[::-1][first:last]][: 1 + (name == "maximum")]
        there = [to_device(x)[first:last], to_device(x[::-1].copy())[first:last]][: len(given)]
        with np.errstate(all="ignore"):
            actual, expected = getattr(sc, name)(*there).get(), getattr(sc, name)(*given)
        if name == "sigmoid":
            np.testing.assert_allclose(actual, expected, rtol=2e-3, atol=1e-7)
        else:
            np.testing.assert_array_equal(actual, expected)
            assert (np.signbit(actual) == np.signbit(expected))[~np.isnan(actual)].all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 7, 8, 9, 16, 21])
def test_element_wise_operands_that_lie_differently(n, dtype, rng):
    memory = rng.standard_normal((4, 5, 2 * n)).astype(dtype)
    there = to_device(memory)
    views = [lambda a: a[0, :, :n], lambda a: a[1, :, ::2], lambda a: a[2, :, n : n + 1], lambda a: a[3, :, ::-2]]
    for first, second, third in ((0, 1, 2), (2, 3, 0), (1, 2, 2)):
        given, on_it = ([views[i](a) for i in (first, second, third)] for a in (memory, there))
        assert same_bits(sc.maximum(*on_it[:2]).get(), sc.maximum(*given[:2]))
        np.testing.assert_allclose(sc.gate(*on_it).get(), sc.gate(*given), rtol=2e-3 if dtype == np.float16 else 1e-6, atol=1e-7)
        out = to_device(np.zeros((5, 2 * n), dtype))
        sc.maximum(*on_it[:2], out=out[:, ::2])
        assert same_bits(out.get()[:, ::2], sc.maximum(*given[:2])) and not out.get()[:, 1::2].any()


@pytest.mark.parametrize("shift", [1, -1, 7])
def test_partial_overlap(shift, rng):
    memory = rng.standard_normal(6 * 5 + 7).astype(np.float32)
    first, second = (slice(max(0, s), max(0, s) + 30) for s in (shift, -shift))
    buffer = to_device(memory)
    x, out = (buffer[s].reshape(6, 5) for s in (first, second))
    sc.softmax(x, out=out)
    assert same_bits(buffer[second].get().reshape(6, 5), on_device("softmax", memory[first].reshape(6, 5)))


def test_mixed_dtypes(rng):
    dy, y = rng.standard_normal((4, 30)), on_device("softmax", rng.standard_normal((4, 30)).astype(np.float32))
    dx = on_device("softmax_backward", dy, y)
    assert dx.dtype == np.float32
    np.testing.assert_allclose(dx, sc.softmax_backward(dy, y), rtol=1e-6, atol=1e-8)


def test_a_number_beside_arrays(rng):
    x = rng.standard_normal((4, 30)).astype(np.float32)
    dx = get(sc.logsumexp_backward(2.0, to_device(x), sc.logsumexp(to_device(x))))
    np.testing.assert_allclose(dx, sc.logsumexp_backward(2.0, x, sc.logsumexp(x)), rtol=1e-5)


def test_errors(rng):
    x = rng.standard_normal((4, 30)).astype(np.float32)
    there = to_device(x)
    with pytest.raises(TypeError, match="softmax_backward: y is a pyopencl array and dy is not, all must be of one kind"):
        sc.softmax_backward(x, there)
    with pytest.raises(TypeError, match="softmax: where is not a pyopencl array and the other arrays are"):
        sc.softmax(there, where=x > 0)
    with pytest.raises(TypeError, match="softmax: where has dtype float32, it must be bool"):
        sc.softmax(there, where=there)
    with pytest.raises(TypeError, match="softmax: where is a pyopencl array"):
        sc.softmax(x, where=there)
    with pytest.raises(TypeError, match="softmax: out is a ndarray, it must be a pyopencl.array.Array"):
        sc.softmax(there, out=x)
    with pytest.raises(TypeError, match="softmax: out has dtype int32, it must be float32"):
        sc.softmax(there, out=to_device(np.zeros((4, 30), np.int32)))
    with pytest.raises(ValueError, match=r"softmax: out has shape \(30, 4\), it must be \(4, 30\)"):
        sc.softmax(there, out=to_device(np.zeros((30, 4), np.float32)))
    with pytest.raises(TypeError, match="softmax: x has dtype complex64"):
        sc.softmax(cl.array.to_device(sc.opencl.queue(), x.astype(np.complex64)))
    with pytest.raises(ValueError, match="softmax: x has no queue"):
        sc.softmax(there.with_queue(None))
    with pytest.raises(ValueError, match="softmax: out has no queue"):
        sc.softmax(there, out=to_device(x).with_queue(None))
    guarded = to_device(np.full(30, 7, np.float32))
    for shape, place in (((4, 30), {}), ((30,), {"offset": 4}), ((4,), {"strides": (-4,), "offset": 8}), ((2, 8), {"strides": (4, 20)})):
        beyond = cl.array.Array(guarded.queue, shape, np.float32, data=guarded.base_data, **place)
        with pytest.raises(ValueError, match="softmax: out has elements outside its buffer"):
            sc.softmax(to_device(np.zeros(shape, np.float32)), out=beyond)
        with pytest.raises(ValueError, match="softmax: x has elements outside its buffer"):
            sc.softmax(beyond)
    assert (guarded.get() == 7).all()


def test_to_device_keeps_the_order(rng):
    x = rng.standard_normal((4, 6))
    for a in (x, np.asfortranarray(x), x[::-1, ::2], x.astype(">f8"), x[0, 0], [[1, 2], [3, 4]]):
        there = sc.opencl.to_device(a)
        np.testing.assert_array_equal(there.get(), a)
        assert there.shape == np.shape(a) and there.dtype.isnative
