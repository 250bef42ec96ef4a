"""How other libraries spell softcore's ops, and a fair way to time all of them.

The table of ``python -m softcore demo`` and ``benchmarks/peers.py`` share this module; nothing else imports it. A library that is
not installed is left out. Every spelling writes into outputs made beforehand, wherever its library can.
"""

from __future__ import annotations

import gc
import glob
import importlib
import shutil
import time
import timeit
from collections.abc import Callable, Iterable

import numpy as np

import softcore as sc
from softcore.testing import ulp_error

__all__ = ["LIBRARIES", "calls", "largest_term", "take_turns", "waited", "worst_ulp"]

Call = Callable[[], object]


# --- The ops, as each library has them: (arguments..., out) ------------------------------------------------------------------


def _numpy(np, axis):
    def hardmax(x, out):
        out[...] = 0
        np.put_along_axis(out, np.argmax(x, axis, keepdims=True), 1, axis)

    def max_backward(dy, x, out):
        out[...] = 0
        np.put_along_axis(out, np.argmax(x, axis, keepdims=True), np.expand_dims(dy, axis), axis)

    def max_with_argmax(x, out):
        np.max(x, axis, out=out[0])
        np.argmax(x, axis, out=out[1])

    def maximum_backward(dy, a, b, out):
        np.multiply(dy, (a > b) + (a == b) * np.float32(0.5), out=out[0])
        np.subtract(dy, out[0], out=out[1])

    def softmax(x, out):
        np.subtract(x, np.max(x, axis, keepdims=True), out=out)
        np.exp(out, out=out)
        np.divide(out, np.sum(out, axis, keepdims=True), out=out)

    def softmax_backward(dy, y, out):
        np.multiply(dy, y, out=out)
        np.subtract(dy, np.sum(out, axis, keepdims=True), out=out)
        np.multiply(out, y, out=out)

    def log_softmax(x, out):
        np.subtract(x, np.max(x, axis, keepdims=True), out=out)
        np.subtract(out, np.log(np.sum(np.exp(out), axis, keepdims=True)), out=out)

    def log_softmax_backward(dy, y, out):
        np.exp(y, out=out)
        np.multiply(out, np.sum(dy, axis, keepdims=True), out=out)
        np.subtract(dy, out, out=out)

    def logsumexp(x, out):
        m = np.max(x, axis, keepdims=True)
        np.add(np.log(np.sum(np.exp(x - m), axis)), np.squeeze(m, axis), out=out)

    def logsumexp_backward(dy, x, y, out):
        np.subtract(x, np.expand_dims(y, axis), out=out)
        np.exp(out, out=out)
        np.multiply(out, np.expand_dims(dy, axis), out=out)

    def cross_entropy(x, target, out, gradient=None):
        m = np.max(x, axis, keepdims=True)
        e = np.subtract(x, m, out=gradient)
        np.exp(e, out=e)
        s = np.sum(e, axis, keepdims=True)
        kept = np.expand_dims(target != -100, axis)
        label = np.where(kept, np.expand_dims(target, axis), 0)
        out[...] = np.sum((np.log(s) + m - np.take_along_axis(x, label, axis)) * kept) / np.sum(kept)
        return e, s, label, kept

    def cross_entropy_with_grad(x, target, out):
        dx, s, label, kept = cross_entropy(x, target, *out)
        np.multiply(dx, kept / (s * np.float32(np.sum(kept))), out=dx, casting="unsafe")
        np.put_along_axis(dx, label, np.take_along_axis(dx, label, axis) - kept / np.sum(kept), axis)

    def binary_cross_entropy(x, target, out):
        out[...] = np.mean(np.maximum(x, 0) - x * target + np.log1p(np.exp(-np.abs(x))))

    def binary_cross_entropy_backward(dloss, x, target, out):
        sigmoid(x, out)
        np.subtract(out, target, out=out)
        np.multiply(out, dloss / np.float32(x.size), out=out)

    def binary_cross_entropy_with_grad(x, target, out):
        binary_cross_entropy(x, target, out[0])
        binary_cross_entropy_backward(np.float32(1), x, target, out[1])

    def sigmoid(x, out):
        np.exp(-x, out=out)
        np.add(out, 1, out=out)
        return np.reciprocal(out, out=out)

    def sigmoid_backward(dy, y, out):
        np.subtract(1, y, out=out)
        np.multiply(out, y, out=out)
        np.multiply(out, dy, out=out)

    def log_sigmoid_backward(dy, x, out):
        np.exp(x, out=out)
        np.add(out, 1, out=out)
        np.divide(dy, out, out=out)

    def softplus_backward(dy, x, out):
        sigmoid(x, out)
        np.multiply(out, dy, out=out)

    def gate(x, y, r, out):
        sigmoid(r, out)
        np.multiply(out, x - y, out=out)
        np.add(out, y, out=out)

    def gate_backward(df, x, y, r, out):
        dx, dy, dr = out
        sigmoid(r, dr)
        np.multiply(df, dr, out=dx)
        np.subtract(df, dx, out=dy)
        np.subtract(1, dr, out=dr)
        np.multiply(dr, dx, out=dr)
        np.multiply(dr, x - y, out=dr)

    def glu(x, out):
        a, b = np.split(x, 2, axis)
        sigmoid(b, out)
        np.multiply(out, a, out=out)

    def glu_backward(dy, x, out):
        (a, b), (da, db) = np.split(x, 2, axis), np.split(out, 2, axis)
        s = sigmoid(b, np.empty_like(dy))
        np.multiply(dy, s, out=da)
        np.multiply(da, a * (1 - s), out=db)
    def shares(r):
        w = np.exp(r - np.max(r, -1, keepdims=True))
        return np.divide(w, np.sum(w, -1, keepdims=True), out=w)

    def softmax_gate(x, r, out):
        np.matmul(shares(r)[..., None, :], x, out=out[..., None, :])

    def softmax_gate_backward(do, x, r, out):
        w = shares(r)
        np.multiply(w[..., None], do[..., None, :], out=out[0])
        s = np.matmul(x, do[..., None])[..., 0]
        np.multiply(w, s - np.sum(w * s, -1, keepdims=True), out=out[1])

    def topk_gate(r, k, out):
        chosen = np.argpartition(r, -int(k), axis)[..., -int(k) :]
        values = np.take_along_axis(r, chosen, axis)
        order = np.argsort(-values, axis)
        out[1][...] = np.take_along_axis(chosen, order, axis)
        softmax(np.take_along_axis(values, order, axis), out[0])

    def topk_gate_backward(dw, r, indices, out):
        w = shares(np.take_along_axis(r, indices, -1))
        out[...] = 0
        np.put_along_axis(out, indices, w * (dw - np.sum(w * dw, -1, keepdims=True)), -1)

    def weights(q, k, causal=False):
        s = q @ k.swapaxes(-1, -2)
        s *= q.dtype.type(q.shape[-1] ** -0.5)
        if causal:
            s[..., ~np.tri(*s.shape[-2:], dtype=bool)] = -np.inf
        return shares(s)

    def attention(q, k, v, out, causal=False):
        np.matmul(weights(q, k, causal), v, out=out)

    def attention_backward(do, q, k, v, o, lse, out, causal=False):
        dq, dk, dv = out
        p, scale = weights(q, k, causal), q.dtype.type(q.shape[-1] ** -0.5)
        np.matmul(p.swapaxes(-1, -2), do, out=dv)
        ds = do @ v.swapaxes(-1, -2)
        ds -= np.sum(do * o, -1, keepdims=True)
        ds *= p
        ds *= scale
        np.matmul(ds, k, out=dq)
        np.matmul(ds.swapaxes(-1, -2), q, out=dk)

    return {
        **_numpy_pooling(np),
        "attention": attention,
        "attention_backward": attention_backward,
        "max": lambda x, out: np.max(x, axis, out=out),
        "argmax": lambda x, out: np.argmax(x, axis, out=out),
        "max_with_argmax": max_with_argmax,
        "hardmax": hardmax,
        "max_backward": max_backward,
        "maximum": lambda a, b, out: np.maximum(a, b, out=out),
        "maximum_backward": maximum_backward,
        "relu": lambda x, out: np.maximum(x, 0, out=out),
        "relu_backward": lambda dy, x, out: np.multiply(dy, x > 0, out=out),
        "step": lambda x, out: np.heaviside(x, np.float32(0), out=out),
        "softmax": softmax,
        "softmax_backward": softmax_backward,
        "log_softmax": log_softmax,
        "log_softmax_backward": log_softmax_backward,
        "logsumexp": logsumexp,
        "logsumexp_backward": logsumexp_backward,
        "sigmoid": sigmoid,
        "sigmoid_backward": sigmoid_backward,
        "log_sigmoid": lambda x, out: np.negative(np.logaddexp(0, -x, out=out), out=out),
        "log_sigmoid_backward": log_sigmoid_backward,
        "softplus": lambda x, out: np.logaddexp(0, x, out=out),
        "softplus_backward": softplus_backward,
        "cross_entropy": cross_entropy,
        "cross_entropy_with_grad": cross_entropy_with_grad,
        "cross_entropy_backward": lambda dloss, x, target, out: (
            cross_entropy_with_grad(x, target, (np.zeros(()), out)),
            np.multiply(out, dloss, out=out),
        ),
        "binary_cross_entropy": binary_cross_entropy,
        "binary_cross_entropy_with_grad": binary_cross_entropy_with_grad,
        "binary_cross_entropy_backward": binary_cross_entropy_backward,
        "gate": gate,
        "gate_backward": gate_backward,
        "glu": glu,
        "glu_backward": glu_backward,
        "softmax_gate": softmax_gate,
        "softmax_gate_backward": softmax_gate_backward,
        "topk_gate": topk_gate,
        "topk_gate_backward": topk_gate_backward,
    }


