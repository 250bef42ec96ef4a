import json
from pathlib import Path

from matplotlib import pyplot as plt

import softcore as sc

generated = Path(sc.__file__).parents[1] / "docs" / "generated" / "costs.json"
measured = json.loads(generated.read_text())
colours = dict(zip(dict.fromkeys(op.family for op in sc.reference.OPS.values()), plt.rcParams["axes.prop_cycle"].by_key()["color"]))
names = list(measured["ops"])

figure, axes = plt.subplots(figsize=(8.6, 0.2 * len(names) + 0.8))
for i, name in enumerate(names):
    share = measured["ops"][name]["share"]
    axes.barh(i, share, color=colours[sc.reference.OPS[name].family], height=0.75)
    axes.text(share, i, f"  {share:.2f}", va="center", fontsize=8, bbox={"color": "white", "pad": 0.5})
axes.axvline(1, color="black", linewidth=1)
axes.set_yticks(range(len(names)), names, fontsize=8)
axes.invert_yaxis()
axes.margins(y=0.01)
axes.tick_params(axis="y", length=0)
axes.set_xlabel("bytes a second, over those of np.copyto")
axes.set_title(measured["machine"])
