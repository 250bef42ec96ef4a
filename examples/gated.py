"""A gated network: two branches and a learnt choice
=================================================

One branch is shallow, the other deep, and a gate learns which of them is useful::

    f = x sigmoid(r) + y (1 - sigmoid(r))        x: one linear layer        y: four hidden layers with relu        r: one number

The gate is a parameter like any other: its gradient is (df * (x - y)).sum() * sigmoid(r) * (1 - sigmoid(r)), so it opens to the branch
that would have given the better answer. Each branch receives its share of the gradient, sigmoid(r) or 1 - sigmoid(r): the branch that is
useful learns faster, and the other falls asleep. A gate is a learnt multiplexer.

The network looks at two digits side by side and learns either of two questions, from the same start::

    Has the left one more ink?       A sum of pixels: the shallow branch can tell, and learns it first.
    Is exactly one of them odd?      An exclusive or: no linear layer can tell, so the gate must turn to the deep branch.

R. K. Srivastava, K. Greff and J. Schmidhuber, "Highway networks", arXiv:1505.00387, 2015.
"""

import argparse
from dataclasses import dataclass, field

import matplotlib
import numpy as np
from sklearn.datasets import load_digits
from tqdm import tqdm

import softcore as sc

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

BLUE, RED = "#2b6ca3", "#c8442e"
QUESTIONS = {
    "Has the left one more ink?": lambda images, labels: images.sum(-1)[:, 0] > images.sum(-1)[:, 1],
    "Is exactly one of them odd?": lambda images, labels: labels.sum(-1) % 2 == 1,
}


# %%
# The network
# -----------


def start(rng, widths=(128, 48, 24, 24, 24, 1), dtype=np.float32):
    """The gate, half open; the shallow branch; the layers of the deep one."""

    def layer(inputs, outputs, gain):
        return [(rng.standard_normal((inputs, outputs)) * np.sqrt(gain / inputs)).astype(dtype), np.zeros(outputs, dtype)]

    parameters = [np.zeros(1, dtype), *layer(widths[0], 1, 1)]
    for inputs, outputs in zip(widths, widths[1:]):
        parameters += layer(inputs, outputs, 2 if outputs > 1 else 1)
    return parameters


def forward(parameters, pixels):
    """The gate's output, a logit for each pair; the two branches; and what each deep layer took and gave before its relu."""
    r, w, b, *deep = parameters
    x = pixels @ w + b
    h, saved = pixels, []
    for i in range(0, len(deep), 2):
        z = h @ deep[i] + deep[i + 1]
        saved.append((h, z))
        h = sc.relu(z)
    y = z  # no relu after the last layer
    return sc.gate(x, y, r), x, y, saved


def gradients(parameters, pixels, target):
    """The gradient of the mean binary cross-entropy by each parameter, that mean, and the gradients that reach the two branches."""
    r, _, _, *deep = parameters
    f, x, y, saved = forward(parameters, pixels)
    loss, df = sc.binary_cross_entropy_with_grad(f, target)
    dx, dy, dr = sc.gate_backward(df, x, y, r)
    slopes, dz = [], dy
    for i in range(len(saved) - 1, -1, -1):
        h, _ = saved[i]
        slopes = [h.T @ dz, dz.sum(0), *slopes]
        if i:
            dz = sc.relu_backward(dz @ deep[2 * i].T, saved[i - 1][1])
    return [dr, pixels.T @ dx, dx.sum(0), *slopes], loss, (dx, dy)


# %%
# Training
# --------


@dataclass
class Run:
    """What training on one question gave."""

    accuracy: float = 0.0  # on pairs of digits held out
    loss: list = field(default_factory=list)  # of each step
    openness: list = field(default_factory=list)  # sigmoid(r): 1 is open to the shallow branch, 0 to the deep one
    flow: list = field(default_factory=list)  # the sizes of the gradients that reach the shallow and the deep branch


def pairs(images, labels, rng, n):
    """n random pairs of digits: images (n, 2, 64) and labels (n, 2)."""
    chosen = rng.integers(0, len(labels), (n, 2))
    return images[chosen], labels[chosen]