def _numpy_pooling(np):
    def taps(x, window, stride=None, padding=0, layout="channels_first", fill=0):
        """The windows of the last two axes (or those before the last) of x: a view, of more axes."""
        first = x.ndim - 2 - (layout == "channels_last")
        if padding:
            x = np.pad(x, [(padding, padding) if first <= i < first + 2 else (0, 0) for i in range(x.ndim)], constant_values=fill)
        steps = (slice(None, None, stride or window[0]), slice(None, None, stride or window[1]))
        return np.lib.stride_tricks.sliding_window_view(x, window, (first, first + 1))[(slice(None),) * first + steps]

    def max_pool_backward(dy, indices, shape, out):
        np.add.at(zeroed(out).reshape(-1), flat(indices, shape), dy)

    def max_unpool(y, indices, shape, out):
        zeroed(out).reshape(-1)[flat(indices, shape)] = y

    def zeroed(out):
        out[...] = 0
        return out

    def flat(indices, shape):
        plane = shape[-1] * shape[-2]
        return indices + plane * np.arange(int(np.prod(shape[:-2]))).reshape((*shape[:-2], 1, 1))

    def softmax_pool(x, window, out, **options):
        x = taps(x, window, **options)
        e = np.exp(x - np.max(x, (-2, -1), keepdims=True))
        np.divide(np.sum(e * x, (-2, -1)), np.sum(e, (-2, -1)), out=out)

    return {
        "max_pool": lambda x, window, out, **options: np.max(taps(x, window, fill=-np.inf, **options), (-2, -1), out=out),
        "max_pool_backward": max_pool_backward,
        "max_unpool": max_unpool,
        "avg_pool": lambda x, window, out, **options: np.mean(taps(x, window, **options), (-2, -1), out=out),
        "softmax_pool": softmax_pool,
    }


