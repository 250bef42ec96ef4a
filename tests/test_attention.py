"""Attention: every option against the definition, the bits under every schedule, and what masks hide."""

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from calls import same_bits

import softcore as sc
from softcore import kernels
from softcore.testing import check_grad

ref = sc.reference
FLOATING = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32), np.dtype(np.float64)]
ISAS = kernels.available()
SERIAL = kernels.core.openmp_runtime().startswith("none")
# Roundings of one score and one sum, times what a long row makes of them.
CLOSE = {"float16": 2e-3, "bfloat16": 1.6e-2, "float32": 2e-6, "float64": 4e-15}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def operands(rng, batch=(2,), heads=(4, 2), lengths=(70, 300), sizes=(16, 24), dtype=np.float32, layout="BHLD"):
    """q, k and v."""
    shapes = [(heads[0], lengths[0], sizes[0]), (heads[1], lengths[1], sizes[0]), (heads[1], lengths[1], sizes[1])]
    arrays = [rng.standard_normal((*batch, *shape)).astype(dtype) for shape in shapes]
    return [np.ascontiguousarray(a.swapaxes(-3, -2)) for a in arrays] if layout == "BLHD" else arrays


def close(actual, expected, dtype=None, terms=1):
    """Alike to the roundings of attention, relative to the largest, or of a sum of terms; NaN and infinities in the same places."""
    actual = np.asarray(actual)
    bound = CLOSE[str(dtype or actual.dtype)]
    actual, finite = actual.astype(np.float64), np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite])
    scale = np.maximum(np.sqrt(terms), np.max(np.abs(expected[finite]), initial=0))
    assert np.max(np.abs(actual[finite] - expected[finite]), initial=0) <= bound * scale


def compare(q, k, v, rng, **options):
    """Forward and every gradient against the definition."""
    o, lse = sc.attention(q, k, v, return_lse=True, **options)
    expected, expected_lse = ref.attention(q, k, v, return_lse=True, **options)
    assert o.dtype == q.dtype and lse.dtype == (np.float64 if q.dtype == np.float64 else np.float32)
    assert o.shape == expected.shape and lse.shape == expected_lse.shape
    close(o, expected)
    close(lse, expected_lse, "float64" if q.dtype == np.float64 else "float32")
    do = rng.standard_normal(o.shape).astype(q.dtype)
    asked = {f"{name}_grad": True for name in ("bias", "sinks") if name in options}
    actual = sc.attention_backward(do, q, k, v, o, lse, **options, **asked)
    gradients = ref.attention_backward(do, q, k, v, o, lse, **options, **asked)
    for a, e in zip(actual, gradients):
        assert a.shape == e.shape
        close(a, e, terms=max(1, lse.size / max(1, a.size)))  # a bias or a sink that many rows share
    return o, lse


OPTIONS = {
    "plain": {},
    "scale": {"scale": -0.3},
    "no_scale": {"scale": 0.0},
    "causal": {"causal": True},
    "causal_end": {"causal": True, "causal_offset": "end"},
    "causal_before": {"causal": True, "causal_offset": -20},
    "causal_far": {"causal": True, "causal_offset": 1000},
    "window": {"window": (30, 5)},
    "window_left": {"window": (30, None), "causal": True, "causal_offset": "end"},
    "window_right": {"window": (-1, 0)},
    "window_none": {"window": (0, 0)},
    "softcap": {"softcap": 0.7},
    "lengths": {"q_lengths": [70, 3], "kv_lengths": [0, 257]},
    "lengths_end": {"q_lengths": [50, 70], "kv_lengths": [300, 60], "causal": True, "causal_offset": "end"},
}


@pytest.mark.parametrize("layout", ["BHLD", "BLHD"])
@pytest.mark.parametrize("name", OPTIONS)
def test_options(name, layout, rng):
    for dtype in (np.float32, np.float64):
        compare(*operands(rng, dtype=dtype, layout=layout), rng, layout=layout, **OPTIONS[name])


