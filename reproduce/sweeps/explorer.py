"""The sweep explorer: choose the axis, the metric and the runs to show."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from fedrevive_core.plots import STYLE, Plot, colours
from fedrevive_core.widgets.panel import Panel, choice
from reproduce.sweeps.figures import LABELS, in_order, plot_settings

EVERY = ("all",)  # no entry of a table is a tuple


def sweep_explorer(runs: pd.DataFrame, fields: list[str], *, metric: str = "mean_accuracy") -> Panel:
    """Dots with intervals for the finished runs of a sweep; it only reads the table.

    Args:
        runs: a row per run with `arm`, `seed`, the `fields` and the summary, as in the report of a sweep.
        fields: settings that vary, besides the arm.

    One field is the axis. For every other field, one value is shown or all. Fields shown with all values get a colour
    for each combination, so no dot mixes runs of different settings. If that takes more colours than there are, the
    figure says what to choose instead.
    """
    varied = {"arm": list(dict.fromkeys(runs["arm"])), **{field: in_order(runs[field]) for field in fields}}
    metrics = [(name.replace("_", " "), name) for name in LABELS if name in runs]
    first = fields[0] if fields else "arm"
    controls: dict[str, Any] = {
        "metric": choice("metric", metrics, metric),
        "x": choice("across", [(_short(name), name) for name in varied], first),
    }
    for name, values in varied.items():
        shown = EVERY if name in ("arm", first) else values[0]
        controls[name] = choice(
            f"show {_short(name)}", [("all", EVERY), *((str(value), value) for value in values)], shown
        )

    def draw(metric: str, x: str, **only: Any) -> Figure:
        chosen = runs
        for name, value in only.items():
            if value != EVERY:
                chosen = chosen[chosen[name] == value]
        apart = [name for name, value in only.items() if value == EVERY and name != x]
        by = ", ".join(map(_short, apart)) or x
        if apart:
            chosen = chosen.assign(**{by: chosen[apart].astype(str).agg(", ".join, axis=1)})
            if len(set(colours(names := chosen[by].unique()).values())) < len(names):
                some = " or ".join(map(_short, apart))
                return _message(f"{len(names)} colours cannot be told apart:\nshow only one value of {some}")
        return plot_settings(chosen, metric, x, by)

    return Panel(draw, controls, title="Sweep explorer")


@mpl.rc_context(STYLE)
def _message(words: str) -> Figure:
    """A figure with a message, where dots would not be readable."""
    figure = Plot(figsize=(10, 4.4))
    figure.text(0.5, 0.5, words, ha="center", va="center", fontsize=14)
    return figure


def _short(field: str) -> str:
    return field.rpartition(".")[2]