def _scipy(special, axis):
    return {
        "softmax": lambda x, out: special.softmax(x, axis),
        "log_softmax": lambda x, out: special.log_softmax(x, axis),
        "logsumexp": lambda x, out: special.logsumexp(x, axis),
        "sigmoid": lambda x, out: special.expit(x, out=out),
        "log_sigmoid": lambda x, out: special.log_expit(x, out=out),
        "log_sigmoid_backward": lambda dy, x, out: np.multiply(dy, special.expit(-x, out=out), out=out),
        "softplus_backward": lambda dy, x, out: np.multiply(dy, special.expit(x, out=out), out=out),
    }


def _torch(torch, axis):
    aten = torch.ops.aten
    zero = torch.zeros(())
    none = torch.empty(0)

    def maximum_backward(dy, a, b, out):
        equal, half = a == b, dy / 2
        torch.where(equal, half, dy * (a > b), out=out[0])
        torch.sub(dy, out[0], out=out[1])

    def logsumexp_backward(dy, x, y, out):
        torch.sub(x, y.unsqueeze(axis), out=out)
        out.exp_().mul_(dy.unsqueeze(axis))

    def log_sigmoid_backward(dy, x, out):
        if "exp" not in saved:  # its forward hands it over
            saved["exp"] = torch.exp(-x.abs())
        aten.log_sigmoid_backward.grad_input(dy, x, saved["exp"], grad_input=out)

    def log_softmax(x):
        if "log" not in saved:
            saved["log"], saved["slope"] = torch.empty_like(x), torch.empty_like(x)
        return aten._log_softmax.out(x, axis, False, out=saved["log"])

    def cross_entropy_backward(dloss, x, target, out, y=None, weight=None):
        if y is None:
            y = log_softmax(x)
            weight = aten.nll_loss_forward(y, target, None, 1, -100)[1]
        aten.nll_loss_backward.grad_input(dloss, y, target, None, 1, -100, weight, grad_input=saved["slope"])
        aten._log_softmax_backward_data.out(saved["slope"], y, axis, y.dtype, out=out)

    def cross_entropy_with_grad(x, target, out):
        y = log_softmax(x)
        loss, weight = aten.nll_loss_forward(y, target, None, 1, -100)
        out[0].copy_(loss)
        cross_entropy_backward(one, x, target, out[1], y, weight)

    def binary_cross_entropy_backward(dloss, x, target, out):  # as its derivatives.yaml has it
        torch.sigmoid(x, out=out)
        out.sub_(target).mul_(dloss / x.numel())

    def binary_cross_entropy_with_grad(x, target, out):
        out[0].copy_(aten.binary_cross_entropy_with_logits(x, target))
        binary_cross_entropy_backward(one, x, target, out[1])

    saved = {}
    one = torch.ones(())

    def gate(x, y, r, out):
        torch.lerp(y, x, torch.sigmoid(r, out=again("share", r)), out=out)

    def gate_backward(df, x, y, r, out):
        dx, dy, dr = out
        share = torch.sigmoid(r, out=again("share", r))
        torch.mul(df, share, out=dx)
        torch.sub(df, dx, out=dy)
        torch.sub(x, y, out=dr)
        aten.sigmoid_backward.grad_input(dr.mul_(df), share, grad_input=dr)

    def glu(x, out, activation="sigmoid"):
        if activation == "sigmoid":
            return aten.glu.out(x, axis, out=out)
        a, b = x.chunk(2, axis)
        return torch.mul(aten.silu.out(b, out=out), a, out=out)

    def glu_backward(dy, x, out, activation="sigmoid"):
        if activation == "sigmoid":
            return aten.glu_backward.grad_input(dy, x, axis, grad_input=out)
        (a, b), (da, db) = x.chunk(2, axis), out.chunk(2, axis)
        room = again("room", dy)
        torch.mul(dy, aten.silu.out(b, out=room), out=da)
        torch.mul(dy, a, out=room)
        return aten.silu_backward.grad_input(room, b, grad_input=db)

    def again(name, made):  # what is made once, or room like that of a tensor
        if name not in saved:
            saved[name] = made() if callable(made) else torch.empty_like(made)
        return saved[name]

    def attention(q, k, v, out, causal=False, window=None):
        if window is not None:  # which torch takes as a mask
            window = again("mask", lambda: torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril().triu(-window[0]))
        sdpa = torch.nn.functional.scaled_dot_product_attention
        return sdpa(q, k, v, attn_mask=window, is_causal=causal and window is None, enable_gqa=q.shape[-3] != k.shape[-3])

    def attention_backward(do, q, k, v, o, lse, out, causal=False):
        def recorded():
            given = [t.detach().requires_grad_() for t in (q, k, v)]
            return attention(*given, None, causal), given

        return torch.autograd.grad(*again("graph", recorded), do, retain_graph=True)

    def softmax_gate(x, r, out):
        torch.bmm(torch.softmax(r, -1).unsqueeze(1), x, out=out.unsqueeze(1))

    def softmax_gate_backward(do, x, r, out):
        w = torch.softmax(r, -1)
        aten._softmax_backward_data.out(torch.bmm(x, do.unsqueeze(2)).squeeze(2), w, -1, w.dtype, grad_input=out[1])
        torch.mul(w.unsqueeze(2), do.unsqueeze(1), out=out[0])

    def topk_gate(r, k, out):
        torch.topk(r, int(k), axis, out=out)
        torch.softmax(out[0], axis, out=out[0])

    def topk_gate_backward(dw, r, indices, out):
        w = torch.softmax(r.gather(-1, indices), -1)
        out.zero_().scatter_(-1, indices, aten._softmax_backward_data(dw, w, -1, w.dtype))

    return {
        **_torch_pooling(torch),
        "max": lambda x, out: torch.amax(x, axis, out=out),
        "argmax": lambda x, out: torch.argmax(x, axis, out=out),
        "max_with_argmax": lambda x, out: torch.max(x, axis, out=out),
        "hardmax": lambda x, out: out.zero_().scatter_(axis, torch.argmax(x, axis, keepdim=True), 1.0),
        "max_backward": lambda dy, x, out: out.zero_().scatter_(axis, torch.argmax(x, axis, keepdim=True), dy.unsqueeze(axis)),
        "maximum": lambda a, b, out: torch.maximum(a, b, out=out),
        "maximum_backward": maximum_backward,
        "relu": lambda x, out: torch.clamp_min(x, 0, out=out),
        "relu_backward": lambda dy, x, out: aten.threshold_backward.grad_input(dy, x, 0, grad_input=out),
        "step": lambda x, out: torch.heaviside(x, zero, out=out),
        "softmax": lambda x, out: torch.softmax(x, axis, out=out),
        "softmax_backward": lambda dy, y, out: aten._softmax_backward_data.out(dy, y, axis, y.dtype, grad_input=out),
        "log_softmax": lambda x, out: aten._log_softmax.out(x, axis, False, out=out),
        "log_softmax_backward": lambda dy, y, out: aten._log_softmax_backward_data.out(dy, y, axis, y.dtype, out=out),
        "logsumexp": lambda x, out: torch.logsumexp(x, axis, out=out),
        "logsumexp_backward": logsumexp_backward,
        "sigmoid": lambda x, out: torch.sigmoid(x, out=out),
        "sigmoid_backward": lambda dy, y, out: aten.sigmoid_backward.grad_input(dy, y, grad_input=out),
        "log_sigmoid": lambda x, out: aten.log_sigmoid_forward.output(x, output=out, buffer=none),
        "log_sigmoid_backward": log_sigmoid_backward,
        "softplus": lambda x, out: aten.softplus.out(x, 1, 20, out=out),
        "softplus_backward": lambda dy, x, out: aten.softplus_backward.grad_input(dy, x, 1, 20, grad_input=out),
        "cross_entropy": lambda x, target, out: out.copy_(aten.nll_loss_forward(log_softmax(x), target, None, 1, -100)[0]),
        "cross_entropy_with_grad": cross_entropy_with_grad,
        "cross_entropy_backward": cross_entropy_backward,
        "binary_cross_entropy": lambda x, target, out: out.copy_(aten.binary_cross_entropy_with_logits(x, target)),
        "binary_cross_entropy_with_grad": binary_cross_entropy_with_grad,
        "binary_cross_entropy_backward": binary_cross_entropy_backward,
        "gate": gate,
        "gate_backward": gate_backward,
        "glu": glu,
        "glu_backward": glu_backward,
        "softmax_gate": softmax_gate,
        "softmax_gate_backward": softmax_gate_backward,
        "topk_gate": topk_gate,
        "topk_gate_backward": topk_gate_backward,
        "attention": attention,
        "attention_backward": attention_backward,
    }


