"""Attention: softmax gating of values by the products of queries and keys, without the matrix of these products."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np

from softcore import check, kernels, planner, threads
from softcore.ops.run import copy, overlaps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from numpy.typing import ArrayLike, DTypeLike, NDArray

_LAYOUTS = ("BHLD", "BLHD")


class _Call(NamedTuple):
    """A checked call: views with heads before rows, and what the kernels are told beside them."""

    q: np.ndarray  # (batch..., Hq, Lq, D); packed (Hq, total, D)
    k: np.ndarray
    v: np.ndarray
    mask: np.ndarray | None  # of the full (batch..., Hq, Lq, Lk)
    bias: np.ndarray | None
    own_bias: np.ndarray | None  # as it came
    dtype: np.dtype  # of the result
    storage: np.dtype  # of arithmetic
    heads_last: bool  # whether arrays come with rows before heads
    ragged: bool  # whether rows may belong to no sequence, or have no key
    how: dict

    @property
    def shape(self) -> tuple[int, ...]:
        """Of lse."""
        return self.q.shape[:-1]

    def seen(self, a: np.ndarray) -> np.ndarray:
        """An operand as the kernels see it, or a result as the user does."""
        return a.swapaxes(-3, -2) if self.heads_last else a

    def targets(self, results, *read) -> list:
        """Where to write the results: temporaries for those that overlap what is read."""
        read = (self.q, self.k, self.v, self.mask, self.bias, *read)
        if not isinstance(self.how["sinks"], np.ndarray):  # a copy
            read = (*read, self.how["sinks"])
        return [check.new(y.shape, y.dtype, y) if any(overlaps(y, a) for a in read) or not y.flags.aligned else y for y in results]

    def operands(self, o, lse, do=None, dq=None, dk=None, dv=None, dbias=None) -> tuple:
        """In the order of the kernels' `Operands`."""
        return self.q, self.k, self.v, o, lse, self.mask, self.bias, do, dq, dk, dv, dbias


