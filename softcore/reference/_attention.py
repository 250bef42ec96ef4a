"""Attention."""

from __future__ import annotations

import numpy as np

from softcore.reference._common import _sum_to, _wide, definition
from softcore.reference._op import Op, gradient_dtype
from softcore.reference._softmax import logsumexp, softmax


def _heads_first(layout, packed, *arrays):
    """Operands as (..., heads, rows, elements)."""
    return [_wide(a).swapaxes(-3, -2) if packed or layout == "BLHD" else _wide(a) for a in arrays]


def _reach(shape, causal, causal_offset, window, mask, q_lengths, kv_lengths, cu_seqlens_q, cu_seqlens_kv):
    """Which keys each query attends to, and the distance p - j from its position to theirs, both (..., Hq, Lq, Lk)."""
    lq, lk = shape[-2:]
    i, j = np.arange(lq)[:, None], np.arange(lk)
    n, m = (
        np.asarray(most if lengths is None else lengths)[..., None, None, None] for most, lengths in ((lq, q_lengths), (lk, kv_lengths))
    )
    allowed = (i < n) & (j < m)
    if cu_seqlens_q is not None:
        starts_q, starts_k = np.asarray(cu_seqlens_q), np.asarray(cu_seqlens_kv)
        of_q, of_k = (np.searchsorted(starts, x, side="right") - 1 for starts, x in ((starts_q, i), (starts_k, j)))
        allowed = of_q == of_k
        i, j = i - starts_q[of_q], j - starts_k[of_k]
        n, m = (np.append(np.diff(starts), 0)[of_q] for starts in (starts_q, starts_k))
    away = i + (m - n if causal_offset == "end" else causal_offset) - j
    left, right = (None if side == -1 else side for side in window or (None, None))
    allowed = allowed & (away >= 0 if causal else True)
    allowed = allowed & (True if left is None else away <= left) & (True if right is None else away >= -right)
    return np.broadcast_to(allowed & (True if mask is None else mask), shape), np.broadcast_to(away, shape)


def _scores(q, k, allowed, away, scale, bias, alibi_slopes, softcap):
    """The scores, -inf where a key does not count, and what softcap's tanh gave."""
    s = np.where(allowed, (q * (q.shape[-1] or 1) ** -0.5 if scale is None else q * scale) @ k.swapaxes(-1, -2), 0.0)
    bend = np.tanh(s / softcap) if softcap else 0.0
    s = bend * softcap if softcap else s
    s = s + (0.0 if bias is None else _wide(bias))
    s = s - (0.0 if alibi_slopes is None else _wide(alibi_slopes)[:, None, None] * np.abs(away))
    return np.where(allowed, s, -np.inf), bend


def _blend(weights, values, allowed):
    """weights @ values, where a value counts only for the rows that are allowed it, whatever it is."""
    finite = np.isfinite(values).all(axis=-1)
    o = np.where(allowed, weights, 0.0) @ np.where(finite[..., None], values, 0.0)
    for j in np.flatnonzero(~finite.all(axis=tuple(range(finite.ndim - 1)))):
        odd = np.where(finite[..., j, None], 0.0, values[..., j, :])[..., None, :]
        o = o + np.where((allowed[..., j] & ~finite[..., j, None])[..., None], weights[..., j, None] * odd, 0.0)
    return o


