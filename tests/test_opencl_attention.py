"""Attention on OpenCL devices: every option against the definition, at sizes around its tiles, and what is its own.

See test_opencl.py for where these tests run.
"""

import faulthandler
import json
import os

import numpy as np
import pytest
from calls import BFLOAT16, same_bits
from test_attention import OPTIONS, close, operands

cl = pytest.importorskip("pyopencl", reason="pyopencl is not installed: pip install softcore[opencl]")

from opencl_calls import CPU, GPU, attention_calls, every_result, use_tiles_of
from test_opencl import DEVICE, device, get, limited, on_device, simulated, to_device  # noqa: F401  # fixtures among them

import softcore as sc
from softcore import planner
from softcore.opencl.views import View

ref = sc.reference
FLOATING = [np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64)]
LARGE_GROUPS = planner.Device(cpu=False, units=4, largest=256, local=1 << 16)


def compare(q, k, v, rng, **options):
    """Forward and every gradient against the definition."""
    o, lse = on_device("attention", q, k, v, return_lse=True, **options)
    expected, expected_lse = ref.attention(q, k, v, return_lse=True, **options)
    wide = "float64" if q.dtype == np.float64 else "float32"
    assert o.dtype == q.dtype and lse.dtype == wide
    assert o.shape == expected.shape and lse.shape == expected_lse.shape
    close(o, expected)
    close(lse, expected_lse, wide)
    do = rng.standard_normal(o.shape).astype(q.dtype)
    asked = {f"{name}_grad": True for name in ("bias", "sinks") if name in options}
    actual = on_device("attention_backward", do, q, k, v, o, lse, **options, **asked)
    gradients = ref.attention_backward(do, q, k, v, o, lse, **options, **asked)
    assert len(actual) == len(gradients)
    for a, e in zip(actual, gradients):
        assert a.shape == e.shape
        close(a, e, terms=max(1, lse.size / max(1, a.size)))  # a bias or a sink that many rows share
    return o, lse


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# ----------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize("layout", ["BHLD", "BLHD"])
@pytest.mark.parametrize("name", OPTIONS)
def test_options(name, layout, rng):
    compare(*operands(rng, layout=layout), rng, layout=layout, **OPTIONS[name])


@pytest.mark.parametrize("name", ["plain", "causal_end", "softcap", "lengths_end"])
def test_options_of_doubles(name, rng):
    compare(*operands(rng, dtype=np.float64), rng, **OPTIONS[name])


@pytest.mark.parametrize("shape", [(2, 4, 70, 300), (70, 300), (1, 1, 300), (2, 1, 70, 1), (4, 1, 1), (1, 1), ()])
def test_masks_and_biases_broadcast(shape, rng):
    q, k, v = operands(rng)
    compare(q, k, v, rng, mask=rng.random(shape) < 0.6)
    compare(q, k, v, rng, bias=rng.standard_normal(shape).astype(np.float32), causal=True)


def test_all_options_at_once(rng):
    mask, bias, slopes, sinks = rng.random((70, 300)) < 0.6, rng.standard_normal((4, 70, 300)), 2.0 ** -np.arange(4), rng.standard_normal(4)
    for dtype in (np.float32, np.float64):
        given = {"mask": mask, "bias": bias.astype(dtype), "sinks": sinks.astype(dtype), "alibi_slopes": slopes}
        lengths = {"q_lengths": [70, 41], "kv_lengths": [299, 33]}
        compare(*operands(rng, dtype=dtype), rng, **given, **lengths, softcap=1.5, window=(40, 40), causal_offset="end", scale=0.2)


def test_slopes_and_sinks(rng):
    q, k, v = operands(rng)
    slopes, sinks = 2.0 ** -np.arange(4), np.array([0.5, -np.inf, 3.0, -1.0], np.float32)
    compare(q, k, v, rng, alibi_slopes=slopes)
    compare(q, k, v, rng, alibi_slopes=slopes, causal=True, causal_offset="end")
    compare(q, k, v, rng, sinks=sinks)
    compare(q, k, v, rng, sinks=sinks, causal=True, causal_offset=-5, softcap=2.0, bias=np.ones((1, 1), np.float32))
    arrays = [to_device(a) for a in (q, k, v)]
    on_host = sc.attention(*arrays, alibi_slopes=list(slopes), kv_lengths=[300, 20])
    assert same_bits(sc.attention(*arrays, alibi_slopes=to_device(slopes), kv_lengths=to_device(np.array([300, 20]))).get(), on_host.get())


