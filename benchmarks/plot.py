"""Draws what `script/bench` has measured.

python plot.py RESULTS_FOLDER FILE.svg

Reads throughput.json and overhead.json; each has the medians of every contender by figure.
"""

import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "the same figures make the same file"

import matplotlib.pyplot as plt  # noqa: E402 - after the choice of its backend

#: Panels: file, figure, title.
PANELS = (
    ("throughput", "requests/s", "requests a second"),
    ("overhead", "p50 ms at 20/s", "added to a call at 20/s, median, ms"),
    ("overhead", "p99 ms at 20/s", "added to a call at 20/s, p99, ms"),
)


def main() -> None:
    folder, target = Path(sys.argv[1]), sys.argv[2]
    figure, axes = plt.subplots(1, len(PANELS), figsize=(11, 2.6), layout="constrained")
    for axis, (file, name, title) in zip(axes, PANELS, strict=True):
        medians = json.loads((folder / f"{file}.json").read_text())["medians"]
        values = [figures[name] for figures in medians.values()]
        bars = axis.barh(list(medians), values, color=["#2a6f97", *["#bbbbbb"] * (len(values) - 1)])
        axis.bar_label(bars, fmt="%.0f", padding=3)
        axis.set_title(title, fontsize=10)
        axis.set_xlim(0, max(values) * 1.18)
        axis.invert_yaxis()
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.set_xticks([])
    for axis in axes[1:]:
        axis.set_yticklabels([])
    figure.savefig(target, metadata={"Date": None})


main()
