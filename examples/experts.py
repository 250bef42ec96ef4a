"""Softmax gating: a mixture of experts
====================================

Eight experts learn handwritten digits, and a gate asks two of them for each digit.

An expert is a small network that gives ten logits; the gate is one linear layer that scores the experts for each digit::

    r = x G        w, chosen = topk_gate(r, k)        logits = sum_j w_j expert_chosen_j(x)

Only the k chosen experts compute anything, so a mixture has the knowledge of eight experts at the price of two. Without the choice
all eight compute, and softmax_gate mixes them in one pass. Left alone, a gate asks those experts that it asked before, for only they have
learnt anything; so a penalty, 8 sum_e (share of the choices that fell on e) (mean softmax weight of e), keeps the loads even.

- R. A. Jacobs, M. I. Jordan, S. J. Nowlan and G. E. Hinton, "Adaptive mixtures of local experts", Neural Computation 3 (1991) 79-87.
- N. Shazeer et al., "Outrageously large neural networks: the sparsely-gated mixture-of-experts layer", ICLR 2017.
- W. Fedus, B. Zoph and N. Shazeer, "Switch transformers", JMLR 23 (2022), for the penalty.
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

EXPERTS = 8
PENALTY = 0.1


# %%
# The experts
# -----------
#
# Each has a row in w1 (experts, 64, hidden), b1 (experts, hidden), w2 (experts, hidden, 10) and b2 (experts, 10).


def start(rng, experts, hidden=4, dtype=np.float32):
    """The gate and the experts."""
    g = rng.standard_normal((64, experts)) * 0.1
    w1 = rng.standard_normal((experts, 64, hidden)) * np.sqrt(2 / 64)
    w2 = rng.standard_normal((experts, hidden, 10)) * np.sqrt(2 / hidden)
    arrays = [g, w1, np.zeros((experts, hidden)), w2, np.zeros((experts, 10))]
    return [a.astype(dtype) for a in arrays]


def ask(experts, x, chosen):
    """The logits (n, k, 10) of the chosen experts (n, k), each of which sees its own digits alone; and what backward needs."""
    w1, b1, w2, b2 = experts
    answers = np.empty((*chosen.shape, 10), x.dtype)
    saved = []
    for e in range(len(w1)):
        at = np.nonzero(chosen == e)  # which digits, and as which of their k experts
        z = x[at[0]] @ w1[e] + b1[e]
        h = sc.relu(z)
        answers[at] = h @ w2[e] + b2[e]
        saved.append((at, z, h))
    return answers, saved


def ask_backward(danswers, experts, x, saved):
    """The gradient by each array of the experts."""
    slopes = [np.zeros_like(a) for a in experts]
    dw1, db1, dw2, db2 = slopes
    for e, (at, z, h) in enumerate(saved):
        da = danswers[at]
        dz = sc.relu_backward(da @ experts[2][e].T, z)
        dw1[e], db1[e], dw2[e], db2[e] = x[at[0]].T @ dz, dz.sum(0), h.T @ da, da.sum(0)
    return slopes


# %%
# The mixture
# -----------


def forward(parameters, x, k):
    """The logits; the scores of the experts, the weights of the chosen ones and which they are; the answers of these."""
    g, *experts = parameters
    r = x @ g
    if k < r.shape[-1]:
        w, chosen = sc.topk_gate(r, k)
        answers, saved = ask(experts, x, chosen)
        logits = (w[..., None] * answers).sum(-2)
    else:
        w, chosen = None, np.broadcast_to(np.arange(k), r.shape)
        answers, saved = ask(experts, x, chosen)
        logits = sc.softmax_gate(answers, r)
    return logits, r, w, chosen, answers, saved


def gradients(parameters, x, labels, k):
    """The gradient of the mean cross-entropy and the penalty by each parameter; and their sum."""
    _, *experts = parameters
    logits, r, w, chosen, answers, saved = forward(parameters, x, k)
    loss, dlogits = sc.cross_entropy_with_grad(logits, labels)
    if w is not None:
        dw = (answers * dlogits[:, None]).sum(-1)
        danswers = w[..., None] * dlogits[:, None]
        dr = sc.topk_gate_backward(dw, r, chosen)
        share = load(chosen, len(experts[0])).astype(x.dtype)  # counts: no gradient goes through them
        p = sc.softmax(r)
        loss = loss + PENALTY * len(share) * (share * p.mean(0)).sum()
        dr += sc.softmax_backward(PENALTY * len(share) / len(x) * share, p)
    else:
        danswers, dr = sc.softmax_gate_backward(dlogits, answers, r)
    return [x.T @ dr, *ask_backward(danswers, experts, x, saved)], loss


def load(chosen, experts):
    """The share of the choices that fell on each expert."""
    return np.bincount(chosen.ravel(), minlength=experts) / chosen.size


# %%
# Training
# --------


@dataclass
class Run:
    """What training gave."""

    experts: int
    k: int  # how many of them are asked
    accuracy: float = 0.0  # held out
    loads: list = field(default_factory=list)  # of each epoch: the share of the choices that fell on each expert
    taught: np.ndarray | None = None  # (experts, 10): the share of each digit's choices that fell on each expert, held out


def train(name, experts, k, epochs, batch=32, rate=0.1, seed=0):
    """Stochastic gradient descent with momentum on four fifths of the digits."""
    rng = np.random.default_rng(seed)
    digits = load_digits()
    order = rng.permutation(len(digits.target))
    x, labels = digits.data[order].astype(np.float32) / 16, digits.target[order]
    n = len(labels) * 4 // 5
    x -= x[:n].mean(0)
    parameters = start(rng, experts)
    velocity = [np.zeros_like(p) for p in parameters]
    run = Run(experts, k)
    bar = tqdm(range(epochs), desc=name, unit="epoch", ncols=100)
    for epoch in bar:
        losses = []
        for rows in np.array_split(rng.permutation(n), n // batch):
            slopes, loss = gradients(parameters, x[rows], labels[rows], k)
            losses.append(loss)
            for p, v, dp in zip(parameters, velocity, slopes):
                v *= 0.9
                v -= rate * 0.5 * (1 + np.cos(np.pi * epoch / epochs)) * dp
                p += v
        run.loads.append(load(forward(parameters, x[:n], k)[3], experts))
        bar.set_postfix(loss=f"{np.mean(losses):.4f}", refresh=False)
    logits, _, _, chosen, *_ = forward(parameters, x[n:], k)
    run.accuracy = float(np.mean(sc.argmax(logits) == labels[n:]))
    run.taught = np.array([load(chosen[labels[n:] == digit], experts) for digit in range(10)]).T
    return run


# %%
# The picture
# -----------


def draw(runs, picture):
    """The load of each expert over training, the digits that each is asked about, and how well each run does."""
    name, sparse = next((name, run) for name, run in runs.items() if run.k < run.experts)
    figure, (lines, image, bars) = plt.subplots(1, 3, figsize=(15, 4.8), layout="constrained", width_ratios=[1.2, 1.2, 1])
    epochs = np.arange(1, len(sparse.loads) + 1)
    for e, share in enumerate(np.transpose(sparse.loads)):
        lines.plot(epochs, share, label=f"expert {e}")
    lines.axhline(1 / sparse.experts, color="black", linestyle=":", linewidth=1)
    lines.set_ylim(0, 1.4 * np.max(sparse.loads))
    lines.xaxis.get_major_locator().set_params(integer=True)
    lines.set_xlabel("epoch")
    lines.set_ylabel("share of the choices (dotted: even)")
    lines.set_title(f"{name}: load of each expert", loc="left")
    lines.legend(frameon=False, ncols=4, fontsize=8, loc="upper right")

    image.imshow(sparse.taught, cmap="Blues", vmin=0, vmax=0.5, aspect="auto")
    for (e, digit), share in np.ndenumerate(sparse.taught):
        if share >= 0.005:
            image.text(digit, e, f"{share:.0%}", ha="center", va="center", fontsize=8, color="white" if share > 0.3 else "black")
    image.set_xticks(range(10))
    image.set_yticks(range(sparse.experts))
    image.set_xlabel("digit, held out")
    image.set_ylabel("expert")
    image.set_title("whom the gate asks about which digit", loc="left")

    wrong = [1 - run.accuracy for run in runs.values()]
    colours = ["#2b6ca3" if run is sparse else "#c3cad2" for run in runs.values()]
    for bar, share in zip(bars.bar(list(runs), wrong, color=colours), wrong):
        bars.annotate(f"{share:.1%}", (bar.get_x() + bar.get_width() / 2, share), ha="center", va="bottom")
    bars.set_title("digits wrong, held out", loc="left")
    bars.set_yticks([])
    bars.spines[["top", "left", "right"]].set_visible(False)
    figure.savefig(picture, dpi=100)
    plt.close(figure)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer epochs")
    parser.add_argument("--picture", metavar="PATH", default="experts.png", help="where to write the picture (default: %(default)s)")
    options = parser.parse_args(arguments)

    epochs = 10 if options.quick else 30
    sizes = {"one expert": (1, 1), f"two of {EXPERTS}": (EXPERTS, 2), f"all {EXPERTS}": (EXPERTS, EXPERTS)}
    runs = {name: train(name, *size, epochs) for name, size in sizes.items()}
    for name, run in runs.items():
        print(f"{name}: {run.accuracy:.1%} of the held-out digits right")
        if run.k < run.experts:
            print("  load of each expert:", " ".join(f"{share:.0%}" for share in run.loads[-1]))
    draw(runs, options.picture)
    print(f"picture: {options.picture}")
    return runs


if __name__ == "__main__":
    main()
