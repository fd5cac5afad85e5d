"""Draws `peers.json` of `make bench-peers`: tokens a second of every engine, a panel for each set.

Usage: plot.py peers.json picture...
"""

import json
import sys

import matplotlib

matplotlib.use("Agg")
# The same figures give the same file.
matplotlib.rcParams["svg.hashsalt"] = "peers"

from matplotlib import pyplot

OURS, ANOTHERS, NARROW = "#006eb4", "#969696", "#c8c8c8"


def main():
    source, *pictures = sys.argv[1:]
    with open(source, encoding="utf-8") as file:
        figures = json.load(file)
    panels = figures["sets"]
    figure, axes = pyplot.subplots(len(panels), 1, figsize=(9, 3.3 * len(panels)), squeeze=False)
    for axis, panel in zip(axes[:, 0], panels):
        engines = sorted(panel["engines"], key=lambda engine: engine["tokensPerSecond"])
        labels = [f"{engine['engine']}, {engine['precision']}" for engine in engines]
        rates = [engine["tokensPerSecond"] for engine in engines]
        bars = axis.barh(labels, rates, color=[colour(engine) for engine in engines])
        axis.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
        axis.set_title(f"{panel['set']}, tokens/s", loc="left", fontsize=10)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.12)
    figure.suptitle(f"Qwen3 reranker of the 0.6B shape on {figures['cpu']}, {figures['date']}", fontsize=11)
    figure.tight_layout()
    for picture in pictures:
        figure.savefig(picture, dpi=120, metadata={"Date": None} if picture.endswith(".svg") else None)


def colour(engine):
    """Ours stand out; int8 is fainter, since its arithmetic is another."""
    if engine["ours"]:
        return OURS
    return NARROW if engine["precision"] == "int8" else ANOTHERS


main()
