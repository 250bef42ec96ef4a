import numpy as np
from matplotlib import pyplot as plt

import softcore as sc

t = np.linspace(0, 1, 60)
x = np.stack([np.sin(6 * t), 1 - 2 * t, np.cos(14 * t), np.sign(np.sin(25 * t)), t**2])
r = np.array([0.2, 1.4, -0.8, 0.5, 1.9])
w, chosen = sc.topk_gate(r, 2)
sparse = np.zeros(5)
sparse[chosen] = w

figure, grid = plt.subplots(1, 4, figsize=(10.5, 2.6), width_ratios=[1, 1, 1.6, 1.6])
names = ("softmax(r)", "topk_gate(r, 2)")
for axes, shares, name in zip(grid, (sc.softmax(r), sparse), names):
    axes.barh(range(5), shares, color=[f"C{j}" for j in range(5)])
    axes.invert_yaxis()
    axes.set_xlim(0, 0.75)
    axes.set_yticks(range(5), [f"r = {score:g}" for score in r])
    axes.set_title(name)
for j, row in enumerate(x):
    grid[2].plot(t, row - 2.5 * j, color=f"C{j}")
grid[2].set_yticks([])
grid[2].set_title("the rows of x")
grid[3].plot(t, sc.softmax_gate(x, r), color="black", label="softmax_gate(x, r)")
grid[3].plot(t, w @ x[chosen], color="#8a949e", linestyle="--", label="of the two best")
grid[3].set_ylim(-1.2, 2)
grid[3].legend(loc="upper left")
grid[3].set_title("mixed")