def train(question, steps, batch=128, rate=0.1, seed=0):
    """Stochastic gradient descent with momentum, on fresh pairs in each step."""
    ask = QUESTIONS[question]
    rng = np.random.default_rng(seed)
    digits = load_digits()
    order = rng.permutation(len(digits.target))
    images, labels = digits.data[order].astype(np.float32) / 16, digits.target[order]
    n = len(labels) * 4 // 5

    parameters = start(rng)
    velocity = [np.zeros_like(p) for p in parameters]
    run = Run()
    bar = tqdm(range(1, steps + 1), desc=question, unit="step", ncols=110)
    for step in bar:
        shown, named = pairs(images[:n], labels[:n], rng, batch)
        target = ask(shown, named).astype(np.float32)[:, None]
        slopes, loss, (dx, dy) = gradients(parameters, shown.reshape(batch, -1), target)
        for p, v, dp in zip(parameters, velocity, slopes):
            v *= 0.9
            v -= rate * 0.5 * (1 + np.cos(np.pi * step / steps)) * dp
            p += v
        run.loss.append(loss)
        run.openness.append(sc.sigmoid(parameters[0])[0])
        run.flow.append((np.linalg.norm(dx), np.linalg.norm(dy)))
        if step % 50 == 0:
            bar.set_postfix(loss=f"{np.mean(run.loss[-50:]):.3f}", open=f"{run.openness[-1]:.2f}", refresh=False)

    shown, named = pairs(images[n:], labels[n:], rng, 2000)
    answer = forward(parameters, shown.reshape(len(shown), -1))[0][:, 0] > 0
    run.accuracy = float(np.mean(answer == ask(shown, named)))
    return run


# %%
# The picture
# -----------


def smooth(values, width=50):
    """Means over as many steps, or fewer at the start."""
    sums = np.cumsum(np.concatenate([np.zeros((1, *np.shape(values)[1:])), values]), axis=0)
    last = np.arange(1, len(sums))
    first = np.maximum(last - width, 0)
    return (sums[last] - sums[first]) / (last - first).reshape(-1, *[1] * (sums.ndim - 1))


def draw(runs, picture):
    figure, grid = plt.subplots(3, 2, figsize=(12, 9), layout="constrained", sharex=True, sharey="row")
    for (question, run), (gate, flow, loss) in zip(runs.items(), grid.T):
        steps = np.arange(1, len(run.loss) + 1)
        gate.plot(steps, run.openness, color="black")
        gate.fill_between(steps, 0, run.openness, color=BLUE, alpha=0.25, linewidth=0)
        gate.fill_between(steps, run.openness, 1, color=RED, alpha=0.25, linewidth=0)
        gate.text(0.97, 0.04, "share of the shallow branch", color=BLUE, transform=gate.transAxes, ha="right")
        gate.text(0.97, 0.91, "share of the deep branch", color=RED, transform=gate.transAxes, ha="right")
        gate.set_ylim(0, 1)
        gate.margins(x=0)
        gate.set_title(f"{question}  {run.accuracy:.1%} right, held out", loc="left")
        shallow, deep = smooth(run.flow).T
        flow.semilogy(steps, shallow, color=BLUE, label="into the shallow branch")
        flow.semilogy(steps, deep, color=RED, label="into the deep branch")
        flow.legend(frameon=False, loc="lower left")
        loss.plot(steps, smooth(run.loss), color="black")
        loss.set_ylim(bottom=0)
        loss.set_xlabel("step")
    for axes, name in zip(grid[:, 0], ("openness of the gate, sigmoid(r)", "size of the gradient", "loss")):
        axes.set_ylabel(name)
    figure.savefig(picture, dpi=100)
    plt.close(figure)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    parser.add_argument("--picture", metavar="PATH", default="gated.png", help="where to write the picture (default: %(default)s)")
    options = parser.parse_args(arguments)

    runs = {question: train(question, 800 if options.quick else 2000) for question in QUESTIONS}
    for question, run in runs.items():
        opened = run.openness[-1]
        branch = "shallow" if opened > 0.5 else "deep"
        print(f"{question} {run.accuracy:.1%} right, held out; the gate gives the {branch} branch {max(opened, 1 - opened):.0%}")
    draw(runs, options.picture)
    print(f"picture: {options.picture}")
    return runs


if __name__ == "__main__":
    main()