def _call(
    op,
    q,
    k,
    v,
    *also,
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
    layout="BHLD",
):
    q, k, v, bias, sinks = check.arrays(op, ("bias", "sinks"), q=q, k=k, v=v, bias=bias, sinks=sinks)
    own = bias
    packed = cu_seqlens_q is not None or cu_seqlens_kv is not None
    heads_last = check.choice(op, "layout", layout, _LAYOUTS) == 1 or packed
    _shapes(op, q, k, v, packed)
    if heads_last:
        q, k, v = (a.swapaxes(-3, -2) for a in (q, k, v))
    (*batch, hq, lq, d), hkv, lk = q.shape, k.shape[-3], k.shape[-2]
    batch = tuple(batch)
    if k.shape[:-3] != batch or v.shape[:-3] != batch or v.shape[-3:-1] != (hkv, lk) or k.shape[-1] != d:
        axes = "(..., H, L, D)" if not heads_last else "(total, H, D)" if packed else "(..., L, H, D)"
        raise ValueError(
            f"{op}: q, k and v have the shapes {_told(q, heads_last)}, {_told(k, heads_last)} and {_told(v, heads_last)}, as {axes}: they must "
            "agree in the batch, q and k in D, k and v in heads and length"
        )
    if hq and (hkv == 0 or hq % hkv):
        raise ValueError(f"{op}: q has {hq} heads and k {hkv}, the heads of q must be a multiple of those of k")
    dtype = check.computing(q, k, v, *also, *(a for a in (bias, sinks) if a is not None))
    scale = (d or 1) ** -0.5 if scale is None else check.scale(op, scale)
    storage = check.scaled(dtype if dtype.itemsize == 8 else np.dtype(np.float32), scale)
    offset = check.causal_offset(op, causal_offset)
    full = (*batch, hq, lq, lk)
    if packed:
        for name, a in (("mask", mask), ("bias", bias), ("q_lengths", q_lengths), ("kv_lengths", kv_lengths)):
            if a is not None:
                raise ValueError(f"{op}: {name} is given, it must be None for packed sequences: their arrays have no axes for it")
    if packed and (cu_seqlens_q is None or cu_seqlens_kv is None):
        raise ValueError(f"{op}: cu_seqlens_{'q' if cu_seqlens_q is None else 'kv'} is None, it must be given with the other")
    starts_q, starts_k = check.sequences(op, "cu_seqlens_q", cu_seqlens_q, lq), check.sequences(op, "cu_seqlens_kv", cu_seqlens_kv, lk)
    if packed and len(starts_q) != len(starts_k):
        raise ValueError(f"{op}: cu_seqlens_q holds {len(starts_q)} places and cu_seqlens_kv {len(starts_k)}, they must be as many")
    queries, keys = check.lengths(op, "q_lengths", q_lengths, batch, lq), check.lengths(op, "kv_lengths", kv_lengths, batch, lk)
    sinks, slopes = check.per_head(op, "sinks", sinks, hq), check.per_head(op, "alibi_slopes", alibi_slopes, hq)
    slopes = None if slopes is None else np.array(check.on_host(slopes), np.float64)  # a copy: `out` may overlap it
    softcap = check.softcap(op, softcap)
    # What float32 cannot hold is computed in float64, as an extreme scale is.
    for factor in (softcap or 1.0, 1.0 if slopes is None else float(np.max(np.abs(slopes), initial=0))):
        storage = check.scaled(storage, factor)
    how = {
        "sequences": len(starts_q) - 1 if packed else prod(batch),
        "queries": np.diff(starts_q).tolist() if packed else lq if queries is None else queries.tolist(),
        "keys": np.diff(starts_k).tolist() if packed else lk if keys is None else keys.tolist(),
        "first_q": starts_q,
        "first_k": starts_k,
        "offset": offset,
        "scale": scale,
        "softcap": softcap or 0.0,
        "causal": check.flag(op, "causal", causal),
        "window": check.window(op, window),
        "slopes": slopes,
        "sinks": np.array(sinks, np.float64) if isinstance(sinks, np.ndarray) else sinks,
    }
    mask = check.mask(op, mask, full, q, "mask")
    bias = None if bias is None else check.broadcast(op, "bias", bias, full)
    ragged = packed or queries is not None or keys is not None or lk == 0
    return _Call(q, k, v, mask, bias, own, dtype, storage, heads_last, ragged, how), sinks


def _shapes(op, q, k, v, packed):
    for name, a in (("q", q), ("k", k), ("v", v)):
        if a.ndim != 3 if packed else a.ndim < 3:
            wanted = "exactly three axes, (total, heads, D)" if packed else "at least three axes, of heads, rows and elements"
            raise ValueError(f"{op}: {name} has shape {a.shape}, it must have {wanted}")


def _told(a, heads_last):
    return a.swapaxes(-3, -2).shape if heads_last else a.shape


def attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    scale: float | None = None,
    causal: bool = False,
    causal_offset: int | str = 0,
    window: tuple[int | None, int | None] | None = None,
    mask: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    alibi_slopes: ArrayLike | None = None,
    softcap: float | None = None,
    sinks: ArrayLike | None = None,
    q_lengths: ArrayLike | None = None,
    kv_lengths: ArrayLike | None = None,
    cu_seqlens_q: ArrayLike | None = None,
    cu_seqlens_kv: ArrayLike | None = None,
    return_lse: bool = False,
    layout: str = "BHLD",
    out: NDArray | tuple[NDArray | None, NDArray | None] | None = None,
) -> Any:
    """``softmax(scale * q @ k.T) @ v``, each query's mean of the values, under the weights that its products with the keys ask for.

    The matrix of these products is never formed: memory is linear in the lengths.

    Parameters
    ----------
    q : array_like
        Queries, of shape (..., Hq, Lq, D).
    k, v : array_like
        Keys (..., Hkv, Lk, D) and values (..., Hkv, Lk, Dv). Hq must be a multiple of Hkv: neighbouring query heads share a key head.
    scale : float, optional
        A factor for the products; the default is ``1 / sqrt(D)``.
    causal : bool, optional
        Whether the query at position p attends only to the keys j <= p. A query's position is its index plus `causal_offset`.
    causal_offset : int or "end", optional
        0 is top-left, as in PyTorch and JAX; "end" is ``Lk - Lq``, bottom-right, as in FlashAttention and in decoding.
    window : (left, right), optional
        The query at p attends only to keys from ``p - left`` to ``p + right``. None or -1 leaves a side open.
    mask : array_like of bool, optional
        Broadcast to (..., Hq, Lq, Lk): True where a query attends to a key.
    bias : array_like, optional
        Broadcast to (..., Hq, Lq, Lk), and added to the scores. Unlike a mask, a bias of -inf hides nothing: a NaN under it shows.
    alibi_slopes : array_like, optional
        One for each query head; ``slope * |p - j|`` is subtracted from the scores. They do not take part in choosing the dtype.
    softcap : float, optional
        Scores s become ``softcap * tanh(s / softcap)``, before bias and masks.
    sinks : array_like, optional
        One logit for each query head that takes part in the denominator, but has no value. It is in the lse of every query that has a key.
    q_lengths, kv_lengths : array_like of int, optional
        One for each element of the batch: rows past it take no part. "end" then is the difference of the two.
    cu_seqlens_q, cu_seqlens_kv : array_like of int, optional
        Where sequences packed into (total, H, D) begin, and where the last one ends.
    return_lse : bool, optional
        Return the logarithm of the denominators as well, which `attention_backward` and `merge_attention` need.
    layout : {"BHLD", "BLHD"}, optional
        "BLHD" takes and gives (..., L, H, D), without a copy.
    out : ndarray, optional
        Where to write the result; with `return_lse` a tuple of two, either of which may be None. It may overlap the inputs.

    Returns
    -------
    o : ndarray
        Of q's shape with Dv in place of D, in the common dtype of q, k, v, bias and sinks (float64 for integers and bool).
    lse : ndarray
        Only with `return_lse`: (..., Hq, Lq) in either layout, packed (Hq, total); float32, or float64 where o is.

    Raises
    ------
    TypeError
        If an operand is complex, an object or a string, `mask` is not boolean, or another argument has the wrong type.
    ValueError
        If shapes do not fit, a length or place of a sequence is out of bounds, `softcap` is not positive, or `out` has the wrong shape.

    See Also
    --------
    softmax_gate : one row of given scores.

    Notes
    -----
    A query whose keys are all masked out gives 0, and an lse of -inf, with a sink as well: so it changes nothing in a merge. What a mask,
    a window or a length hides is not read into the result, whatever it holds. Keys go in chunks of 256, each with a state (m, l, o) of its
    own, merged in order: threads, and the other rows, do not change a bit.

    References
    ----------
    A. Vaswani et al., "Attention is all you need", NeurIPS 2017. T. Dao, D. Fu, S. Ermon, A. Rudra and C. Re, "FlashAttention: fast
    and memory-efficient exact attention with IO-awareness", NeurIPS 2022. O. Press, N. A. Smith and M. Lewis, "Train short, test long:
    attention with linear biases", ICLR 2022.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> q = k = np.eye(3)[None] * 10.0
    >>> v = np.array([[[1.0], [2.0], [3.0]]])
    >>> sc.attention(q, k, v, scale=1.0)[0, :, 0]
    array([1., 2., 3.])
    >>> sc.attention(np.zeros((1, 3, 3)), k, v, causal=True)[0, :, 0]
    array([1. , 1.5, 2. ])
    """
    op = "attention"
    call, _ = _call(
        op,
        q,
        k,
        v,
        scale=scale,
        causal=causal,
        causal_offset=causal_offset,
        window=window,
        mask=mask,
        bias=bias,
        alibi_slopes=alibi_slopes,
        softcap=softcap,
        sinks=sinks,
        q_lengths=q_lengths,
        kv_lengths=kv_lengths,
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_kv=cu_seqlens_kv,
        layout=layout,
    )
    return_lse = check.flag(op, "return_lse", return_lse)
    shape = _told(call.q[..., :1], call.heads_last)[:-1] + call.v.shape[-1:]
    if return_lse:
        results = check.outs(op, out, (shape, call.shape), (call.dtype, _wide(call.dtype)), call.q)
    else:
        results = [check.out(op, out, shape, call.dtype, call.q)]
    targets = call.targets(results)
    if call.ragged:
        for target, value in zip(targets, (0, -np.inf)):
            target[...] = value
    core = kernels.core_of(call.q)
    core.attend(call.storage, call.operands(call.seen(targets[0]), targets[1] if return_lse else None), call.how)
    for y, target in zip(results, targets):
        copy(y, target)
    return tuple(map(_given, results)) if return_lse else _given(results[0])