def _torch_pooling(torch):
    aten = torch.ops.aten
    saved = {}

    def planes(t, layout="channels_first"):
        """(batch, channel, height, width), a view; channels last are torch's channels_last format."""
        return t.permute(0, 3, 1, 2) if layout == "channels_last" else t[(None,) * (4 - t.ndim)]

    def how(window, stride=None, padding=0, layout=None, return_indices=None):
        return window, (stride or window[0], stride or window[1]), (padding, padding)

    def spare(name, made):  # what torch computes whether wanted or not
        if name not in saved:
            saved[name] = made()
        return saved[name]

    def max_pool(x, window, out, layout="channels_first", return_indices=False, **options):
        y = planes(out[0] if return_indices else out, layout)
        indices = planes(out[1], layout) if return_indices else spare("indices", lambda: torch.empty_like(y, dtype=torch.int64))
        aten.max_pool2d_with_indices.out(planes(x, layout), *how(window, **options), (1, 1), False, out=y, indices=indices)

    def max_pool_backward(dy, indices, shape, out, layout="channels_first"):
        dy, indices, dx = (planes(t, layout) for t in (dy, indices, out))
        given = spare("x", lambda: torch.empty_like(dx))
        tiles = how((2, 2))  # of the windows it only checks that they come to this shape
        aten.max_pool2d_with_indices_backward.grad_input(dy, given, *tiles, (1, 1), False, indices, grad_input=dx)

    def avg_pool(x, window, out, layout="channels_first", **options):
        aten.avg_pool2d.out(planes(x, layout), *how(window, **options), False, True, None, out=planes(out, layout))

    def avg_pool_backward(dy, shape, window, out, layout="channels_first", **options):
        dx = planes(out, layout)
        given = spare("x", lambda: torch.empty_like(dx))
        aten.avg_pool2d_backward.grad_input(planes(dy, layout), given, *how(window, **options), False, True, None, grad_input=dx)

    def max_unpool(y, indices, shape, out):
        aten.max_unpool2d.out(planes(y), planes(indices), shape[-2:], out=planes(out))

    return {
        "max_pool": max_pool,
        "max_pool_backward": max_pool_backward,
        "max_unpool": max_unpool,
        "avg_pool": avg_pool,
        "avg_pool_backward": avg_pool_backward,
    }