@pytest.mark.parametrize("shape", [(2, 4, 70, 300), (70, 300), (1, 1, 300), (2, 1, 70, 1), (4, 1, 1), (1, 1), ()])
def test_masks_and_biases_broadcast(shape, rng):
    q, k, v = operands(rng)
    compare(q, k, v, rng, mask=rng.random(shape) < 0.6)
    compare(q, k, v, rng, bias=rng.standard_normal(shape).astype(np.float32), causal=True)
    wide = [a.astype(np.float64) for a in (q, k, v)]
    compare(*wide, rng, mask=rng.random(shape) < 0.6, bias=rng.standard_normal(shape), softcap=1.5, window=(40, 40))


def test_a_window_wider_than_any_array(rng):
    q, k, v = operands(rng)
    assert same_bits(sc.attention(q, k, v, window=(10**30, 2**63)), sc.attention(q, k, v))


def test_slopes_and_sinks(rng):
    q, k, v = operands(rng)
    slopes, sinks = 2.0 ** -np.arange(4), np.array([0.5, -np.inf, 3.0, -1.0], np.float32)
    compare(q, k, v, rng, alibi_slopes=slopes)
    compare(q, k, v, rng, alibi_slopes=slopes, causal=True, causal_offset="end")
    compare(q, k, v, rng, sinks=sinks)
    compare(q, k, v, rng, sinks=sinks, causal=True, causal_offset=-5, softcap=2.0, bias=np.ones((1, 1), np.float32))
    assert sc.attention(q, k, v, alibi_slopes=slopes).dtype == np.float32


def test_packed_sequences(rng):
    q, k, v = (a[0].swapaxes(0, 1) for a in operands(rng, batch=(1,)))
    starts = {"cu_seqlens_q": [0, 0, 33, 40, 70], "cu_seqlens_kv": [0, 10, 270, 270, 300]}
    for options in ({}, {"causal": True}, {"causal": True, "causal_offset": "end"}, {"window": (3, 9)}):
        o, lse = compare(q, k, v, rng, **starts, **options)
        part = sc.attention(q[None, :33], k[None, 10:270], v[None, 10:270], layout="BLHD", **options)
        assert same_bits(np.ascontiguousarray(o[:33]), part[0]) and lse.shape == (4, 70)
        assert not o[33:40].any() and np.isneginf(lse[:, 33:40]).all()


@pytest.mark.parametrize("size", [1, 2, 8, 15, 16, 17, 31, 64, 80, 96, 128, 130, 256])
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_head_sizes(size, dtype, rng):
    compare(*operands(rng, (1,), (2, 1), (20, 270), (size, size), dtype), rng, causal=True, causal_offset="end")
    if dtype == np.float32:
        compare(*operands(rng, (), (1, 1), (3, 40), (size, 5)), rng)
        compare(*operands(rng, (), (1, 1), (3, 40), (5, size)), rng)


@pytest.mark.parametrize("lengths", [(1, 1), (1, 255), (1, 256), (5, 257), (6, 512), (7, 513), (191, 30), (192, 16), (193, 17), (97, 1), (400, 600)])
def test_lengths(lengths, rng):
    for dtype in (np.float32, np.float64):
        arrays = operands(rng, (1,), (3, 1), lengths, (16, 16), dtype)
        compare(*arrays, rng)
        compare(*arrays, rng, causal=True)


def test_without_keys_queries_batch_or_size(rng):
    q, k, v = operands(rng, lengths=(5, 0))
    o, lse = sc.attention(q, k, v, return_lse=True)
    assert o.shape == (2, 4, 5, 24) and not o.any() and np.isneginf(lse).all()
    dq, dk, dv = sc.attention_backward(np.ones_like(o), q, k, v, o, lse)
    assert not dq.any() and dk.shape == k.shape and dv.shape == v.shape
    for batch, lengths, sizes in (((2,), (0, 5), (3, 3)), ((0,), (4, 5), (3, 3)), ((), (4, 5), (0, 3)), ((), (4, 5), (3, 0))):
        q, k, v = operands(rng, batch, lengths=lengths, sizes=sizes)
        o, lse = sc.attention(q, k, v, return_lse=True)
        assert o.shape == (*batch, 4, lengths[0], sizes[1])
        gradients = sc.attention_backward(np.ones_like(o), q, k, v, o, lse)
        for a, b, e in zip(gradients, (q, k, v), ref.attention_backward(np.ones_like(o), q, k, v, o, lse)):
            assert a.shape == b.shape
            close(a, e)


