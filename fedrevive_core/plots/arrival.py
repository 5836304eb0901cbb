"""One arrival of a recorded run: who arrived, what the server makes of it, and how branches of the run continue.

Axes have fixed positions: a layout engine would make them jump from arrival to arrival, and take most of the time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fedrevive_core.config import method_title
from fedrevive_core.plots.samples import show_mosaic
from fedrevive_core.plots.style import METHOD_COLOURS, STYLE, TITLE_COLOURS, UNKNOWN_COLOUR, Plot
from fedrevive_core.plots.timeline import SIM_TIME
from fedrevive_core.records import Record

CLIENT, DISTILLED, APPLIED = "#0072B2", "#D55E00", "#222222"
FAINT = "#c4c4c4"
IMAGES_SHOWN, COLUMNS = 24, 6  # of the pool


@mpl.rc_context({**STYLE, "axes.titley": 1.0})  # searching for the best position takes a fifth of the time
def plot_arrival(record: Record, sim_time: float) -> Figure:
    """The last arrival at or before `sim_time`: its staleness and beta, both updates, the teachers, pool and accuracy.

    The updates are drawn in the plane that they span: the client's to the right, the distilled one at the angle given
    by their cosine. Dashed lines are as long as the norm, solid arrows as long as the norm times the weight. A time
    before the first arrival shows the first.
    """
    arrivals = record.arrivals
    times = arrivals["sim_time"].to_numpy()
    number = max(0, int(np.searchsorted(times, sim_time, side="right")) - 1)
    figure = Plot(figsize=(10.4, 6.4))
    row = arrivals.iloc[number]
    _headline(figure, record, row, number)
    _directions(figure.add_axes((0.035, 0.545, 0.3, 0.3)), record, row)
    _staleness(figure.add_axes((0.44, 0.545, 0.54, 0.3)), record, number)
    _teachers(figure.add_axes((0.07, 0.09, 0.24, 0.29)), record, number)
    _pool(figure.add_axes((0.365, 0.045, 0.25, 0.335)), record, int(row["version"]))
    _accuracy(figure.add_axes((0.7, 0.09, 0.28, 0.29)), record, float(times[number]))
    return figure


def since_branch(record: Record, branch: Record) -> pd.DataFrame:
    """Evaluations of a run and of a `branch` from it after they parted: version, accuracy of the run, and `branched`.

    One evaluation goes up and down by several points, so compare the means.
    """
    columns = ["version", "accuracy"]
    both = record.evaluations[columns].merge(branch.evaluations[columns], on="version", suffixes=("", "_of_branch"))
    both = both.rename(columns={"accuracy_of_branch": "branched"})
    return both[both["version"] > branch.provenance["branches"][-1]["version"]]


def lead_of_branch(record: Record, branch: Record) -> float:
    """By how many accuracy points `branch` is ahead of the run, on average over the evaluations after they parted."""
    both = since_branch(record, branch)
    return 100 * float((both["branched"] - both["accuracy"]).mean())


@mpl.rc_context(STYLE)
def plot_branches(
    record: Record, branches: Mapping[str, Record], *, at: float | None = None, note: str = "branch here"
) -> Figure:
    """Accuracy over simulated time of a run and of `branches` from it, by title, with their leads over the run.

    Args:
        at: simulated time of the next branch, marked by a line. note: text beside that line.
    """
    figure = Plot(figsize=(10, 4.2), layout="constrained")
    axes = figure.subplots()
    time, accuracy = record.evaluations["sim_time"], record.evaluations["accuracy"]
    axes.plot(time, accuracy, color="#777777", lw=3, alpha=0.6, label="the run itself")
    looks = itertools.cycle(itertools.product(("-", "--", ":"), TITLE_COLOURS))
    for (dashes, colour), (title, branch) in zip(looks, branches.items(), strict=False):
        after = branch.evaluations["version"] >= branch.provenance["branches"][-1]["version"]
        first = max(0, int(np.argmax(after)) - 1)  # with the last evaluation before, so that the curves meet
        part = branch.evaluations.iloc[first:]
        label = f"{title}\n{lead_of_branch(record, branch):+.1f} points on average"
        axes.plot(part["sim_time"], part["accuracy"], dashes, color=colour, label=label)
        axes.plot(part["sim_time"].iloc[0], part["accuracy"].iloc[0], "o", color=colour, ms=6, zorder=3)
    if at is not None:
        axes.axvline(at, color="black", lw=1, ls="--")
        axes.text(at, 1.0, f" {note}", va="top", fontsize=10, transform=axes.get_xaxis_transform())
    axes.set(xlabel=SIM_TIME, ylabel=f"{record.config.evaluation.split} accuracy", xlim=(0, None), ylim=(0, None))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_title("One past, several futures: accuracy of the global model")
    figure.legend(loc="outside right upper", title="lead over the run itself,\nsince the branch" if branches else None)
    return figure


def _headline(figure: Figure, record: Record, row: pd.Series, number: int) -> None:
    name = record.config.method
    title = method_title(name)
    late = f"{row['staleness']} versions late" if row["staleness"] else "fresh"
    headline = f"{title}, time {row['sim_time']:.2f}: client {row['client']} arrives, {late}"
    figure.text(0.02, 0.955, headline, fontsize=14, weight="bold")
    taken = rf"upload {number + 1} of {len(record.arrivals)}, at version {row['version']};  "
    taken += rf"$\beta(\tau={row['staleness']})$ = {row['beta']:.2f}: "
    if row["rejected"]:
        taken += f"rejected ({row['rejected']})"
    elif row["revived"]:
        taken += f"{1 - row['beta']:.0%} of its update and {row['beta']:.0%} of the distilled one"
    elif record.config.revival.source != "none":
        taken += "nothing is distilled yet or needed, so its update counts in full"
    elif row["beta"]:
        taken += f"{1 - row['beta']:.0%} of its update is kept, the rest is lost"
    else:
        taken += "its update counts in full"
    figure.text(0.02, 0.91, taken, fontsize=11, color="#444444")


def _directions(axes: Axes, record: Record, row: pd.Series) -> None:
    """Both updates in the plane that they span, the client's along x."""
    reach = 1.05 * float(record.arrivals["client_norm"].quantile(0.98))
    revived, beta = bool(row["revived"]), float(row["beta"])
    kept = 1 - beta if revived or record.config.revival.source == "none" else 1.0
    client = np.array([float(row["client_norm"]), 0.0])
    vectors, colours, texts = [kept * client], [CLIENT], [(f"client's: norm {client[0]:.2f}, kept {kept:.0%}", CLIENT)]
    dashed = [(client, CLIENT)]
    if revived:
        cosine = min(1.0, max(-1.0, float(row["cosine"])))
        angle = math.acos(cosine)
        distilled = float(row["distilled_norm"]) * np.array([math.cos(angle), math.sin(angle)])
        vectors += [beta * distilled, kept * client + beta * distilled]
        colours += [DISTILLED, APPLIED]
        dashed.append((distilled, DISTILLED))
        texts += [
            (f"distilled: norm {row['distilled_norm']:.2f}, weight {beta:.0%}", DISTILLED),
            (f"their blend; cosine of the two {cosine:+.2f} ({math.degrees(angle):.0f}°)", APPLIED),
        ]
    axes.set(xlim=(-0.3 * reach, reach), ylim=(-0.1 * reach, 0.7 * reach), aspect="equal")
    for vector, colour in dashed:
        axes.plot([0, vector[0]], [0, vector[1]], "--", color=colour, lw=1.2, alpha=0.7, clip_on=False)
    x, y = np.array(vectors).T
    look: Any = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.014, "zorder": 3, "clip_on": False}
    axes.quiver(np.zeros(len(x)), 0, x, y, color=colours, **look)
    axes.set_title("Directions of the updates", fontsize=11, pad=4)
    for line, (text, colour) in enumerate(texts):
        axes.text(0, -0.02 - 0.1 * line, text, color=colour, fontsize=9.5, transform=axes.transAxes, va="top")
    axes.set_axis_off()


