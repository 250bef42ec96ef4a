"""softmax_gate and topk_gate: every dtype, instruction set, layout and edge against the definitions, PyTorch and differences.

A sum is measured by its terms: an error of a few roundings of the dtype of arithmetic at the sum of their magnitudes, and the one
final rounding to the dtype of the result.
"""

import itertools
import tracemalloc

import ml_dtypes
import numpy as np
import pytest

import softcore as sc
from softcore import kernels, planner
from softcore import reference as ref
from softcore.reference._common import _sum_to
from softcore.reference._mixtures import _mixed
from softcore.testing import awkward, check_grad, layouts

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATING = [np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64)]
INTEGERS = [np.dtype(t) for t in "?bBhHiIqQ"]
ISAS = kernels.available()
SERIAL = kernels.core.openmp_runtime().startswith("none")
INF, NAN = np.inf, np.nan

# x, r
SHAPES = {
    "a single row": ((5, 3), (5,)),
    "one element": ((1, 1), (1,)),
    "one of one": ((3, 1, 1), (3, 1)),
    "one column": ((2, 100, 1), (2, 100)),
    "one row of x": ((4, 1, 70), (4, 1)),
    "eight rows and one": ((3, 9, 17), (3, 9)),
    "lanes": ((3, 64, 64), (3, 64)),
    "a stretch and one": ((2, 65, 65), (2, 65)),
    "many columns": ((2, 11, 1500), (2, 11)),
    "a frame": ((1, 4096, 2), (1, 4096)),
    "longer than a frame": ((2, 4100, 5), (2, 4100)),
    "several chunks": ((1, 33000, 3), (1, 33000)),
    "many items": ((300, 20, 4), (300, 20)),
    "two batch axes": ((2, 3, 7, 20), (2, 3, 7)),
    "x shared": ((6, 40), (5, 6)),
    "x shared by many": ((150, 70), (70, 150)),
    "r shared": ((40, 6, 33), (6,)),
    "each shared along an axis": ((3, 1, 20, 7), (1, 4, 20)),
    "x shared, longer than a frame": ((4100, 3), (3, 4100)),
    "r shared, longer than a frame": ((3, 4100, 3), (4100,)),
    "x shared, many columns": ((3, 600), (4, 3)),
}
EMPTY = {
    "no rows": ((2, 0, 3), (2, 0)),
    "no columns": ((2, 4, 0), (2, 4)),
    "no batch": ((0, 4, 3), (0, 4)),
    "no batch, x shared": ((4, 3), (0, 4)),
}

_FORMATS = {"float16": (11, -14), "bfloat16": (8, -126), "float32": (24, -126), "float64": (53, -1022)}


def wide(a):
    a = np.asarray(a)
    return a.astype(np.longdouble) if a.dtype == np.float64 or a.dtype.kind in "iu" else a.astype(float)