def attention_backward(
    do: ArrayLike,
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    o: ArrayLike,
    lse: ArrayLike,
    *,
    scale: float | None = None,
    causal: bool = False,
    causal_offset: int | str = 0,
    window: tuple[int | None, int | None] | None = None,
    mask: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    alibi_slopes: ArrayLike | None = None,
    softcap: float | None = None,
    sinks: ArrayLike | None = None,
    q_lengths: ArrayLike | None = None,
    kv_lengths: ArrayLike | None = None,
    cu_seqlens_q: ArrayLike | None = None,
    cu_seqlens_kv: ArrayLike | None = None,
    bias_grad: bool = False,
    sinks_grad: bool = False,
    layout: str = "BHLD",
    out: tuple[NDArray | None, ...] | None = None,
) -> tuple[NDArray, ...]:
    """The gradients of `attention`, from what it returned.

    With ``p = exp(scores - lse)`` and ``ds = p * (do @ v.T - sum(do * o))``: ``dv = p.T @ do``, ``dq = scale * ds @ k`` and
    ``dk = scale * ds.T @ q``. The weights p are computed again, a tile at a time.

    Parameters
    ----------
    do : array_like
        The gradient of o, broadcast to its shape.
    q, k, v
        As for `attention`, as are the options from `scale` to `layout`, which must be the same.
    o, lse : array_like
        What attention returned with ``return_lse=True``.
    bias_grad, sinks_grad : bool, optional
        Return the gradient of `bias`, summed back to its shape, and of `sinks`.
    out : tuple of ndarray, optional
        Where to write the results. Any may be None. They may overlap the inputs, but not each other.

    Returns
    -------
    dq, dk, dv : ndarray
        Each of its input's shape and dtype (float64 for integers and bool). 0 where nothing was attended to.
    dbias, dsinks : ndarray
        Where asked for.

    Raises
    ------
    TypeError
        As for `attention`.
    ValueError
        As for `attention`, or if `o`, `lse` or `do` has the wrong shape, or a gradient is asked for of what is not there.

    Notes
    -----
    Chunks of keys go over threads; each adds to a query's gradient in its turn, so that the number of threads does not change a bit.

    The weights come from lse, which is one number of its dtype: where scores are so large that it cannot hold the logarithm of their
    sum beside them (a bias of -1e9 for all keys of a query in float32), the weights do not sum to 1. A mask has no such limit.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> q, k, v = np.zeros((1, 1, 2)), np.ones((1, 2, 2)), np.array([[[1.0], [3.0]]])
    >>> o, lse = sc.attention(q, k, v, return_lse=True)
    >>> dq, dk, dv = sc.attention_backward(np.ones((1, 1, 1)), q, k, v, o, lse)
    >>> dv[0, :, 0]
    array([0.5, 0.5])
    """
    op = "attention_backward"
    do, o, lse = check.arrays(op, do=do, o=o, lse=lse)
    call, sinks = _call(
        op,
        q,
        k,
        v,
        do,
        scale=scale,
        causal=causal,
        causal_offset=causal_offset,
        window=window,
        mask=mask,
        bias=bias,
        alibi_slopes=alibi_slopes,
        softcap=softcap,
        sinks=sinks,
        q_lengths=q_lengths,
        kv_lengths=kv_lengths,
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_kv=cu_seqlens_kv,
        layout=layout,
    )
    bias_grad, sinks_grad = check.flag(op, "bias_grad", bias_grad), check.flag(op, "sinks_grad", sinks_grad)
    for asked, given, name in ((bias_grad, call.own_bias, "bias"), (sinks_grad, sinks, "sinks")):
        if asked and given is None:
            raise ValueError(f"{op}: {name}_grad is True and {name} is None, there must be one to have a gradient")
    shape = _told(call.q[..., :1], call.heads_last)[:-1] + call.v.shape[-1:]
    check.shape(op, "o", o, shape)
    check.shape(op, "lse", lse, call.shape)
    do = check.broadcast(op, "do", do, shape)
    inputs = [call.seen(a) for a in (call.q, call.k, call.v)] + [call.own_bias] * bias_grad + [sinks] * sinks_grad
    gradients = check.outs(op, out, tuple(a.shape for a in inputs), tuple(check.computing(a) for a in inputs), call.q)
    targets = call.targets(gradients, do, o, lse)
    if call.ragged or 0 in call.shape:
        for target in targets:
            target[...] = 0
    given = call.seen(o), lse, call.seen(do)
    core = kernels.core_of(call.q)
    core.attend(call.storage, call.operands(*given, *(call.seen(target) for target in targets[:3])), call.how, True)
    if bias_grad and targets[3].size:
        full = np.broadcast_to(targets[3], call.bias.shape)
        lengths = call.bias.shape[-2:]
        if 0 in call.bias.shape:
            targets[3][...] = 0
        else:
            core.bias_gradients(call.storage, call.operands(*given, dbias=full), call.how, *lengths, threads.get_num_threads())
    if sinks_grad:
        targets[-1][...] = core.sink_gradients(call.storage, call.operands(*given), call.how)
    for gradient, target in zip(gradients, targets):
        copy(gradient, target)
    return tuple(map(_given, gradients))


