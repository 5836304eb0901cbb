"""Tables and figures of the questions that the map raised: rivals, rules of beta, teachers, tuning, a second cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fedrevive_core.config import method_title
from fedrevive_core.plots import STYLE, Plot, colours
from fedrevive_core.records import confidence_interval
from reproduce.evidence.common import MAP, RECORDS, SCORES, cell_columns, lead_over, percent
from reproduce.reports.claims import label
from reproduce.reports.text import interval
from reproduce.sweeps.figures import lead
from reproduce.sweeps.grid import points
from reproduce.sweeps.results import collect

CELL = {"federation.concurrency": 80, "data.alpha": 0.1}  # where FedRevive leads most
CELLS = ((80, 0.1), (40, 0.5))  # jobs in flight, alpha: the two of most studies
FIRST = {  # changes of the second cell: where the same change is in the first
    "teachers-1": "ablation-teachers", "s_max-150": "beta-rules", "slower": "ablation-distillation",
    "untrained-generator": "ablation-synthesis", "steps-5": "ablation-distillation",
}  # fmt: skip


def of_cell(runs: pd.DataFrame, cell: Mapping[str, Any]) -> pd.DataFrame:
    """The runs at one point of a grid."""
    kept = runs
    for field, value in cell.items():
        kept = kept[kept[field] == value]
    return kept


def better(runs: pd.DataFrame, score: str, arms: list[str]) -> str:
    """The one of `arms` with the highest mean `score`; the first of several."""
    return max(arms, key=lambda arm: runs.loc[runs["arm"] == arm, score].mean())


def rival_runs() -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """For each of CELLS, the runs of the map and of its rivals there."""
    rivals, known = collect(RECORDS / "rivals").records.runs, collect(RECORDS / MAP).records.runs
    found = []
    for concurrency, alpha in CELLS:
        point = {"federation.concurrency": concurrency, "data.alpha": alpha}
        theirs = of_cell(rivals, {"federation.concurrency": concurrency})
        found.append((point, pd.concat([of_cell(known, point), theirs])))
    return found


def rivals_table() -> list[dict[str, str]]:
    """A row per cell and baseline: what it reaches, and FedRevive's lead over it."""
    cells = rival_runs()
    family, rows = 2 * sum(cell["arm"].nunique() - 1 for _, cell in cells), []
    for point, cell in cells:
        for arm, its in cell.groupby("arm", observed=True, sort=False):
            row = cell_columns(point) | {"method": method_title(str(arm))}
            row |= {f"{said} %": percent(its[score]) for score, said in SCORES.items()}
            for score, said in SCORES.items():
                ahead = "" if arm == "fedrevive" else lead_over(cell, score, "fedrevive", str(arm), family)
                row[f"FedRevive's lead {said}"] = ahead
            rows.append(row)
    return rows


def splits_table() -> list[dict[str, str]]:
    """A row per cell and baseline: FedRevive's lead over it, paired by split of the data, beside that of the map."""
    others, known = collect(RECORDS / "other-splits").records.runs, collect(RECORDS / MAP).records.runs
    others = others.assign(seed=others["data.split_seed"])
    rows = []
    for concurrency, alpha in CELLS:
        point = {"federation.concurrency": concurrency, "data.alpha": alpha}
        splits, seeds = of_cell(others, {"federation.concurrency": concurrency}), of_cell(known, point)
        for arm in ("whole-updates", "afl-dw"):
            row = cell_columns(point) | {"over": method_title(arm)}
            for score, said in SCORES.items():
                found = 100 * lead(splits, score, "fedrevive", arm)
                row[f"lead {said}, {len(found)} splits"] = interval(*confidence_interval(found), lead=True)
                row[f"lowest to highest {said}"] = f"{found.min():+.1f} to {found.max():+.1f}"
            row["lead over the run, five seeds of one split"] = lead_over(seeds, "mean_accuracy", "fedrevive", arm)
            rows.append(row)
    return rows


MECHANISMS = {  # a rival, and what it is without its idea
    "asyncfeded": "afl-dw", "ca2fl": "whole-updates", "fare-dust": "whole-updates", "feast-msg": "whole-updates",
    "fedadt": "whole-updates", "aced": "ace",
}  # fmt: skip


def mechanisms_table() -> list[dict[str, str]]:
    """A row per rival: its lead over the run over the method that it changes, in each of CELLS."""
    cells, family = rival_runs(), len(CELLS) * len(MECHANISMS)
    return [
        {"rival": method_title(rival), "over": method_title(without)}
        | {cell_title(point): lead_over(cell, "mean_accuracy", rival, without, family) for point, cell in cells}
        for rival, without in MECHANISMS.items()
    ]


