"""The same bits every time: whatever the threads, the batch around a row, the layout, the axis, and the instruction set."""

from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest

import softcore as sc
from softcore import kernels, planner
from softcore.reference import OPS
from softcore.testing import awkward, broadcasts, layouts

OPS = {name: op for name, op in OPS.items() if op.kind not in ("windows", "mixture", "attention")}  # which have tests of their own
FLOATING = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32), np.dtype(np.float64)]
REDUCING = [op for op in OPS.values() if op.kind in ("fold", "rows")]
ELEMENTWISE = [op for op in OPS.values() if op.kind == "map"]
ISAS = kernels.available()
SERIAL = kernels.core.openmp_runtime().startswith("none")
# Lengths inside a vector, inside a tile, past a tile, past a frame, past a chunk of every dtype.
LENGTHS = [5, 13, 40, 200, 1100, 4200, 17000]


def named(op):
    return op.name


def bits(result):
    """dtype, shape and raw bytes of a result, or of each of several."""
    if isinstance(result, tuple):
        return tuple(map(bits, result))
    result = np.asarray(result)
    return result.dtype, result.shape, result.tobytes()


def call(op, arguments, axis=-1, **options):
    if "axis" in op.options:
        options["axis"] = axis
    return getattr(sc, op.name)(*arguments, **{**op.apart, **options})


def operands(op, rows, length, dtype=np.float32, seed=0):
    """Arguments of a call over a matrix of ordinary values."""
    rng = np.random.default_rng(seed)
    x = (3 * rng.standard_normal((rows, length))).astype(dtype)
    return op.inputs(x, rng, **op.apart)


def pieces(arguments, part):
    return tuple(a[part] for a in arguments)


def joined(results):
    if isinstance(results[0], tuple):
        return tuple(map(joined, zip(*results)))
    return np.concatenate(results)


def test_bits_see_every_difference():
    x = np.array([0.0, 1.0], np.float32)
    assert bits(x) == bits(x.copy())
    for other in (-x, x.astype(float), x[None], np.nextafter(x, np.float32(2)), (x,)):
        assert bits(other) != bits(x)


@pytest.mark.skipif(SERIAL, reason="a build without OpenMP has one thread")
@pytest.mark.parametrize("shape", [(1, 300_001), (3, 140_000), (700, 257), (20_000, 10)])
@pytest.mark.parametrize("op", OPS.values(), ids=named)
def test_threads(op, shape):
    arguments = operands(op, *shape)
    turned = tuple(np.ascontiguousarray(a.T) if a.ndim == 2 else a for a in arguments)
    for axis, given in ((-1, arguments), (0, turned)):
        with sc.num_threads(1):
            expected = bits(call(op, given, axis))
        for n in (2, 3, 5):
            with sc.num_threads(n):
                assert bits(call(op, given, axis)) == expected, f"axis {axis}, {n} threads"


@pytest.mark.skipif(SERIAL, reason="a build without OpenMP has one thread")
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("op", REDUCING, ids=named)
def test_one_long_row_split_over_threads(op, dtype, monkeypatch):
    monkeypatch.setattr(planner, "GRAIN", 1 << 12)  # so that each of five threads has enough to do, of cheap ops too
    rng = np.random.default_rng(0)
    x = (3 * rng.standard_normal((1, 200_003))).astype(dtype)
    x[0, ::1000] = -np.inf
    arguments = op.inputs(x, rng, **op.apart)
    with sc.num_threads(1):
        expected = bits(call(op, arguments))
    for n in (2, 3, 5):
        with sc.num_threads(n):
            if op.name not in ("hardmax", "max_backward", "logsumexp_backward"):
                assert sc.plan(op.name, x).executor == "split"
            assert bits(call(op, arguments)) == expected


@pytest.mark.parametrize("shape", [(90, 130), (11, 1001), (3, 17_001)], ids=str)
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("op", OPS.values(), ids=named)
def test_past_the_cache(op, dtype, shape, monkeypatch):
    # Whole lines are written past it, which rows share that do not end at one.
    arguments = operands(op, *shape, dtype)
    expected = bits(call(op, arguments))
    monkeypatch.setattr(planner, "LAST_LEVEL", 0)
    monkeypatch.setattr(planner, "L2", 0)
    assert bits(call(op, arguments)) == expected