def merge_attention(
    parts: Iterable[tuple[ArrayLike, ArrayLike]], *, out: tuple[NDArray | None, NDArray | None] | None = None
) -> tuple[NDArray, NDArray]:
    """Attention over all keys, from attention over parts of them.

    ``o = sum(exp(lse_i - lse) * o_i)`` and ``lse = log(sum(exp(lse_i)))`` over the parts i.

    Parameters
    ----------
    parts : iterable of (o, lse)
        What `attention` returned with ``return_lse=True`` for the same queries and disjoint ranges of keys: at least one pair, all
        of the same shapes, (..., L, Dv) and (..., L).
    out : tuple of ndarray, optional
        Where to write o and lse. Either may be None. They may overlap the parts, but not each other.

    Returns
    -------
    o, lse : ndarray
        In the common dtype of all o; lse in float32, or float64 where o is.

    Raises
    ------
    TypeError
        If `parts` holds something other than pairs, or an array is complex, an object or a string.
    ValueError
        If there are no parts, or shapes differ.

    Notes
    -----
    A part of fully masked rows, (0, -inf), changes nothing, not even a bit; a NaN shows, whatever its lse. Each part must have been computed without sinks, which
    would count once for every part.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> q, k, v = np.zeros((1, 1, 2)), np.ones((1, 4, 2)), np.arange(4.0).reshape(1, 4, 1)
    >>> halves = [sc.attention(q, k[:, s], v[:, s], return_lse=True) for s in (slice(0, 1), slice(1, 4))]
    >>> o, lse = sc.merge_attention(halves)
    >>> o[0, 0, 0]
    np.float64(1.5)
    """
    op = "merge_attention"
    try:
        pairs = [tuple(part) for part in parts]
    except TypeError:
        raise TypeError(f"{op}: parts is a {type(parts).__name__}, it must be a list of pairs (o, lse)") from None
    if not pairs:
        raise ValueError(f"{op}: parts is empty, it must hold at least one pair (o, lse)")
    if any(len(pair) != 2 for pair in pairs):
        raise TypeError(f"{op}: parts holds a tuple of {next(len(pair) for pair in pairs if len(pair) != 2)}, it must hold pairs (o, lse)")
    os = check.arrays(op, **{f"o of part {i}": o for i, (o, _) in enumerate(pairs)})
    lses = check.arrays(op, **{f"lse of part {i}": lse for i, (_, lse) in enumerate(pairs)})
    shape = os[0].shape
    for i, (o, lse) in enumerate(zip(os, lses)):
        if o.ndim < 1 or o.shape != shape or lse.shape != shape[:-1]:
            raise ValueError(f"{op}: part {i} has shapes {o.shape} and {lse.shape}, they must be {shape} and {shape[:-1]}, (..., Dv) and (...)")
    dtype = check.computing(*os)
    results = check.outs(op, out, (shape, shape[:-1]), (dtype, _wide(dtype)), os[0])
    targets = [check.new(y.shape, y.dtype, y) if any(overlaps(y, a) for a in (*os, *lses)) else y for y in results]
    if not isinstance(os[0], np.ndarray):
        _merge_on_device(os, lses, *targets)
    elif results[1].size:
        # The parts share a dtype and, along a row, a stride: those that differ are brought into line.
        kind, wide = check.computing(*os), check.computing(*lses)
        alike = len({(o.dtype, o.strides[-1:]) for o in os}) == 1 and len({lse.dtype for lse in lses}) == 1
        arrays = [a for o, lse in zip(os, lses) for a in ((o, lse) if alike else (np.ascontiguousarray(o, kind), lse.astype(wide)))]
        n = planner.threads_for(len(os) * os[0].size, results[1].size, threads.get_num_threads())
        kernels.core.merge_parts([*arrays, *targets], n)
    for y, target in zip(results, targets):
        copy(y, target)
    return tuple(map(_given, results))


