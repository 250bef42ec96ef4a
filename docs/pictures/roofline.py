import json
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

import softcore as sc

generated = Path(sc.__file__).parents[1] / "docs" / "generated" / "costs.json"
measured = json.loads(generated.read_text())
most = measured["ceilings"]
colours = dict(zip(dict.fromkeys(op.family for op in sc.reference.OPS.values()), plt.rcParams["axes.prop_cycle"].by_key()["color"]))

figure, (memory, work) = plt.subplots(1, 2, figsize=(10.5, 4.6))

for family, colour in colours.items():
    ops = {name: m for name, m in measured["ops"].items() if sc.reference.OPS[name].family == family}
    if ops:
        memory.plot([m["bytes"] for m in ops.values()], [m["GB/s"] for m in ops.values()], "o", color=colour, label=family)
widest = max(measured["ops"], key=lambda name: measured["ops"][name]["bytes"])  # has no room on its right
for name in ("max", "softmax", "cross_entropy_with_grad", "softmax_gate_backward", "relu"):
    m = measured["ops"][name]
    x, side = (-6, "right") if name == widest else (6, "left")
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
    memory.annotate(name, (m["bytes"], m["GB/s"]), xytext=(x, -3), textcoords="offset points", fontsize=8, ha=side, bbox=paper)
for name, style in (("copy", "-"), ("read", "--")):
    memory.axhline(most[name] / 1e9, color="black", linewidth=1.2, linestyle=style, label=f"a {name}")
memory.set_xscale("log", base=2)
memory.set_yscale("log")
memory.set_xlabel("bytes an element that must be read or written")
memory.set_ylabel("10⁹ bytes a second")
memory.set_title("limited by memory")
memory.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=4)

intensity = np.geomspace(0.5, 1000, 200)
for name, style in (("read", "--"), ("copy", "-")):
    roof = np.minimum(most["product"], most[name] * intensity)
    work.plot(intensity, roof / 1e9, color="black", linewidth=1.2, linestyle=style)
# Four of them lie close together: numbers on the points, and what they mean below.
for number, (words, m) in enumerate(measured["attention"].items(), 1):
    work.plot(m["intensity"], m["rate"] / 1e9, "o", color=colours["attention"], markersize=11, alpha=0.6, label=f"{number}: {words}")
    work.annotate(str(number), (m["intensity"], m["rate"] / 1e9), fontsize=8, color="black", ha="center", va="center")
work.legend(fontsize=8, loc="lower right", handlelength=0, handletextpad=0, markerscale=0)
work.annotate("a matrix product", (0.6, most["product"] / 1e9), xytext=(0, 4), textcoords="offset points", fontsize=8)
work.set_xscale("log", base=2)
work.set_yscale("log")
work.set_xlabel("operations a byte")
work.set_ylabel("10⁹ operations a second")
work.set_title("attention: limited by memory, then by arithmetic")
figure.suptitle(measured["machine"], fontsize=9)
