"""The sweep explorer: choose what is on the axis, what is measured and how it is grouped."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from fedrevive_core.plots_sweeps import LABELS, plot_settings
from fedrevive_core.widgets.panel import Panel, choice

EVERY = "all"


def sweep_explorer(runs: pd.DataFrame, fields: list[str], *, metric: str = "mean_accuracy") -> Panel:
    """Dots with intervals over the finished runs of a sweep; the table is what is shown, nothing is computed anew.

    Args:
        runs: a row per run with `arm`, `seed`, the `fields` and the summary, such as `record.load_many` gives.
        fields: settings that vary, besides the arm; each can be an axis, and is fixed by a list of its own otherwise.
    """
    axes = ["arm", *fields]
    metrics = [(label, name) for name, label in LABELS.items() if name in runs]
    x = fields[0] if fields else "arm"
    controls: dict[str, Any] = {
        "metric": choice("what is measured", metrics, metric),
        "x": choice("across", axes, x),
        "by": choice("one colour for each", axes, "arm"),
    }
    for field in fields:
        values = sorted(runs[field].unique())
        controls[field] = choice(f"only {field.rpartition('.')[2]}", [EVERY, *values], EVERY)
        if field != x:
            controls[field].value = values[0]

    def draw(metric: str, x: str, by: str, **only: Any) -> Figure:
        chosen = runs
        for field, value in only.items():
            if value != EVERY:
                chosen = chosen[chosen[field] == value]
        return plot_settings(chosen, metric, x, by)

    return Panel(draw, controls, title="Sweep explorer")
