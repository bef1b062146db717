"""Draws what `script/bench` has measured.

python plot.py RESULTS_FOLDER FILE.svg

Reads throughput.json, overhead.json and inflight.json; each has the medians of every contender by figure.
"""

import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "the same figures make the same file"

import matplotlib.pyplot as plt  # noqa: E402 - after the choice of its backend

#: Panels: file, figure, title, form of the figures.
PANELS = (
    ("throughput", "requests/s", "requests a second", "%.0f"),
    ("overhead", "p50 ms at 100/s", "added to a call at 100/s, median, ms", "%.1f"),
    ("overhead", "p99 ms at 100/s", "added to a call at 100/s, p99, ms", "%.1f"),
    ("inflight", "wall / ideal", "1,000 calls of 2 s at a time, time / 2 s", "%.2f"),
)


def main() -> None:
    folder, target = Path(sys.argv[1]), sys.argv[2]
    figure, axes = plt.subplots(1, len(PANELS), figsize=(13, 2.4), layout="constrained")
    for axis, (file, name, title, form) in zip(axes, PANELS, strict=True):
        medians = json.loads((folder / f"{file}.json").read_text())["medians"]
        values = [figures[name] for figures in medians.values()]
        bars = axis.barh(list(medians), values, color=["#2a6f97", *["#bbbbbb"] * (len(values) - 1)])
        axis.bar_label(bars, fmt=form, padding=3)
        axis.set_title(title, fontsize=10)
        axis.set_xlim(0, max(values) * 1.18)
        axis.invert_yaxis()
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.set_xticks([])
    for axis in axes[1:]:
        axis.set_yticklabels([])
    figure.savefig(target, metadata={"Date": None})


main()