@mpl.rc_context(STYLE)
def plot_rivals() -> Figure:
    """FedRevive's lead over every baseline in each of CELLS, over the run."""
    cells = rival_runs()
    figure = Plot(figsize=(11, 4.4), layout="constrained")
    for axes, (point, cell) in zip(figure.subplots(1, 2, sharey=True), cells, strict=True):
        arms = [str(arm) for arm in dict.fromkeys(cell["arm"]) if arm != "fedrevive"]
        plot_leads_of(
            axes, [lead(cell, "mean_accuracy", "fedrevive", arm) for arm in arms], list(map(method_title, arms))
        )
        axes.set_xlabel("FedRevive's lead over the run, points")
        axes.set_title(cell_title(point), fontsize=11)
    figure.suptitle("FedRevive against its rivals (grey: the 95% interval includes zero)", fontsize=13)
    return figure


def plot_leads_of(axes: Any, samples: list[np.ndarray], names: list[str]) -> None:
    """A row per sample of leads (seeds,), from the top: mean and 95% interval, in points."""
    for height, sample in enumerate(reversed(samples)):
        mean, half = confidence_interval(100 * sample)
        colour = "#888888" if abs(mean) <= half else "#0072B2" if mean < 0 else "#D55E00"
        axes.errorbar(mean, height, xerr=half, fmt="o", ms=8, capsize=4, color=colour)
    axes.axvline(0, color="#444444", lw=1)
    axes.set_yticks(range(len(names)), names[::-1])
    axes.set_ylim(-0.6, len(names) - 0.4)


def cell_title(point: Mapping[str, Any]) -> str:
    """A point of the grid as a title says it."""
    return label(point).replace("concurrency", "K").replace("=", " = ")


def weights_table() -> list[dict[str, str]]:
    """A row per cell and rule of beta: what it reaches, and its lead over the best constant and the cosine."""
    results = collect(RECORDS / "weights")
    cells, rows = points(results.records.runs, results.grid), []
    family = sum(2 * (cell["arm"].nunique() - 1) - 1 for _, cell in cells)  # each pair counts once
    for (point, cell), (_, alpha) in zip(cells, CELLS, strict=True):
        for arm, its in cell.groupby("arm", observed=True, sort=False):
            row = cell_columns({**point, "data.alpha": alpha}) | {"rule": str(arm)}
            row |= {f"{said} %": percent(its[score]) for score, said in SCORES.items()}
            for against, name in (("constant", "the best constant"), ("cosine", "the cosine")):
                row[f"above {name}, over the run"] = (
                    "" if arm == against else lead_over(cell, "mean_accuracy", str(arm), against, family)
                )
            rows.append(row)
    return rows


@mpl.rc_context(STYLE)
def plot_weights() -> Figure:
    """Each rule's lead over the best constant, over the run, in each of CELLS."""
    results = collect(RECORDS / "weights")
    cells = points(results.records.runs, results.grid)
    figure = Plot(figsize=(10, 3.8), layout="constrained")
    for axes, (point, cell), (_, alpha) in zip(figure.subplots(1, 2, sharey=True), cells, CELLS, strict=True):
        arms = [str(arm) for arm in dict.fromkeys(cell["arm"]) if arm != "constant"]
        plot_leads_of(axes, [lead(cell, "mean_accuracy", arm, "constant") for arm in arms], arms)
        axes.set_xlabel("points above the best constant, over the run")
        axes.set_title(cell_title({**point, "data.alpha": alpha}), fontsize=11)
    figure.suptitle("Rules of beta against the best constant, 0.5 (grey: the 95% interval includes zero)", fontsize=13)
    return figure


def teacher_runs() -> pd.DataFrame:
    """Runs with more and more teachers; and of ACE, AFL-DW and whole updates in the same cell and timelines."""
    more = collect(RECORDS / "teachers-without-end").records.runs
    beside = rival_runs()[0][1]
    return pd.concat([more, beside[beside["arm"].isin(["ace", "aced", "afl-dw", "whole-updates"])]])


def teachers_table() -> list[dict[str, str]]:
    """A row per number of teachers, and for ACE and the map's baselines: accuracy, memory and the server's time."""
    runs = teacher_runs()
    seconds = runs.groupby("arm", observed=True)["server_seconds"].median()
    family, rows = 2 * (len(seconds) - 1), []
    for arm, its in runs.groupby("arm", observed=True, sort=False):
        row = {"teachers": str(arm).removeprefix("teachers-") if "teachers" in str(arm) else method_title(str(arm))}
        row |= {f"{said} %": percent(its[score]) for score, said in SCORES.items()}
        for score, said in SCORES.items():
            row[f"above 8 teachers {said}"] = (
                "" if arm == "teachers-8" else lead_over(runs, score, str(arm), "teachers-8", family)
            )
        kept = _models_kept(its)
        row["models or updates kept, MiB"] = f"{kept} ({4 * kept * its['num_parameters'].iloc[0] / 2**20:.1f})"
        rows.append(row | {"server time": f"{seconds[arm] / seconds['teachers-8']:.2g} x"})
    return rows


def _models_kept(its: pd.DataFrame) -> int:
    """Teachers, or updates of the 150 clients."""
    first = its.iloc[0]
    if str(first["arm"]).startswith("teachers"):
        return int(first["revival.num_teachers"])
    return 150 if str(first["arm"]).startswith("ace") else 0


