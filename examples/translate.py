"""Translation in small: cross-attention
=====================================

An encoder and a decoder learn to rewrite dates as people write them, "March 3rd, 2021", into "2021-03-03"::

    encoder   characters as written -> x + attention(norm(x)) -> x + glu(norm(x)) -> norm -> memory
    decoder   characters so far -> x + causal attention(norm(x)) -> x + attention(norm(x), memory) -> x + glu(norm(x)) -> next character

The decoder's second attention crosses over: its queries come from what is being written, its keys and values from what was read. Nobody
tells the network which characters belong together; the picture of these weights shows what it found out. The dates in a batch differ in
length, so kv_lengths says where each ends.

- D. Bahdanau, K. Cho and Y. Bengio, "Neural machine translation by jointly learning to align and translate", ICLR 2015.
- A. Vaswani et al., "Attention is all you need", NeurIPS 2017.
"""

import argparse
import time
from datetime import date
from typing import NamedTuple

import matplotlib
import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import softcore as sc

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

HEADS = 4
BLUE = "#2b6ca3"
MONTHS = "January February March April May June July August September October November December".split()
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
ALPHABET = "\0 ,.-0123456789" + "".join(sorted({*"".join(MONTHS + WEEKDAYS).lower(), *"".join(MONTHS + WEEKDAYS), *"rdthndst"}))
LONGEST = len("Wednesday, 30th of September 2021")
WRITTEN = len("2021-03-03")


# %%
# The dates
# ---------


def ordinal(day):
    return f"{day}{'th' if 10 < day < 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"


# Ways to write a date, given its day, month, year and weekday.
STYLES = (
    lambda d, m, y, w: f"{d} {m} {y}",
    lambda d, m, y, w: f"{d} {m[:3]} {y}",
    lambda d, m, y, w: f"{m} {d}, {y}",
    lambda d, m, y, w: f"{m[:3]} {d} {y}",
    lambda d, m, y, w: f"{m} {ordinal(d)}, {y}",
    lambda d, m, y, w: f"{w}, {ordinal(d)} of {m} {y}",
    lambda d, m, y, w: f"{w[:3]}, {d:02} {m[:3]} {y}",
    lambda d, m, y, w: f"{d}.{MONTHS.index(m) + 1}.{y}",
)


def write(day, style):
    """A date in one of the styles."""
    return STYLES[style](day.day, MONTHS[day.month - 1], day.year, WEEKDAYS[day.weekday()])


def encode(texts, length):
    """Places in the alphabet, (n, length), filled up with 0."""
    places = {character: i for i, character in enumerate(ALPHABET)}
    return np.array([[places[character] for character in text.ljust(length, "\0")] for text in texts])


def decode(rows):
    return ["".join(ALPHABET[i] for i in row) for row in rows]


def pairs(days, rng, n):
    """n random dates, each in a random style: what to read, how long each is, and what to write."""
    chosen = [date.fromordinal(int(day)) for day in rng.choice(days, n)]
    texts = [write(day, style) for day, style in zip(chosen, rng.integers(0, len(STYLES), n))]
    return encode(texts, LONGEST), np.array([len(text) for text in texts]), encode([day.isoformat() for day in chosen], WRITTEN)


# %%
# The layers
# ----------
#
# Arrays are (batch, length, width), and each layer adds to its input.


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


def heads(x, parts):
    """The parts that lie side by side in each row, keys and values say, as views (batch, heads, length, size)."""
    return x.reshape(*x.shape[:2], parts, HEADS, -1).transpose(2, 0, 3, 1, 4)


class Attention(NamedTuple):
    """Weights of attention, or their gradients."""

    gain: np.ndarray
    bias: np.ndarray
    q: np.ndarray
    kv: np.ndarray
    out: np.ndarray


def attend(w, x, memory=None, **options):
    """x and what it asks of the memory, or of itself; and what backward needs."""
    a, norm = layer_norm(x, w.gain, w.bias)
    source = a if memory is None else memory
    q, kv = a @ w.q, source @ w.kv
    o, lse = sc.attention(*heads(q, 1), *heads(kv, 2), return_lse=True, **options)
    joined = o.swapaxes(1, 2).reshape(x.shape)
    return x + joined @ w.out, (a, norm, source, q, kv, o, lse, joined, options)


def attend_backward(dy, w, saved):
    """The gradients by x, by the memory and by the weights."""
    a, norm, source, q, kv, o, lse, joined, options = saved
    do, dout = linear_backward(dy, joined, w.out)
    dq, dkv = np.empty_like(q), np.empty_like(kv)
    into = *heads(dq, 1), *heads(dkv, 2)
    sc.attention_backward(*heads(do, 1), *heads(q, 1), *heads(kv, 2), o, lse, out=into, **options)
    da, dq = linear_backward(dq, a, w.q)
    dsource, dkv = linear_backward(dkv, source, w.kv)
    if source is a:
        da, dsource = da + dsource, None
    dx, dgain, dbias = layer_norm_backward(da, w.gain, norm)
    return dy + dx, dsource, Attention(dgain, dbias, dq, dkv, dout)