def test_packed_sequences(rng):
    q, k, v = (a[0].swapaxes(0, 1) for a in operands(rng, batch=(1,)))
    starts = {"cu_seqlens_q": [0, 0, 33, 40, 70], "cu_seqlens_kv": [0, 10, 270, 270, 300]}
    for options in ({}, {"causal": True}, {"causal": True, "causal_offset": "end"}, {"window": (3, 9)}):
        o, lse = compare(q, k, v, rng, **starts, **options)
        part = on_device("attention", q[None, :33], k[None, 10:270], v[None, 10:270], layout="BLHD", **options)
        assert same_bits(o[:33], part[0]) and lse.shape == (4, 70)
        assert not o[33:40].any() and np.isneginf(lse[:, 33:40]).all()


# ------------------------------------------------------------------------------------------------------- sizes and dtypes


@pytest.mark.parametrize("size", [1, 2, 7, 8, 15, 16, 17, 31, 64, 80, 96, 128, 130, 256])
def test_head_sizes(size, rng):
    compare(*operands(rng, (1,), (2, 1), (20, 270), (size, size)), rng, causal=True, causal_offset="end")
    compare(*operands(rng, (), (1, 1), (3, 40), (size, 5)), rng)
    compare(*operands(rng, (), (1, 1), (3, 40), (5, size)), rng)


@pytest.mark.parametrize("size", [5, 64, 256])
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_dtypes(size, dtype, rng):
    compare(*operands(rng, (1,), (2, 1), (20, 270), (size, size), dtype), rng, causal=True, causal_offset="end")


def test_mixed_dtypes(rng):
    q, k, v = operands(rng, (), (1, 1), (3, 40), (5, 5))
    half, brain = q.astype(np.float16), k.astype(BFLOAT16)
    assert on_device("attention", half, brain, v.astype(np.float16)).dtype == np.float32
    assert on_device("attention", q, k, v.astype(np.float64)).dtype == np.float64
    whole = [(4 * a).astype(int) for a in (q, k, v)]
    close(on_device("attention", *whole), ref.attention(*whole))
    o, lse = on_device("attention", half, k, v, return_lse=True)
    assert [g.dtype for g in on_device("attention_backward", o, half, k, v, o, lse)] == [np.float16, np.float32, np.float32]


LENGTHS = [(1, 1), (1, 31), (1, 32), (5, 33), (8, 64), (9, 65), (63, 30), (64, 16), (65, 17), (97, 1), (130, 200)]


@pytest.mark.parametrize("lengths", LENGTHS)
def test_lengths(lengths, rng):
    arrays = operands(rng, (1,), (3, 1), lengths, (16, 16))
    compare(*arrays, rng)
    compare(*arrays, rng, causal=True)


def test_without_keys_queries_batch_or_size(rng):
    q, k, v = operands(rng, lengths=(5, 0))
    o, lse = on_device("attention", q, k, v, return_lse=True)
    assert o.shape == (2, 4, 5, 24) and not o.any() and np.isneginf(lse).all()
    dq, dk, dv = on_device("attention_backward", np.ones_like(o), q, k, v, o, lse)
    assert not dq.any() and dk.shape == k.shape and dv.shape == v.shape
    for batch, lengths, sizes in (((2,), (0, 5), (3, 3)), ((0,), (4, 5), (3, 3)), ((), (4, 5), (0, 3)), ((), (4, 5), (3, 0))):
        q, k, v = operands(rng, batch, lengths=lengths, sizes=sizes)
        o, lse = on_device("attention", q, k, v, return_lse=True)
        assert o.shape == (*batch, 4, lengths[0], sizes[1])
        close(lse, ref.attention(q, k, v, return_lse=True)[1])
        gradients = on_device("attention_backward", np.ones_like(o), q, k, v, o, lse)
        for a, b, e in zip(gradients, (q, k, v), ref.attention_backward(np.ones_like(o), q, k, v, o, lse)):
            assert a.shape == b.shape
            close(a, e)
    bias, sinks = np.ones((4, 0, 5), np.float32), np.ones(4, np.float32)
    q, k, v = operands(rng, lengths=(0, 5))
    o, lse = on_device("attention", q, k, v, return_lse=True, bias=bias, sinks=sinks)
    gradients = on_device("attention_backward", o, q, k, v, o, lse, bias=bias, sinks=sinks, bias_grad=True, sinks_grad=True)
    assert [g.shape for g in gradients[3:]] == [(4, 0, 5), (4,)] and not gradients[4].any()