# ------------------------------------------------------------------------------------------------------------------- masks


def test_a_row_without_keys(rng):
    q, k, v = operands(rng)
    mask = rng.random((70, 300)) < 0.5
    mask[[0, 33, 69]] = False
    sinks = np.ones(4, np.float32)
    for options in ({}, {"sinks": sinks}, {"bias": np.zeros((1, 1), np.float32)}):
        o, lse = compare(q, k, v, rng, mask=mask, **options)
        assert not o[:, :, [0, 33, 69]].any() and np.isneginf(lse[:, :, [0, 33, 69]]).all()
        dq, _, _ = sc.attention_backward(np.full_like(o, np.nan), q, k, v, o, lse, mask=mask, **options)
        assert not dq[:, :, [0, 33, 69]].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["mask", "causal", "window", "lengths"])
def test_what_is_hidden_does_not_leak(name, bad, rng):
    q, k, v = operands(rng, lengths=(300, 300))
    hidden = slice(200, None)  # from the queries below
    options = {
        "mask": {"mask": np.arange(300) < 200},
        "causal": {"causal": True},
        "window": {"window": (None, 0)},
        "lengths": {"kv_lengths": [200, 200]},
    }[name]
    few = slice(None) if name in ("mask", "lengths") else slice(200)
    do = rng.standard_normal((2, 4, 300, 24)).astype(np.float32)
    results = []
    for spoiled in (False, True):
        if spoiled:
            k[:, :, hidden], v[:, :, hidden] = bad, bad
        o, lse = sc.attention(q, k, v, return_lse=True, **options)
        dq, dk, dv = sc.attention_backward(do, q, k, v, o, lse, **options)
        results.append([np.ascontiguousarray(a[:, :, few]) for a in (o, lse, dq)] + [dk[:, :, :0] if few.stop else dk, dv[:, :, :0] if few.stop else dv])
    assert all(map(same_bits, *results))


def test_a_bad_query_spoils_only_the_keys_it_sees(rng):
    q, k, v = operands(rng, lengths=(300, 300))
    q[:, :, 100] = np.nan
    o, lse = sc.attention(q, k, v, return_lse=True, causal=True)
    _, dk, dv = sc.attention_backward(np.ones_like(o), q, k, v, o, lse, causal=True)
    for g in (dk, dv):
        assert np.isnan(g[:, :, :101]).all() and np.isfinite(g[:, :, 101:]).all()
    assert np.isnan(o[:, :, 100]).all() and np.isfinite(np.delete(o, 100, axis=2)).all()


def test_what_is_seen_shows(rng):
    q, k, v = operands(rng, (1,), (1, 1), (4, 300))
    q[:], k[:] = np.abs(q), np.abs(k)
    for bad, lse_is in ((np.nan, np.isnan), (np.inf, np.isposinf)):
        spoiled = k.copy()
        spoiled[0, 0, 270] = bad
        o, lse = sc.attention(q, spoiled, v, return_lse=True)
        assert np.isnan(o).all() and lse_is(lse).all()
    spoiled = k.copy()
    spoiled[0, 0, 270] = -np.inf  # a weight of 0
    o, lse = sc.attention(q, spoiled, v, return_lse=True)
    close(o, ref.attention(q, np.delete(k, 270, 2), np.delete(v, 270, 2)))
    o, lse = sc.attention(q, k, v, bias=np.full((1, 1), -np.inf, np.float32), return_lse=True)
    assert np.isnan(o).all() and np.isneginf(lse).all()
    spoiled = v.copy()
    spoiled[0, 0, 270, 3] = np.nan
    o = sc.attention(q, k, spoiled, bias=np.where(np.arange(300) == 270, -np.inf, 0).astype(np.float32))
    assert np.isnan(o[..., 3]).all() and np.isfinite(np.delete(o, 3, axis=-1)).all()