def _jax(jax, axis):
    jax.config.update("jax_enable_x64", True)  # float64 would quietly become float32
    jnp, nn = jax.numpy, jax.nn
    ops = {
        "max": lambda x: jnp.max(x, axis),
        "argmax": lambda x: jnp.argmax(x, axis),
        "max_with_argmax": lambda x: (jnp.max(x, axis), jnp.argmax(x, axis)),
        "softmax": lambda x: nn.softmax(x, axis),
        "softmax_backward": lambda dy, y: y * (dy - jnp.sum(dy * y, axis, keepdims=True)),
        "log_softmax": lambda x: nn.log_softmax(x, axis),
        "log_softmax_backward": lambda dy, y: dy - jnp.exp(y) * jnp.sum(dy, axis, keepdims=True),
        "logsumexp": lambda x: nn.logsumexp(x, axis),
        "sigmoid": nn.sigmoid,
        "cross_entropy_with_grad": jax.value_and_grad(
            lambda x, target: jnp.mean(nn.logsumexp(x, axis) - jnp.take_along_axis(x, jnp.expand_dims(target, axis), axis)[..., 0])
        ),
    }

    def ready(compiled):
        return lambda *arguments, out: jax.block_until_ready(compiled(*arguments))

    return {name: ready(jax.jit(op)) for name, op in ops.items()}