def assert_close(actual, expected, terms, roundings, message="", products=8):
    """Within half a unit of the result's dtype, and some roundings of the terms in the dtype of arithmetic.

    Each of the products that are added may lose half the smallest number as well.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, message
    digits, smallest = _FORMATS[actual.dtype.name]
    with np.errstate(all="ignore"):
        rounded = expected.astype(actual.dtype)
        a, e, r = (b.astype(np.longdouble) for b in (actual, expected, rounded))
        unit = np.ldexp(np.longdouble(1), np.maximum(np.frexp(np.abs(e))[1] - 1, smallest) - (digits - 1))
        slack = roundings * (2.0**-53 if digits == 53 else 2.0**-24) * np.abs(np.where(np.isfinite(terms), terms, 0))
        tiny = products * (np.longdouble(5e-324) if digits == 53 else 1.5e-45)
        good = (np.abs(a - e) <= 0.501 * unit + slack + tiny) | (a == r) | (np.isnan(a) & np.isnan(e))
    bad = np.argwhere(~good)
    assert not len(bad), f"{message}: {actual[tuple(bad[0])]!r} for {expected[tuple(bad[0])]!r} at {bad[0]}"


def make(name, dtype, seed=0):
    """x, r, do and a mask of these shapes."""
    rng = np.random.default_rng(seed)
    shape = {**SHAPES, **EMPTY}[name]
    batch = np.broadcast_shapes(shape[0][:-2], shape[1][:-1])
    x, r = rng.standard_normal(shape[0]).astype(dtype), (3 * rng.standard_normal(shape[1])).astype(dtype)
    do = rng.standard_normal((*batch, shape[0][-1])).astype(dtype)
    where = rng.random((*batch, shape[1][-1])) < 0.6
    return x, r, do, where


def compare(x, r, do, message="", **options):
    """softmax_gate, its lse and its gradients on every instruction set, against the definition."""
    given = tuple(map(wide, (x, r)))
    where = options.get("where")
    with np.errstate(all="ignore"):
        o, lse = ref.softmax_gate(*given, return_lse=True, **options)
        dx, dr = ref.softmax_gate_backward(wide(do), *given, **options)
        hidden, z, taken = _mixed(*given, where, options.get("scale", 1.0))
        w = np.nan_to_num(ref.softmax(z, where=taken))
        o_terms = np.sum(w[..., None] * np.abs(np.nan_to_num(hidden)), axis=-2)
        s = np.sum(np.abs(np.nan_to_num(hidden * wide(do)[..., None, :])), axis=-1)
        dr_terms = abs(options.get("scale", 1.0)) * w * (s + np.sum(w * s, axis=-1, keepdims=True))
        dx_terms = w[..., None] * np.abs(np.nan_to_num(wide(do)))[..., None, :]
        dx_terms, dr_terms = _sum_to(dx_terms, x.shape), _sum_to(dr_terms, r.shape)
    products = 8 + x.shape[-2] + x.shape[-1]
    for isa in ISAS:
        with kernels.use(isa):
            actual, found = sc.softmax_gate(x, r, return_lse=True, **options)
            assert np.array_equal(actual, sc.softmax_gate(x, r, **options), equal_nan=True)
            gradients = sc.softmax_gate_backward(do, x, r, **options)
        assert found.dtype == (np.float64 if actual.dtype == np.float64 else np.float32)
        assert_close(actual, o, o_terms, 8, f"{message} o on {isa}", products)
        assert_close(found, lse, np.maximum(np.abs(np.nan_to_num(lse)), 1), 4, f"{message} lse on {isa}", products)
        assert_close(gradients[0], dx, dx_terms, 8, f"{message} dx on {isa}", products)
        assert_close(gradients[1], dr, dr_terms, 14, f"{message} dr on {isa}", products)


def bits(result):
    if isinstance(result, tuple):
        return tuple(map(bits, result))
    return result.dtype, np.shape(result), result.tobytes()


def every(x, r, do, **options):
    """All results of the gate, as bits."""
    return bits((*sc.softmax_gate(x, r, return_lse=True, **options), *sc.softmax_gate_backward(do, x, r, **options)))


# ------------------------------------------------------------------------------------------------------------ softmax_gate


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("name", [*SHAPES, *EMPTY])
def test_softmax_gate(name, dtype):
    x, r, do, where = make(name, dtype)
    compare(x, r, do, name)
    compare(x, r, do, name, where=where, scale=-0.7)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_awkward_scores_and_rows(dtype, rng):
    for length in (1, 5, 17, 130):
        do = rng.standard_normal((3, 5)).astype(dtype)
        ordinary = rng.standard_normal((3, length, 5)).astype(dtype)
        scores = rng.standard_normal((3, length)).astype(dtype)
        for name, r in awkward((3, length), dtype, rng).items():
            if r.shape == (3, length):
                compare(ordinary, r, do, f"r {name}")
                compare(ordinary, r, do, f"r {name}, masked", where=rng.random(r.shape) < 0.6)
        for name, x in awkward((3, length, 5), dtype, rng).items():
            if x.shape == (3, length, 5) and name not in ("extremes", "huge"):  # whose sums overflow on the way
                compare(x, scores, do, f"x {name}")


@pytest.mark.parametrize("scale", [0.0, 1e-3, -2.0, 1e35, -INF, NAN])
def test_scales(scale, rng):
    for dtype in (np.float16, np.float32, np.float64):
        x, r = rng.standard_normal((3, 20, 4)).astype(dtype), rng.standard_normal((3, 20)).astype(dtype)
        do = rng.standard_normal((3, 4)).astype(dtype)
        with np.errstate(all="ignore"):
            if np.isfinite(scale):
                compare(x, r, do, f"{scale}", scale=scale)
            else:
                assert np.isnan(sc.softmax_gate(x, r, scale=scale)).all()


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_become_float64(dtype, rng):
    x, r = rng.integers(0, 2, (3, 9, 5)).astype(dtype), rng.integers(0, 2, (3, 9)).astype(dtype)
    do = rng.standard_normal((3, 5))
    assert every(x, r, do) == every(x.astype(float), r.astype(float), do)
    assert bits(sc.softmax_gate(x, r)) == bits(sc.softmax_gate(x.astype(float), r.astype(float)))


def test_mixed_dtypes(rng):
    x, r, do, where = make("a stretch and one", np.float32)
    for a, b, c in itertools.product((np.float16, BFLOAT16, np.float32, np.float64, np.int8), repeat=3):
        args = x.astype(a), r.astype(b), do.astype(c)
        if {np.int8, np.float64} & {a, b}:
            dtype = np.float64
        else:
            dtype = a if a == b else np.float32
        o = sc.softmax_gate(*args[:2], where=where)
        assert o.dtype == dtype
        w = ref.softmax(wide(args[1]), where=where)
        terms = np.sum(w[..., None] * np.abs(wide(args[0])), -2)
        assert_close(o, ref.softmax_gate(*map(wide, args[:2]), where=where), terms, 8, f"{a} {b}")
        gradients = sc.softmax_gate_backward(args[2], *args[:2], where=where)
        assert [g.dtype for g in gradients] == [np.dtype(np.float64 if t is np.int8 else t) for t in (a, b)]
        for g, e in zip(gradients, ref.softmax_gate_backward(wide(args[2]), *map(wide, args[:2]), where=where)):
            np.testing.assert_allclose(g.astype(float), e.astype(float), rtol=1e-2, atol=2e-2)


@pytest.mark.parametrize("isa", ISAS)
def test_what_is_masked_out_is_not_read(isa, rng):
    for name in ("a stretch and one", "longer than a frame", "x shared by many", "r shared", "many columns"):
        x, r, do, where = make(name, np.float32)
        if name in ("x shared by many", "r shared"):  # the same mask for all that share
            where = np.broadcast_to(where.reshape(-1, where.shape[-1])[0], where.shape)
        hidden = np.broadcast_to(where.reshape(-1, where.shape[-1])[0], r.shape) if r.ndim < where.ndim else where
        rows = np.broadcast_to(where.reshape(-1, where.shape[-1])[0], x.shape[:-1]) if x.ndim <= where.ndim else where
        with kernels.use(isa):
            expected = every(x, r, do, where=where)
            for bad in np.float32([NAN, INF, -INF]):
                assert every(np.where(rows[..., None], x, bad), np.where(hidden, r, bad), do, where=where) == expected, name


def test_nothing_takes_part():
    x, r = np.full((2, 3, 4), NAN), np.full((2, 3), NAN)
    o, lse = sc.softmax_gate(x, r, where=np.zeros(3, bool), return_lse=True)
    assert (o == 0).all() and (lse == -INF).all()
    dx, dr = sc.softmax_gate_backward(np.full((2, 4), INF), x, r, where=np.zeros(3, bool))
    assert (dx == 0).all() and (dr == 0).all()
    o, lse = sc.softmax_gate(np.ones((2, 0, 3)), np.ones((2, 0)), return_lse=True)
    assert o.shape == (2, 3) and (o == 0).all() and (lse == -INF).all()
    o, lse = sc.softmax_gate(np.ones((2, 4, 0)), np.zeros((2, 4)), return_lse=True)
    assert o.shape == (2, 0)
    np.testing.assert_allclose(lse, np.log(4))


def test_a_weight_of_zero_hides_nothing():
    r = np.array([0.0, -INF, -800.0])
    x = np.array([[1.0], [2.0], [3.0]])
    assert sc.softmax_gate(x, r) == 1
    for i in (1, 2):
        for bad in (NAN, INF):
            x[i] = bad
            assert np.isnan(sc.softmax_gate(x, r)).all()
            assert np.isnan(sc.softmax_gate_backward([1.0], x, r)[1][i])
        x[i] = 1


def test_rows_without_a_softmax():
    x = np.ones((3, 2))
    for r, lse in [([-INF] * 3, -INF), ([INF, 0, 0], INF), ([NAN, 0, 0], NAN), ([INF, NAN, 0], NAN)]:
        o, found = sc.softmax_gate(x, r, return_lse=True)
        assert np.isnan(o).all()
        np.testing.assert_array_equal(found, lse)
    o, lse = sc.softmax_gate(x, np.array([-INF, 0.0, 3.0]), where=[True, False, False], return_lse=True)
    assert np.isnan(o).all() and lse == -INF  # it takes part


def test_the_weights_are_those_of_softmax(rng):
    for dtype in FLOATING:
        r = (3 * rng.standard_normal((50, 20))).astype(dtype)
        exact = r.astype(np.float32 if dtype.itemsize < 8 else float)
        identity = np.broadcast_to(np.eye(20, dtype=exact.dtype), (50, 20, 20))
        assert bits(sc.softmax_gate(identity, exact)) == bits(sc.softmax(exact))


def test_gradient_by_differences(rng):
    for name in ("a single row", "eight rows and one", "two batch axes", "x shared", "r shared", "each shared along an axis"):
        x, r, _, where = make(name, float)
        for options in ({}, {"where": where}, {"scale": -0.6}, {"where": where, "scale": 1.7}):
            f = lambda x, r, options=options: sc.softmax_gate(x, r, **options)  # noqa: E731
            df = lambda do, x, r, options=options: sc.softmax_gate_backward(do, x, r, **options)  # noqa: E731
            assert check_grad(f, df, x, r) < 1e-7
            f = lambda x, r, options=options: ref.softmax_gate(x, r, **options)  # noqa: E731
            df = lambda do, x, r, options=options: ref.softmax_gate_backward(do, x, r, **options)  # noqa: E731
            assert check_grad(f, df, x, r) < 1e-7


def test_against_torch(rng):
    torch = pytest.importorskip("torch", reason="compared with PyTorch")
    names = ("eight rows and one", "lanes", "x shared", "r shared", "longer than a frame")
    for name, masked, scale in itertools.product(names, (False, True), (1.0, 0.3)):
        x, r, do, where = make(name, float)
        where[..., 0] = True
        tx, tr = (torch.tensor(a, requires_grad=True) for a in (x, r))
        scores = scale * tr.expand(where.shape)
        if masked:
            scores = scores.masked_fill(torch.tensor(~where), -INF)
        o = (torch.softmax(scores, -1).unsqueeze(-1) * tx).sum(-2)
        o.backward(torch.tensor(do))
        options = {"scale": scale, "where": where if masked else None}
        np.testing.assert_allclose(sc.softmax_gate(x, r, **options), o.detach().numpy(), rtol=1e-12, atol=1e-14)
        for g, t in zip(sc.softmax_gate_backward(do, x, r, **options), (tx, tr)):
            np.testing.assert_allclose(g, t.grad.numpy(), rtol=1e-10, atol=1e-13)
        lse = sc.softmax_gate(x, r, return_lse=True, **options)[1]
        np.testing.assert_allclose(lse, torch.logsumexp(scores, -1).detach().numpy(), rtol=1e-13)


# --------------------------------------------------------------------------------------------------------------- same bits


@pytest.mark.skipif(SERIAL, reason="a build without OpenMP has one thread")
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_threads(dtype, rng):
    shapes = [
        ((500, 60, 9), (500, 60)),
        ((1, 70_001, 5), (1, 70_001)),
        ((2, 9, 30_000), (2, 9)),
        ((300, 50, 9), (50,)),
        ((60, 40), (200, 60)),
        ((3, 40_000, 2), (40_000,)),
    ]
    for shape in shapes:
        batch = np.broadcast_shapes(shape[0][:-2], shape[1][:-1])
        x, r = rng.standard_normal(shape[0]).astype(dtype), rng.standard_normal(shape[1]).astype(dtype)
        do, where = rng.standard_normal((*batch, shape[0][-1])).astype(dtype), rng.random((*batch, shape[1][-1])) < 0.7
        for options in ({}, {"where": where}):
            with sc.num_threads(1):
                expected = every(x, r, do, **options)
            for n in (2, 3, 5):
                with sc.num_threads(n):
                    assert every(x, r, do, **options) == expected, (shape, n)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("name", ["many items", "eight rows and one", "lanes", "longer than a frame", "two batch axes"])
def test_batch(name, dtype):
    x, r, do, where = make(name, dtype)
    for options in ({}, {"where": where}):
        whole = (*sc.softmax_gate(x, r, return_lse=True, **options), *sc.softmax_gate_backward(do, x, r, **options))
        for i in range(0, len(x), max(1, len(x) // 10)):
            some = {k: v[i] for k, v in options.items()}
            alone = (*sc.softmax_gate(x[i], r[i], return_lse=True, **some), *sc.softmax_gate_backward(do[i], x[i], r[i], **some))
            assert bits(alone) == bits(tuple(np.asarray(a[i])[()] for a in whole))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("name", ["eight rows and one", "lanes", "many columns", "longer than a frame"])
def test_layouts(name, dtype):
    x, r, do, where = make(name, dtype)
    expected = every(x, r, do), every(x, r, do, where=where)
    ways = [layouts(a) for a in (x, r, do)]
    for i, way in [(i, way) for i in range(3) for way in ways[i]]:
        given = [x, r, do]
        given[i] = ways[i][way]
        assert every(*given) == expected[0], (i, way)
    for way in layouts(where):
        assert every(x, r, do, where=layouts(where)[way]) == expected[1], way
    swapped = np.ascontiguousarray(np.swapaxes(x, -1, -2))
    assert every(np.swapaxes(swapped, -1, -2), r, do) == expected[0]


def test_outputs_of_any_layout(rng):
    for name, dtype in itertools.product(("eight rows and one", "lanes", "x shared", "r shared"), FLOATING):
        x, r, do, _ = make(name, dtype)
        o, lse = sc.softmax_gate(x, r, return_lse=True)
        dx, dr = sc.softmax_gate_backward(do, x, r)
        for way in ("fortran", "reversed", "every_other", "misaligned", "padded"):
            places = [layouts(np.zeros_like(a))[way] for a in (o, lse, dx, dr)]
            given = sc.softmax_gate(x, r, return_lse=True, out=tuple(places[:2])), sc.softmax_gate_backward(do, x, r, out=tuple(places[2:]))
            assert given[0][0] is places[0] and given[1][1] is places[3]
            for a, b in zip(places, (o, lse, dx, dr)):
                assert np.array_equal(a, b), (name, way)


def test_broadcasting_is_repeating(rng):
    for name in ("x shared", "each shared along an axis", "x shared, longer than a frame"):
        x, r, do, where = make(name, np.float32)
        batch = do.shape[:-1]
        full = [np.broadcast_to(a, (*batch, *a.shape[a.ndim - inner :])).copy() for a, inner in ((x, 2), (r, 1))]
        for options in ({}, {"where": where}):
            assert bits(sc.softmax_gate(x, r, return_lse=True, **options)) == bits(sc.softmax_gate(*full, return_lse=True, **options))


def test_a_mask_of_all_true_is_no_mask():
    for name in SHAPES:
        x, r, do, where = make(name, np.float32)
        assert every(x, r, do, where=np.ones_like(where)) == every(x, r, do), name


@pytest.mark.skipif(not {"avx2", "avx512"} <= set(ISAS), reason="needs a CPU with AVX-512, and the kernels for it")
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_avx2_and_avx512(dtype):
    for name in SHAPES:
        x, r, do, where = make(name, dtype)
        for options in ({}, {"where": where, "scale": 0.3}):
            with kernels.use("avx2"):
                expected = every(x, r, do, **options)
            with kernels.use("avx512"):
                assert every(x, r, do, **options) == expected, name
    rng = np.random.default_rng(0)
    for n, k, renormalize in itertools.product((5, 64, 100, 3000), (1, 3, 5), (True, False)):
        r = rng.standard_normal((7, n)).astype(dtype)
        found = []
        for isa in ("avx2", "avx512"):
            with kernels.use(isa):
                w, i = sc.topk_gate(r, k, renormalize=renormalize)
                found.append(bits((w, i, sc.topk_gate_backward(r[:, :k], r, i, renormalize=renormalize))))
        assert found[0] == found[1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_gradients_written_past_the_cache(dtype, rng):
    # Streaming is for arrays past the cache; here it is forced on small ones, of every alignment, with guards around them.
    def past_the_cache(*arguments, **options):
        executor, threads, _, ahead = planner.choose(*arguments, **options)
        return executor, threads, True, ahead

    for n, d, masked in itertools.product((1, 3, 16, 17, 40), (1, 5, 16, 17, 31, 64, 100, 1500), (False, True)):
        x, r, do = (rng.standard_normal(s).astype(dtype) for s in ((3, n, d), (3, n), (3, d)))
        where = rng.random((3, n)) < 0.6 if masked else None
        expected = sc.softmax_gate_backward(do, x, r, where=where)[0]
        for start in range(0, 64 // np.dtype(dtype).itemsize, 5):
            room = np.full(64 + x.size + 64, 7, dtype)
            line = -(room.ctypes.data // room.itemsize) % (64 // room.itemsize)
            dx = room[line + start :][: x.size].reshape(x.shape)
            try:
                kernels.core.configure(past_the_cache, 0)
                sc.softmax_gate_backward(do, x, r, where=where, out=(dx, None))
            finally:
                kernels.core.configure(planner.choose, planner.SMALL)
            assert dx.tobytes() == expected.tobytes(), (n, d, start)
            assert (room[: line + start] == 7).all() and (room[line + start + x.size :] == 7).all()


# --------------------------------------------------------------------------------------------------------- out=, and errors


def test_in_place_and_overlap(rng):
    for name in ("eight rows and one", "lanes", "longer than a frame", "x shared", "r shared", "many items"):
        x, r, do, where = make(name, np.float32)
        for options in ({}, {"where": where}):
            expected = bits(sc.softmax_gate_backward(do, x, r, **options))
            fresh = x.copy(), r.copy()
            assert bits(sc.softmax_gate_backward(do, *fresh, out=fresh, **options)) == expected, name
            room = np.concatenate([x.ravel(), r.ravel(), do.ravel(), np.zeros(50, np.float32)])
            a, b, c = (room[i : i + s.size].reshape(s.shape) for i, s in ((0, x), (x.size, r), (x.size + r.size, do)))
            out = room[3 : 3 + x.size].reshape(x.shape), room[20 + x.size : 20 + x.size + r.size].reshape(r.shape)
            assert bits(sc.softmax_gate_backward(c, a, b, out=out, **options)) == expected, name
            o = sc.softmax_gate(x, r, **options)
            a = x.copy()
            place = a.ravel()[1 : 1 + o.size].reshape(o.shape) if o.size < a.size else None
            if place is not None:
                assert bits(sc.softmax_gate(a, r, out=place, **options)) == bits(o)


BAD = [
    ({"x": np.ones(3)}, ValueError, r"x has shape \(3,\), it must have at least two axes, \(..., n, d\)"),
    ({"r": np.float32(1)}, ValueError, r"r has shape \(\), it must have at least one axis"),
    ({"r": np.ones((2, 4))}, ValueError, r"r has shape \(2, 4\), its last axis must be as long as the last but one of x, whose"),
    ({"r": np.ones((5, 3))}, ValueError, r"x has shape \(2, 3, 4\) and r \(5, 3\), the axes before \(n, d\) and \(n,\) must broadcast"),
    ({"x": "a"}, TypeError, "x has dtype"),
    ({"r": np.ones((2, 3), complex)}, TypeError, "r has dtype complex128"),
    ({"where": np.ones((2, 3))}, TypeError, "where has dtype float64, it must be bool"),
    ({"where": np.ones((2, 4), bool)}, ValueError, r"where has shape \(2, 4\), it must broadcast to \(2, 3\)"),
    ({"scale": "1"}, TypeError, "scale is a str"),
]


@pytest.mark.parametrize(("given", "error", "text"), BAD, ids=lambda v: next(iter(v)) if isinstance(v, dict) else None)
def test_bad_arguments_leave_out_alone(given, error, text):
    arguments = {"x": np.ones((2, 3, 4)), "r": np.ones((2, 3)), **given}
    out = np.full((2, 4), 7.0)
    with pytest.raises(error, match=f"^softmax_gate: {text}"):
        sc.softmax_gate(**arguments, out=out)
    gradients = np.full((2, 3, 4), 7.0), np.full((2, 3), 7.0)
    with pytest.raises(error, match=f"^softmax_gate_backward: {text}"):
        sc.softmax_gate_backward(np.ones((2, 4)), **arguments, out=gradients)
    assert (out == 7).all() and all((g == 7).all() for g in gradients)


def test_bad_outputs():
    x, r, do = np.ones((2, 3, 4)), np.ones((2, 3)), np.ones((2, 4))
    with pytest.raises(ValueError, match=r"softmax_gate: out has shape \(4, 2\), it must be \(2, 4\)"):
        sc.softmax_gate(x, r, out=np.ones((4, 2)))
    with pytest.raises(TypeError, match="softmax_gate: out has dtype float32, it must be float64"):
        sc.softmax_gate(x, r, out=np.ones((2, 4), np.float32))
    with pytest.raises(TypeError, match="softmax_gate: out is a ndarray, it must be a tuple of 2 arrays"):
        sc.softmax_gate(x, r, return_lse=True, out=np.ones((2, 4)))
    with pytest.raises(TypeError, match=r"softmax_gate: return_lse is a str"):
        sc.softmax_gate(x, r, return_lse="yes")
    with pytest.raises(ValueError, match=r"softmax_gate_backward: do has shape \(3, 4\), it must broadcast to \(2, 4\)"):
        sc.softmax_gate_backward(np.ones((3, 4)), x, r)
    with pytest.raises(ValueError, match=r"softmax_gate_backward: out\[0\] and out\[1\] share memory"):
        sc.softmax_gate_backward(do, x, r, out=(x, x[:, :, 0]))


def test_memory():
    def peak(function):
        tracemalloc.start()
        try:
            function()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    x, r = np.ones((64, 256, 64), np.float32), np.ones((64, 256), np.float32)
    o, dx, dr = np.empty((64, 64), np.float32), np.empty_like(x), np.empty_like(r)
    for a in (x, np.swapaxes(x, 0, 1).copy().swapaxes(0, 1), x.astype(">f4"), x[:, :, ::-1], np.broadcast_to(x[0], x.shape)):
        assert peak(lambda: sc.softmax_gate(a, r, out=o)) < 1 << 16
        assert peak(lambda: sc.softmax_gate_backward(o, a, r, out=(dx, dr))) < 1 << 16
    assert peak(lambda: sc.softmax_gate_backward(o, x, r, out=(x, r))) < 1 << 16
    assert peak(lambda: sc.softmax_gate_backward(o, x[0], r, out=(dx[0], dr))) < 1 << 16
    w, i = np.empty((64, 3), np.float32), np.empty((64, 3), np.intp)
    assert peak(lambda: sc.topk_gate(r, 3, out=(w, i))) < 1 << 15
    assert peak(lambda: sc.topk_gate_backward(w, r, i, out=dr)) < 1 << 15


def test_plans():
    x = np.zeros((4096, 64, 16), np.float32)
    with sc.num_threads(2):
        assert sc.plan("softmax_gate", x)[:3] == ("rows", 1 if SERIAL else 2, False)
        assert sc.plan("softmax_gate_backward", x[:64])[:3] == ("rows", 1 if SERIAL else 2, False)
        assert sc.plan("topk_gate", x[0])[:2] == ("rows", 1)
        if not SERIAL:
            assert sc.plan("softmax_gate", np.zeros((200_000, 3)))[:2] == ("split", 2)
            assert sc.plan("softmax_gate_backward", np.zeros((200_000, 3)))[:2] == ("split", 2)


# --------------------------------------------------------------------------------------------------------------- topk_gate


def choices(dtype, rng):
    """Rows of many lengths and kinds, and how many to choose."""
    for n in (1, 2, 7, 16, 17, 64, 65, 300, 1024, 1025, 3000):
        for name, r in awkward((3, n), dtype, rng).items():
            if r.shape == (3, n):
                for k in sorted({1, min(2, n), min(8, n), min(9, n), n}):
                    yield name, r, k


@pytest.mark.parametrize("dtype", FLOATING + INTEGERS, ids=str)
def test_topk_gate(dtype, rng):
    for name, r, k in choices(dtype, rng):
        for renormalize in (True, False):
            index = ref.topk_gate(r, k)[1]
            expected = ref.topk_gate(wide(r), k, renormalize=renormalize)[0]
            for isa in ISAS:
                with kernels.use(isa):
                    weights, indices = sc.topk_gate(r, k, renormalize=renormalize)
                message = f"{name} {r.shape} {k} {renormalize} on {isa}"
                assert indices.dtype == np.intp and np.array_equal(indices, index), message
                assert weights.dtype == (np.float64 if dtype.kind in "biu" else dtype)
                assert_close(weights, expected, np.nan_to_num(expected), 5 if dtype.itemsize < 8 else 8, message)


@pytest.mark.parametrize("dtype", FLOATING + [np.dtype(np.int32)], ids=str)
def test_topk_gate_backward(dtype, rng):
    for n, k in [(1, 1), (7, 3), (64, 2), (300, 300), (5000, 4)]:
        r = (3 * rng.standard_normal((3, n))).astype(dtype)
        for renormalize in (True, False):
            indices = sc.topk_gate(r, k)[1]
            dw = rng.standard_normal((3, k)).astype(r.dtype if dtype.kind != "i" else float)
            expected = ref.topk_gate_backward(wide(dw), wide(r), indices, renormalize=renormalize)
            for isa in ISAS:
                with kernels.use(isa):
                    dr = sc.topk_gate_backward(dw, r, indices, renormalize=renormalize)
                assert dr.dtype == (np.float64 if dtype.kind == "i" else dtype)
                assert_close(dr, expected, 2 * np.max(np.abs(wide(dw))), 8, f"{n} {k} {renormalize} on {isa}")
                if renormalize:
                    chosen = np.zeros(dr.shape, bool)
                    np.put_along_axis(chosen, indices, True, -1)
                    assert (dr[~chosen] == 0).all()


def test_the_largest_integers_are_compared_exactly():
    big = 2**62
    weights, indices = sc.topk_gate(np.array([big, big + 1, big, big + 2]), 4)
    np.testing.assert_array_equal(indices, [3, 1, 0, 2])
    np.testing.assert_allclose(weights, 0.25)
    low = np.array([-(2**63), -(2**63), 5, -(2**63)])
    np.testing.assert_array_equal(sc.topk_gate(low, 4)[1], [2, 0, 1, 3])
    np.testing.assert_array_equal(sc.topk_gate(np.array([2**63, 0, 2**64 - 1, 1], np.uint64), 3)[1], [2, 0, 3])


def test_order_of_what_is_alike():
    np.testing.assert_array_equal(sc.topk_gate([1.0, NAN, 5.0, NAN, INF], 4)[1], [1, 3, 4, 2])
    np.testing.assert_array_equal(sc.topk_gate([-0.0, 0.0, -0.0, 0.0], 3)[1], [0, 1, 2])
    np.testing.assert_array_equal(sc.topk_gate([-INF] * 3, 2)[1], [0, 1])
    assert np.isnan(sc.topk_gate([-INF] * 3, 2)[0]).all()
    weights, indices = sc.topk_gate([-INF, 0.0, -INF], 2)
    np.testing.assert_array_equal(weights, [1, 0])
    np.testing.assert_array_equal(indices, [1, 0])
    negative = np.array([0xFFC00000, 0x3F800000, 0x7FC00000], np.uint32).view(np.float32)  # a NaN of either sign
    np.testing.assert_array_equal(sc.topk_gate(negative, 3)[1], [0, 2, 1])


@pytest.mark.parametrize("dtype", [np.dtype(t) for t in "efdiqQ"], ids=str)
def test_many_are_chosen(dtype, rng):
    # Where the room for what may be chosen is full once, several times and never, by rows in order and by rows of a few values.
    for n, k in [(1100, 9), (5000, 1), (9000, 12), (20_000, 300), (20_000, 4000), (3000, 2999)]:
        ascending = np.sort(rng.integers(0, 60_000 if dtype.itemsize > 2 else 2000, n)).astype(dtype)
        few = rng.integers(0, 5, n).astype(dtype)
        late = np.zeros(n, dtype)
        late[-k:] = 1
        for name, r in {"up": ascending, "down": ascending[::-1], "few": few, "late": late, "first up, then down": np.concatenate([ascending[::2], ascending[1::2][::-1]])}.items():
            order = np.lexsort((np.arange(n), -r.astype(np.longdouble)))[:k]
            for isa in ISAS:
                with kernels.use(isa):
                    assert np.array_equal(sc.topk_gate(r, k)[1], order), (name, n, k, isa)


def test_shares_of_all_are_those_of_softmax(rng):
    for dtype, n in itertools.product(FLOATING, (5, 64, 300, 5000, 20_000)):
        r = (3 * rng.standard_normal((3, n))).astype(dtype)
        weights, indices = sc.topk_gate(r, 4, renormalize=False)
        assert bits(weights) == bits(np.take_along_axis(sc.softmax(r), indices, -1))
        weights, indices = sc.topk_gate(r, 4)
        assert bits(weights) == bits(sc.softmax(np.take_along_axis(r, indices, -1)))


@pytest.mark.parametrize("axis", [-1, 0, 1, 2, -3])
@pytest.mark.parametrize("renormalize", [True, False])
def test_topk_along_any_axis(axis, renormalize, rng):
    r = rng.standard_normal((4, 5, 6), np.float32)
    weights, indices = sc.topk_gate(r, 3, axis, renormalize=renormalize)
    last, index = sc.topk_gate(np.moveaxis(r, axis, -1).copy(), 3, renormalize=renormalize)
    assert np.array_equal(np.moveaxis(weights, axis, -1), last) and np.array_equal(np.moveaxis(indices, axis, -1), index)
    dw = rng.standard_normal(weights.shape, np.float32)
    dr = sc.topk_gate_backward(dw, r, indices, axis, renormalize=renormalize)
    moved = sc.topk_gate_backward(np.moveaxis(dw, axis, -1), np.moveaxis(r, axis, -1), index, renormalize=renormalize)
    assert np.array_equal(np.moveaxis(dr, axis, -1), moved)


@pytest.mark.parametrize("renormalize", [True, False])
def test_topk_layouts_threads_and_batch(renormalize, rng):
    for dtype, n, k in itertools.product(FLOATING, (20, 64, 3000), (2, 20)):
        r = rng.standard_normal((40, n)).astype(dtype)
        weights, indices = sc.topk_gate(r, k, renormalize=renormalize)
        dw = rng.standard_normal(weights.shape).astype(dtype)
        dr = sc.topk_gate_backward(dw, r, indices, renormalize=renormalize)
        for way, a in layouts(r).items():
            assert bits(sc.topk_gate(a, k, renormalize=renormalize)) == bits((weights, indices)), way
            assert bits(sc.topk_gate_backward(dw, a, indices, renormalize=renormalize)) == bits(dr), way
        for way, a in layouts(indices).items():
            assert bits(sc.topk_gate_backward(layouts(dw)["reversed"], r, a, renormalize=renormalize)) == bits(dr), way
        for way in ("fortran", "every_other", "misaligned"):
            places = tuple(layouts(np.zeros_like(a))[way] for a in (weights, indices, dr))
            sc.topk_gate(r, k, renormalize=renormalize, out=places[:2])
            sc.topk_gate_backward(dw, r, indices, renormalize=renormalize, out=places[2])
            assert all(np.array_equal(a, b) for a, b in zip(places, (weights, indices, dr)))
        for i in (0, 17):
            assert bits(sc.topk_gate(r[i], k, renormalize=renormalize)) == bits((weights[i], indices[i]))
            assert bits(sc.topk_gate_backward(dw[i], r[i], indices[i], renormalize=renormalize)) == bits(dr[i])
        for threads in (2, 3):
            with sc.num_threads(threads):
                assert bits(sc.topk_gate(r, k, renormalize=renormalize)) == bits((weights, indices))
                assert bits(sc.topk_gate_backward(dw, r, indices, renormalize=renormalize)) == bits(dr)
        assert bits(sc.topk_gate_backward(dw, (a := r.copy()), indices, renormalize=renormalize, out=a)) == bits(dr)


def test_topk_gradient_by_differences(rng):
    r = rng.standard_normal((4, 3, 7))
    for k, axis, renormalize in itertools.product((1, 2, 3), (-1, 0), (True, False)):
        indices = sc.topk_gate(r, k, axis)[1]
        options = {"axis": axis, "renormalize": renormalize}
        for module in (sc, ref):
            f = lambda r: module.topk_gate(r, k, **options)[0]  # noqa: B023, E731
            df = lambda dw, r: module.topk_gate_backward(dw, r, indices, **options)  # noqa: B023, E731
            assert check_grad(f, df, r, eps=1e-6, tol=1e-5) < 1e-5


def test_topk_against_torch(rng):
    torch = pytest.importorskip("torch", reason="compared with PyTorch")
    for n, k in [(5, 2), (64, 2), (64, 17), (2000, 40)]:
        r = rng.standard_normal((6, n))
        t = torch.tensor(r, requires_grad=True)
        values, index = torch.topk(t, k)
        for renormalize in (True, False):
            w = torch.softmax(values, -1) if renormalize else torch.softmax(t, -1).gather(-1, index)
            dw = rng.standard_normal((6, k))
            t.grad = None
            w.backward(torch.tensor(dw), retain_graph=True)
            weights, indices = sc.topk_gate(r, k, renormalize=renormalize)
            np.testing.assert_array_equal(indices, index.numpy())
            np.testing.assert_allclose(weights, w.detach().numpy(), rtol=1e-13)
            dr = sc.topk_gate_backward(dw, r, indices, renormalize=renormalize)
            np.testing.assert_allclose(dr, t.grad.numpy(), rtol=1e-11, atol=1e-14)


def test_an_index_that_occurs_twice(rng):
    torch = pytest.importorskip("torch", reason="compared with PyTorch")
    r, index, dw = rng.standard_normal((2, 5)), np.array([[1, 1, 4], [0, 3, 0]]), rng.standard_normal((2, 3))
    for renormalize in (True, False):
        t = torch.tensor(r, requires_grad=True)
        chosen = torch.tensor(index)
        w = torch.softmax(t.gather(-1, chosen), -1) if renormalize else torch.softmax(t, -1).gather(-1, chosen)
        w.backward(torch.tensor(dw))
        for module in (sc, ref):
            dr = module.topk_gate_backward(dw, r, index, renormalize=renormalize)
            np.testing.assert_allclose(dr, t.grad.numpy(), rtol=1e-12, atol=1e-15)


def test_nothing_is_chosen():
    for r in (np.ones((2, 3)), np.ones((2, 0)), np.ones((0, 3))):
        weights, indices = sc.topk_gate(r, 0)
        assert weights.shape == indices.shape == (len(r), 0) and indices.dtype == np.intp
        assert np.array_equal(sc.topk_gate_backward(weights, r, indices), np.zeros_like(r))
    assert sc.topk_gate(np.ones((0, 3)), 2)[0].shape == (0, 2)
    assert np.array_equal(sc.topk_gate_backward(np.ones(()), [1.0, 2.0], [0]), [0, 0])


def test_bad_choices():
    r, out = np.ones((2, 3)), (np.full((2, 2), 7.0), np.full((2, 2), 7))
    for k, error, text in [
        (4, ValueError, "k is 4, it must be from 0 to 3"),
        (-1, ValueError, "k is -1, it must be from 0 to 3"),
        (2.0, TypeError, "k is a float, it must be an int"),
        (True, TypeError, "k is a bool, it must be an int"),
        (None, TypeError, "k is a NoneType"),
        (np.array([1, 2]), TypeError, "k is an array, it must be an int"),
    ]:
        with pytest.raises(error, match=f"^topk_gate: {text}"):
            sc.topk_gate(r, k, out=out)
    with pytest.raises(np.exceptions.AxisError, match="topk_gate: axis 2 is out of bounds"):
        sc.topk_gate(r, 1, 2)
    for axis in (None, (0,), 1.0):
        with pytest.raises(TypeError, match="topk_gate: axis is"):
            sc.topk_gate(r, 1, axis)
    with pytest.raises(ValueError, match="topk_gate: r is a scalar"):
        sc.topk_gate(1.0, 1)
    with pytest.raises(TypeError, match="topk_gate: renormalize is a str"):
        sc.topk_gate(r, 1, renormalize="no")
    with pytest.raises(TypeError, match=r"topk_gate: out\[1\] has dtype int32, it must be int64"):
        sc.topk_gate(r, 2, out=(out[0], np.zeros((2, 2), np.int32)))
    with pytest.raises(ValueError, match=r"topk_gate: out\[0\] has shape \(2, 2\), it must be \(2, 1\)"):
        sc.topk_gate(r, 1, out=out)
    assert (out[0] == 7).all() and (out[1] == 7).all()


def test_bad_indices_leave_out_alone():
    r, dw, out = np.ones((2, 3)), np.ones((2, 2)), np.full((2, 3), 7.0)
    for indices, error, text in [
        ([[0, 3], [0, 1]], IndexError, "indices holds 3, it must be from 0 to 2, for rows of 3 elements"),
        ([[0, 1], [-1, 1]], IndexError, "indices holds -1"),
        (np.array([[0, 2**64 - 1], [0, 0]], np.uint64), IndexError, "indices holds 18446744073709551615"),
        ([[0.0, 1.0], [0.0, 1.0]], TypeError, "indices has dtype float64, it must be an integer dtype"),
        (np.ones((2, 2), bool), TypeError, "indices has dtype bool"),
        ([0, 1], ValueError, r"indices has shape \(2,\), it must be \(2, k\)"),
        (np.zeros((3, 2), int), ValueError, r"indices has shape \(3, 2\), it must be \(2, k\)"),
    ]:
        with pytest.raises(error, match=f"^topk_gate_backward: {text}"):
            sc.topk_gate_backward(dw, r, indices, out=out)
    with pytest.raises(ValueError, match=r"dw has shape \(2, 3\), it must broadcast to \(2, 2\)"):
        sc.topk_gate_backward(np.ones((2, 3)), r, [[0, 1], [0, 1]], out=out)
    assert (out == 7).all()
    for dtype in "bBhHiIqQ":
        indices = np.array([[0, 2], [1, 2]], dtype)
        for order in "<>":
            given = indices.astype(indices.dtype.newbyteorder(order))
            assert np.array_equal(sc.topk_gate_backward(dw, r, given), sc.topk_gate_backward(dw, r, indices))
