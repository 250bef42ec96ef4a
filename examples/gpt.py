"""A small GPT, trained and sampled
================================

It learns to write documentation, character by character, from the docstrings of Python's standard library::

    character -> embedding -> 4 blocks of (x + attention(norm(x)), x + glu(norm(x))) -> norm -> logits of the next character

Attention is causal: a character sees those before it, and cross_entropy_with_grad asks each for the next. There is no embedding of the
position; ALiBi lowers the score of a key by its distance instead, so that sampling may go on for longer than any text trained on.
Each gradient comes from the backward of its forward: nothing here is automatic. Sampling keeps keys and values in a KVCache, and draws
from the most likely characters alone (topk_gate).

- A. Radford, K. Narasimhan, T. Salimans and I. Sutskever, "Improving language understanding by generative pre-training", 2018.
- O. Press, N. A. Smith and M. Lewis, "Train short, test long: attention with linear biases", ICLR 2022.
- N. Shazeer, "GLU variants improve transformer", arXiv:2002.05202, 2020.
"""

import argparse
import ast
import sysconfig
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import softcore as sc

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

HEADS = 4
SLOPES = 2.0 ** -np.arange(2, 2 + 2 * HEADS, 2)  # of ALiBi: from heads that look at the last few characters to one that sees far
ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
BLUE, RED, GREY = "#2b6ca3", "#c8442e", "#8a949e"


# %%
# The text
# --------


def docstrings(path):
    """Those in a module, each as one line."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = (node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, documented))
    return [" ".join(text.split()) for text in map(ast.get_docstring, nodes) if text]


def library(modules=None):
    """What the modules of the standard library say of themselves, as tokens: to train on, and from every tenth module, held out."""
    seen, texts = set(), ([], [])
    for i, path in enumerate(sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:modules]):
        for text in docstrings(path):
            if text not in seen:  # some modules have a twin, as io has _pyio
                seen.add(text)
                texts[i % 10 == 9].append(text)
    return [encode("\n".join(part)) for part in texts]


def encode(text):
    """Places in the alphabet; characters that are not in it are left out."""
    places = {character: i for i, character in enumerate(ALPHABET)}
    return np.array([places[character] for character in text if character in places])


def decode(tokens):
    return "".join(ALPHABET[i] for i in tokens)


def bigram(training, held_out):
    """The mean cross-entropy of the held-out text where the next character is foretold from the last one alone, by counting."""
    counts = np.ones((len(ALPHABET), len(ALPHABET)))
    np.add.at(counts, (training[:-1], training[1:]), 1)
    return -np.mean(np.log(counts / counts.sum(-1, keepdims=True))[held_out[:-1], held_out[1:]])


# %%
# The layers
# ----------
#
# Arrays are (batch, length, width).


def layer_norm(x, gain, bias):
    x = x - x.mean(-1, keepdims=True)
    r = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-5)
    x *= r
    return x * gain + bias, (x, r)


def layer_norm_backward(dy, gain, saved):
    """The gradients by x, by the gain and by the bias."""
    x, r = saved
    dx = dy * gain
    dx -= dx.mean(-1, keepdims=True) + x * np.mean(dx * x, axis=-1, keepdims=True)
    dx *= r
    return dx, (dy * x).sum((0, 1)), dy.sum((0, 1))


def linear_backward(dy, x, w):
    """The gradients of x @ w by x and by w."""
    return dy @ w.T, x.reshape(-1, x.shape[-1]).T @ dy.reshape(-1, dy.shape[-1])


def heads(x, parts=3):
    """The parts that lie side by side in each row, queries, keys and values, as views (batch, heads, length, size)."""
    return x.reshape(*x.shape[:2], parts, HEADS, -1).transpose(2, 0, 3, 1, 4)


class Block(NamedTuple):
    """The weights of one block, or their gradients."""

    gain1: np.ndarray
    bias1: np.ndarray
    qkv: np.ndarray
    out: np.ndarray
    gain2: np.ndarray
    bias2: np.ndarray
    up: np.ndarray
    down: np.ndarray


def block(w, x, cache):
    """The block's output, and what backward needs; with a cache, x are the rows after those in it."""
    a, norm1 = layer_norm(x, w.gain1, w.bias1)
    qkv = a @ w.qkv
    q, k, v = heads(qkv)
    if cache is None:
        o, lse = sc.attention(q, k, v, causal=True, alibi_slopes=SLOPES, return_lse=True)
    else:
        cache.append(k, v)
        o, lse = cache.attend(q, alibi_slopes=SLOPES, return_lse=True)
    joined = o.swapaxes(1, 2).reshape(x.shape)
    x = x + joined @ w.out
    b, norm2 = layer_norm(x, w.gain2, w.bias2)
    z = b @ w.up
    h = sc.glu(z, activation="silu")
    return x + h @ w.down, (a, norm1, qkv, o, lse, joined, b, norm2, z, h)