@pytest.mark.parametrize("shape", [(90, 131), (5, 5003)], ids=str)
@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("op", OPS.values(), ids=named)
def test_past_the_cache_by_way_of_copies(op, axis, shape, monkeypatch):
    # A result that is masked, converted, or has no row of neighbours is written by a copy, which must be whole.
    rng = np.random.default_rng(0)
    arguments = op.inputs((3 * rng.standard_normal(shape)).astype(np.float32), rng, axis=axis, **op.apart)
    forms = [{}]
    if "where" in op.options:
        mask = rng.random(shape) < 0.7
        mask[0] = mask[:, 0] = True  # there is no maximum of nothing
        forms.append({"where": mask})
    expected = [bits(call(op, arguments, axis, **options)) for options in forms]
    monkeypatch.setattr(planner, "LAST_LEVEL", 0)
    monkeypatch.setattr(planner, "L2", 0)
    for options, bits_before in zip(forms, expected):
        for layout in ("contiguous", "fortran", "every_other", "byte_swapped"):
            given = tuple(layouts(a)[layout] if isinstance(a, np.ndarray) and a.ndim == 2 else a for a in arguments)
            assert bits(call(op, given, axis, **options)) == bits_before, layout
            result = call(op, given, axis, **options)
            for place in ("fortran", "every_other", "padded") if isinstance(result, np.ndarray) and result.ndim == 2 else ():
                out = layouts(np.full_like(result, 7))[place]
                call(op, given, axis, **options, out=out)
                assert bits(out) == bits_before, (layout, place)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("op", OPS.values(), ids=named)