def test_one_key_is_its_value(rng):
    for dtype in FLOATING:
        q, k, v = operands(rng, lengths=(9, 1), dtype=dtype)
        assert (sc.attention(q, k, v) == np.repeat(np.repeat(v, 2, axis=1), 9, axis=2)).all()


# -------------------------------------------------------------------------------------------------------------------- bits


def every_result(q, k, v, do, **options):
    o, lse = sc.attention(q, k, v, return_lse=True, **options)
    asked = {f"{name}_grad": True for name in ("bias", "sinks") if name in options}
    return [o, lse, *sc.attention_backward(do, q, k, v, o, lse, **options, **asked)]


BITS = {
    "plain": {},
    "causal": {"causal": True, "causal_offset": "end"},
    "window": {"window": (100, 3)},
    "all": {"mask": np.arange(700) % 7 > 0, "bias": np.linspace(0, 1, 700, dtype=np.float32)[None], "sinks": np.ones(6, np.float32), "softcap": 3.0},
}


@pytest.mark.skipif(SERIAL, reason="a build without OpenMP has one thread")
@pytest.mark.parametrize("name", BITS)
@pytest.mark.parametrize("lengths", [(1, 700), (4, 700), (250, 700)])
def test_threads(lengths, name, rng):
    for dtype in (np.float32, np.float64):
        q, k, v = operands(rng, (1,), (6, 2), lengths, (32, 32), dtype)
        do = rng.standard_normal(q.shape).astype(dtype)
        with sc.num_threads(1):
            expected = every_result(q, k, v, do, **BITS[name])
        for n in (2, 3, 7):
            with sc.num_threads(n):
                for _ in range(3):
                    assert all(map(same_bits, every_result(q, k, v, do, **BITS[name]), expected))


@pytest.mark.skipif(SERIAL, reason="a build without OpenMP has one thread")
def test_keys_of_few_rows_are_split_over_threads():
    with sc.num_threads(2):
        assert sc.plan("attention", np.zeros((1, 1, 100, 64), np.float32)).threads == 1
        plan = sc.plan("attention", np.zeros((1, 1, 190, 256), np.float32))
        assert plan.executor == "strips" and plan.threads == 1  # one chunk
        assert sc.plan("attention", np.zeros((8, 4000, 64), np.float32))[:2] == ("strips", 2)
        assert sc.plan("attention_backward", np.zeros((8, 4000, 64), np.float32))[:2] == ("chunks", 2)
    given = []

    def choose(*arguments):
        given.append(sc.planner.choose_attention(*arguments))
        return given[-1]

    q, k = np.zeros((1, 1, 64), np.float32), np.zeros((1, 10000, 64), np.float32)
    try:
        kernels.core.configure_attention(choose)
        with sc.num_threads(2):
            sc.attention(q, k, k)
    finally:
        kernels.core.configure_attention(sc.planner.choose_attention)
    assert given[0][:2] == (9, 2)


@pytest.mark.parametrize("name", BITS)
def test_a_row_alone(name, rng):
    q, k, v = operands(rng, (2,), (6, 2), (40, 700), (32, 48))
    o, lse = sc.attention(q, k, v, return_lse=True, **BITS[name])
    offset = 660 if name == "causal" else 0
    for i in (0, 17, 39):
        options = dict(BITS[name])
        if name in ("causal", "window"):
            options["causal_offset"] = offset + i
        alone, alone_lse = sc.attention(q[1:, :, i : i + 1], k[1:], v[1:], return_lse=True, **options)
        assert same_bits(alone[0, :, 0], np.ascontiguousarray(o[1, :, i])) and same_bits(alone_lse[0, :, 0], np.ascontiguousarray(lse[1, :, i]))
    if name == "plain":
        part = sc.attention(q[:, 3:6, 5:11], k[:, 1:], v[:, 1:])
        assert same_bits(part, np.ascontiguousarray(o[:, 3:6, 5:11]))


