"""A brainteaser: where does the gradient land?
============================================

Ten numbers go through softmax, and through sigmoid. Back-propagate one output: which of the ten receive a gradient?

Softmax divides each exponential by the sum of all ten, so every output depends on every number; sigmoid looks at one number at a time::

    softmax   y_j = exp(x_j) / sum_i exp(x_i)    dy_j / dx_i = y_j ((i == j) - y_i)
    sigmoid   y_j = 1 / (1 + exp(-x_j))          dy_j / dx_i = y_j (1 - y_j) (i == j)

So softmax's gradient lands on all ten numbers, and sums to 0: what one output gains, the others lose. Sigmoid's lands on one. This is why
softmax is for classes that exclude each other, and sigmoid for labels of which several may hold.

J. S. Bridle, "Probabilistic interpretation of feedforward classification network outputs", in Neurocomputing, Springer 1990.
"""

import argparse

import matplotlib
import numpy as np
from tqdm import tqdm

import softcore as sc

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.colors import SymLogNorm  # noqa: E402

FUNCTIONS = {"softmax": (sc.softmax, sc.softmax_backward), "sigmoid": (sc.sigmoid, sc.sigmoid_backward)}
GREY, BLUE, RED = "#aab3bd", "#2b6ca3", "#c8442e"


def ten_numbers(seed=0):
    return np.random.default_rng(seed).standard_normal(10)


def jacobian(name, x):
    """Row j is the gradient of output j by the ten numbers: ten back-propagations in one call, one row of the identity each."""
    forward, backward = FUNCTIONS[name]
    y = np.broadcast_to(forward(x), (len(x), len(x)))
    return backward(np.eye(len(x)), y)


def climb(name, x, chosen, steps, rate=0.5):
    """Push the chosen output up, step by step along its gradient, and note the ten outputs on the way."""
    forward, backward = FUNCTIONS[name]
    x, dy = x.copy(), np.zeros(len(x))
    dy[chosen] = 1
    path = []
    for _ in tqdm(range(steps), desc=f"pushing one output of {name}", ncols=100):
        y = forward(x)
        path.append(y)
        x += rate * backward(dy, y)
    return np.array(path)


def draw(x, chosen, jacobians, paths, picture):
    figure, grid = plt.subplots(2, 3, figsize=(14, 7.5), layout="constrained", width_ratios=[1.3, 0.9, 1.2])
    for (name, slopes), (bars, image, lines) in zip(jacobians.items(), grid):
        bars.bar(range(10), slopes[chosen], color=[BLUE if i == chosen else RED if slopes[chosen, i] else GREY for i in range(10)])
        bars.axhline(0, color="black", linewidth=0.8)
        bars.set_ylim(-0.08, 0.3)
        bars.set_title(f"{name}: it lands on {np.count_nonzero(slopes[chosen])} of 10 numbers", loc="left")
        bars.set_xlabel("number")
        bars.set_ylabel(f"gradient of output {chosen}")
        bars.set_xticks(range(10))
        for i in np.flatnonzero(slopes[chosen]):
            bars.annotate(
                f"{slopes[chosen, i]:.3f}",
                (i, slopes[chosen, i]),
                xytext=(0, 3 if slopes[chosen, i] > 0 else -3),
                textcoords="offset points",
                ha="center",
                va="bottom" if slopes[chosen, i] > 0 else "top",
                fontsize=8,
            )

        shown = image.imshow(np.ma.masked_equal(slopes, 0), cmap="RdBu", norm=SymLogNorm(1e-3, vmin=-0.25, vmax=0.25))
        image.set_title("each output in turn (blank: none)", loc="left")
        image.set_xlabel("number")
        image.set_ylabel("output")
        image.set_xticks(range(10))
        image.set_yticks(range(10))
        figure.colorbar(shown, ax=image, shrink=0.85)

        for i, path in enumerate(paths[name].T):
            lines.plot(path, color=BLUE if i == chosen else GREY, linewidth=2 if i == chosen else 1)
        lines.set_ylim(0, 1)
        lines.set_title(f"output {chosen} (blue) pushed up along its gradient", loc="left")
        lines.set_xlabel("step")
        lines.set_ylabel("the ten outputs")
    figure.savefig(picture, dpi=100)
    plt.close(figure)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few steps only")
    parser.add_argument("--picture", metavar="PATH", default="brainteaser.png", help="where to write the picture (default: %(default)s)")
    options = parser.parse_args(arguments)

    x, chosen = ten_numbers(), 3
    jacobians = {name: jacobian(name, x) for name in FUNCTIONS}
    paths = {name: climb(name, x, chosen, 20 if options.quick else 200) for name in FUNCTIONS}
    for name, slopes in jacobians.items():
        landed = slopes[chosen]
        print(f"{name}: the gradient of output {chosen} lands on {np.count_nonzero(landed)} of 10 numbers and sums to {landed.sum():.3f}")
    print("Why: softmax divides by the sum of all ten exponentials, so to raise one output is to lower the others;")
    print("     sigmoid looks at each number alone, so nine of the ten have no part in the output.")
    draw(x, chosen, jacobians, paths, options.picture)
    print(f"picture: {options.picture}")
    return jacobians, paths


if __name__ == "__main__":
    main()
