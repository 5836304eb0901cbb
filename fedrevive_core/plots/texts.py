"""Figures of texts: what synthesis writes, as the nearest tokens of the vocabulary."""

from __future__ import annotations

import textwrap

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from fedrevive_core.plots.style import STYLE, TITLE_COLOURS, Plot
from fedrevive_core.records import Record

WIDTH = 44  # characters of a line in a cell
LINES = 5  # of a cell; what follows is left out


@mpl.rc_context(STYLE)
def plot_text_samples(record: Record, *, moments: int = 3, num_classes: int = 3) -> Figure:
    """Synthesised texts over time as nearest tokens: a row per class, a column per moment, the newest of the class.

    The `num_classes` classes seen most and `moments` columns, evenly spread. Raises ValueError for a record without
    samples of texts.
    """
    if "texts" not in record.samples or len(record.samples["version"]) == 0:
        raise ValueError(f"'{record.config.method}' on '{record.config.data.name}' left no samples of texts")
    if moments < 1 or num_classes < 1:
        raise ValueError(f"moments = {moments} and num_classes = {num_classes} must be positive")
    versions, labels, texts = (record.samples[name] for name in ("version", "labels", "texts"))
    seen, counts = np.unique(labels[labels >= 0], return_counts=True)
    classes = np.sort(seen[np.argsort(-counts, kind="stable")[:num_classes]])
    chosen = np.linspace(0, len(versions) - 1, min(moments, len(versions))).round().astype(int)
    names = list(record.summary["class_accuracy"])
    figure = Plot(figsize=(1.2 + 4.0 * len(chosen), 0.9 + 1.3 * len(classes)), layout="constrained")
    grid = figure.subplots(len(classes), len(chosen), squeeze=False)
    for row, label in enumerate(classes):
        for column, moment in enumerate(chosen):
            axes = grid[row, column]
            newest = np.flatnonzero(labels[moment] == label)[:1]
            text = str(texts[moment, newest[0]]) if len(newest) else "(none among the newest)"
            lines = textwrap.wrap(text, WIDTH)
            shown = "\n".join(lines[:LINES]) + (" ..." if len(lines) > LINES else "")
            axes.text(0.02, 0.95, shown, va="top", fontsize=9, family="monospace", transform=axes.transAxes)
            axes.set(xticks=[], yticks=[])
            if row == 0:
                axes.set_title(f"version {versions[moment]}")
            if column == 0:
                axes.set_ylabel(names[label], color=TITLE_COLOURS[row % len(TITLE_COLOURS)], fontweight="bold")
    figure.suptitle("What synthesis writes, as nearest tokens: newest text of each class", fontsize=13)
    return figure