def test_batch(op, dtype, length):
    rows = 40 if length < 5000 else 4
    arguments = operands(op, rows, length, dtype)
    expected = bits(call(op, arguments))
    for cut in (1, 7, 16, rows // 2):
        parts = [call(op, pieces(arguments, slice(i, i + cut))) for i in range(0, rows, cut)]
        assert bits(joined(parts)) == expected, f"in batches of {cut}"
    if op.kind != "map" or op.direction == "forward":
        alone = [call(op, pieces(arguments, i)) for i in range(rows)]
        alone = tuple(map(np.stack, zip(*alone))) if isinstance(alone[0], tuple) else np.stack(alone)
        assert bits(alone) == expected, "row by row"


# On AVX2 exponentials are found in two steps, of 512 elements before the next, and of up to 1023 at the end of a row.
@pytest.mark.parametrize("length", [496, 511, 512, 513, 1023, 1024, 1025, 1537, 4096 + 1023, 4096 + 1025, 8192 + 500])
@pytest.mark.parametrize("op", REDUCING, ids=named)
def test_where_pieces_end(op, length):
    test_batch(op, np.float32, length)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("op", ELEMENTWISE, ids=named)
def test_where_tiles_end(op, dtype):
    # Each result is that of its elements, wherever a tile begins.
    for length in (1023, 1024, 1025, 2048, 3001):
        arguments = tuple(a[0] for a in operands(op, 2, length, dtype))
        whole = call(op, arguments)
        for start in (1, 7, 16, 999, 1000):
            parts = call(op, pieces(arguments, slice(start, None)))
            rest = tuple(y[start:] for y in whole) if isinstance(whole, tuple) else whole[start:]
            assert bits(parts) == bits(rest), f"{length} from {start} on"


@pytest.mark.parametrize("name", ["one_nan", "nans", "plus_inf", "all_minus_inf", "some_minus_inf"])
@pytest.mark.parametrize("op", REDUCING, ids=named)
def test_bad_rows_do_not_disturb_others(op, name):
    rng = np.random.default_rng(0)
    for length in (40, 200):
        x = rng.standard_normal((33, length)).astype(np.float32)
        arguments = op.inputs(x, np.random.default_rng(1), **op.apart)
        bad = x.copy()
        bad[16] = awkward((1, length), np.float32, rng)[name]
        disturbed = op.inputs(bad, np.random.default_rng(1), **op.apart)
        keep = np.arange(33) != 16
        arguments, disturbed = (tuple(np.array(a) for a in given) for given in (arguments, disturbed))
        for axis in (-1, 0):
            results = []
            for given in (arguments, disturbed):
                given = given if axis else tuple(np.ascontiguousarray(a.T) for a in given)
                y = call(op, given, axis)
                y = y if isinstance(y, tuple) else (y,)
                results.append(bits(tuple((a if axis or a.ndim == 1 else a.T)[keep] for a in y)))
            assert results[0] == results[1], f"length {length}, axis {axis}"


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("op", OPS.values(), ids=named)
def test_layouts(op, dtype, length):
    arguments = operands(op, 5, length, dtype)
    expected = bits(call(op, arguments))
    ways = [layouts(a) for a in arguments]
    for way in set.intersection(*map(set, ways)):
        assert bits(call(op, tuple(w[way] for w in ways))) == expected, way
    for i in range(len(arguments)):  # one operand of another layout than the rest
        mixed = [*arguments]
        mixed[i] = ways[i]["reversed"]
        assert bits(call(op, tuple(mixed))) == expected, f"operand {i} reversed"


@pytest.mark.parametrize("length", [1, 3, 5, 8, 17, 63])
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("op", ELEMENTWISE, ids=named)
def test_short_rows_with_gaps(op, dtype, length):
    # They are packed, two dimensions of rows at a time, and come back to their gaps.
    arguments = operands(op, 6 * 70, length, dtype)
    expected = call(op, arguments)
    several = isinstance(expected, tuple)
    expected = expected if several else (expected,)

    def with_gaps(a):
        room = np.full((6, 70, length + 3), 7, a.dtype)
        room[:, :68, 1:-2] = a.reshape(6, 70, length)[:, :68]
        return room

    def within(room):
        return room[:, :68, 1:-2]

    rooms = [with_gaps(np.asarray(a)) for a in arguments]
    given = tuple(map(within, rooms))
    wanted = tuple(map(with_gaps, expected))
    results = tuple(with_gaps(np.zeros_like(a)) for a in expected)
    out = tuple(map(within, results))
    call(op, given, out=out if several else out[0])
    assert bits(results) == bits(wanted)
    y = call(op, given)
    assert bits(y if several else (y,)) == bits(tuple(np.ascontiguousarray(within(a)) for a in wanted))
    if given[0].dtype == out[0].dtype:  # in place
        out = (given[0], *out[1:])
        call(op, given, out=out if several else out[0])
        assert bits((rooms[0], *results[1:])) == bits(wanted)


@pytest.mark.parametrize("op", OPS.values(), ids=named)
def test_broadcast_strides(op):
    arguments = operands(op, 6, 200)
    for name, x in broadcasts(arguments[-1]).items():
        given = (*arguments[:-1], x)
        assert bits(call(op, given)) == bits(call(op, (*arguments[:-1], x.copy()))), name


@pytest.mark.parametrize("length", [1, 7, 8, 9, 33, 128, 1001, 5000])
@pytest.mark.parametrize("dtype", [*FLOATING, np.dtype(np.int8), np.dtype(np.uint16), np.dtype(np.int64)], ids=str)
def test_narrow_columns(dtype, length):
    # Of which several rows are taken as one; beside a copy in which a gap between rows forbids it, and the rows that they are elsewhere.
    rng = np.random.default_rng(length)
    for width in (1, 2, 3, 5, 15, 16, 17, 31, 33, 63, 64, 65, 130):
        for kind in ("few", "many", "zeros", "nans", "lowest"):
            x = rng.integers(0, 3 if kind == "few" else 100, (2, length, width)).astype(dtype)
            if dtype.kind in "iu":
                x[...] = np.iinfo(dtype).min if kind == "lowest" else x
            elif kind == "zeros":
                x = (x * 0) * np.where(rng.random(x.shape) < 0.5, -1, 1).astype(dtype)
            elif kind == "nans":
                x[rng.random(x.shape) < 3 / length] = np.nan
            elif kind == "lowest":
                x[...] = -np.inf
            apart = np.zeros((2, length, width + 1), dtype)[..., :width]
            apart[...] = x
            turned = np.ascontiguousarray(np.swapaxes(x, 1, 2))
            for last in (False, True):
                values, indices = sc.max_with_argmax(x, 1, select_last=last)
                assert bits((values, indices)) == bits(sc.max_with_argmax(apart, 1, select_last=last))
                assert bits((values, indices)) == bits(sc.max_with_argmax(turned, -1, select_last=last))
                assert bits(indices) == bits(sc.argmax(x, 1, select_last=last))
                assert bits(values) == bits(np.take_along_axis(x, indices[:, None], 1)[:, 0])
            assert bits(sc.max(x, 1)) == bits(sc.max(apart, 1)) == bits(sc.max(turned, -1))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("name", ["maximum", "gate"])
def test_operands_that_broadcast(name, dtype):
    # The short way of plain arrays, beside operands of the whole shape, and in other orders of axes, which go the long one.
    rng = np.random.default_rng(3)
    shapes = [
        ((100, 100), (1, 100)), ((100, 100), (100, 1)), ((7, 1), (1, 5)), ((3, 1000), (1000,)), ((20, 20, 50), (1, 20, 50)),
        ((8, 3, 8, 8), (3, 1, 1)), ((2, 3, 4), ()), ((1000, 3), (1, 3)), ((1, 1), (5,)), ((4, 1, 6, 1), (5, 1, 7)), ((2, 1), (2, 2000)),
    ]  # fmt: skip
    for pair in shapes:
        for own in (pair, pair[::-1]):
            arrays = [awkward_of(rng, s, dtype) for s in (own if name == "maximum" else (*own, own[0]))]
            full = np.broadcast_shapes(*own)
            whole = [np.array(np.broadcast_to(a, full)) for a in arrays]
            function = getattr(sc, name)
            wanted = bits(function(*whole))
            assert bits(function(*arrays)) == wanted, own
            assert bits(function(*(np.array(a, order="F") for a in arrays))) == wanted, own
            assert bits(function(*arrays, out=np.empty(full, dtype))) == wanted, own
            if name == "maximum":
                assert isinstance(function(*(a.reshape(-1)[0] for a in arrays)), np.generic)
                assert isinstance(function(*(a.reshape(-1)[:1].reshape(()) for a in arrays)), np.generic)
                assert np.array_equal(function(*arrays).astype(float), np.maximum(*(a.astype(float) for a in arrays)), equal_nan=True)


def awkward_of(rng, shape, dtype):
    x = np.asarray(rng.standard_normal(shape)).astype(dtype)
    x[np.asarray(rng.random(shape) < 0.1)] = np.nan
    x[np.asarray(rng.random(shape) < 0.1)] = -0.0
    x[np.asarray(rng.random(shape) < 0.1)] = 0.0
    return x


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("op", REDUCING, ids=named)
def test_axis_0_is_the_last_axis_transposed(op, dtype, length):
    arguments = operands(op, 70 if length < 5000 else 5, length, dtype)
    expected = bits(call(op, arguments))
    for order in "CF":
        turned = tuple(np.array(a.T, order=order) if a.ndim == 2 else a for a in arguments)
        result = call(op, turned, axis=0)
        result = tuple(r.T if r.ndim == 2 else r for r in (result if isinstance(result, tuple) else (result,)))
        assert bits(result if len(result) > 1 else result[0]) == expected, order


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("op", REDUCING, ids=named)
def test_a_middle_axis(op, length):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 20, length), np.float32) if length < 5000 else rng.standard_normal((2, 2, length), np.float32)
    arguments = op.inputs(x, rng, **op.apart)
    expected = call(op, arguments)
    middle = tuple(np.ascontiguousarray(np.swapaxes(a, 1, 2)) if a.ndim == 3 else a for a in arguments)
    result = call(op, middle, axis=1)
    pair = lambda r: r if isinstance(r, tuple) else (r,)  # noqa: E731
    back = tuple(np.swapaxes(r, 1, 2) if r.ndim == 3 else r for r in pair(result))
    assert bits(back) == bits(pair(expected))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("op", [op for op in OPS.values() if op.kind != "fold" and op.name not in ("maximum_backward", "gate_backward")], ids=named)