class Feed(NamedTuple):
    """Weights of a gated layer, or their gradients."""

    gain: np.ndarray
    bias: np.ndarray
    up: np.ndarray
    down: np.ndarray


def feed(w, x):
    """x and what each place makes of it alone; and what backward needs."""
    a, norm = layer_norm(x, w.gain, w.bias)
    z = a @ w.up
    h = sc.glu(z, activation="gelu")
    return x + h @ w.down, (a, norm, z, h)


def feed_backward(dy, w, saved):
    """The gradients by x and by the weights."""
    a, norm, z, h = saved
    dh, ddown = linear_backward(dy, h, w.down)
    da, dup = linear_backward(sc.glu_backward(dh, z, activation="gelu"), a, w.up)
    dx, dgain, dbias = layer_norm_backward(da, w.gain, norm)
    return dy + dx, Feed(dgain, dbias, dup, ddown)


# %%
# The network
# -----------


class Network(NamedTuple):
    """The parameters in order, by layers."""

    characters: np.ndarray  # their embeddings, which also give the logits
    places: np.ndarray  # embeddings of the position
    reading: Attention
    thinking: Feed
    remembering: list  # gain and bias of the norm that ends the encoder
    recalling: Attention
    crossing: Attention
    writing: Feed
    saying: list  # gain and bias of the norm that ends the decoder


def start(rng, width=64, dtype=np.float32):
    """Random weights: a list of arrays."""

    def weights(inputs, outputs):
        return rng.standard_normal((inputs, outputs)) / np.sqrt(inputs)

    def norm():
        return [np.ones(width), np.zeros(width)]

    def attention():
        return [*norm(), weights(width, width), weights(width, 2 * width), weights(width, width)]

    def gated():
        return [*norm(), weights(width, 4 * width), weights(2 * width, width)]

    parameters = [0.1 * rng.standard_normal((n, width)) for n in (len(ALPHABET), LONGEST)]
    parameters += [*attention(), *gated(), *norm(), *attention(), *attention(), *gated(), *norm()]
    return [p.astype(dtype) for p in parameters]


def network(parameters):
    rest = iter(parameters)
    take = lambda n: [next(rest) for _ in range(n)]  # noqa: E731
    return Network(
        *take(2), Attention(*take(5)), Feed(*take(4)), take(2), Attention(*take(5)), Attention(*take(5)), Feed(*take(4)), take(2)
    )


def read(net, source, lengths):
    """The memory of what was read, and what backward needs."""
    x, reading = attend(net.reading, net.characters[source] + net.places[: source.shape[1]], kv_lengths=lengths)
    x, thinking = feed(net.thinking, x)
    memory, norm = layer_norm(x, *net.remembering)
    return memory, (reading, thinking, norm)


def say(net, memory, lengths, target):
    """The logits of each character of the target, from those before it; and what backward needs."""
    before = np.pad(target[:, :-1], ((0, 0), (1, 0)))
    x, recalling = attend(net.recalling, net.characters[before] + net.places[: target.shape[1]], causal=True)
    x, crossing = attend(net.crossing, x, memory, kv_lengths=lengths)
    x, writing = feed(net.writing, x)
    y, norm = layer_norm(x, *net.saying)
    return y @ net.characters.T, (before, recalling, crossing, writing, y, norm)


def gradients(parameters, source, lengths, target):
    """The gradient of the mean cross-entropy by each parameter, and that mean."""
    net = network(parameters)
    memory, (reading, thinking, remembering) = read(net, source, lengths)
    logits, (before, recalling, crossing, writing, y, saying) = say(net, memory, lengths, target)
    loss, dlogits = sc.cross_entropy_with_grad(logits, target)

    dy, dcharacters = linear_backward(dlogits, y, net.characters.T)
    dx, *dsaying = layer_norm_backward(dy, net.saying[0], saying)
    dx, dwriting = feed_backward(dx, net.writing, writing)
    dx, dmemory, dcrossing = attend_backward(dx, net.crossing, crossing)
    dx_said, _, drecalling = attend_backward(dx, net.recalling, recalling)
    dx, *dremembering = layer_norm_backward(dmemory, net.remembering[0], remembering)
    dx, dthinking = feed_backward(dx, net.thinking, thinking)
    dx_read, _, dreading = attend_backward(dx, net.reading, reading)

    dcharacters, dplaces = np.ascontiguousarray(dcharacters.T), np.zeros_like(net.places)
    rows = np.eye(len(net.characters), dtype=dx.dtype)  # to look up a row is to multiply by a row of the identity
    for tokens, dx in ((source, dx_read), (before, dx_said)):
        dcharacters += linear_backward(dx, rows[tokens], net.characters)[1]
        dplaces[: tokens.shape[1]] += dx.sum(0)
    return [dcharacters, dplaces, *dreading, *dthinking, *dremembering, *drecalling, *dcrossing, *dwriting, *dsaying], loss