def _merge_on_device(os, lses, o, lse):
    if o.size == 0:  # lse alone
        os = [a[..., None] for a in lses]
        o = check.new(os[0].shape, lse.dtype, lse)
    if lse.size:
        kernels.core_of(o).merge_parts([a for part in zip(os, lses) for a in part] + [o, lse])


class KVCache:
    """The keys and values of all positions so far, for decoding one position after the other.

    Parameters
    ----------
    batch, heads, capacity, dim : int
        How many sequences and key heads there are, how many positions there is room for, and the size of a head.
    dtype : dtype, optional
        float16, bfloat16, float32 or float64.

    Attributes
    ----------
    k, v : ndarray
        Views of what was appended, (batch, heads, len(cache), dim). The cache lies where the first of it does: of pyopencl arrays they are
        pyopencl arrays.

    Raises
    ------
    TypeError
        If a size is no int, or dtype is not one of these.
    ValueError
        If a size is negative.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> rng = np.random.default_rng(0)
    >>> q, k, v = rng.standard_normal((3, 1, 2, 5, 4), dtype=np.float32)
    >>> cache = sc.KVCache(1, 2, 8, 4)
    >>> for i in range(5):
    ...     cache.append(k[:, :, i : i + 1], v[:, :, i : i + 1])
    ...     o = cache.attend(q[:, :, i : i + 1])
    >>> len(cache), np.array_equal(o, sc.attention(q, k, v, causal=True)[:, :, 4:])
    (5, True)
    """

    def __init__(self, batch: int, heads: int, capacity: int, dim: int, dtype: DTypeLike = np.float32):
        op = "KVCache"
        shape = tuple(
            check.count_of(op, name, n) for name, n in (("batch", batch), ("heads", heads), ("capacity", capacity), ("dim", dim))
        )
        try:
            dtype = np.dtype(dtype)
        except TypeError:
            raise TypeError(f"{op}: dtype is {dtype!r}, it must be float16, bfloat16, float32 or float64") from None
        if not check.is_floating(dtype) or not dtype.isnative:
            raise TypeError(f"{op}: dtype is {dtype}, it must be float16, bfloat16, float32 or float64")
        self._shape, self._dtype, self._length = shape, dtype, 0
        self._k, self._v = np.empty(shape, dtype), np.empty(shape, dtype)

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        batch, heads, capacity, dim = self._shape
        return f"KVCache(batch={batch}, heads={heads}, capacity={capacity}, dim={dim}, dtype={self._dtype}) of {self._length} positions"

    @property
    def k(self) -> NDArray:
        return _given(self._k[:, :, : self._length])

    @property
    def v(self) -> NDArray:
        return _given(self._v[:, :, : self._length])

    def append(self, k: ArrayLike, v: ArrayLike) -> None:
        """Add n positions: k and v of shape (batch, heads, n, dim). More than there is room for is a ValueError, and changes nothing.

        Examples
        --------
        >>> import numpy as np
        >>> import softcore as sc
        >>> cache = sc.KVCache(1, 2, 8, 4)
        >>> cache.append(np.zeros((1, 2, 5, 4)), np.ones((1, 2, 5, 4)))
        >>> len(cache), cache.k.shape
        (5, (1, 2, 5, 4))
        >>> cache.append(np.zeros((1, 2, 4, 4)), np.ones((1, 2, 4, 4)))
        Traceback (most recent call last):
        ValueError: KVCache.append: k has 4 positions, it must have no more than 3, for which there is room
        """
        op = "KVCache.append"
        k, v = check.arrays(op, k=k, v=v)
        batch, heads, capacity, dim = self._shape
        for name, a in (("k", k), ("v", v)):
            if a.ndim != 4 or (*a.shape[:2], a.shape[3]) != (batch, heads, dim):
                raise ValueError(f"{op}: {name} has shape {a.shape}, it must be ({batch}, {heads}, n, {dim})")
            if self._length:
                check.same_kind(op, name, a, self._k)
        if k.shape != v.shape:
            raise ValueError(f"{op}: k has shape {k.shape} and v {v.shape}, they must be the same")
        end = self._length + k.shape[2]
        if end > capacity:
            raise ValueError(f"{op}: k has {k.shape[2]} positions, it must have no more than {capacity - self._length}, for which there is room")
        if self._length == 0:
            self._lie_where(k)
        copy(self._k[:, :, self._length : end], k)
        copy(self._v[:, :, self._length : end], v)
        self._length = end

    def _lie_where(self, a):
        if not (isinstance(a, np.ndarray) and isinstance(self._k, np.ndarray)):
            self._k, self._v = (check.new(self._shape, self._dtype, a) for _ in range(2))

    def attend(self, q: ArrayLike, **options) -> Any:
        """`attention` of q, (batch, Hq, n, dim), to all keys so far, its rows being the last n positions; other options are passed on.

        Examples
        --------
        >>> import numpy as np
        >>> import softcore as sc
        >>> cache = sc.KVCache(1, 1, 8, 2)
        >>> cache.append(np.zeros((1, 1, 3, 2)), [[[[1.0, 2.0], [3.0, 4.0], [8.0, 6.0]]]])
        >>> cache.attend(np.zeros((1, 1, 2, 2), np.float32))  # positions 1 and 2: the first two values, and all three
        array([[[[2., 3.],
                 [4., 4.]]]], dtype=float32)
        >>> cache.attend(np.zeros((1, 1, 1, 2), np.float32), window=(0, 0))
        array([[[[8., 6.]]]], dtype=float32)
        """
        if self._length == 0:
            (first,) = check.arrays("attention", q=q)
            self._lie_where(first)
        return attention(q, self.k, self.v, **{"causal": True, "causal_offset": "end", **options})


def _planned(op: str, x: np.ndarray) -> tuple:
    """The plan of self-attention of x, (..., L, D), as one head."""
    call, _ = _call("plan", *(x.reshape((1,) * (3 - x.ndim) + x.shape),) * 3)
    lse = np.empty(call.shape, call.storage)
    gradients = (call.q,) * 4 if op.endswith("backward") else ()
    return kernels.core.attend(call.storage, call.operands(call.q, lse, *gradients), call.how, bool(gradients), True)


def _given(y):
    return y if isinstance(y, np.ndarray) else y.given()


def _wide(dtype):
    return dtype if dtype.itemsize == 8 else np.dtype(np.float32)
