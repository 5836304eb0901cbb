"""Figures of a report."""

from __future__ import annotations

import math
import textwrap
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fedrevive_core.plots import STYLE, Plot
from reproduce.reports.claims import said


@mpl.rc_context(STYLE)
def plot_claims(table: pd.DataFrame) -> Figure:
    """Every claim as a row: a diamond for what was claimed, a dot with its 95% interval for what was measured."""
    shown = table[table["ours"].notna()].iloc[::-1].to_dict("records")
    figure = Plot(figsize=(10, 1.6 + 0.7 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for height, row in enumerate(shown):
        error = np.nan_to_num(row["ours"] - row["low"])
        face = "#0072B2" if row["comparable"] else "white"
        style: Any = {"color": "#0072B2", "mfc": face, "ms": 8, "capsize": 3}
        axes.errorbar(row["ours"], height, xerr=error, fmt="o", **style, label="measured here" if not height else None)
        if math.isfinite(row["paper"]):
            claimed = "claimed" if not height else None
            axes.plot(row["paper"], height, "D", color="#D55E00", ms=8, label=claimed)
    names = [f"{textwrap.fill(said(row), 44)}\n{row['source']}" for row in shown]
    axes.set_yticks(range(len(shown)), names, fontsize=9)
    axes.axvline(0, color="#888888", lw=1)
    axes.set(xlabel="accuracy points, or percent of simulated time saved", ylim=(-0.6, len(shown) - 0.4))
    axes.set_title("What was claimed, and what was measured")
    figure.legend(loc="outside lower center", ncols=2)
    return figure