def test_in_place(op, dtype):
    for length in LENGTHS:
        for axis in (-1, 0):
            arguments = operands(op, 9, length, dtype)
            if axis == 0:
                arguments = tuple(np.ascontiguousarray(a.T) if a.ndim == 2 else a for a in arguments)
            expected = bits(call(op, arguments, axis))
            for i, a in enumerate(arguments):
                if bits(a)[:2] == expected[:2]:
                    fresh = [b.copy() for b in arguments]
                    assert bits(call(op, fresh, axis, out=fresh[i])) == expected, f"length {length}, axis {axis}, over operand {i}"


@pytest.mark.parametrize("op", [op for op in REDUCING if "where" in op.options], ids=named)
def test_mask_of_all_true_is_no_mask(op):
    for length in LENGTHS:
        arguments = operands(op, 5, length)
        assert bits(call(op, arguments, where=np.ones((5, length), bool))) == bits(call(op, arguments)), length


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", OPS.values(), ids=named)
def test_again(op, isa):
    with kernels.use(isa):
        arguments = operands(op, 50, 700)
        assert len({bits(call(op, arguments)) for _ in range(5)}) == 1


@pytest.mark.skipif(not {"avx2", "avx512"} <= set(ISAS), reason="needs a CPU with AVX-512, and the kernels for it")
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("op", OPS.values(), ids=named)
def test_avx2_and_avx512(op, dtype, length):
    rng = np.random.default_rng(0)
    inputs = [x for x in awkward((20, length), dtype, rng).values() if x.shape == (20, length)]
    for x in inputs:
        arguments = op.inputs(x, rng, **op.apart)
        turned = tuple(np.ascontiguousarray(a.T) if a.ndim == 2 else a for a in arguments)
        for axis, given in ((-1, arguments), (0, turned)):
            results = []
            for isa in ("avx2", "avx512"):
                with kernels.use(isa):
                    results.append(call(op, given, axis))
            first, second = (r if isinstance(r, tuple) else (r,) for r in results)
            for a, b in zip(first, second):
                # The sign of a NaN is the processor's business.
                assert bits(np.where(np.isnan(a), 0, a)) == bits(np.where(np.isnan(b), 0, b))
                assert np.array_equal(np.isnan(a), np.isnan(b))