def _grouped(x, hkv):
    """x, (..., Hq, L, D), summed over the query heads of each key head."""
    return x.reshape((*x.shape[:-3], hkv, x.shape[-3] // hkv, *x.shape[-2:])).sum(axis=-3)


@definition
def attention(
    q,
    k,
    v,
    *,
    scale=None,
    causal=False,
    causal_offset=0,
    window=None,
    mask=None,
    bias=None,
    alibi_slopes=None,
    softcap=None,
    sinks=None,
    q_lengths=None,
    kv_lengths=None,
    cu_seqlens_q=None,
    cu_seqlens_kv=None,
    return_lse=False,
    layout="BHLD",
):
    """softmax(scale q k^T) v, over the keys that each query may attend to; and with ``return_lse`` the log of the denominators.

    Scores are scaled, capped (c tanh(s / c)), biased, and masked. A sink is one more score, without a value. A query without a key
    gives 0, and -inf whatever the sink.
    """
    last = cu_seqlens_q is not None or layout == "BLHD"
    q, k, v = _heads_first(layout, cu_seqlens_q is not None, q, k, v)
    k, v = (np.repeat(a, q.shape[-3] // a.shape[-3], axis=-3) for a in (k, v))
    allowed, away = _reach(
        (*q.shape[:-1], k.shape[-2]), causal, causal_offset, window, mask, q_lengths, kv_lengths, cu_seqlens_q, cu_seqlens_kv
    )
    s, _ = _scores(q, k, allowed, away, scale, bias, alibi_slopes, softcap)
    sink = np.full(s.shape[-3], -np.inf) if sinks is None else _wide(sinks)
    s = np.concatenate([s, np.broadcast_to(sink[:, None, None], (*s.shape[:-1], 1))], axis=-1)
    some = allowed.any(axis=-1)
    o = np.where(some[..., None], _blend(softmax(s)[..., :-1], v, allowed), 0.0)
    o = o.swapaxes(-3, -2) if last else o
    return (o, np.where(some, logsumexp(s), -np.inf)) if return_lse else o


@definition
def attention_backward(
    do,
    q,
    k,
    v,
    o,
    lse,
    *,
    scale=None,
    causal=False,
    causal_offset=0,
    window=None,
    mask=None,
    bias=None,
    alibi_slopes=None,
    softcap=None,
    sinks=None,
    q_lengths=None,
    kv_lengths=None,
    cu_seqlens_q=None,
    cu_seqlens_kv=None,
    bias_grad=False,
    sinks_grad=False,
    layout="BHLD",
):
    """dq = scale ds k, dk = scale ds^T q and dv = p^T do, for p = exp(s - lse) and ds = p (do v^T - sum do o).

    A softcap multiplies ds by 1 - tanh^2 on its way to q and k, not on that to the bias. Query heads that share a key head are added.
    """
    last = cu_seqlens_q is not None or layout == "BLHD"
    do = np.broadcast_to(_wide(do), np.shape(o))
    q, k, v, do, o = _heads_first(layout, cu_seqlens_q is not None, q, k, v, do, o)
    hkv, lse = k.shape[-3], np.where(np.isposinf(_wide(lse)), np.nan, _wide(lse))[..., None]
    k, v = (np.repeat(a, q.shape[-3] // hkv, axis=-3) for a in (k, v))
    scale = (q.shape[-1] or 1) ** -0.5 if scale is None else scale
    allowed, away = _reach(
        (*q.shape[:-1], k.shape[-2]), causal, causal_offset, window, mask, q_lengths, kv_lengths, cu_seqlens_q, cu_seqlens_kv
    )
    s, bend = _scores(q, k, allowed, away, scale, bias, alibi_slopes, softcap)
    delta = np.sum(do * o, axis=-1, keepdims=True)
    p = np.where(allowed, np.exp(s - lse), 0.0)
    ds = np.where(allowed, p * (do @ v.swapaxes(-1, -2) - delta), 0.0)
    dz = scale * ds * (1.0 - bend * bend)
    turned = allowed.swapaxes(-1, -2)
    dq = _blend(dz, k, allowed)
    dk, dv = (_grouped(_blend(g.swapaxes(-1, -2), a, turned), hkv) for g, a in ((dz, q), (p, do)))
    gradients = [a.swapaxes(-3, -2) if last else a for a in (dq, dk, dv)]
    if bias_grad:
        gradients.append(_sum_to(ds, np.shape(bias)))
    if sinks_grad:
        share = np.where(np.isneginf(lse), 0.0, np.exp(_wide(sinks)[:, None, None] - lse) * delta)
        gradients.append(-share.sum(axis=(*range(share.ndim - 3), -2, -1)))
    return tuple(gradients)


@definition
def merge_attention(parts):
    """(sum of exp(lse_i - lse) o_i, lse) for lse = log(sum of exp(lse_i)): attention over all keys, from parts of them."""
    os, lses = (np.stack([_wide(a) for a in arrays]) for arrays in zip(*parts))
    w = np.where(np.isneginf(lses), 0.0, np.exp(lses - np.maximum(np.max(lses, axis=0), np.finfo(float).min)))
    total = np.sum(w, axis=0)[..., None]
    o = np.sum(np.where((w[..., None] == 0) & ~np.isnan(os), 0.0, w[..., None] * os), axis=0)
    return np.where(total == 0, o, o / total), logsumexp(lses, axis=0)


# What tests and benchmarks call them with.


def _attention_inputs(x, rng, axis=-1, **options):
    """Self-attention of x, (..., L, D), whose rows come in other orders as keys and as values."""
    x = np.asarray(x)
    x = x.reshape((1,) * (3 - x.ndim) + x.shape)
    return x, *(np.ascontiguousarray(x[..., rng.permutation(x.shape[-2]), :]) for _ in range(2))


def _attention_gradient_inputs(x, rng, axis=-1, **options):
    q, k, v = _attention_inputs(x, rng)
    o, lse = attention(q, k, v, return_lse=True)
    dtype = gradient_dtype(q)
    return rng.standard_normal(o.shape).astype(dtype), q, k, v, o.astype(dtype), lse.astype(np.result_type(dtype, np.float32))


def _largest_value(q, k, v, **options):
    """A mean of values is counted in units of the largest of them, times that of its weights' scores, which are rounded too."""
    scores = np.max(np.abs(_wide(q)).max(axis=(-2, -1)) * np.abs(_wide(k)).max(axis=(-2, -1)) * np.sqrt(q.shape[-1]), initial=1)
    return np.max(np.abs(_wide(v))) * np.maximum(1, scores)


def _largest_gradient(do, q, k, v, o, lse, **options):
    """The same of gradients, of which each is a sum over rows or keys."""
    size = [np.max(np.abs(_wide(a))) for a in (do, q, k, v)]
    scores, rows = np.maximum(1, size[1] * size[2] * np.sqrt(q.shape[-1])), np.maximum(q.shape[-2], k.shape[-2])
    slope = size[0] * size[3] * v.shape[-1] * scores
    return slope * size[2], slope * size[1] * np.sqrt(rows), size[0] * scores * np.sqrt(rows)


OPS = (
    Op(attention, "attention", "attention", _attention_inputs, terms=_largest_value),
    Op(
        attention_backward,
        "attention",
        "attention",
        _attention_gradient_inputs,
        forward="attention",
        terms=_largest_gradient,
    ),
)
