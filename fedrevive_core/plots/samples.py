"""Figures of samples: mosaics of images, and texts as the nearest tokens of the vocabulary."""

from __future__ import annotations

import textwrap

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedrevive_core.plots.style import STYLE, TITLE_COLOURS, Plot
from fedrevive_core.records import Record

BLANK = 245  # grey level of an empty cell: a little darker than the gaps
WIDTH, LINES = 44, 5  # most characters of a line, and lines of a cell, of a text


def show_mosaic(axes: Axes, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Show uint8 `images` (rows, columns, C, H, W) as one image; returns the centres of columns and of rows."""
    rows, columns, _, height, width = images.shape
    gap = max(1, width // 8)
    shown = np.pad(images, ((0, 0), (0, 0), (0, 0), (0, gap), (0, gap)), constant_values=255)
    sheet = shown.transpose(0, 3, 1, 4, 2).reshape(rows * (height + gap), columns * (width + gap), -1)
    sheet = np.broadcast_to(sheet[:-gap, :-gap], (*sheet[:-gap, :-gap].shape[:2], 3))  # one channel becomes grey
    axes.imshow(sheet, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    return middle_x + (width + gap) * np.arange(columns), middle_y + (height + gap) * np.arange(rows)


def newest_of_each_class(images: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The first, so newest, of the uint8 `images` (n, C, H, W) with each label of `classes`: (classes, C, H, W)."""
    newest = np.full((len(classes), *images.shape[1:]), BLANK, dtype=np.uint8)
    for row, label in enumerate(classes):
        for index in np.flatnonzero(labels == label)[:1]:
            newest[row] = images[index]
    return newest


def _rows_and_columns(record: Record, num_versions: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The `num_classes` classes seen most, and the indices of `num_versions` versions from the first to the last."""
    for name, value in (("num_versions", num_versions), ("num_classes", num_classes)):
        if value < 1:
            raise ValueError(f"{name} = {value} must be positive")
    versions, labels = record.samples["version"], record.samples["labels"]
    seen, counts = np.unique(labels[labels >= 0], return_counts=True)
    classes = np.sort(seen[np.argsort(-counts, kind="stable")[:num_classes]])
    return classes, np.linspace(0, len(versions) - 1, min(num_versions, len(versions))).round().astype(int)


@mpl.rc_context(STYLE)
def plot_samples(record: Record, *, num_versions: int = 8) -> Figure:
    """Synthesised images over time: a row per class, a column per version, in each cell the newest of the class.

    At most ten classes (those seen most) and `num_versions` columns, evenly spread. Raises ValueError without samples.
    """
    classes, chosen = _rows_and_columns(record, num_versions, 10)
    if "images" not in record.samples:
        raise ValueError("the samples are texts: use plot_text_samples")
    if len(classes) == 0:
        raise ValueError(f"'{record.config.method}' left no samples: only runs with revival.source = 'synthetic' do")
    versions, labels, images = (record.samples[name][chosen] for name in ("version", "labels", "images"))
    columns = [newest_of_each_class(*pair, classes) for pair in zip(images, labels, strict=True)]
    figure = Plot(figsize=(0.9 + 0.72 * max(len(chosen), 6), 1.5 + 0.72 * len(classes)), layout="constrained")
    axes = figure.subplots()
    x, y = show_mosaic(axes, np.stack(columns, axis=1))
    axes.set_xticks(x, [str(version) for version in versions])
    axes.set_yticks(y, [str(label) for label in classes])
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.xaxis.set_label_position("top")
    axes.set(xlabel="version of the global model", ylabel="class")
    figure.suptitle("What the generator makes: newest image of each class", fontsize=13)
    figure.supxlabel(f"blank: none among the {labels.shape[1]} newest images", fontsize=10)
    return figure


@mpl.rc_context(STYLE)
def plot_text_samples(record: Record, *, num_versions: int = 2, num_classes: int = 3) -> Figure:
    """Synthesised texts over time as nearest tokens: a row per class, a column per version, the newest of the class.

    The `num_classes` classes seen most and `num_versions` columns, evenly spread. Raises ValueError for a record
    without samples of texts.
    """
    if "texts" not in record.samples or len(record.samples["version"]) == 0:
        raise ValueError(f"'{record.config.method}' on '{record.config.data.name}' left no samples of texts")
    classes, chosen = _rows_and_columns(record, num_versions, num_classes)
    versions, labels, texts = (record.samples[name][chosen] for name in ("version", "labels", "texts"))
    names = list(record.summary["class_accuracy"])
    figure = Plot(figsize=(1.0 + 4.5 * len(chosen), 1.0 + 1.4 * len(classes)), layout="constrained")
    grid = figure.subplots(len(classes), len(chosen), squeeze=False)
    for (row, column), axes in np.ndenumerate(grid):
        newest = np.flatnonzero(labels[column] == classes[row])[:1]
        text = str(texts[column, newest[0]]) if len(newest) else "(none among the newest)"
        lines = textwrap.wrap(text, WIDTH)
        shown = "\n".join(lines[:LINES]) + (" ..." if len(lines) > LINES else "")
        axes.text(0.02, 0.95, shown, va="top", fontsize=11, family="monospace", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
    for axes, version in zip(grid[0], versions, strict=True):
        axes.set_title(f"version {version}")
    for row, (axes, label) in enumerate(zip(grid[:, 0], classes, strict=True)):
        axes.set_ylabel(names[label], color=TITLE_COLOURS[row % len(TITLE_COLOURS)], fontweight="bold")
    figure.suptitle("What synthesis writes, as nearest tokens: newest text of each class", fontsize=13)
    return figure