# ------------------------------------------------------------------------------------------------------------------- masks


def test_a_row_without_keys(rng):
    q, k, v = operands(rng)
    mask = rng.random((70, 300)) < 0.5
    mask[[0, 33, 69]] = False
    for options in ({}, {"sinks": np.ones(4, np.float32)}, {"bias": np.zeros((1, 1), np.float32)}):
        o, lse = compare(q, k, v, rng, mask=mask, **options)
        assert not o[:, :, [0, 33, 69]].any() and np.isneginf(lse[:, :, [0, 33, 69]]).all()
        dq = on_device("attention_backward", np.full_like(o, np.nan), q, k, v, o, lse, mask=mask, **options)[0]
        assert not dq[:, :, [0, 33, 69]].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["mask", "causal", "window", "lengths"])
def test_what_is_hidden_does_not_leak(name, bad, rng):
    q, k, v = operands(rng, lengths=(100, 100))
    options = {
        "mask": {"mask": np.arange(100) < 70},
        "causal": {"causal": True},
        "window": {"window": (None, 0)},
        "lengths": {"kv_lengths": [70, 70]},
    }[name]
    few = slice(None) if name in ("mask", "lengths") else slice(70)
    do = rng.standard_normal((2, 4, 100, 24)).astype(np.float32)
    results = []
    for spoiled in (False, True):
        if spoiled:
            k[:, :, 70:], v[:, :, 70:] = bad, bad
        o, lse = on_device("attention", q, k, v, return_lse=True, **options)
        dq, dk, dv = on_device("attention_backward", do, q, k, v, o, lse, **options)
        results.append([np.ascontiguousarray(a[:, :, few]) for a in (o, lse, dq)] + ([] if few.stop else [dk, dv]))
    assert all(map(same_bits, *results))


def test_a_bad_query_spoils_only_the_keys_it_sees(rng):
    q, k, v = operands(rng, lengths=(100, 100))
    q[:, :, 45] = np.nan
    o, lse = on_device("attention", q, k, v, return_lse=True, causal=True)
    dq, dk, dv = on_device("attention_backward", np.ones_like(o), q, k, v, o, lse, causal=True)
    for g in (dk, dv):
        assert np.isnan(g[:, :, :46]).all() and np.isfinite(g[:, :, 46:]).all()
    for a in (o, dq):
        assert np.isnan(a[:, :, 45]).all() and np.isfinite(np.delete(a, 45, axis=2)).all()


def test_what_is_seen_shows(rng):
    q, k, v = operands(rng, (1,), (1, 1), (4, 100))
    q[:], k[:] = np.abs(q), np.abs(k)
    for bad, lse_is in ((np.nan, np.isnan), (np.inf, np.isposinf)):
        spoiled = k.copy()
        spoiled[0, 0, 70] = bad
        o, lse = on_device("attention", q, spoiled, v, return_lse=True)
        assert np.isnan(o).all() and lse_is(lse).all()
    spoiled[0, 0, 20] = np.nan
    assert np.isnan(on_device("attention", q, spoiled, v, return_lse=True)[1]).all()
    spoiled = k.copy()
    spoiled[0, 0, 70] = -np.inf  # a weight of 0
    close(on_device("attention", q, spoiled, v), ref.attention(q, np.delete(k, 70, 2), np.delete(v, 70, 2)))
    o, lse = on_device("attention", q, k, v, bias=np.full((1, 1), -np.inf, np.float32), return_lse=True)
    assert np.isnan(o).all() and np.isneginf(lse).all()
    spoiled = v.copy()
    spoiled[0, 0, 70, 3] = np.nan
    o = on_device("attention", q, k, spoiled, bias=np.where(np.arange(100) == 70, -np.inf, 0).astype(np.float32))
    assert np.isnan(o[..., 3]).all() and np.isfinite(np.delete(o, 3, axis=-1)).all()


