import json
from pathlib import Path

from matplotlib import pyplot as plt

import softcore as sc

kept = json.loads((Path(sc.__file__).parents[1] / "benchmarks" / "peers.json").read_text())
timed = {name for row in kept["rows"] for name in row["ms"]}
peers = {name: f"{name} {version}" for name, version in kept["versions"].items() if name in timed}
peers["np.exp"] = "np.exp, of 16 numbers"
rows = {(row["case"], row["threads"]): row["ms"] for row in kept["rows"] if peers.keys() & row["ms"].keys()}
cases, threads = list(dict.fromkeys(case for case, _ in rows)), sorted({n for _, n in rows})
colours = dict(zip(peers, plt.rcParams["axes.prop_cycle"].by_key()["color"]))

figure, panels = plt.subplots(1, len(threads), figsize=(8.6, 0.19 * len(cases) + 1.2), sharex=True, sharey=True, squeeze=False)
for axes, n in zip(panels[0], threads):
    for peer, label in peers.items():
        times = {i: rows[case, n] for i, case in enumerate(cases) if peer in rows.get((case, n), ())}
        ratios = [ms[peer] / ms["softcore"] for ms in times.values()]
        axes.plot(ratios, list(times), "o", markersize=5, color=colours[peer], label=label)
    axes.axvline(1, color="black", linewidth=1)
    axes.tick_params(axis="y", length=0)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("times as long as softcore takes")
    axes.set_title(f"{n} thread{'s' * (n > 1)}, {kept['softcore']['isa']} kernels")
panels[0, 0].set_yticks(range(len(cases)), cases, fontsize=8)
panels[0, 0].set_ylim(len(cases) - 0.5, -0.5)
figure.legend(*panels[0, 0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=4)