@pytest.mark.parametrize("op", OPS.values(), ids=named)
def test_sixteen_python_threads(op):
    rng = np.random.default_rng(0)
    arguments = op.inputs(rng.standard_normal((300, 300), np.float32), rng)
    expected = bits(call(op, arguments))
    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(lambda _: bits(call(op, arguments)) == expected, range(32)))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("op", [sc.log_softmax, sc.logsumexp], ids=lambda f: f.__name__)
def test_the_sign_of_nan_is_the_same_in_every_walk(op, dtype, rng):
    # Other ops may give NaN either sign where they read NaN of negative sign: an x86 processor keeps that of one operand.
    for length in LENGTHS:
        x = rng.standard_normal((4, length)).astype(dtype)
        x[0, 2], x[1, 3], x[2, 1] = np.nan, -np.nan, np.inf
        x[3, [0, 4]] = np.nan, -np.nan
        found = set()
        for isa in ISAS:
            with kernels.use(isa):
                for y in (op(x), op(np.ascontiguousarray(x.T), 0).T, op(np.repeat(x, 2, -1)[:, ::2])):
                    found.add(bits(np.ascontiguousarray(y))[2])
        assert len(found) == 1


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("op", [sc.softmax, sc.log_softmax, sc.logsumexp], ids=lambda f: f.__name__)
def test_what_stands_out_in_a_long_row(op, dtype, isa, rng):
    # Its maximum is found a frame ahead, wherever the row begins in a line; taken from gaps, each frame stands alone.
    frame = 16384 // max(4, dtype.itemsize)
    n = 6 * frame + 5
    room = np.empty(n + 16, dtype)
    quiet = (3 * rng.standard_normal(n)).astype(dtype)
    with kernels.use(isa):
        for place in (0, 1, 15, frame - 1, frame, frame + 9, 2 * frame, 4 * frame - 1, 4 * frame, n - 6, n - 1):
            for extreme in (60, np.inf, np.nan):
                for start in (0, 3):
                    x = room[start : start + n]
                    x[:] = quiet
                    x[place] = extreme
                    apart = op(np.repeat(x, 2)[::2])
                    assert bits(op(x)) == bits(apart), (place, extreme, start)
                    assert np.isnan(np.asarray(apart).astype(float)).any() == (extreme != extreme or (extreme == np.inf and op is not sc.logsumexp))
        low = np.full(n, -np.inf, dtype)
        low[5 * frame + 2] = 1  # frames of nothing else
        assert bits(op(low)) == bits(op(np.repeat(low, 2)[::2]))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("op", [sc.softmax, sc.log_softmax, sc.cross_entropy_with_grad], ids=lambda f: f.__name__)