def test_one_key_is_its_value(rng):
    for dtype in FLOATING:
        q, k, v = operands(rng, lengths=(9, 1), dtype=dtype)
        assert (on_device("attention", q, k, v) == np.repeat(np.repeat(v, 2, axis=1), 9, axis=2)).all()


def test_large_scores(rng):
    q, k, v = operands(rng, (1,), (1, 1), (20, 70))
    close(on_device("attention", 1e15 * q, 1e15 * k, v), ref.attention(1e15 * q, 1e15 * k, v))
    steep = on_device("attention", q, k, v, alibi_slopes=[1e39], causal=True)  # computed in float64
    assert same_bits(steep[..., :1, :], v[..., :1, :])


# -------------------------------------------------------------------------------------------------------------------- bits

BITS = {
    "plain": {},
    "causal": {"causal": True, "causal_offset": "end"},
    "window": {"window": (50, 3)},
    "all": {
        "mask": np.arange(200) % 7 > 0,
        "bias": np.linspace(0, 1, 200, dtype=np.float32)[None],
        "sinks": np.ones(6, np.float32),
        "softcap": 3.0,
    },
}


def all_results(q, k, v, do, **options):
    o, lse = sc.attention(q, k, v, return_lse=True, **options)
    asked = {f"{name}_grad": True for name in ("bias", "sinks") if name in options}
    return get((o, lse, *sc.attention_backward(do, q, k, v, o, lse, **options, **asked)))


@pytest.mark.parametrize("name", BITS)
def test_a_row_alone(name, rng):
    q, k, v = operands(rng, (2,), (6, 2), (40, 200), (32, 48))
    o, lse = on_device("attention", q, k, v, return_lse=True, **BITS[name])
    for i in (0, 17, 39):
        options = dict(BITS[name])
        if name in ("causal", "window"):
            options["causal_offset"] = i + (160 if name == "causal" else 0)
        alone, alone_lse = on_device("attention", q[1:, :, i : i + 1], k[1:], v[1:], return_lse=True, **options)
        assert same_bits(alone[0, :, 0], np.ascontiguousarray(o[1, :, i])) and same_bits(
            alone_lse[0, :, 0], np.ascontiguousarray(lse[1, :, i])
        )
    if name == "plain":
        assert same_bits(on_device("attention", q[:, 3:6, 5:11], k[:, 1:], v[:, 1:]), np.ascontiguousarray(o[:, 3:6, 5:11]))


def test_strides(rng):
    q, k, v = operands(rng, (2,), (4, 2), (40, 70), (16, 16))
    do = rng.standard_normal(q.shape).astype(np.float32)
    options = {"causal": True, "bias": to_device(rng.standard_normal((40, 70)).astype(np.float32))}
    expected = all_results(*map(to_device, (q, k, v, do)), **options)

    def forms(a):
        yield to_device(np.ascontiguousarray(a[:, :, ::-1]))[:, :, ::-1]
        yield to_device(np.ascontiguousarray(a.swapaxes(-1, -2))).transpose((0, 1, 3, 2))
        yield to_device(np.repeat(a, 2, axis=-1))[..., ::2]
        yield to_device(np.concatenate([a, a], axis=2))[:, :, a.shape[2] :]

    for given in zip(*map(forms, (q, k, v, do))):
        assert all(map(same_bits, all_results(*given, **options), expected))
    turned = all_results(*(to_device(np.ascontiguousarray(a.swapaxes(1, 2))) for a in (q, k, v, do)), layout="BLHD", **options)
    for a, b, lse in zip(turned, expected, (0, 1, 0, 0, 0)):
        assert same_bits(a if lse else np.ascontiguousarray(a.swapaxes(1, 2)), b)


