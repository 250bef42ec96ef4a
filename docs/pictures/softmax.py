import numpy as np
from matplotlib import pyplot as plt

import softcore as sc

BLUE, RED, GREY = "#2b6ca3", "#c8442e", "#8a949e"
x = np.array([0.8, 2.0, -0.5, 3.1, 1.2, 2.6])
line = np.linspace(-5, 5, 501)

figure, grid = plt.subplots(2, 3, figsize=(9, 4.6))
for axes, scale in zip(grid[0], (0.3, 1, 4)):
    axes.bar(range(6), sc.softmax(x, scale=scale), color=[BLUE if i == sc.argmax(x) else "#c3cad2" for i in range(6)])
    axes.set_title(f"softmax, scale {scale}")
    axes.set_ylim(0, 1)
    axes.set_xticks(range(6))
for axes, soft, hard in ((grid[1, 0], "sigmoid", "step"), (grid[1, 1], "softplus", "relu")):
    axes.plot(line, getattr(sc, hard)(line), color=GREY, linewidth=1.2, label=hard)
    axes.plot(line, getattr(sc, soft)(line), color=BLUE, label=soft)
    axes.legend()
    axes.set_title(f"{soft}: a soft {hard}")
axes = grid[1, 2]
pairs = np.stack([line, np.zeros_like(line)], -1)
axes.plot(line, sc.max(pairs), color=GREY, linewidth=1.2, label="max(x, 0)")
axes.plot(line, sc.logsumexp(pairs), color=BLUE, label="logsumexp([x, 0])")
axes.plot(line, sc.max(pairs) + np.log(2), color=RED, linewidth=1.2, linestyle=":", label="max(x, 0) + log 2")
axes.legend()
axes.set_title("between max and max + log n")