def _staleness(axes: Axes, record: Record, number: int) -> None:
    """Staleness of every arrival over time; later ones are faint."""
    time, staleness = (record.arrivals[name].to_numpy() for name in ("sim_time", "staleness"))
    colour = METHOD_COLOURS.get(record.config.method, UNKNOWN_COLOUR)
    past = slice(0, number + 1)
    axes.plot(time[number + 1 :], staleness[number + 1 :], ".", color=FAINT, ms=2.5, alpha=0.6, rasterized=True)
    axes.plot(time[past], staleness[past], ".", color=colour, ms=3.5, alpha=0.7, rasterized=True)
    axes.plot(time[number], staleness[number], "o", ms=11, mfc="none", mec="black", mew=2, clip_on=False)
    axes.axvline(time[number], color="black", lw=0.8)
    axes.set(xlim=(0, time[-1]), ylim=(0, 1.05 * max(1, staleness.max())), xlabel=SIM_TIME)
    axes.set_title("Staleness of each arrival (versions)", fontsize=11, pad=4)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))


def _teachers(axes: Axes, record: Record, number: int) -> None:
    """Clients of the newest returned models, newest on top, and how stale each came in."""
    axes.set_title("Teacher buffer: client, staleness", fontsize=11, pad=4)
    if record.config.revival.source == "none":
        _empty(axes, "no teachers:\nthis method does not distil")
        return
    capacity = record.config.revival.num_teachers
    newest = record.arrivals.iloc[max(0, number + 1 - capacity) : number + 1][::-1]
    rows = np.arange(len(newest))
    axes.barh(rows, newest["staleness"], 0.7, color=[DISTILLED, *["#E9A57F"] * (len(newest) - 1)])
    axes.set(ylim=(capacity - 0.4, -0.6), xlim=(0, 1.05 * max(1, record.arrivals["staleness"].quantile(0.98))))
    axes.set_yticks(rows, [str(client) for client in newest["client"]], fontsize=min(9.5, 80 / capacity))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_xlabel("versions late when it arrived", fontsize=10)
    axes.grid(visible=False, axis="y")