@mpl.rc_context(STYLE)
def plot_teachers() -> Figure:
    """Accuracy against the number of teachers, with the levels of methods that have none."""
    runs = teacher_runs()
    figure = Plot(figsize=(10, 4), layout="constrained")
    for axes, (score, said) in zip(figure.subplots(1, 2), SCORES.items(), strict=True):
        teachers = [arm for arm in dict.fromkeys(runs["arm"]) if str(arm).startswith("teachers-")]
        found = [confidence_interval(100 * runs.loc[runs["arm"] == arm, score]) for arm in teachers]
        means, halves = np.array(found).T
        axes.errorbar(
            range(len(teachers)), means, halves, fmt="o-", ms=8, capsize=4, color=colours(["fedrevive"])["fedrevive"]
        )
        others = [arm for arm in dict.fromkeys(runs["arm"]) if not str(arm).startswith("teachers-")]
        for arm, colour in colours([str(arm) for arm in others]).items():
            axes.axhline(
                100 * runs.loc[runs["arm"] == arm, score].mean(), color=colour, ls="--", label=method_title(arm)
            )
        axes.set_xticks(range(len(teachers)), [str(arm).removeprefix("teachers-") for arm in teachers])
        axes.set(xlabel="teachers", ylabel=f"accuracy {said}, %", ylim=(0, None))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    figure.suptitle(
        "More teachers at the same number of samples, K = 80, alpha = 0.1 (dashed: without distillation)", fontsize=13
    )
    return figure


def tuning_effect() -> list[dict[str, Any]]:
    """FedRevive's lead over the better baseline in each cell, with three ways to choose rates, as data."""
    paper, known = collect(RECORDS / "paper-rates"), collect(RECORDS / MAP).records.runs
    twice = collect(RECORDS / "sceptic").records.runs
    rows: list[dict[str, Any]] = []
    for point, theirs in points(paper.records.runs, paper.grid):
        tuned = of_cell(known, point)
        ways = {"the paper's": theirs, "tuned alike": tuned}
        if point == CELL:
            ways["baselines tuned twice as much"] = pd.concat(
                [twice, tuned[tuned["arm"] == "fedrevive"]]
            ).drop_duplicates(["arm", "seed"])
        for way, runs in ways.items():
            baselines = sorted({str(arm) for arm in runs["arm"]} - {"fedrevive"}, reverse=True)
            for score in SCORES:
                best = better(runs, score, baselines)
                mean, half = confidence_interval(100 * lead(runs, score, "fedrevive", best))
                rows.append({"point": point, "rates": way, "score": score, "mean": mean, "half": half, "best": best})
    return rows


def tuning_effect_table() -> list[dict[str, str]]:
    """A row per cell and way to choose rates: FedRevive's lead over the better baseline."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for found in tuning_effect():
        row = rows.setdefault(
            (label(found["point"]), found["rates"]), cell_columns(found["point"]) | {"server rates": found["rates"]}
        )
        said = interval(found["mean"], found["half"], lead=True)
        row[f"lead {SCORES[found['score']]}"] = f"{said} ({method_title(found['best'])})"
    return list(rows.values())


@mpl.rc_context(STYLE)
def plot_tuning_effect() -> Figure:
    """The same leads with three ways to choose the rates."""
    table = pd.DataFrame(tuning_effect())
    table["cell"] = [label(point).replace("concurrency", "K") for point in table["point"]]
    cells, ways = list(dict.fromkeys(table["cell"])), list(dict.fromkeys(table["rates"]))
    figure = Plot(figsize=(11, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    shades = dict(zip(ways, ("#888888", "#D55E00", "#0072B2"), strict=True))
    for axes, (score, said) in zip(panels, SCORES.items(), strict=True):
        for number, way in enumerate(ways):
            its = table[(table["score"] == score) & (table["rates"] == way)]
            places = [cells.index(cell) + 0.2 * (number - 1) for cell in its["cell"]]
            axes.errorbar(places, its["mean"], its["half"], fmt="o", ms=8, capsize=4, color=shades[way], label=way)
        axes.axhline(0, color="#444444", lw=1)
        axes.set_xticks(range(len(cells)), [cell.replace(", ", "\n") for cell in cells])
        axes.set_ylabel(f"FedRevive's lead {said}, points")
    panels[0].legend(title="server rates")
    figure.suptitle("What tuning does to the lead over the better baseline", fontsize=13)
    return figure


def second_cell_table() -> list[dict[str, str]]:
    """A row per change to FedRevive: what it costs in the cell of the ablations, and in a second cell."""
    second = collect(RECORDS / "ablation-second").records.runs
    rows = []
    for arm, first in FIRST.items():
        known = collect(RECORDS / first).records.runs
        row = {"change": arm, "K = 80, alpha = 0.1, over the run": lead_over(known, "mean_accuracy", arm, "fedrevive")}
        for score, said in SCORES.items():
            row[f"K = 40, alpha = 0.5, {said}"] = lead_over(second, score, arm, "fedrevive")
        rows.append(row)
    return rows
