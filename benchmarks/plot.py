"""Draws what `script/bench` has measured.

python plot.py RESULTS_FOLDER FILE.svg

Reads throughput.json, overhead.json and inflight.json; each has the medians of every contender by figure.
"""

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "the same figures make the same file"

import matplotlib.pyplot as plt  # noqa: E402 - after the choice of its backend
from panels import PANELS, bars, described  # type: ignore[import-not-found] # noqa: E402 - beside this file


def main() -> None:
    folder, target = Path(sys.argv[1]), sys.argv[2]
    figure, axes = plt.subplots(1, len(PANELS), figsize=(13, 2.4), layout="constrained")
    for axis, (title, form, medians) in zip(axes, bars(folder), strict=True):
        values = list(medians.values())
        drawn = axis.barh(list(medians), values, color=["#2a6f97", *["#bbbbbb"] * (len(values) - 1)])
        axis.bar_label(drawn, fmt=form, padding=3)
        axis.set_title(title, fontsize=10)
        axis.set_xlim(0, max(values) * 1.18)
        axis.invert_yaxis()
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.set_xticks([])
    for axis in axes[1:]:
        axis.set_yticklabels([])
    figure.savefig(target, metadata={"Date": None, "Description": described(folder)})


main()