def test_axes_of_the_batch(rng):
    q, k, v = operands(rng, (2, 3, 2), (2, 1), (5, 9), (8, 8))
    mask = rng.random((2, 1, 2, 1, 5, 9)) < 0.7
    bias = rng.standard_normal((3, 1, 2, 1, 9)).astype(np.float32)
    compare(q, k, v, rng, mask=mask, bias=bias, kv_lengths=rng.integers(0, 10, (2, 3, 2)).tolist())
    x = sc.opencl.to_device(np.zeros((4,) * 8, np.float32))[(slice(None, None, 2),) * 5]
    with pytest.raises(ValueError, match="attend: the batch has 5 axes no two of which can be joined, the OpenCL core takes 4"):
        sc.attention(x, x, x)


# ------------------------------------------------------------------------------------------------------------ out and errors


def test_out(rng):
    q, k, v = operands(rng, (2,), (2, 2), (70, 70), (16, 16))
    expected, expected_lse = on_device("attention", q, k, v, return_lse=True)
    arrays = [to_device(a) for a in (q, k, v)]
    room, lse = to_device(np.zeros_like(q)), to_device(np.zeros((2, 2, 70), np.float32))
    out = room[..., ::-1]
    assert sc.attention(*arrays, out=out) is out and same_bits(room.get(), np.ascontiguousarray(expected[..., ::-1]))
    assert sc.attention(*arrays, return_lse=True, out=(None, lse))[1] is lse and same_bits(lse.get(), expected_lse)
    do = rng.standard_normal(q.shape).astype(np.float32)
    gradients = on_device("attention_backward", do, q, k, v, expected, expected_lse)
    for name in range(3):
        given = [to_device(a) for a in (q, k, v)]
        sc.attention(*given, out=given[name])
        assert same_bits(given[name].get(), expected)
        given = [to_device(a) for a in (q, k, v)]
        outs = tuple(given[(i + name) % 3] for i in range(3))
        results = sc.attention_backward(to_device(do), *given, to_device(expected), to_device(expected_lse), out=outs)
        assert all(a is b for a, b in zip(results, outs)) and all(map(same_bits, get(results), gradients))
    sinks = to_device(np.ones(2, np.float32))
    _, _, _, dsinks = sc.attention_backward(
        to_device(do), *arrays, to_device(expected), to_device(expected_lse), sinks=sinks, sinks_grad=True, out=(None, None, None, sinks)
    )
    assert dsinks is sinks


def test_bad_arguments_leave_out_untouched(rng):
    q, k, v = operands(rng)
    for error, match, bad in [
        (TypeError, "q is a pyopencl array and k is not|k is not|and k", {"k": k}),
        (TypeError, "mask is not a pyopencl array and the other arrays are", {"mask": np.ones((70, 300), bool)}),
        (TypeError, "bias is not, all must be of one kind", {"bias": np.ones((70, 300), np.float32)}),
        (TypeError, "mask has dtype", {"mask": to_device(np.ones((70, 300)))}),
        (ValueError, "must agree", {"k": to_device(k[..., :-1])}),
        (ValueError, "bias has shape", {"bias": to_device(np.ones((71, 300), np.float32))}),
        (ValueError, "kv_lengths holds 301", {"kv_lengths": to_device(np.array([301, 0]))}),
        (TypeError, "kv_lengths has dtype", {"kv_lengths": to_device(np.array([1.0, 2.0]))}),
        (ValueError, "softcap", {"softcap": 0.0}),
        (TypeError, "out is a ndarray", {"out": np.zeros((2, 4, 70, 24), np.float32)}),
    ]:
        out = to_device(np.full((2, 4, 70, 24), 7, np.float32))
        with pytest.raises(error, match=match):
            sc.attention(**{"q": to_device(q), "k": to_device(k), "v": to_device(v), "out": out, **bad})
        assert (out.get() == 7).all()