def _numexpr(numexpr, axis):
    def evaluate(formula, out, **names):
        numexpr.evaluate(formula, names, out=out)

    def softmax(x, out):
        evaluate("exp(x - m)", out, x=x, m=np.max(x, axis, keepdims=True))
        evaluate("y / s", out, y=out, s=np.sum(out, axis, keepdims=True))

    def log_softmax(x, out):
        m = np.max(x, axis, keepdims=True)
        evaluate("exp(x - m)", out, x=x, m=m)
        evaluate("x - s", out, x=x, s=m + np.log(np.sum(out, axis, keepdims=True)))

    def logsumexp(x, out):
        m = np.max(x, axis, keepdims=True)
        np.add(np.log(np.sum(numexpr.evaluate("exp(x - m)"), axis)), np.squeeze(m, axis), out=out)

    def softmax_backward(dy, y, out):
        evaluate("y * dy", out, y=y, dy=dy)
        evaluate("y * (dy - s)", out, y=y, dy=dy, s=np.sum(out, axis, keepdims=True))

    return {
        "softmax": softmax,
        "softmax_backward": softmax_backward,
        "log_softmax": log_softmax,
        "log_softmax_backward": lambda dy, y, out: evaluate("dy - exp(y) * s", out, dy=dy, y=y, s=np.sum(dy, axis, keepdims=True)),
        "logsumexp": logsumexp,
        "sigmoid": lambda x, out: evaluate("1 / (1 + exp(-x))", out, x=x),
        "gate": lambda x, y, r, out: evaluate("y + (x - y) / (1 + exp(-r))", out, x=x, y=y, r=r),
    }


