import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from softcore.fold import SoftmaxState

INK, TILES = "#33475b", ("#bcd3ea", "#f2c4bb", "#cfe6cf", "#f3e3b3")
x = np.random.default_rng(1).normal(0, 2, 16).round(1)
states = [SoftmaxState.empty().absorb(part) for part in np.split(x, 4)]

figure, axes = plt.subplots(figsize=(8.6, 3.3))


def box(at, y, width, text, colour):
    shape = FancyBboxPatch(
        (at - width / 2, y - 0.27), width, 0.54, boxstyle="round,pad=0.02,rounding_size=0.1", facecolor=colour, edgecolor=INK
    )
    axes.add_patch(shape)
    axes.text(at, y, text, ha="center", va="center", fontsize=9, color=INK)


def arrow(start, end):
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=10, color=INK, linewidth=1))


for i, value in enumerate(x):
    box(i + 0.5, 4, 0.92, f"{value:g}", TILES[i // 4])
for k, state in enumerate(states):
    box(4 * k + 2, 2.9, 2.9, f"({state.m:.1f}, {state.l:.3f})", TILES[k])
    arrow((4 * k + 2, 3.7), (4 * k + 2, 3.2))
total = states[0]
for k in range(1, 4):
    total = total.merge(states[k])
    box(4 * k + 2, 1.8, 2.9, f"({total.m:.1f}, {total.l:.3f})", "white")
    arrow((4 * k + 2, 2.6), (4 * k + 2, 2.1))
    arrow((4 * k - 2 + (1.5 if k > 1 else 0), 1.8 if k > 1 else 2.6), (4 * k + 0.5, 1.8))
arrow((14, 1.5), (14, 1.0))
box(14, 0.7, 3.6, f"m + log l = {total.finish():.3f}", "white")
for y, text in ((4, "a row, in tiles"), (2.9, "absorb"), (1.8, "merge"), (0.7, "finish")):
    axes.text(-0.2, y, text, ha="right", va="center", fontsize=10, color=INK)
axes.set_xlim(-3, 16.2)
axes.set_ylim(0.3, 4.4)
axes.set_axis_off()