def test_heads_too_large_for_the_device(rng, monkeypatch):
    use_tiles_of(monkeypatch, planner.Device(cpu=True, units=2, largest=64, double=False))
    q, k, v = operands(rng, (), (1, 1), (3, 4), (3000, 8))
    with pytest.raises(ValueError, match="attention: heads of 3000 and 8 elements are too large for the 32768 bytes of local memory"):
        on_device("attention", q, k, v)
    with pytest.raises(TypeError, match="attend: the device '.*' has no float64, in which this call computes"):
        on_device("attention", *(a[..., :8].astype(float) for a in (q, k, v)))
    sc.opencl.launches.cache.clear()


def test_a_new_size_builds_nothing(rng, monkeypatch):
    for lengths in ((100, 100), (70, 33)):
        arrays = operands(rng, (1,), (2, 1), lengths, (16, 16))
        all_results(*map(to_device, (*arrays, arrays[0])), causal=True)
        monkeypatch.setattr(sc.opencl.programs, "_program", None)


# --------------------------------------------------------------------------------------------------------- merge and caches


def test_merge(rng):
    q, k, v = operands(rng, lengths=(20, 200))
    expected, expected_lse = ref.attention(q, k, v, return_lse=True)
    cuts = [(0, 50), (50, 51), (51, 170), (170, 200)]
    parts = [on_device("attention", q, k[:, :, a:b], v[:, :, a:b], return_lse=True) for a, b in cuts]

    def merged(parts):
        return get(sc.merge_attention([to_device(tuple(part)) for part in parts]))

    o, lse = merged(parts)
    close(o, expected)
    close(lse, expected_lse)
    for a, b in zip((o, lse), ref.merge_attention(parts)):
        close(a, b)
    empty = np.zeros_like(parts[0][0]), np.full_like(parts[0][1], -np.inf)
    assert all(map(same_bits, merged([empty, *parts, empty]), (o, lse)))
    assert all(map(same_bits, merged([empty, parts[0]]), parts[0]))
    o, lse = merged([empty, empty])
    assert not o.any() and np.isneginf(lse).all()
    spoiled = np.full_like(empty[0], np.nan), empty[1]
    for given in ([spoiled], [spoiled, *parts], [*parts, spoiled]):
        assert np.isnan(merged(given)[0]).all()
    spoiled = parts[0][0], np.full_like(empty[1], np.nan)
    assert all(np.isnan(a).all() for a in merged([spoiled, *parts]))
    zero = np.full((1, 1), -0.0), np.zeros(1)
    assert np.signbit(merged([zero])[0]).all()
    no_values = merged([(o[..., :0], lse) for o, lse in parts])
    assert no_values[0].shape == (2, 4, 20, 0) and same_bits(no_values[1], merged(parts)[1])


def test_merge_takes_any_layout_and_dtype(rng):
    q, k, v = operands(rng, lengths=(20, 60), dtype=np.float16)
    parts = [on_device("attention", q, k[:, :, s], v[:, :, s], return_lse=True) for s in (slice(0, 20), slice(20, 60))]
    here = [to_device(part) for part in parts]
    o, lse = sc.merge_attention(here)
    assert o.dtype == np.float16 and lse.dtype == np.float32
    close(o.get(), ref.merge_attention(parts)[0])
    turned = [
        (to_device(np.ascontiguousarray(o.swapaxes(0, 1))).transpose((1, 0, 2, 3)), to_device(lse[::-1].copy())[::-1]) for o, lse in parts
    ]
    assert all(map(same_bits, get(sc.merge_attention(turned)), get((o, lse))))
    mixed = [here[0], to_device(tuple(a.astype(np.float64) for a in parts[1]))]
    assert sc.merge_attention(mixed)[0].dtype == np.float64
    out = here[0][0], to_device(np.zeros_like(parts[0][1]))
    expected = get((o, lse))
    results = sc.merge_attention(here, out=out)
    assert all(a is b for a, b in zip(results, out)) and all(map(same_bits, get(out), expected))
    with pytest.raises(TypeError, match="merge_attention: .* is a pyopencl array and .* is not"):
        sc.merge_attention([parts[0], here[1]])