def block_backward(dy, w, saved):
    """The gradients by x and by the weights."""
    a, norm1, qkv, o, lse, joined, b, norm2, z, h = saved
    dh, ddown = linear_backward(dy, h, w.down)
    db, dup = linear_backward(sc.glu_backward(dh, z, activation="silu"), b, w.up)
    dx, dgain2, dbias2 = layer_norm_backward(db, w.gain2, norm2)
    dx += dy
    do, dout = linear_backward(dx, joined, w.out)
    dqkv = np.empty_like(qkv)
    (do,) = heads(do, 1)
    sc.attention_backward(do, *heads(qkv), o, lse, causal=True, alibi_slopes=SLOPES, out=tuple(heads(dqkv)))
    da, dqkv = linear_backward(dqkv, a, w.qkv)
    da, dgain1, dbias1 = layer_norm_backward(da, w.gain1, norm1)
    return da + dx, Block(dgain1, dbias1, dqkv, dout, dgain2, dbias2, dup, ddown)


# %%
# The network
# -----------


def start(rng, width=128, depth=4, dtype=np.float32):
    """The embedding, which also gives the logits; the weights of each block; gain and bias of the last norm."""

    def weights(inputs, outputs, gain=1.0):
        return (rng.standard_normal((inputs, outputs)) * gain / np.sqrt(inputs)).astype(dtype)

    def norm():
        return [np.ones(width, dtype), np.zeros(width, dtype)]

    parameters = [(0.02 * rng.standard_normal((len(ALPHABET), width))).astype(dtype)]
    calm = 1 / np.sqrt(2 * depth)  # the stream that all blocks add to keeps its size
    for _ in range(depth):
        parameters += [*norm(), weights(width, 3 * width), weights(width, width, calm)]
        parameters += [*norm(), weights(width, 4 * width), weights(2 * width, width, calm)]
    return parameters + norm()


def blocks(parameters):
    return [Block(*parameters[i : i + 8]) for i in range(1, len(parameters) - 2, 8)]


def forward(parameters, tokens, caches=None):
    """The logits of the next character after each, and what backward needs."""
    embedding, *_, gain, bias = parameters
    x, saved = embedding[tokens], []
    for i, w in enumerate(blocks(parameters)):
        x, kept = block(w, x, caches[i] if caches else None)
        saved.append(kept)
    y, norm = layer_norm(x, gain, bias)
    return y @ embedding.T, (saved, y, norm)


def gradients(parameters, tokens, following):
    """The gradient of the mean cross-entropy by each parameter, and that mean."""
    embedding, *_, gain, _ = parameters
    logits, (saved, y, norm) = forward(parameters, tokens)
    loss, dlogits = sc.cross_entropy_with_grad(logits, following)
    dy, dembedding = linear_backward(dlogits, y, embedding.T)
    dx, *slopes = layer_norm_backward(dy, gain, norm)
    for w, kept in zip(reversed(blocks(parameters)), reversed(saved)):
        dx, dw = block_backward(dx, w, kept)
        slopes = [*dw, *slopes]
    chosen = np.eye(len(embedding), dtype=dx.dtype)[tokens]  # to look up a row is to multiply by a row of the identity
    return [dembedding.T + linear_backward(dx, chosen, embedding)[1], *slopes], loss


def sample(parameters, prompt, count, rng, temperature=0.8, k=20):
    """The prompt and `count` tokens more, each drawn from the k most likely ones; and the seconds that these took."""
    tokens = list(prompt)
    shape = 1, HEADS, len(tokens) + count, len(parameters[1]) // HEADS
    caches = [sc.KVCache(*shape, dtype=parameters[0].dtype) for _ in blocks(parameters)]
    logits, _ = forward(parameters, np.array([tokens]), caches)
    begun = time.perf_counter()
    for _ in range(count):
        p, likely = sc.topk_gate(logits[0, -1] / temperature, k)
        tokens.append(likely[np.searchsorted(np.cumsum(p[:-1]), rng.random())])
        logits, _ = forward(parameters, np.array([tokens[-1:]]), caches)
    return tokens, time.perf_counter() - begun


# %%
# Training
# --------


@dataclass
class Run:
    """What training gave."""

    parameters: list
    loss: list = field(default_factory=list)  # of each step
    held_out: list = field(default_factory=list)  # step and mean loss, now and then
    samples: list = field(default_factory=list)  # what it wrote at these steps


