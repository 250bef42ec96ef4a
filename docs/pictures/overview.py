import numpy as np
from matplotlib import pyplot as plt

import softcore as sc

BLUE, RED, GREY = "#2b6ca3", "#c8442e", "#c3cad2"
x = np.array([0.4, 1.3, 2.4, -0.6, 1.9, 0.1])
dy = np.eye(len(x))[2]
outputs = {"x": x, "hardmax(x)": sc.hardmax(x), "softmax(x)": sc.softmax(x), "softmax(x), scale 3": sc.softmax(x, scale=3)}

figure, grid = plt.subplots(1, 5, figsize=(10.5, 2.1), sharex=True)
for axes, (name, y) in zip(grid, outputs.items()):
    axes.bar(range(6), y, color=[BLUE if i == 2 else GREY for i in range(6)])
    axes.set_title(name)
dx = sc.softmax_backward(dy, sc.softmax(x))
grid[4].bar(range(6), dx, color=[BLUE if d > 0 else RED for d in dx])
grid[4].set_title("gradient of the blue share")
for axes in grid:
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