def test_strides(rng):
    q, k, v = operands(rng, (2,), (4, 2), (70, 300), (16, 16))
    do = rng.standard_normal(q.shape).astype(np.float32)
    expected = every_result(q, k, v, do, causal=True)

    def forms(a):
        yield np.ascontiguousarray(a[:, :, ::-1])[:, :, ::-1]
        yield np.ascontiguousarray(a.swapaxes(-1, -2)).swapaxes(-1, -2)
        yield np.repeat(a, 2, axis=-1)[..., ::2]
        room = np.zeros(a.nbytes + 1, np.uint8)
        odd = room[1:].view(np.float32).reshape(a.shape)
        odd[...] = a
        yield odd
        yield a.astype(a.dtype.newbyteorder(">"))

    for given in zip(*map(forms, (q, k, v, do))):
        for a, b in zip(every_result(*given, causal=True), expected):
            assert a.astype(b.dtype).tobytes() == b.tobytes()
    turned = every_result(*(np.ascontiguousarray(a.swapaxes(1, 2)) for a in (q, k, v, do)), causal=True, layout="BLHD")
    for a, b, lse in zip(turned, expected, (0, 1, 0, 0, 0)):
        assert (a if lse else np.ascontiguousarray(a.swapaxes(1, 2))).tobytes() == b.tobytes()


@pytest.mark.skipif(not {"avx2", "avx512"} <= set(ISAS), reason="needs both instruction sets")
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("name", BITS)
def test_isas(name, dtype, rng):
    arrays = operands(rng, (1,), (6, 2), (100, 700), (33, 24), dtype)
    do = rng.standard_normal((1, 6, 100, 24)).astype(dtype)
    results = []
    for isa in ("avx2", "avx512"):
        with kernels.use(isa):
            results.append(every_result(*arrays, do, **BITS[name]))
    assert all(map(same_bits, *results))


@pytest.mark.parametrize("isa", ISAS)
def test_every_isa(isa, rng):
    with kernels.use(isa):
        for dtype in FLOATING:
            compare(*operands(rng, dtype=dtype), rng, causal=True, causal_offset="end")
        compare(*operands(rng), rng, mask=rng.random((70, 300)) < 0.5, softcap=1.0, bias=rng.standard_normal((70, 300)).astype(np.float32))


# --------------------------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("causal", [False, True])
def test_error_is_at_most_twice_that_of_the_plain_formula(causal, rng):
    q, k, v = operands(rng, (1,), (4, 4), (512, 512), (64, 64))
    s = q @ k.swapaxes(-1, -2) * np.float32(1 / 8)
    s = np.where(np.tri(512, dtype=bool), s, np.float32(-np.inf)) if causal else s
    p = np.exp(s - s.max(axis=-1, keepdims=True))
    plain = p / p.sum(axis=-1, keepdims=True) @ v
    exact = ref.attention(q, k, v, causal=causal)
    error = [np.sqrt(np.mean((a - exact) ** 2)) for a in (sc.attention(q, k, v, causal=causal), plain)]
    assert error[0] <= 2 * error[1]


def test_gradients_are_those_of_forward(rng):
    q, k, v = operands(rng, (), (2, 1), (5, 7), (4, 3), np.float64)
    bias, sinks = rng.standard_normal((2, 5, 7)), rng.standard_normal(2)
    options = {"softcap": 2.0, "causal": True, "causal_offset": "end"}

    def f(q, k, v, bias, sinks):
        return sc.attention(q, k, v, bias=bias, sinks=sinks, **options)

    def df(do, q, k, v, bias, sinks):
        o, lse = sc.attention(q, k, v, bias=bias, sinks=sinks, return_lse=True, **options)
        return sc.attention_backward(do, q, k, v, o, lse, bias=bias, sinks=sinks, bias_grad=True, sinks_grad=True, **options)

    assert check_grad(f, df, q, k, v, bias, sinks) < 1e-7


def test_dtypes(rng):
    q, k, v = operands(rng, (), (1, 1), (3, 4), (2, 2))
    half, brain = q.astype(np.float16), k.astype(FLOATING[1])
    assert sc.attention(half, brain, v.astype(np.float16)).dtype == np.float32
    assert sc.attention(q, k, v.astype(np.float64)).dtype == np.float64
    assert sc.attention(*(a.astype(int) for a in (q, k, v))).dtype == np.float64
    o, lse = sc.attention(half, k, v, return_lse=True)
    assert [g.dtype for g in sc.attention_backward(o, half, k, v, o, lse)] == [np.float16, np.float32, np.float32]


