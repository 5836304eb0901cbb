"""The sweep explorer: choose what is on the axis, what is measured and what is shown."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from fedrevive_core.plots import STYLE, Plot, colours
from fedrevive_core.widgets.panel import Panel, choice
from reproduce.sweeps.figures import LABELS, plot_settings

EVERY = "all"


def sweep_explorer(runs: pd.DataFrame, fields: list[str], *, metric: str = "mean_accuracy") -> Panel:
    """Dots with intervals over the finished runs of a sweep; the table is what is shown, nothing is computed anew.

    Args:
        runs: a row per run with `arm`, `seed`, the `fields` and the summary, such as `record.load_many` gives.
        fields: settings that vary, besides the arm.

    One of them is the axis. Of each other, one value is shown or all of them; what is shown in several values has a
    colour for each combination, so that no dot ever mixes runs of different settings. More colours than can be told
    apart are not drawn; the figure says what to choose.
    """
    varied = {"arm": list(dict.fromkeys(runs["arm"])), **{field: sorted(runs[field].unique()) for field in fields}}
    metrics = [(name.replace("_", " "), name) for name in LABELS if name in runs]
    first = fields[0] if fields else "arm"
    controls: dict[str, Any] = {
        "metric": choice("what is measured", metrics, metric),
        "x": choice("across", [(_short(name), name) for name in varied], first),
    }
    for name, values in varied.items():
        shown = EVERY if name in ("arm", first) else values[0]
        controls[name] = choice(f"show {_short(name)}", [EVERY, *values], shown)

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
                return _said(f"{len(names)} colours cannot be told apart:\nshow only one value of {some}")
        return plot_settings(chosen, metric, x, by)

    return Panel(draw, controls, title="Sweep explorer")


@mpl.rc_context(STYLE)
def _said(words: str) -> Figure:
    """A figure of words, where one of dots would not be readable."""
    figure = Plot(figsize=(10, 4.4))
    figure.text(0.5, 0.5, words, ha="center", va="center", fontsize=14)
    return figure


def _short(field: str) -> str:
    return field.rpartition(".")[2]