def test_gradients_side_by_side_in_one_array(rng):
    q, k, v = [rng.standard_normal((2, 3, 40, 16)).astype(np.float32) for _ in range(3)]
    o, lse = sc.attention(q, k, v, return_lse=True)
    expected = on_device("attention_backward", o, q, k, v, o, lse)
    packed = to_device(np.zeros((2, 3, 40, 3, 16), np.float32))
    given = to_device((o, q, k, v, o, lse))
    sc.attention_backward(*given, out=tuple(packed[:, :, :, i] for i in range(3)))
    assert all(map(same_bits, np.moveaxis(packed.get(), 3, 0), expected))
    with pytest.raises(ValueError, match=r"out\[0\] and out\[1\] share memory"):
        sc.attention_backward(*given, out=tuple(packed[:, :, :, i] for i in (0, 0, 1)))


def test_a_cache_that_is_empty_is_where_the_query_is():
    cache, q = sc.KVCache(1, 1, 4, 8), np.ones((1, 1, 1, 8), np.float32)
    assert not cache.attend(to_device(q)).get().any()
    assert not cache.attend(q).any()
    cache.attend(to_device(q))
    cache.append(q, q)
    assert same_bits(cache.attend(q), q)


def test_cache(rng):
    q, k, v = operands(rng, (2,), (4, 2), (60, 60), (32, 32))
    cache = sc.KVCache(2, 2, 60, 32)
    full, full_lse = on_device("attention", q, k, v, causal=True, return_lse=True)
    for a, b in ((0, 30), (30, 31), (31, 57), (57, 60)):
        cache.append(to_device(k[:, :, a:b]), to_device(v[:, :, a:b]))
        o, lse = get(cache.attend(to_device(q[:, :, a:b]), return_lse=True))
        assert same_bits(o, np.ascontiguousarray(full[:, :, a:b])) and same_bits(lse, np.ascontiguousarray(full_lse[:, :, a:b]))
    assert len(cache) == 60 and same_bits(View(cache.k).get(), k) and same_bits(View(cache.v).get(), v)
    with pytest.raises(ValueError, match="room"):
        cache.append(to_device(k[:, :, :1]), to_device(v[:, :, :1]))
    cache = sc.KVCache(2, 2, 60, 32)
    cache.append(to_device(k[:, :, :3]), to_device(v[:, :, :3]))
    with pytest.raises(TypeError, match="KVCache.append: k is not a pyopencl array and the other arrays are"):
        cache.append(k[:, :, :3], v[:, :, :3])
    assert len(cache) == 3 and same_bits(View(cache.k).get(), np.ascontiguousarray(k[:, :, :3]))


# -------------------------------------------------------------------------------------------------------- tiles of other devices


@pytest.fixture
def as_written(monkeypatch):
    """Build without optimization where PoCL 3 makes loops of work-items: its LLVM gets some of them wrong in vectors of 64 bytes.

    Which changes from run to run; unoptimized, on AVX2 and under Oclgrind, which would see a race, they are right.
    """
    if DEVICE and sc.opencl.runtime.PAST.search(DEVICE.platform.version) and DEVICE.native_vector_width_float > 8:
        programs, rounding = sc.opencl.programs, sc.opencl.programs._rounding
        monkeypatch.setattr(programs, "_programs", {})
        monkeypatch.setattr(programs._thread, "kernels", {}, raising=False)
        monkeypatch.setattr(programs, "_rounding", lambda device: [*rounding(device), "-cl-opt-disable"])