def _tinygrad(tinygrad, axis):
    if shutil.which("clang") is None:
        raise ImportError("tinygrad compiles what it runs on the CPU with clang")
    cpu = tinygrad.Device["CPU"]
    ops = {
        "max": lambda x: x.max(axis),
        "softmax": lambda x: x.softmax(axis),
        "log_softmax": lambda x: x.log_softmax(axis),
        "logsumexp": lambda x: x.logsumexp(axis),
        "sigmoid": lambda x: x.sigmoid(),
    }

    def ready(compiled):
        return lambda *arguments, out: (compiled(*arguments), cpu.synchronize())

    return {name: ready(tinygrad.TinyJit(lambda x, op=op: op(x).realize())) for name, op in ops.items()}


def _same(array):
    return array


def _tensor(array):
    torch = importlib.import_module("torch")
    if array.dtype.name == "bfloat16":  # which NumPy lends only as bits
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _jax_array(array):
    jax = importlib.import_module("jax")
    jax.config.update("jax_enable_x64", True)
    return jax.numpy.asarray(array)


def _tinygrad_tensor(array):
    return importlib.import_module("tinygrad").Tensor(array, device="CPU").realize()


# name: (module, how it spells the ops, how it takes a NumPy array)
LIBRARIES = {
    "numpy": ("numpy", _numpy, _same),
    "scipy": ("scipy.special", _scipy, _same),
    "torch": ("torch", _torch, _tensor),
    "jax": ("jax", _jax, _jax_array),
    "numexpr": ("numexpr", _numexpr, _same),
    "tinygrad": ("tinygrad", _tinygrad, _tinygrad_tensor),
}


def _each(convert, arrays):
    return tuple(map(convert, arrays)) if isinstance(arrays, tuple) else convert(arrays)


def calls(
    name: str, arguments: tuple, axis: int | None = -1, libraries: Iterable[str] = tuple(LIBRARIES), options: dict | None = None
) -> dict[str, Call]:
    """softcore's op of that name and its peers, each as a call without arguments that repeats its work.

    `axis` is None for an op that has none. `options` are others, which the spellings take too. Libraries that are not installed or
    have no such op are left out.
    """
    op = getattr(sc, name)
    others = options or {}
    options = others if axis is None else {"axis": axis, **others}
    result = _each(np.asarray, op(*arguments, **options))

    def bind(spelling, convert, options=others):
        given = tuple(a if isinstance(a, tuple) else convert(np.asarray(a)) for a in arguments)
        out = _each(lambda y: convert(np.zeros_like(y)), result)
        return lambda: spelling(*given, out=out, **options)

    found = {"softcore": bind(op, _same, options)}
    for library in libraries:
        module, spell, convert = LIBRARIES[library]
        try:
            spellings = spell(importlib.import_module(module), axis)
        except ImportError:
            continue
        if name in spellings:
            found[library] = bind(spellings[name], convert)
    return found


# --- Time --------------------------------------------------------------------------------------------------------------------


def take_turns(
    contenders: dict[str, Call | timeit.Timer], *, rounds: int = 10, block: float = 0.02, patience: int = 0
) -> dict[str, float]:
    """The time of one call of each contender, in seconds: the best of its blocks, with the contenders taking turns.

    A block is one call or as many as fill `block` seconds. Each begins with a pause, in which the threads of the one before
    go to sleep, and a call that does not count. Where the two best blocks of a contender differ by a tenth or more, `patience` more
    rounds may be added.
    """
    timers = {name: c if isinstance(c, timeit.Timer) else timeit.Timer(c) for name, c in contenders.items()}
    counts, blocks = {}, {name: [] for name in timers}
    with np.errstate(all="ignore"):
        for name, timer in timers.items():
            timer.timeit(1)  # warm-up: compiles, starts threads, touches the outputs
            once = timer.timeit(1)
            if once < block / 100:
                once = timer.timeit(100) / 100
            counts[name] = max(1, round(block / once))
        order = list(timers)
        gc.collect()
        for i in range(rounds + patience):
            if i >= rounds and not any(map(_unsettled, blocks.values())):
                break
            for name in order:
                time.sleep(0.002)
                timers[name].timeit(1)
                blocks[name].append(timers[name].timeit(counts[name]) / counts[name])
            order.append(order.pop(0))  # so that nobody always follows the same one
    return {name: min(taken) for name, taken in blocks.items()}


