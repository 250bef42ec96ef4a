"""The main job: learn handwritten digits with softcore's forward and backward functions, then measure every op.

``python -m softcore demo`` runs it. The network and its training are NumPy and softcore alone; scikit-learn gives the digits.
"""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass

import numpy as np

import softcore as sc

__all__ = ["Trained", "draw", "measure", "train"]


def extra(module: str, package: str):
    """The module, or one line that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise SystemExit(f"the demo needs {package}, which is not installed: pip install 'softcore[demo]'") from None


# --- The network -------------------------------------------------------------------------------------------------------------


@dataclass
class Trained:
    """What training gave, and how it does on the digits it has not seen."""

    images: np.ndarray  # held out: (n, 8, 8)
    labels: np.ndarray  # (n,)
    probabilities: np.ndarray  # (n, 10)
    trained_on: int
    seconds: float

    @property
    def predictions(self):
        return sc.argmax(self.probabilities)

    @property
    def accuracy(self):
        return float(np.mean(self.predictions == self.labels))

    @property
    def confusion(self):
        """Counts: row, the digit it is; column, the digit it was taken for."""
        counts = np.zeros((10, 10), int)
        np.add.at(counts, (self.labels, self.predictions), 1)
        return counts


def forward(parameters, x):
    """The hidden layer before and after its relu, and the logarithms of the class probabilities."""
    w1, b1, w2, b2 = parameters
    z = x @ w1 + b1
    h = sc.relu(z)
    return z, h, sc.log_softmax(h @ w2 + b2)


def gradients(parameters, x, labels):
    """The gradient of the mean negative log-likelihood by each parameter, and that mean."""
    _, _, w2, _ = parameters
    z, h, y = forward(parameters, x)
    rows = np.arange(len(x))
    dy = np.zeros_like(y)
    dy[rows, labels] = -1 / len(x)  # loss = -mean(y[rows, labels])
    ds = sc.log_softmax_backward(dy, y)
    dz = sc.relu_backward(ds @ w2.T, z)
    return (x.T @ dz, dz.sum(0), h.T @ ds, ds.sum(0)), -y[rows, labels].mean()


def train(epochs: int = 40, *, batch: int = 32, hidden: int = 96, rate: float = 0.1, seed: int = 0, progress: bool = False) -> Trained:
    """Train on four fifths of scikit-learn's handwritten digits, and look at the fifth held out."""
    digits = extra("sklearn.datasets", "scikit-learn").load_digits()
    start = time.perf_counter()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(digits.target))
    images, labels = digits.images[order].astype(np.float32) / 16, digits.target[order]
    n = len(labels) * 4 // 5
    x = images.reshape(len(images), -1)

    def layer(inputs, outputs):
        weights = rng.standard_normal((inputs, outputs)) * np.sqrt(2 / inputs)
        return [weights.astype(np.float32), np.zeros(outputs, np.float32)]

    parameters = layer(64, hidden) + layer(hidden, 10)
    velocity = [np.zeros_like(p) for p in parameters]
    bar = range(epochs)
    if progress:
        bar = extra("tqdm", "tqdm").tqdm(bar, desc="training", unit="epoch", ncols=100)
    for epoch in bar:
        step = rate * 0.5 * (1 + np.cos(np.pi * epoch / epochs))
        losses = []
        for rows in np.array_split(rng.permutation(n), n // batch):
            slopes, loss = gradients(parameters, x[rows], labels[rows])
            losses.append(loss)
            for p, v, dp in zip(parameters, velocity, slopes):
                v *= 0.9
                v -= step * dp
                p += v
        if progress:
            bar.set_postfix(loss=f"{np.mean(losses):.4f}", refresh=False)
    probabilities = np.exp(forward(parameters, x[n:])[2])
    return Trained(images[n:], labels[n:], probabilities, n, time.perf_counter() - start)


# --- The picture -------------------------------------------------------------------------------------------------------------


def _shown(trained, mistakes=4, unsure=2, sure=2):
    """A few digits: the mistakes made with most conviction, the right ones it was least sure of, and most sure of."""
    confidence = sc.max(trained.probabilities)
    right = trained.predictions == trained.labels
    by_confidence = np.argsort(confidence, kind="stable")
    correct, wrong = by_confidence[right[by_confidence]], by_confidence[~right[by_confidence]][::-1]
    wrong = wrong[:mistakes]
    return [*wrong, *correct[: unsure + mistakes - len(wrong)], *correct[::-1][:sure]]


def draw(trained: Trained, path: str) -> None:
    """Write the picture: the confusion matrix, and a few digits with their softmax."""
    extra("matplotlib", "matplotlib").use("Agg")
    from matplotlib import pyplot as plt

    blue, red, grey = "#2b6ca3", "#c8442e", "#c3cad2"
    figure = plt.figure(figsize=(13, 6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.25], wspace=0.04)

    axes = left.subplots()
    counts = trained.confusion
    colours = np.ma.masked_equal(np.log1p(counts), 0)
    axes.imshow(colours, cmap="Blues", vmin=0, vmax=1.15 * np.log1p(counts.max()))
    for (i, j), count in np.ndenumerate(counts):
        if count:
            colour = "white" if i == j else red
            axes.text(j, i, count, ha="center", va="center", color=colour, fontsize=10, fontweight="normal" if i == j else "bold")
    axes.set_xticks(range(10))
    axes.set_yticks(range(10))
    axes.set_xticks(np.arange(-0.5, 10), minor=True)
    axes.set_yticks(np.arange(-0.5, 10), minor=True)
    axes.grid(which="minor", color="#e6e9ed", linewidth=0.8)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("taken for")
    axes.set_ylabel("is")
    wrong = int(np.sum(trained.predictions != trained.labels))
    axes.set_title(f"{trained.accuracy:.1%} of {len(trained.labels)} held-out digits right, {wrong} wrong", fontsize=12, loc="left")

    right.suptitle("Digits and their softmax (blue: what it is, red: what it was taken for)", fontsize=12, x=0.02, ha="left")
    columns = 4
    grid = right.subplots(4, columns, height_ratios=[1.25, 1, 1.25, 1])
    for place, k in enumerate(_shown(trained)):
        row, column = divmod(place, columns)
        image, bars = grid[2 * row, column], grid[2 * row + 1, column]
        label, taken, p = trained.labels[k], trained.predictions[k], trained.probabilities[k]
        image.imshow(trained.images[k], cmap="gray_r")
        image.set_axis_off()
        title = f"{label}" if label == taken else f"{label}, taken for {taken}"
        image.set_title(title, fontsize=10, color="black" if label == taken else red)
        colours = [grey] * 10
        colours[taken] = red
        colours[label] = blue
        bars.bar(range(10), p, color=colours, width=0.8)
        bars.text(taken, p[taken] + 0.04, f"{p[taken]:.0%}", ha="center", va="bottom", fontsize=8)
        bars.set_ylim(0, 1.25)
        bars.set_xlim(-1, 10)
        bars.set_xticks(range(10))
        bars.set_yticks([])
        bars.tick_params(length=0, labelsize=8)
        bars.spines[["top", "left", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


# --- The table ---------------------------------------------------------------------------------------------------------------

_HEAD = ("op", "error", "GB/s", "NumPy/SciPy", "PyTorch")
_LINE = "{:<22}{:>10}{:>8}{:>13}{:>9}"


def measure(shape: tuple[int, int] = (2048, 1024), *, rounds: int = 5, show=print) -> None:
    """Show a table of every op: error, speed, and how many times faster it is than the others, measured now."""
    from softcore import peers

    rng = np.random.default_rng(0)
    x = (3 * rng.standard_normal(shape)).astype(np.float32)
    show(f"float32, {shape[0]} x {shape[1]}, last axis, {sc.get_num_threads()} threads, {sc.info()['isa']}")
    show(_LINE.format(*_HEAD))
    elapsed = waited = 0.0
    for name, op in sc.reference.OPS.items():
        axis = -1 if "axis" in op.options else None
        error = peers.worst_ulp(name, op.inputs(x[:256], rng), axis)
        arguments = op.inputs(x, rng)
        contenders = peers.calls(name, arguments, axis, ["numpy", "scipy", "torch"])
        start, queued = time.perf_counter(), peers.waited()
        times = peers.take_turns(contenders, rounds=rounds, block=0.004, patience=4 * rounds)
        elapsed += time.perf_counter() - start
        waited += peers.waited() - queued
        moved = op.moved(arguments, getattr(sc, name)(*arguments))
        own = times["softcore"]
        plain = min((times[library] for library in ("numpy", "scipy") if library in times), default=None)
        ratios = [f"{t / own:.1f} x" if t else "-" for t in (plain, times.get("torch"))]
        show(_LINE.format(name, "exact" if error == 0 else f"{error:.2f} ulp", f"{moved / own / 1e9:.1f}", *ratios))
    show("error: the largest against the float64 definition, in units in the last place; where terms cancel, of the largest term.")
    show("GB/s: what is read and written once, by the best time. NumPy/SciPy, PyTorch: their best time by softcore's ('-': none).")
    if waited > 0.05 * elapsed:
        show(f"The machine was busy: threads waited {waited:.1f} s for a processor in {elapsed:.1f} s of timing, so speeds are unsure.")
