import json
from pathlib import Path

from matplotlib import pyplot as plt

import softcore as sc

kept = json.loads((Path(sc.__file__).parents[1] / "benchmarks" / "peers.json").read_text())
threads = max(row["threads"] for row in kept["rows"])
rows = [row for row in kept["rows"] if row["threads"] == threads and row.get("best_peer") and "softcore" in row["ms"]]
libraries = [name for name in kept["versions"] if name != "python"]
colours = dict(zip(libraries, plt.rcParams["axes.prop_cycle"].by_key()["color"]))

figure, axes = plt.subplots(figsize=(8.6, 0.19 * len(rows) + 1))
for library in libraries:
    found = [(row["ms"][library] / row["ms"]["softcore"], i) for i, row in enumerate(rows) if library in row["ms"]]
    if found:
        axes.plot(*zip(*found), "o", markersize=5, color=colours[library], label=f"{library} {kept['versions'][library]}")
axes.axvline(1, color="black", linewidth=1)
axes.set_yticks(range(len(rows)), [row["case"] for row in rows], fontsize=8)
axes.set_ylim(len(rows) - 0.5, -0.5)
axes.tick_params(axis="y", length=0)
axes.set_xscale("log", base=2)
axes.xaxis.set_major_formatter("{x:g}")
axes.grid(axis="x", alpha=0.3)
axes.set_xlabel("times as long as softcore takes")
axes.set_title(f"{threads} thread{'s' * (threads > 1)}, {kept['softcore']['isa']} kernels")
axes.legend(fontsize=8, loc="lower right")