def translate(parameters, source, lengths):
    """What the network writes, always its most likely character; and the weights of its crossing attention: (n, heads, written, read)."""
    net = network(parameters)
    memory, _ = read(net, source, lengths)
    written = np.zeros((len(source), WRITTEN), int)
    for i in range(WRITTEN):
        logits, (_, _, crossing, *_) = say(net, memory, lengths, written[:, : i + 1])
        written[:, i] = sc.argmax(logits[:, i])
    _, _, _, q, kv, *_ = crossing
    (q,), (k, _) = heads(q, 1), heads(kv, 2)
    real = np.arange(source.shape[1]) < lengths[:, None, None, None]
    return written, sc.softmax(q @ k.swapaxes(-1, -2), scale=q.shape[-1] ** -0.5, where=real)


# %%
# Training
# --------


def calendar(rng):
    """The days of two centuries in random order, a tenth of them held out."""
    days = rng.permutation(np.arange(date(1900, 1, 1).toordinal(), date(2100, 1, 1).toordinal()))
    return np.split(days, [len(days) * 9 // 10])


def adam(parameters, slopes, moments, step, rate):
    """One step, in place; the moments are the running means of each slope and of its square."""
    for p, dp, (m, s) in zip(parameters, slopes, moments):
        m += 0.1 * (dp - m)
        s += 0.01 * (dp * dp - s)
        p -= rate / (1 - 0.9**step) * m / (np.sqrt(s / (1 - 0.99**step)) + 1e-8)


def train(days, steps, rng, width=64, batch=64, rate=4e-3):
    """Adam, on fresh pairs in each step; the parameters, and the loss of each step."""
    parameters = start(rng, width)
    moments = [(np.zeros_like(p), np.zeros_like(p)) for p in parameters]
    losses = []
    bar = tqdm(range(1, steps + 1), desc="training", unit="step", ncols=100)
    for step in bar:
        slopes, loss = gradients(parameters, *pairs(days, rng, batch))
        adam(parameters, slopes, moments, step, rate * min(step / 50, 0.5 * (1 + np.cos(np.pi * step / steps))))
        losses.append(loss)
        if step % 50 == 0:
            bar.set_postfix(loss=f"{np.mean(losses[-50:]):.4f}", refresh=False)
    return parameters, losses


# %%
# The picture
# -----------


def draw(parameters, losses, day, picture):
    """For one date in some styles, how much attention each character that was read got from each that was written; and the loss."""
    figure, grid = plt.subplots(3, 2, figsize=(14, 10), layout="constrained")
    texts = [write(day, style) for style in (0, 2, 4, 5, 7)]
    written, weights = translate(parameters, encode(texts, LONGEST), np.array([len(text) for text in texts]))
    for axes, text, wrote, shares in zip(grid.flat, texts, decode(written), weights.mean(1)):
        axes.imshow(shares[:, : len(text)], cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(text)), text, family="monospace")
        axes.set_yticks(range(WRITTEN), wrote, family="monospace")
        axes.tick_params(length=0)
        axes.set_title(f"{text} \N{RIGHTWARDS ARROW} {wrote}", loc="left")
    lines = grid[-1, -1]
    lines.semilogy(np.arange(1, len(losses) + 1), losses, color=BLUE)
    lines.set_xlabel("step")
    lines.set_title("loss of a character", loc="left")
    figure.suptitle("What the network read (columns) when it wrote each character (rows): attention, mean of the heads", x=0.01, ha="left")
    figure.savefig(picture, dpi=100)
    plt.close(figure)


# A step is a hundred small calls: where a core is busy with something else, threads would spend the time waiting for each other.
@threadpool_limits.wrap(limits=1)
def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smaller network, fewer steps")
    parser.add_argument("--picture", metavar="PATH", default="translate.png", help="where to write the picture (default: %(default)s)")
    options = parser.parse_args(arguments)

    rng = np.random.default_rng(0)
    days, held_out = calendar(rng)
    begun = time.perf_counter()
    parameters, losses = train(days, 500, rng, width=48, batch=32, rate=6e-3) if options.quick else train(days, 1000, rng)
    print(f"trained on {len(losses)} batches of dates in {time.perf_counter() - begun:.0f} s")
    source, lengths, target = pairs(held_out, rng, 2000)
    written, _ = translate(parameters, source, lengths)
    right = np.all(written == target, axis=-1)
    for text, wrote in zip(decode(source[:5]), decode(written)):
        print(f"  {text.rstrip(ALPHABET[0]):{LONGEST}} {wrote}")
    print(f"{right.sum()} of {len(right)} dates that it has never seen are right in every character, {right.mean():.2%}")
    draw(parameters, losses, date(2021, 9, 30), options.picture)
    print(f"picture: {options.picture}")
    return right.mean()


if __name__ == "__main__":
    main()