def _pool(axes: Axes, record: Record, version: int) -> None:
    """The pool's newest images that were kept at or before `version`, each below its class."""
    kept = record.samples["version"]
    index = int(np.searchsorted(kept, version, side="right")) - 1
    if index < 0:
        why = {
            "none": "no pool:\nthis method does not distil",
            "held_back": "pool of real images\nthat the server holds",
            "noise": "pool of noise images",
            "other": "pool of real images\nof another data set",
        }
        axes.set_title("Pool", fontsize=11, pad=4)
        _empty(axes, why.get(record.config.revival.source, "no images were kept yet"))
        return
    labels = record.samples["labels"][index]
    images, labels = (part[labels >= 0][:IMAGES_SHOWN] for part in (record.samples["images"][index], labels))
    header = max(2, images.shape[-1] // 4)  # room for the class
    missing = -len(images) % COLUMNS
    images = np.pad(images, ((0, missing), (0, 0), (header, 0), (0, 0)), constant_values=255)
    images[len(labels) :] = 255
    x, y = show_mosaic(axes, images.reshape(-1, COLUMNS, *images.shape[1:]))
    for number, label in enumerate(labels):
        top = y[number // COLUMNS] - images.shape[-2] / 2 + header
        axes.text(x[number % COLUMNS], top, str(label), fontsize=8, ha="center", va="bottom")
    axes.set_title(f"Pool: newest at version {kept[index]}", fontsize=11, pad=4)


def _accuracy(axes: Axes, record: Record, sim_time: float) -> None:
    """Accuracy of the global model until `sim_time`; later evaluations are faint."""
    time, accuracy = (record.evaluations[name].to_numpy() for name in ("sim_time", "accuracy"))
    past = time <= sim_time
    colour = METHOD_COLOURS.get(record.config.method, UNKNOWN_COLOUR)
    axes.plot(time, accuracy, color=FAINT, lw=1.2)
    axes.plot(time[past], accuracy[past], color=colour)
    axes.plot(time[past][-1], accuracy[past][-1], "o", color=colour, ms=7, clip_on=False)
    axes.set(xlim=(0, time[-1]), ylim=(0, 1), xlabel=SIM_TIME)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_title(f"Accuracy so far: {accuracy[past][-1]:.1%}", fontsize=11, pad=4)


def _empty(axes: Axes, text: str) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", color="#777777", transform=axes.transAxes)