@pytest.mark.usefixtures("as_written")
@pytest.mark.parametrize("gpu", [GPU, LARGE_GROUPS], ids=["64", "256"])
def test_tiles_of_a_gpu(gpu, rng, monkeypatch):
    """The settings for GPUs: no GPU was at hand, so CPU runtimes say whether they are right."""
    use_tiles_of(monkeypatch, gpu)
    assert planner.choose_opencl_attention("attend", 256, 256, 100, 4, LARGE_GROUPS).wg == 256
    size = 16 if gpu is GPU else 256
    q, k, v = operands(rng, lengths=(40, 70), sizes=(size, size))
    compare(q, k, v, rng)
    q[0, 0, 30], v[0, 1, 50] = np.nan, np.inf
    compare(q, k, v, rng, causal=True, causal_offset="end")
    q, k, v = operands(rng, lengths=(40, 70), sizes=(13, 24))
    given = {"mask": rng.random((40, 70)) < 0.6, "bias": rng.standard_normal((4, 40, 70)).astype(np.float32), "softcap": 1.5}
    compare(q, k, v, rng, **given, sinks=np.ones(4, np.float32), alibi_slopes=2.0 ** -np.arange(4), q_lengths=[40, 9], kv_lengths=[0, 69])
    compare(*operands(rng, lengths=(40, 70), dtype=np.float64), rng, window=(3, 3), bias=rng.standard_normal((1, 70)))
    compare(*operands(rng, lengths=(40, 70)), rng, bias=rng.standard_normal((40, 1)).astype(np.float32))
    compare(*operands(rng, lengths=(33, 3), sizes=(4, 1)), rng, causal=True)  # fewer vectors than work-items
    compare(*operands(rng, lengths=(20, 20), sizes=(4, 4)), rng, q_lengths=[0, 20])
    sc.opencl.launches.cache.clear()


@pytest.mark.usefixtures("as_written")
@pytest.mark.parametrize("cpu", [True, False])
def test_kernels_take_the_local_memory_that_was_planned(cpu, rng, monkeypatch):
    given = planner.Device(cpu=cpu, units=2, largest=256)
    use_tiles_of(monkeypatch, given)
    monkeypatch.setattr(sc.opencl.programs._thread, "kernels", {}, raising=False)
    compare(*operands(rng, (), (1, 1), (5, 9), (256, 256)), rng, bias=rng.standard_normal((5, 9)).astype(np.float32))
    compare(*operands(rng, (), (1, 1), (5, 9), (252, 252), np.float64), rng)
    taken = [
        kernel.get_work_group_info(cl.kernel_work_group_info.LOCAL_MEM_SIZE, sc.opencl.queue().device)
        for (_, op, _), kernel in sc.opencl.programs._thread.kernels.items()
        if op in ("attend", "query_gradients", "key_gradients", "bias_gradients")
    ]
    assert len(taken) == 7 and given.local // 2 < max(taken) <= given.local
    sc.opencl.launches.cache.clear()


@pytest.mark.parametrize("cpu", [True, False])
def test_tiles_fit_and_follow_from_sizes(cpu):
    for op in ("attend", "query_gradients", "key_gradients", "bias_gradients"):
        for item in (4, 8):
            for size in (1, 16, 64, 130, 256 if item == 4 else 200):
                given = planner.Device(cpu=cpu, units=2, largest=256)
                tiles = [planner.choose_opencl_attention(op, size, size, most, item, given) for most in (1, 30, 1000)]
                assert len({tile.passing for tile in tiles}) == 1
                for tile in tiles:
                    assert tile.across % tile.vec == 0 and tile.passing % 4 == 0 and tile.vec * item <= 32
                    assert tile.wg == 1 if cpu else 64 <= tile.wg <= 256
                    whole = planner.whole_width(size, tile.vec)
                    assert 2 * whole * tile.across * item <= given.local


# ----------------------------------------------------------------------------------------------------------------- oclgrind


@pytest.mark.parametrize("tiles", ["cpu", "gpu"])
def test_oclgrind_finds_nothing_in_attention(tiles, tmp_path):
    faulthandler.cancel_dump_traceback_later()  # a thousand times slower than a device; the process has a time limit of its own
    facts = GPU if tiles == "gpu" else sc.opencl.runtime.facts(DEVICE)._replace(local=1 << 15) if DEVICE else CPU
    script = os.path.join(os.path.dirname(__file__), "opencl_calls.py")
    assert simulated(tmp_path, script, str(tmp_path / "results.npz"), json.dumps(facts), "attention") == ""
    with np.load(tmp_path / "results.npz") as results:
        for name, expected in every_result(attention_calls, opencl=DEVICE is not None).items():
            if DEVICE and tiles == "cpu":
                assert same_bits(results[name], expected), name
            np.testing.assert_allclose(results[name], expected, rtol=1e-5, atol=5e-6, err_msg=name)
