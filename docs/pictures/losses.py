import numpy as np
from matplotlib import pyplot as plt

import softcore as sc

BLUE, RED, GREEN = "#2b6ca3", "#c8442e", "#3b8a4e"
x = np.linspace(-6, 6, 401)
logits = np.stack([x, np.zeros_like(x), np.zeros_like(x)], -1)

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9.4, 2.7))
for smoothing, colour in ((0.0, BLUE), (0.1, RED), (0.3, GREEN)):
    loss = sc.cross_entropy(logits, np.zeros(401, int), label_smoothing=smoothing, reduction="none")
    dx = sc.cross_entropy_backward(1.0, logits, np.zeros(401, int), label_smoothing=smoothing, reduction="none")
    left.plot(x, loss, color=colour, label=f"smoothing {smoothing:g}")
    middle.plot(x, dx[:, 0], color=colour)
left.set_title("cross_entropy of three classes")
left.set_xlabel("logit of the right class")
left.legend()
middle.axhline(0, color="black", linewidth=0.8)
middle.set_title("its gradient")
middle.set_xlabel("logit of the right class")
for target, colour in ((1.0, BLUE), (0.5, RED), (0.0, GREEN)):
    right.plot(x, sc.binary_cross_entropy(x, np.full(401, target), reduction="none"), color=colour, label=f"target {target:g}")
right.set_title("binary_cross_entropy")
right.set_xlabel("logit")
right.legend()
