import numpy as np
from matplotlib import pyplot as plt

import softcore as sc

rng = np.random.default_rng(3)
queries, keys = 6, 10
q, k = rng.standard_normal((1, queries, 16)), rng.standard_normal((1, keys, 16))
panels = {
    "all keys": {},
    "causal=True": {"causal": True},
    'causal_offset="end"': {"causal": True, "causal_offset": "end"},
    "window=(2, 0)": {"window": (2, 0), "causal_offset": "end"},
    "alibi_slopes=[0.7]": {"alibi_slopes": [0.7], "causal": True, "causal_offset": "end"},
}

figure, grid = plt.subplots(1, len(panels), figsize=(9, 1.8), sharey=True)
for axes, (name, options) in zip(grid, panels.items()):
    weights = sc.attention(q, k, np.eye(keys)[None], **options)[0]
    axes.imshow(np.where(weights == 0, np.nan, weights), cmap="Blues", vmin=0, vmax=0.6)
    axes.set_facecolor("#eef1f4")
    axes.set_xticks(np.arange(keys + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(queries + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white")
    axes.tick_params(which="both", length=0)
    axes.set_xticks([0, 5])
    axes.set_yticks([0, 5])
    axes.set_xlabel("key")
    axes.set_title(name)
grid[0].set_ylabel("query")
