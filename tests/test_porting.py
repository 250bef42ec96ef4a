"""What docs/porting.rst says is the same elsewhere is the same, where PyTorch, thinc and JAX are installed."""

import numpy as np
import pytest

import softcore as sc


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def jax():
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    return jax


@pytest.fixture
def x(rng):
    return rng.standard_normal((3, 4, 6))


def same(ours, theirs, rtol=1e-12, atol=1e-14):
    for a, b in zip(ours, theirs) if isinstance(ours, tuple) else [(ours, theirs)]:
        np.testing.assert_allclose(a, np.asarray(b), rtol, atol)


def test_pytorch(x, rng, torch):
    t, nn = torch.tensor(x), torch.nn.functional
    keep, other, ones = x > 0, rng.standard_normal(x.shape), np.ones_like(x)
    labels, target = rng.integers(0, 4, (3, 6)), rng.random(x.shape)
    same(sc.max(x, 1), t.amax(1))
    same(sc.max_with_argmax(x, 1), tuple(t.max(1)))
    same(sc.step(x), torch.heaviside(t, torch.zeros((), dtype=t.dtype)))
    same(sc.softmax(x, 1, scale=1 / 0.7), torch.softmax(t / 0.7, 1))
    same(sc.softmax(x, where=keep), torch.nan_to_num(torch.softmax(t.masked_fill(~torch.tensor(keep), -np.inf), -1)))
    same(sc.log_sigmoid(x), nn.logsigmoid(t))
    same(sc.softplus(x), nn.softplus(t))
    same(sc.cross_entropy(x, labels, axis=1), nn.cross_entropy(t, torch.tensor(labels)))
    same(sc.binary_cross_entropy(x, target), nn.binary_cross_entropy_with_logits(t, torch.tensor(target)))
    same(sc.glu(x), nn.glu(t))
    same(sc.glu((x, other), activation="silu"), t * nn.silu(torch.tensor(other)))
    same(sc.glu((ones, x), activation="gelu"), nn.gelu(t))
    same(sc.glu((ones, x), activation="gelu_tanh"), nn.gelu(t, approximate="tanh"))
    values, indices = torch.topk(t, 2)
    same(sc.topk_gate(x, 2), (torch.softmax(values, -1), indices))


def test_pooling_of_pytorch(rng, torch):
    x, nn = rng.standard_normal((2, 3, 8, 8)), torch.nn.functional
    t = torch.tensor(x)
    pooled, theirs = sc.max_pool(x, (2, 2), return_indices=True), nn.max_pool2d(t, 2, return_indices=True)
    same(pooled, theirs)
    same(sc.max_unpool(*pooled, x.shape), nn.max_unpool2d(*theirs, 2))
    same(sc.avg_pool(x, (3, 3), stride=2, padding=1), nn.avg_pool2d(t, 3, 2, 1))


@pytest.fixture
def heads(rng):
    """Fewer queries than keys, and four heads over two."""
    return rng.standard_normal((2, 4, 3, 8)), *rng.standard_normal((2, 2, 2, 5, 8))


def test_attention_of_pytorch(heads, rng, torch):
    from torch.nn.attention.bias import causal_lower_right

    bias, keep = rng.standard_normal((4, 3, 5)), rng.random((2, 1, 3, 5)) < 0.7
    keep[..., 0] = True

    def theirs(**options):
        return torch.nn.functional.scaled_dot_product_attention(*map(torch.tensor, heads), enable_gqa=True, **options)

    same(sc.attention(*heads), theirs())
    same(sc.attention(*heads, causal=True), theirs(is_causal=True))
    same(sc.attention(*heads, mask=keep), theirs(attn_mask=torch.tensor(keep)))
    same(sc.attention(*heads, bias=bias), theirs(attn_mask=torch.tensor(bias)))
    lower_right = torch.ones(3, 5, dtype=torch.bool).tril(2)
    same(sc.attention(*heads, causal=True, causal_offset="end"), theirs(attn_mask=lower_right))
    q, k, v = (torch.tensor(a) for a in (heads[0][:, :2], *heads[1:]))
    corner = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=causal_lower_right(3, 5))
    same(sc.attention(heads[0][:, :2], *heads[1:], causal=True, causal_offset="end"), corner)


