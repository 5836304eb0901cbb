"""Figures: a Timeline or Records in, a matplotlib Figure out.

Nothing here trains or changes global state: figures are made without pyplot, the style holds while one is being made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from fedrevive_core.config import FederationConfig, StalenessConfig
from fedrevive_core.plots.style import DASHES, STYLE, Plot
from fedrevive_core.plots.timeline import (
    SIM_TIME,
    _groups,
)
from fedrevive_core.records import Record, confidence_interval
from fedrevive_core.staleness import beta
from fedrevive_core.timeline import expected_staleness

X_LABELS = {"sim_time": SIM_TIME, "num_arrivals": "uploads processed (count)", "version": "version of the global model"}


@mpl.rc_context(STYLE)
def plot_accuracy(records: Sequence[Record] | Mapping[str, Sequence[Record]], *, x: str = "sim_time") -> Figure:
    """Accuracy over a run, a curve per method or title; over several seeds their mean and 95% interval.

    An evaluation holds until the next one, and a mean reaches as far as its shortest run. Records of one curve may
    differ in their seeds only. x: 'sim_time', 'num_arrivals' or 'version'. Raises ValueError for anything else.
    """
    if x not in X_LABELS:
        raise ValueError(f"x = '{x}' must be one of {', '.join(X_LABELS)}")
    groups = _groups(records)
    figure = Plot(figsize=(10, 4.6), layout="constrained")
    axes = figure.subplots()
    finals: dict[Line2D, float] = {}
    for title, colour, group in groups:
        grid, accuracy = _on_common_grid(group, x)
        mean, half_width = np.array([confidence_interval(column) for column in accuracy.T]).T
        axes.fill_between(grid, mean - half_width, mean + half_width, step="post", color=colour, alpha=0.18, lw=0)
        final, spread = confidence_interval([record.summary["final_accuracy"] for record in group])
        seeds = f" ± {spread:.1%} ({len(group)} seeds)" if len(group) > 1 else ""
        dashes = next((dashes for start, dashes in DASHES.items() if title.startswith(start)), "-")
        label = f"{title}\n{final:.1%}{seeds}"
        (line,) = axes.plot(grid, mean, dashes, color=colour, drawstyle="steps-post", label=label)
        finals[line] = final
    ranked = sorted(finals, key=lambda line: -finals[line])
    figure.legend(handles=ranked, loc="outside right upper", title="final accuracy", alignment="left")
    axes.set(xlabel=X_LABELS[x], ylabel=f"{groups[0][2][0].config.evaluation.split} accuracy", xlim=(0, None))
    axes.set_ylim(0, min(1, axes.get_ylim()[1]))  # an interval over two seeds may leave what is possible
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    several = any(len(group) > 1 for _, _, group in groups)
    axes.set_title("Accuracy of the global model" + (": mean and 95% interval over seeds" if several else ""))
    return figure


def _on_common_grid(group: Sequence[Record], x: str) -> tuple[np.ndarray, np.ndarray]:
    """Every x (G,) at which a run was evaluated, as far as all runs reach, and accuracy (runs, G) held until there."""
    curves = [(run.evaluations[x].to_numpy(float), run.evaluations["accuracy"].to_numpy()) for run in group]
    ends = [at[-1] for at, _ in curves]
    if x == "sim_time":  # what was evaluated last holds to the end of the budget
        ends = [max(end, float(run.summary["sim_time"])) for end, run in zip(ends, group, strict=True)]
    every = np.unique(np.concatenate([*(at for at, _ in curves), [min(ends)]]))
    grid = every[(every >= max(at[0] for at, _ in curves)) & (every <= min(ends))]
    return grid, np.array([accuracy[np.searchsorted(at, grid, side="right") - 1] for at, accuracy in curves])


@mpl.rc_context(STYLE)
def plot_samples(record: Record, *, moments: int = 8) -> Figure:
    """Synthesised images over time: a row per class, a column per moment, in each cell the newest (first) of the class.

    At most ten classes (those seen most) and `moments` columns, evenly spread. Raises ValueError without samples.
    """
    versions, labels = record.samples["version"], record.samples["labels"]
    seen, counts = np.unique(labels[labels >= 0], return_counts=True)
    classes = np.sort(seen[np.argsort(-counts, kind="stable")[:10]])
    if moments < 1:
        raise ValueError(f"moments = {moments} must be positive")
    if "images" not in record.samples:
        raise ValueError("the samples are texts: use text_plots.plot_text_samples")
    if len(classes) == 0:
        raise ValueError(f"'{record.config.method}' left no samples: only runs with revival.source = 'synthetic' do")
    chosen = np.linspace(0, len(versions) - 1, min(moments, len(versions))).round().astype(int)
    mosaic, pitch = _mosaic(record.samples["images"][chosen], labels[chosen], classes)
    figure = Plot(figsize=(0.9 + 0.72 * max(len(chosen), 6), 1.5 + 0.72 * len(classes)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(mosaic, interpolation="nearest")
    middle = (record.samples["images"].shape[-1] - 1) / 2
    axes.set_xticks(middle + pitch * np.arange(len(chosen)), [str(version) for version in versions[chosen]])
    axes.set_yticks(middle + pitch * np.arange(len(classes)), [str(label) for label in classes])
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    axes.xaxis.set_label_position("top")
    axes.set(xlabel="version of the global model", ylabel="class")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    figure.suptitle("What the generator draws: newest image of each class", fontsize=13)
    figure.supxlabel(f"blank: none among the {labels.shape[1]} newest images", fontsize=10)
    return figure


def _mosaic(images: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, int]:
    """RGB pixels of the first, so newest, image of each class at each moment, and the side of a cell with its gap."""
    side = images.shape[-1]
    gap = max(1, side // 8)
    pitch = side + gap
    mosaic = np.full((len(classes) * pitch, len(images) * pitch, 3), 255, dtype=np.uint8)
    for row, label in enumerate(classes):
        for column in range(len(images)):
            cell = mosaic[row * pitch :, column * pitch :][:side, :side]
            newest = np.flatnonzero(labels[column] == label)[:1]
            # One channel is broadcast to grey; a blank is a little darker than the gaps.
            cell[:] = images[column, newest[0]].transpose(1, 2, 0) if len(newest) else 245
    return mosaic[:-gap, :-gap], pitch


@mpl.rc_context(STYLE)
def plot_staleness_weights(
    staleness_config: StalenessConfig, federation: FederationConfig, max_staleness: int = 300
) -> Figure:
    """The rule beta(tau): how much of an update is replaced at each staleness from 0 to `max_staleness` versions."""
    tau = np.linspace(0, max_staleness, 4 * max_staleness + 1)
    weight = np.array([beta(value, staleness_config, federation) for value in tau.tolist()])
    figure = Plot(figsize=(8, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(tau, 0, weight, color="#D55E00", alpha=0.22, lw=0, label=r"replaced: $\beta(\tau)$")
    axes.fill_between(tau, weight, 1, color="#0072B2", alpha=0.12, lw=0, label=r"kept of the update: $1-\beta(\tau)$")
    axes.plot(tau, weight, color="#D55E00", clip_on=False)
    expected = expected_staleness(federation)
    if expected <= max_staleness:
        axes.axvline(expected, color="black", ls="--", lw=1.4, label=f"mean staleness expected: {expected:.3g}")
    axes.set(xlabel=r"staleness $\tau$ (versions)", ylabel="weight", xlim=(0, max_staleness), ylim=(0, 1))
    axes.set_title(f"How much of an update its staleness costs: {staleness_config.rule} rule")
    figure.legend(loc="outside lower center", ncols=3)
    return figure
