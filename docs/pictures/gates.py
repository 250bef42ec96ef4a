import numpy as np
from matplotlib import pyplot as plt

import softcore as sc

BLUE, RED = "#2b6ca3", "#c8442e"
ACTIVATIONS = {"sigmoid": "#8a949e", "silu": BLUE, "gelu": RED, "relu": "black"}
t = np.linspace(0, 1, 401)
x, y, r = np.sin(20 * t), 0.5 * np.sign(np.sin(60 * t)), 12 * (t - 0.5)
b = np.linspace(-5, 5, 401)

figure, (mixed, shares, values, slopes) = plt.subplots(1, 4, figsize=(11, 2.5))
mixed.plot(t, x, color=BLUE, linewidth=0.8, alpha=0.6, label="x")
mixed.plot(t, y, color=RED, linewidth=0.8, alpha=0.6, label="y")
mixed.plot(t, sc.gate(x, y, r), color="black", label="f")
mixed.set_ylim(-1.15, 1.9)
mixed.legend(ncols=3, loc="upper left")
mixed.set_title("gate, opening to x")
dx, dy, dr = sc.gate_backward(np.ones_like(t), x, y, r)
shares.stackplot(t, dy, dx, colors=["#f2c4bb", "#bcd3ea"])
shares.text(0.03, 0.4, "gradient of y")
shares.text(0.97, 0.5, "of x", ha="right")
shares.margins(0)
shares.set_title("how df is divided")
for name, colour in ACTIVATIONS.items():
    values.plot(b, sc.glu((np.ones_like(b), b), activation=name), color=colour, label=name)
    slopes.plot(b, sc.glu_backward(1.0, (np.ones_like(b), b), activation=name)[1], color=colour)
values.set_ylim(-0.5, 4)
values.legend()
values.set_title("activations of glu")
slopes.set_title("their slopes")
