"""Who is higher when no method improves any more: table and figure of docs/RESULTS.md."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from fedrevive_core.config import method_title
from fedrevive_core.plots import STYLE, Plot, colours
from fedrevive_core.records import confidence_interval
from reproduce.evidence.common import RECORDS, cell_columns, lead_over, percent
from reproduce.evidence.studies import CELLS, better, cell_title, of_cell
from reproduce.reports.text import interval
from reproduce.sweeps.results import collect

ENOUGH = 0.9  # accuracy, of "updates to"


def end_cells() -> Iterator[tuple[dict[str, float], pd.DataFrame, pd.DataFrame]]:
    """For each of CELLS: its point, its runs and their evaluations, of every method the better of its two rates.

    end: mean accuracy of a run over its last tenth; gained: that less the mean over the tenth before it; reached: the
    first version evaluated at ENOUGH, NaN where there is none. `arm` is the method's, without "-half".
    """
    results = collect(RECORDS / "end-of-run")
    curves = results.records.evaluations
    share = curves["version"] / curves.groupby("run", observed=True)["version"].transform("max")
    last = curves[share > 0.9].groupby("run", observed=True)["accuracy"].mean()
    before = curves[(share > 0.8) & (share <= 0.9)].groupby("run", observed=True)["accuracy"].mean()
    runs = results.records.runs.set_index("run")
    reached = curves[curves["accuracy"] >= ENOUGH].groupby("run", observed=True)["version"].min()
    runs = runs.assign(end=last, gained=last - before, reached=reached, arm=runs["arm"].astype(str)).reset_index()
    for concurrency, alpha in CELLS:
        cell = of_cell(runs, {"federation.concurrency": concurrency})
        methods = dict.fromkeys(arm.removesuffix("-half") for arm in cell["arm"])
        chosen = [better(cell, "end", [method, f"{method}-half"]) for method in methods]
        kept = cell[cell["arm"].isin(chosen)]
        kept = kept.assign(arm=kept["arm"].str.removesuffix("-half"))
        its = kept[["run", "seed", "arm"]].merge(curves.drop(columns=["arm", "seed"]), on="run")
        yield {"federation.concurrency": concurrency, "data.alpha": alpha}, kept, its


def end_table() -> list[dict[str, str]]:
    """A row per cell and method: where it ends, whether it still gains, and FedRevive's lead over it."""
    cells = list(end_cells())
    family, rows = sum(runs["arm"].nunique() - 1 for _, runs, _ in cells), []
    for point, runs, _ in cells:
        for arm, its in runs.groupby("arm", sort=False):
            row = cell_columns(point) | {"method": method_title(str(arm)), "eta": f"{its['server.lr'].iloc[0]:g}"}
            row |= {"over the last tenth %": percent(its["end"])}
            row |= {"gained in it": interval(*confidence_interval(100 * its["gained"]), lead=True)}
            mean, half = confidence_interval(its["reached"])
            row |= {f"updates to {ENOUGH:.0%}": f"{mean:.0f} ± {half:.0f}"}
            ahead = "" if arm == "fedrevive" else lead_over(runs, "end", "fedrevive", str(arm), family)
            rows.append(row | {"FedRevive's lead over the last tenth": ahead})
    return rows


@mpl.rc_context(STYLE)
def plot_end() -> Figure:
    """Accuracy against updates until the end, mean of the seeds, each method at the better of its two rates."""
    figure = Plot(figsize=(11, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (point, _, curves) in zip(panels, end_cells(), strict=True):
        for arm, colour in colours(list(dict.fromkeys(curves["arm"]))).items():
            mean = curves[curves["arm"] == arm].groupby("version")["accuracy"].mean()
            axes.plot(mean.index, mean, color=colour, lw=1.3, label=method_title(arm))
        axes.set(xlabel="updates", ylim=(0, 1))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_title(cell_title(point), fontsize=11)
    panels[0].set_ylabel("test accuracy, mean of the seeds")
    panels[1].legend(loc="lower right")
    figure.suptitle("Until no method improves any more, each at the better of two rates", fontsize=13)
    return figure