# ------------------------------------------------------------------------------------------------------------ out and errors


def test_out(rng):
    q, k, v = operands(rng, (2,), (2, 2), (70, 70), (16, 16))
    expected, expected_lse = sc.attention(q, k, v, return_lse=True)
    out, lse = np.empty_like(q)[..., ::-1], np.empty((2, 2, 70), np.float32)
    assert sc.attention(q, k, v, out=out) is out and same_bits(np.ascontiguousarray(out), expected)
    assert sc.attention(q, k, v, return_lse=True, out=(None, lse))[1] is lse and same_bits(lse, expected_lse)
    do = rng.standard_normal(q.shape).astype(np.float32)
    gradients = sc.attention_backward(do, q, k, v, expected, expected_lse)
    for name in range(3):
        given = [q.copy(), k.copy(), v.copy()]
        sc.attention(*given, out=given[name])
        assert same_bits(given[name], expected)
        given = [q.copy(), k.copy(), v.copy()]
        outs = tuple(given[(i + name) % 3] for i in range(3))
        assert all(map(same_bits, sc.attention_backward(do, *given, expected, expected_lse, out=outs), gradients))


def test_bad_arguments_leave_out_untouched(rng):
    q, k, v = operands(rng)
    cases = [
        (TypeError, "q has dtype complex", {"q": q.astype(complex)}),
        (ValueError, "at least three axes", {"q": q[0, 0]}),
        (ValueError, "must agree", {"k": k[..., :-1]}),
        (ValueError, "must agree", {"v": v[:, :, :-1]}),
        (ValueError, "must agree", {"q": q[:1]}),
        (ValueError, "multiple", {"q": q[:, :3]}),
        (TypeError, "mask has dtype", {"mask": np.ones((70, 300))}),
        (ValueError, "mask has shape", {"mask": np.ones((70, 299), bool)}),
        (ValueError, "bias has shape", {"bias": np.ones((71, 300))}),
        (ValueError, "softcap", {"softcap": 0.0}),
        (ValueError, "softcap", {"softcap": -1.0}),
        (TypeError, "softcap", {"softcap": "1"}),
        (TypeError, "scale", {"scale": "1"}),
        (TypeError, "causal", {"causal": None}),
        (ValueError, "causal_offset", {"causal_offset": "start"}),
        (TypeError, "causal_offset", {"causal_offset": 1.0}),
        (ValueError, "causal_offset is 1000000000000000000000, it must be from", {"causal_offset": 10**21}),
        (TypeError, "window", {"window": 3}),
        (ValueError, "window", {"window": (-2, 0)}),
        (TypeError, "window", {"window": (1.0, 0)}),
        (ValueError, "sinks has shape", {"sinks": np.ones(2)}),
        (ValueError, "alibi_slopes has shape", {"alibi_slopes": np.ones((2, 4))}),
        (ValueError, "q_lengths holds 71", {"q_lengths": [71, 1]}),
        (ValueError, "kv_lengths holds -1", {"kv_lengths": [-1, 1]}),
        (ValueError, "kv_lengths has shape", {"kv_lengths": [1]}),
        (TypeError, "kv_lengths has dtype", {"kv_lengths": [1.0, 2.0]}),
        (ValueError, "layout", {"layout": "LBHD"}),
        (ValueError, "three axes", {"cu_seqlens_q": [0, 2], "cu_seqlens_kv": [0, 2]}),
    ]
    for error, match, bad in cases:
        out = np.full((2, 4, 70, 24), 7, np.float32)
        with pytest.raises(error, match=match):
            sc.attention(**{"q": q, "k": k, "v": v, "out": out, **bad})
        assert (out == 7).all()
    o, lse = sc.attention(q, k, v, return_lse=True)
    outs = tuple(np.full_like(a, 7) for a in (q, k, v))
    for error, match, bad in [
        (ValueError, "o has shape", {"o": o[:, :, 1:]}),
        (ValueError, "lse has shape", {"lse": lse[..., None]}),
        (ValueError, "do has shape", {"do": o[:, :, 1:]}),
        (ValueError, "bias_grad", {"bias_grad": True}),
        (ValueError, "sinks_grad", {"sinks_grad": True}),
        (TypeError, "bias_grad", {"bias_grad": None}),
    ]:
        with pytest.raises(error, match=match):
            sc.attention_backward(**{"do": o, "q": q, "k": k, "v": v, "o": o, "lse": lse, "out": outs, **bad})
        assert all((a == 7).all() for a in outs)