def _unsettled(taken):
    best, second = sorted(taken)[:2] if len(taken) > 1 else (0, 1)
    return second > 1.1 * best


def waited() -> float:
    """The seconds that threads of this process were ready but other jobs held the processors, so far; 0 where Linux does not say."""
    total = 0
    for account in glob.glob("/proc/self/task/*/schedstat"):
        try:
            with open(account) as file:
                total += int(file.read().split()[1])  # nanoseconds in the queue
        except (OSError, IndexError, ValueError):
            pass  # the thread has ended, or there is no account
    return total * 1e-9


# --- Error -------------------------------------------------------------------------------------------------------------------


def largest_term(name: str, arguments: tuple, axis: int | None = -1) -> np.ndarray | tuple | None:
    """The magnitude of the largest term where an op subtracts terms that may cancel; None where it does not. One for each result.

    A rounding of that term is the least error which any order of evaluation has, so errors are counted in its ulp.
    """
    terms = sc.reference.OPS[name].terms
    if terms:
        with np.errstate(all="ignore"):
            return terms(*arguments, **({} if axis is None else {"axis": axis}))
    if name == "softmax_backward":  # y dy - y sum(y dy)
        dy, y = (np.abs(np.asarray(a).astype(float)) for a in arguments)
        return y * np.maximum(dy, np.sum(y * dy, axis, keepdims=True))
    if name == "log_softmax_backward":  # dy - exp(y) sum(dy)
        dy, y = (np.asarray(a).astype(float) for a in arguments)
        return np.maximum(np.abs(dy), np.exp(y) * np.sum(np.abs(dy), axis, keepdims=True))
    if name in ("avg_pool", "softmax_pool"):
        return sc.reference.max_pool(np.abs(arguments[0]), *arguments[1:])
    if name in ("max_pool_backward", "avg_pool_backward", "softmax_pool_backward"):
        return np.max(np.abs(arguments[0].astype(float)), initial=0)
    if name.startswith("cross_entropy_"):  # softmax - 1 at the label, 1 over the number of labels
        dloss, x, target = arguments if name.endswith("_backward") else (1.0, *arguments)
        return abs(float(dloss)) / max(np.sum(target != -100), 1)
    if name.startswith("binary_cross_entropy_"):  # sigmoid - target
        dloss, x, target = arguments if name.endswith("_backward") else (1.0, *arguments)
        return abs(float(dloss)) / x.size * np.maximum(sc.reference.sigmoid(x), target.astype(float))
    if name in ("softmax_gate", "softmax_gate_backward"):  # sums of w x, and of do x
        *do, x, r = (np.asarray(a).astype(float) for a in arguments)
        w = sc.reference.softmax(r)
        if name == "softmax_gate":
            return np.max(w[..., None] * np.abs(x), axis=-2)
        s = np.max(np.abs(do[0][..., None, :] * x), axis=-1)
        return w[..., None] * np.abs(do[0][..., None, :]), w * np.maximum(s, np.sum(w * s, axis=-1, keepdims=True))
    if name == "topk_gate_backward":
        dw, r, indices = arguments
        return np.max(np.abs(dw.astype(float)), axis, keepdims=True)
    return None


def worst_ulp(name: str, arguments: tuple, axis: int | None = -1) -> float:
    """The largest error of softcore's op against its definition, in ulp: in float64, or longdouble for float64.

    An index counts as 0 if it is right, else as inf.
    """
    options = {} if axis is None else {"axis": axis}
    actual = getattr(sc, name)(*arguments, **options)
    arrays = [a if isinstance(a, tuple) else np.asarray(a) for a in arguments]
    wide = [a.astype(np.longdouble) if getattr(a, "dtype", None) == np.float64 else a for a in arrays]
    expected = sc.reference.OPS[name].reference(*wide, **options)
    pairs = list(zip(actual, expected)) if isinstance(actual, tuple) else [(actual, expected)]
    term = largest_term(name, arguments, axis)
    worst = 0.0
    for i, (a, e) in enumerate(pairs):
        a = np.asarray(a)
        at = None if name.endswith("_with_grad") and a.ndim == 0 else term[i] if isinstance(term, tuple) else term
        error = np.where(a == e, 0.0, np.inf) if a.dtype.kind in "biu" else ulp_error(a, e, at)
        worst = max(worst, float(np.max(error, initial=0.0)))
    return worst
