"""Figures of one synthesis, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from fedrevive_core.plots.samples import show_mosaic
from fedrevive_core.plots.style import STYLE, TITLE_COLOURS, Plot
from fedrevive_core.records import Switches, Trace

LOSSES = (r"$L_\mathrm{feat}$", r"$L_\mathrm{hot}$", r"$L_\mathrm{adv}$")
SHOWN = 6  # images of the class


@mpl.rc_context(STYLE)
def plot_trace(
    trace: Trace, label: int, class_names: Sequence[str], *, steps: int | None = None, on: Switches = (True, True, True)
) -> Figure:
    """Images of class `label` after 0 to `steps` steps, the three losses so far, and the votes after the last step.

    Args:
        class_names: of all classes, in order. steps: at most those of the trace; all if unset. on: which of L_feat,
            L_hot and L_adv took part; the others are marked as off.
    """
    last = len(trace.images) - 1 if steps is None else steps
    chosen = np.flatnonzero(trace.labels == label)
    # Fixed positions: a layout engine would take longer than all the rest.
    figure = Plot(figsize=(11, 5.4))
    _images(figure.add_axes((0.03, 0.1, 0.42, 0.8)), trace.images[: last + 1, chosen[:SHOWN]])
    for term, (name, switched_on) in enumerate(zip(LOSSES, on, strict=True)):
        axes = figure.add_axes((0.51 + 0.17 * term, 0.7, 0.115, 0.19))
        _curve(axes, trace.losses[:, term], last, TITLE_COLOURS[term], name + ("" if switched_on else ", off"))
    votes = trace.votes[last][:, chosen[:SHOWN]].mean(axis=1)
    _votes(figure.add_axes((0.6, 0.07, 0.39, 0.46)), trace, votes, label, class_names)
    title = f"Version {trace.version}: images wanted of class {class_names[label]}, after {last} steps"
    figure.text(0.03, 0.95, title, fontsize=13)
    return figure


@mpl.rc_context(STYLE)
def plot_image_votes(trace: Trace, image: int, class_names: Sequence[str], *, step: int = -1) -> Figure:
    """Image number `image` of a trace, and the probabilities that teachers and student give it after `step` steps."""
    figure = Plot(figsize=(10, 3.6))
    left, right = figure.add_axes((0.02, 0.1, 0.26, 0.74)), figure.add_axes((0.47, 0.1, 0.52, 0.74))
    _images(left, trace.images[step][None, [image]])
    left.set(xticks=[], xlabel="", ylabel="", title=f"wanted: {class_names[trace.labels[image]]}")
    _votes(right, trace, trace.votes[step][:, image], int(trace.labels[image]), class_names)
    return figure


def _images(axes: Axes, images: np.ndarray) -> None:
    """Images (k, n, C, S, S): a row per image, a column per step; at most seven columns, first and last among them."""
    steps = np.unique(np.linspace(0, len(images) - 1, min(7, len(images))).round().astype(int))
    x, _ = show_mosaic(axes, images[steps].swapaxes(0, 1))
    axes.set_xticks(x, [str(step) for step in steps])
    axes.set(xlabel="steps taken", ylabel="images of the class, a row each")


def _curve(axes: Axes, values: np.ndarray, last: int, colour: str, title: str) -> None:
    axes.plot(values, color=colour, alpha=0.25, lw=1.2)
    axes.plot(values[: last + 1], color=colour)
    axes.plot(last, values[last], "o", color=colour, ms=5)
    axes.set_title(f"{title}: {values[last]:.2f}", fontsize=10, pad=4)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.set_xlabel("steps (all classes)", fontsize=8, labelpad=1)


def _votes(axes: Axes, trace: Trace, probs: np.ndarray, label: int, class_names: Sequence[str]) -> None:
    """Mean probabilities (M + 1, C) of teachers and student, the wanted class framed, teacher weights beside them."""
    share = trace.proportions[:, label]
    weights = share / max(share.sum(), 1e-8)
    axes.imshow(probs, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(probs):
        if value >= 0.05:
            look: Any = {"ha": "center", "va": "center", "fontsize": 8, "color": "white" if value > 0.6 else "black"}
            axes.text(column, row, f"{value:.2f}", **look)
    axes.add_patch(Rectangle((label - 0.5, -0.5), 1, len(probs), fill=False, ec=TITLE_COLOURS[1], lw=2.5))
    axes.axhline(len(probs) - 1.5, color="black", lw=1)
    names = [f"client {client} (w = {weight:.2f})" for client, weight in zip(trace.clients, weights, strict=True)]
    axes.set_yticks(range(len(probs)), [*names, "student"], fontsize=9)
    axes.set_xticks(range(len(class_names)), class_names, fontsize=9)
    axes.set_title("Votes: mean probability of each class", fontsize=10, pad=4)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