def test_out_may_overlap_slopes(rng):
    q, k, v = operands(rng, (), (4, 4), (64, 64), (8, 8), np.float64)
    slopes = np.array([0.1, 0.2, 0.3, 0.4])
    expected = sc.attention(q, k, v, alibi_slopes=slopes)
    room = np.zeros(q.size)
    room[:4] = slopes
    assert same_bits(sc.attention(q, k, v, alibi_slopes=room[:4], out=room.reshape(q.shape)), expected)


def test_options_beyond_float32(rng):
    q, k, v = operands(rng, (1,), (2, 2), (5, 5), (8, 8))
    assert same_bits(sc.attention(q, k, v, softcap=1e39), sc.attention(q, k, v, softcap=1e200))
    close(sc.attention(q, k, v, softcap=1e39), ref.attention(q, k, v))
    close(sc.attention(0 * q, k, v, softcap=1e-39), ref.attention(0 * q, k, v))
    steep = sc.attention(q, k, v, alibi_slopes=[1e39] * 2, causal=True)
    assert same_bits(np.ascontiguousarray(steep[..., 0, :]), np.ascontiguousarray(v[..., 0, :]))
    assert sc.attention(q[:, :0], k[:, :0], v[:, :0]).shape == (1, 0, 5, 8)


def test_bad_packed_arguments(rng):
    q, k, v = (a[0].swapaxes(0, 1) for a in operands(rng, batch=(1,)))
    good = {"cu_seqlens_q": [0, 70], "cu_seqlens_kv": [0, 300]}
    for match, bad in [
        ("rise from 0 to 70", {"cu_seqlens_q": [0, 71]}),
        ("rise from 0 to 70", {"cu_seqlens_q": [0, 50, 40, 70]}),
        ("rise from 0 to 300", {"cu_seqlens_kv": [1, 300]}),
        ("as many", {"cu_seqlens_kv": [0, 30, 300]}),
        ("given with the other", {"cu_seqlens_kv": None}),
        ("mask is given", {"mask": np.ones((70, 300), bool)}),
        ("kv_lengths is given", {"kv_lengths": [3]}),
    ]:
        with pytest.raises(ValueError, match=match):
            sc.attention(q, k, v, **{**good, **bad})


# --------------------------------------------------------------------------------------------------------- merge and caches


def test_merge(rng):
    q, k, v = operands(rng, lengths=(20, 700))
    expected, expected_lse = ref.attention(q, k, v, return_lse=True)
    cuts = [0, 100, 101, 600, 700]
    parts = [sc.attention(q, k[:, :, a:b], v[:, :, a:b], return_lse=True) for a, b in zip(cuts, cuts[1:])]
    o, lse = sc.merge_attention(parts)
    close(o, expected)
    close(lse, expected_lse)
    for a, b in zip(sc.merge_attention(parts), ref.merge_attention(parts)):
        close(a, b)
    empty = np.zeros_like(parts[0][0]), np.full_like(parts[0][1], -np.inf)
    assert all(map(same_bits, sc.merge_attention([empty, *parts, empty]), (o, lse)))
    assert all(map(same_bits, sc.merge_attention([empty, parts[0]]), parts[0]))
    o, lse = sc.merge_attention([empty, empty])
    assert not o.any() and np.isneginf(lse).all()
    spoiled = np.full_like(empty[0], np.nan), empty[1]
    for given in ([spoiled], [spoiled, *parts], [*parts, spoiled]):
        assert np.isnan(sc.merge_attention(given)[0]).all() and np.isnan(ref.merge_attention(given)[0]).all()
    zero = np.full((1, 1), -0.0), np.zeros(1)
    assert np.signbit(sc.merge_attention([zero])[0]).all()
    for n in (1, 2, 5):
        with sc.num_threads(n):
            assert all(map(same_bits, sc.merge_attention(parts), sc.merge_attention(tuple(parts))))