def test_long_rows_are_walked_as_if_alone(op, dtype, isa, rng, monkeypatch):
    # A row is written while the next is read, from exponentials that were kept, unless its frames lie too far apart or from 0.
    frame = 16384 // max(4, dtype.itemsize)
    for n in (frame + 1, 2 * frame + 77, 5 * frame + 16):
        x = (3 * rng.standard_normal((14, n))).astype(dtype)
        x[1] = np.linspace(-300, 300, n)
        x[2, :frame], x[2, frame:] = -250, 0
        x[3], x[4, : frame + 5] = -np.inf, -np.inf
        x[5, 7], x[6, -1], x[7, frame] = np.nan, np.inf, 1000
        x[8] = 400 + x[8]
        x[9, 3:-3], x[9, 0] = -np.inf, 5
        x[10] = 2
        x[11, : n // 2] += 300
        labels = rng.integers(0, n, len(x))
        labels[:3] = 0, n - 1, frame

        def call(x, rows):
            if op is sc.cross_entropy_with_grad:
                return op(x, labels[rows], reduction="none")
            return (op(x),)

        with kernels.use(isa):
            apart = [call(np.repeat(row, 2)[::2][None], slice(i, i + 1)) for i, row in enumerate(x)]
            expected = bits(tuple(map(np.concatenate, zip(*apart))))
            room = np.empty(x.size + 3, dtype)[3:].reshape(x.shape)  # beginning anywhere in a line
            room[...] = x
            for level in (planner.LAST_LEVEL, 0):
                monkeypatch.setattr(planner, "LAST_LEVEL", level)
                for threads in (1, 3):
                    with sc.num_threads(threads):
                        assert bits(call(x, slice(None))) == expected
                        assert bits(call(room, slice(None))) == expected
            if op is not sc.cross_entropy_with_grad:
                assert bits((op(room, out=room),)) == expected
                back = np.ascontiguousarray(x[::-1])
                assert bits((op(back)[::-1].copy(),)) == expected


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("op", [sc.softmax, sc.log_softmax, sc.logsumexp], ids=lambda f: f.__name__)
def test_slabs_of_columns_go_as_if_alone(op, dtype, isa, rng, monkeypatch):
    # One slab is written while the next is summed and the one after is met, whatever they hold and wherever they begin in a line.
    for n in (2, 7, 8, 9, 63, 64, 65, 256, 257, 300):
        for width in (1, 63, 65, 129, 330):
            x = (3 * rng.standard_normal((2, n, width))).astype(dtype)
            x[0, 0, 0], x[0, -1, -1], x[1, n // 2, width // 2] = np.nan, np.inf, 500
            x[1, :, 0], x[1, 1:, -1] = -np.inf, -np.inf
            x[0, :, width // 3] = -400
            x[0, n // 3, width // 3] = 0  # beside it the others are too thin
            x[1, :, width // 2 : width // 2 + 20] += 300  # far from 0
            with kernels.use(isa):
                apart = [op(np.repeat(row, 2)[::2]) for row in x.transpose(0, 2, 1).reshape(-1, n)]
            expected = np.stack(apart).reshape(2, width, *np.shape(apart[0]))
            expected = expected.swapaxes(1, 2) if expected.ndim == 3 else expected
            room = np.empty(x.size + 5, dtype)[5:].reshape(x.shape)
            room[...] = x
            with kernels.use(isa):
                for level in (planner.LAST_LEVEL, 0):
                    monkeypatch.setattr(planner, "LAST_LEVEL", level)
                    assert bits(op(x, axis=1)) == bits(expected), (n, width)
                    assert bits(op(room, axis=1)) == bits(expected), (n, width)
                    assert bits(op(np.ascontiguousarray(x.transpose(0, 2, 1)))) == bits(np.ascontiguousarray(expected.swapaxes(1, 2)) if expected.ndim == 3 else expected)
                if op is not sc.logsumexp:
                    assert bits(op(room, axis=1, out=room)) == bits(expected), (n, width)


@pytest.mark.skipif(SERIAL, reason="a build without OpenMP has one thread")
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_a_long_row_with_a_spike_in_place(dtype):
    # What the spike leaves is too little for the grid of its frame: the row is taken again, before any thread writes over it.
    x = np.full(200_001, -40, dtype)
    x[70_000] = 0
    with sc.num_threads(1):
        expected = bits(sc.log_softmax(x))
    for _ in range(5):
        with sc.num_threads(4):
            y = x.copy()
            assert bits(sc.log_softmax(y, out=y)) == expected
