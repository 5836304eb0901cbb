"""Figures of who is heard: updates per client and third of speed, and the classes that the server takes in."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from fedrevive_core.config import method_title
from fedrevive_core.plots.style import STYLE, Plot
from fedrevive_core.records import Record, gini, lorenz, update_counts

MOST_CLASSES = 24  # that are named; of more, those of which slow clients hold most
OWN, DISTILLED, HELD = "#0072B2", "#D55E00", "#888888"


@mpl.rc_context(STYLE)
def plot_participation(record: Record) -> Figure:
    """Who was heard: the Lorenz curve of updates per client, the thirds of speed, and each class's share.

    Classes stand in the order of how much the slowest third of clients holds of them, most on the left. Raises
    ValueError for a record of an older version, which does not say who holds what.
    """
    if not len(record.classes):
        raise ValueError("this record was left by an older version, which did not say who holds which classes")
    figure = Plot(figsize=(12, 4.4), layout="constrained")
    curve, thirds, classes = figure.subplots(1, 3, width_ratios=[1, 0.8, 1.9])
    _lorenz(curve, update_counts(record.arrivals, record.config.federation.num_clients))
    updates = record.summary["speed_group_updates"]
    thirds.bar(list(updates), list(updates.values()), color=OWN, width=0.6)
    thirds.set(xlabel="third of the clients, by speed", ylabel="accepted updates per client")
    thirds.set_title("Who is heard how often", fontsize=11)
    thirds.grid(visible=False, axis="x")
    _classes(classes, record.classes)
    classes.set_title("What is held, and what the server took in", fontsize=11)
    figure.suptitle(f"Who was heard: {method_title(record.config.method)}", fontsize=13, x=0.01, ha="left")
    return figure


@mpl.rc_context(STYLE)
def plot_arriving_classes(names: Sequence[str], counts: np.ndarray, held: np.ndarray, slow: np.ndarray) -> Plot:
    """Who is heard before anything is trained: the Lorenz curve, and what arrives of each class if updates count alike.

    Args:
        names: of the C classes. counts: (N,) updates of each client. held: (N, C) samples of each client. slow: numbers
            of the slowest third of clients.
    """
    shares = held / held.sum(axis=1, keepdims=True)
    of_class = held.sum(axis=0)
    table = pd.DataFrame(
        {
            "class": list(names),
            "held": of_class / of_class.sum(),
            "slow": held[slow].sum(axis=0) / np.maximum(of_class, 1),
            "own": counts @ shares / counts.sum(),
            "distilled": 0.0,
        }
    )
    figure = Plot(figsize=(10, 4), layout="constrained")
    curve, classes = figure.subplots(1, 2, width_ratios=[1, 1.9])
    _lorenz(curve, counts)
    _classes(classes, table, "in updates that arrive")
    classes.set_title("What is held, and what arrives", fontsize=11)
    return figure


def _lorenz(axes: Axes, counts: np.ndarray) -> None:
    share = np.linspace(0, 1, len(counts) + 1)
    axes.plot(share, lorenz(counts), color=OWN, label=f"Gini {gini(counts):.2f}")
    axes.plot([0, 1], [0, 1], color=HELD, ls="--", lw=1.2, label="all equally often")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set(xlabel="share of clients, least heard first", ylabel="share of updates", xlim=(0, 1), ylim=(0, 1))
    axes.set_title("How equally", fontsize=11)
    axes.legend(loc="upper left")


def _classes(axes: Axes, table: pd.DataFrame, taken: str = "taken in: clients' own") -> None:
    shown = table.sort_values("slow", ascending=False, kind="stable").head(MOST_CLASSES)
    places = np.arange(len(shown))
    names = [f"{row['class']}\n{row['slow']:.0%}" for _, row in shown.iterrows()]
    axes.bar(places - 0.2, shown["held"], width=0.36, color=HELD, label="held by clients")
    axes.bar(places + 0.2, shown["own"], width=0.36, color=OWN, label=taken)
    distilled = shown["distilled"]
    if distilled.any():
        axes.bar(places + 0.2, distilled, width=0.36, bottom=shown["own"], color=DISTILLED, label="taken in: distilled")
    crowded = len(names) * max(map(len, names)) > 120
    axes.set_xticks(places, names, fontsize=9, rotation=90 if crowded else 0)
    axes.set(xlabel="class, and how much of it the slowest third holds", ylabel="share of all classes")
    axes.set_ylim(0, 1.4 * max(shown["held"].max(), (shown["own"] + distilled).max()))  # room for the legend
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(visible=False, axis="x")
    axes.legend(loc="upper right", fontsize=9)