def test_merge_takes_any_layout_and_dtype(rng):
    q, k, v = operands(rng, lengths=(20, 60), dtype=np.float16)
    parts = [sc.attention(q, k[:, :, s], v[:, :, s], return_lse=True) for s in (slice(0, 20), slice(20, 60))]
    o, lse = sc.merge_attention(parts)
    assert o.dtype == np.float16 and lse.dtype == np.float32
    strided = [(np.asfortranarray(o), lse[::-1].copy()[::-1]) for o, lse in parts]
    assert all(map(same_bits, sc.merge_attention(strided), (o, lse)))
    mixed = [parts[0], tuple(a.astype(np.float64) for a in parts[1])]
    assert sc.merge_attention(mixed)[0].dtype == np.float64
    out = parts[0][0], np.empty_like(lse)
    assert all(map(same_bits, sc.merge_attention(parts, out=out), (o, lse)))
    for error, bad in [(ValueError, []), (TypeError, 3), (TypeError, [(o,)]), (TypeError, "ab"), (ValueError, [(o, o)]), (ValueError, [(o, lse), (o[1:], lse[1:])])]:
        with pytest.raises(error, match="merge_attention: part"):
            sc.merge_attention(bad)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_cache(dtype, rng):
    q, k, v = operands(rng, (2,), (4, 2), (600, 600), (32, 32), dtype)
    cache = sc.KVCache(2, 2, 600, 32, dtype)
    full, full_lse = sc.attention(q, k, v, causal=True, return_lse=True)
    for a, b in ((0, 300), (300, 301), (301, 597), (597, 600)):
        cache.append(k[:, :, a:b], v[:, :, a:b])
        o, lse = cache.attend(q[:, :, a:b], return_lse=True)
        assert same_bits(o, np.ascontiguousarray(full[:, :, a:b])) and same_bits(lse, np.ascontiguousarray(full_lse[:, :, a:b]))
    assert len(cache) == 600 and same_bits(np.ascontiguousarray(cache.k), k)
    with pytest.raises(ValueError, match="room"):
        cache.append(k[:, :, :1], v[:, :, :1])
    assert len(cache) == 600


def test_cache_refuses():
    cache = sc.KVCache(1, 2, 4, 3)
    k = np.ones((1, 2, 5, 3), np.float32)
    for match, given in (("room", (k, k)), ("shape", (k[0], k[0])), ("shape", (k[:, :, :2], k[:, :, :1])), ("shape", (k[..., :2], k[..., :2]))):
        with pytest.raises(ValueError, match=match):
            cache.append(*given)
        assert len(cache) == 0 and cache.k.shape == (1, 2, 0, 3)
    for error, given in ((TypeError, (1, 2, 3.0, 4)), (ValueError, (1, -2, 3, 4)), (TypeError, (1, 2, 3, 4, int)), (TypeError, (1, 2, 3, 4, ">f4"))):
        with pytest.raises(error, match="KVCache"):
            sc.KVCache(*given)
    assert "of 0 positions" in repr(cache)
    assert not cache.attend(np.ones((1, 2, 1, 3), np.float32)).any()


# ------------------------------------------------------------------------------------------------------------------ memory


def test_memory_is_linear():
    """At 32768 x 32768 the matrix would take 4 GB."""
    code = """
import resource, numpy as np, softcore as sc
sc.set_num_threads(2)
q, k, v = np.ones((3, 1, 32768, 64), np.float32)
o, lse = np.zeros_like(q), np.zeros((1, 32768), np.float32)
gradients = tuple(np.zeros_like(q) + 1 for _ in range(3))
options = dict(window=(600, 0))  # all the tiles there are room for, in a few of their many
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sc.attention(q, k, v, out=(o, lse), return_lse=True, **options)
sc.attention_backward(o, q, k, v, o, lse, out=gradients, **options)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 64
