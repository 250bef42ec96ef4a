import numpy as np
from matplotlib import pyplot as plt

import softcore as sc

BLUE, GREY = "#2b6ca3", "#c3cad2"
x = np.array([0.8, 2.0, -0.5, 3.1, 1.2, 2.6])
k = sc.argmax(x)
line = np.linspace(-2, 2, 401)

figure, (row, hot, curve) = plt.subplots(1, 3, figsize=(9, 2.5), width_ratios=[1, 1, 1.2])
colours = [BLUE if i == k else GREY for i in range(len(x))]
row.bar(range(6), x, color=colours)
row.axhline(sc.max(x), color=BLUE, linewidth=1, linestyle=":")
row.set_title(f"max = {sc.max(x)}, argmax = {k}")
hot.bar(range(6), sc.hardmax(x), color=colours)
hot.set_title("hardmax, and the way of the gradient")
for axes in (row, hot):
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(6))
curve.plot(line, sc.relu(line), color=BLUE, label="relu")
curve.plot(line, np.where(np.abs(line) < 0.006, np.nan, sc.step(line)), color="#c8442e", label="step, its slope")
curve.legend()
curve.set_title("between a number and 0")