def test_attention_of_jax(heads, jax):
    given = [np.ascontiguousarray(a.swapaxes(1, 2)) for a in heads]

    def alike(theirs, **options):
        # JAX takes the softmax of doubles in float32.
        same(sc.attention(*given, layout="BLHD", **options), jax.nn.dot_product_attention(*given, **theirs), 1e-5, 1e-6)

    alike({})
    alike({"is_causal": True}, causal=True)
    alike({"local_window_size": (1, 0)}, window=(1, 0))
    q_lengths, kv_lengths = np.array([3, 2], np.int32), np.array([4, 5], np.int32)
    alike({"query_seq_lengths": q_lengths, "key_value_seq_lengths": kv_lengths}, q_lengths=q_lengths, kv_lengths=kv_lengths)


def test_ties_of_pytorch_and_jax(torch, jax):
    x = np.array([1.0, 3.0, 3.0])
    t = torch.tensor(x, requires_grad=True)
    t.amax().backward()
    split = sc.max_backward(1.0, x, ties="split")
    same(split, t.grad)
    same(split, jax.grad(jax.numpy.max)(x))


def test_jax(x, jax):
    jnp, keep = jax.numpy, x > 0
    same(sc.softmax(x, where=keep), jax.nn.softmax(x, where=keep))
    same(sc.logsumexp(x), jax.nn.logsumexp(x, axis=-1))
    same(sc.logsumexp(x, axis=None), jax.nn.logsumexp(x))
    same(sc.max(x, where=keep, initial=-1.0), jnp.max(x, axis=-1, where=keep, initial=-1.0))
    same(sc.hardmax(x), jax.nn.one_hot(jnp.argmax(x, -1), 6))
    same(sc.glu(x), jax.nn.glu(x))
    same(sc.topk_gate(x, 2)[1], jax.lax.top_k(x, 2)[1])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [(-1, -1), (1, 0), (0, 1), (2, -1)])
def test_attention_of_flash_attn(heads, causal, window):
    """By its docstrings: query i reads keys i + Lk - Lq - left to i + Lk - Lq + right, and to i + Lk - Lq if causal; -1 is open."""
    q, k, v = (np.ascontiguousarray(a.swapaxes(1, 2)) for a in heads)
    distance = np.arange(5) - (np.arange(3)[:, None] + 5 - 3)
    left, right = (np.inf if n == -1 else n for n in window)
    keep = (distance >= -left) & (distance <= (0 if causal else right))
    slopes = np.array([0.5, 0.25, 0.125, 0.0625])
    options = {"layout": "BLHD", "scale": 0.3}
    theirs = sc.attention(q, k, v, mask=keep, bias=-slopes[:, None, None] * np.abs(distance), **options)
    same(sc.attention(q, k, v, causal=causal, window=window, causal_offset="end", alibi_slopes=slopes, **options), theirs)


def test_thinc(rng):
    thinc = pytest.importorskip("thinc.api")
    ops, x, dy = thinc.NumpyOps(), *rng.standard_normal((2, 5, 6), dtype=np.float32)
    ones, pieces = np.ones_like(x), rng.standard_normal((5, 6, 3), dtype=np.float32)

    def alike(ours, theirs):
        same(ours, theirs, 1e-5, 1e-6)

    y = sc.softmax(x, scale=1 / 0.7)
    alike(y, ops.softmax(x, temperature=0.7))
    alike(sc.softmax_backward(dy, y, scale=1 / 0.7), ops.backprop_softmax(y, dy, temperature=0.7))
    y = sc.sigmoid(x)
    alike(y, ops.sigmoid(x))
    alike(sc.sigmoid_backward(1.0, y), ops.dsigmoid(y))
    alike(sc.sigmoid_backward(dy, y), ops.backprop_sigmoid(dy, y))
    alike(sc.relu(x), ops.relu(x))
    alike(sc.relu_backward(dy, sc.relu(x)), ops.backprop_relu(dy, ops.relu(x)))
    alike(sc.glu((ones, x), activation="silu"), ops.swish(x))
    alike(sc.glu_backward(dy, (ones, x), activation="silu")[1], ops.backprop_swish(dy, x, ops.swish(x)))
    alike(sc.glu((ones, x), activation="gelu"), ops.gelu(x))
    alike(sc.glu((ones, x), activation="gelu_tanh"), ops.gelu_approx(x))
    best, which = ops.maxout(pieces)
    alike(sc.max_with_argmax(pieces), (best, which))
    alike(sc.max_backward(dy, pieces, index=which), ops.backprop_maxout(dy, which, 3))
    labels = rng.integers(0, 6, 5)
    loss, dx = sc.cross_entropy_with_grad(x, labels)
    gradient, squares = thinc.CategoricalCrossentropy()(sc.softmax(x), labels.astype(np.int32))
    alike(dx, gradient)
    alike(np.sum(dx**2), squares)