def adam(parameters, slopes, moments, step, rate):
    """One step, in place; the moments are the running means of each slope and of its square."""
    for p, dp, (m, s) in zip(parameters, slopes, moments):
        m += 0.1 * (dp - m)
        s += 0.01 * (dp * dp - s)
        p -= rate / (1 - 0.9**step) * m / (np.sqrt(s / (1 - 0.99**step)) + 1e-8)


def evaluate(parameters, text, length, windows):
    """The mean loss over so many windows of the text, evenly spread."""
    first = np.linspace(0, len(text) - length - 1, windows).astype(int)[:, None] + np.arange(length)
    return np.mean([sc.cross_entropy(forward(parameters, text[at])[0], text[at + 1]) for at in np.array_split(first, windows // 16)])


def train(training, held_out, steps, width=128, depth=3, batch=16, length=96, rate=4e-3, seed=0):
    """Adam, on random windows of the text."""
    rng = np.random.default_rng(seed)
    run = Run(start(rng, width, depth))
    moments = [(np.zeros_like(p), np.zeros_like(p)) for p in run.parameters]
    looks = {round(share * steps) for share in (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)}
    bar = tqdm(range(1, steps + 1), desc="training", unit="step", ncols=100)
    for step in bar:
        at = rng.integers(0, len(training) - length, batch)[:, None] + np.arange(length)
        slopes, loss = gradients(run.parameters, training[at], training[at + 1])
        adam(run.parameters, slopes, moments, step, rate * min(step / 50, 0.5 * (1 + np.cos(np.pi * step / steps))))
        run.loss.append(loss)
        if step in looks:
            run.held_out.append((step, evaluate(run.parameters, held_out, length, 64)))
            run.samples.append(write(run.parameters, 250, seed)[0])
            bar.set_postfix(loss=f"{np.mean(run.loss[-50:]):.3f}", held_out=f"{run.held_out[-1][1]:.3f}", refresh=False)
    return run


def write(parameters, count, seed=0):
    """Documentation, from the start of a line; and how many characters a second."""
    tokens, seconds = sample(parameters, encode("\n"), count, np.random.default_rng(seed))
    return decode(tokens).strip(), count / seconds


# %%
# The picture
# -----------


def draw(run, baseline, picture):
    """The loss, and what the network wrote on the way."""
    figure, (lines, pages) = plt.subplots(1, 2, figsize=(14, 6), layout="constrained")
    steps, held_out = np.transpose(run.held_out)
    lines.plot(np.arange(1, len(run.loss) + 1), run.loss, color=GREY, linewidth=0.7, label="training, each step")
    lines.plot(steps, held_out, color=BLUE, marker="o", markersize=4, label="held out")
    lines.axhline(baseline, color=RED, linestyle="--", label="held out, by counting pairs of characters")
    lines.set_xlabel("step")
    lines.set_title(f"loss of a character: {held_out[-1]:.2f} held out; {baseline:.2f} by counting pairs", loc="left")
    lines.legend(frameon=False)

    pages.set_axis_off()
    pages.set_title("what it wrote on the way", loc="left")
    stages = [0, 3, 6, len(steps) - 1]
    for place, i in enumerate(stages):
        top = 0.97 - place / len(stages)
        pages.text(0, top, f"step {steps[i]:.0f}", color=BLUE, va="top", transform=pages.transAxes)
        text = "\n".join(row for line in run.samples[i].splitlines() for row in textwrap.wrap(line, 78))
        pages.text(0, top - 0.05, text, va="top", family="monospace", fontsize=10, transform=pages.transAxes, parse_math=False)
    figure.savefig(picture, dpi=100)
    plt.close(figure)


# A step is a hundred small calls: where a core is busy with something else, threads would spend the time waiting for each other.
@threadpool_limits.wrap(limits=1)
def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smaller network, fewer steps")
    parser.add_argument("--picture", metavar="PATH", default="gpt.png", help="where to write the picture (default: %(default)s)")
    options = parser.parse_args(arguments)

    training, held_out = library(60 if options.quick else None)
    begun = time.perf_counter()
    if options.quick:
        run = train(training, held_out, 400, width=64, depth=2, batch=8, length=64, rate=8e-3)
    else:
        run = train(training, held_out, 1500)
    count = sum(p.size for p in run.parameters)
    print(f"{count} parameters, {len(run.loss)} steps on {len(training)} characters: {time.perf_counter() - begun:.0f} s")
    baseline = bigram(training, held_out)
    print(f"held out: a loss of {run.held_out[-1][1]:.3f} for each character; {baseline:.3f} by counting pairs of characters")
    text, speed = write(run.parameters, 200 if options.quick else 1000)
    print(textwrap.indent(text, "  | "))
    print(f"written at {speed:.0f} characters a second")
    draw(run, baseline, options.picture)
    print(f"picture: {options.picture}")
    return run, baseline


if __name__ == "__main__":
    main()
