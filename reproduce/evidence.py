"""The evidence behind docs/RESULTS.md: tables and figures made of the packed sweeps, and re-runs held against them.

The page is written by hand but for what stands between `<!-- begin NAME -->` and `<!-- end NAME -->`: made here.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from fedrevive_core.plots_sweeps import colours, lead
from fedrevive_core.presets import METHODS, build
from fedrevive_core.record import confidence_interval
from fedrevive_core.style import STYLE, Plot, png_bytes
from reproduce.collected import collect
from reproduce.comparison import markdown
from reproduce.report import Report, interval, read
from reproduce.verdicts import label, points

RECORDS = Path(__file__).parent / "results" / "records"
FLOPS = Path(__file__).parent / "results" / "flops.json"
PAGE = Path(__file__).parent.parent / "docs" / "RESULTS.md"
MAP, TUNING = "staleness-vs-heterogeneity", "map-tuning"
ABLATIONS = (
    "ablation-synthesis", "ablation-t_gen", "ablation-teachers", "ablation-distillation", "proxy-vs-true", "beta-rules",
)  # fmt: skip
TUNED = {"server.lr": "eta", "distillation.lr": "lr_kd"}  # what map-tuning varies
SCORES = {"final_accuracy": "at the end", "mean_accuracy": "over the run"}
TOLERANCE = 0.02  # of a mean over re-run seeds, on another kind of machine; on the same kind bits are equal


def write() -> list[Path]:
    """Fill the tables of docs/RESULTS.md and draw its figures; what was written."""
    flops = count_flops()
    FLOPS.write_text(json.dumps(flops, indent=2) + "\n")
    figures = PAGE.parent / "figures"
    drawn = {
        "results-map.png": plot_map(read(RECORDS / MAP)),
        "results-ablations.png": plot_leads(ablation_leads()),
        "results-compute.png": plot_compute(flops),
    }
    for name, figure in drawn.items():
        (figures / name).write_bytes(png_bytes(figure))
    PAGE.write_text(filled(PAGE.read_text()))
    return [PAGE, FLOPS, *(figures / name for name in drawn)]


def tables() -> dict[str, Callable[[], list[dict[str, str]]]]:
    """What makes the rows of each table of the page."""
    return {"tuning": tuning_table, "map": map_table, "ablations": ablation_table}


def filled(page: str) -> str:
    """`page` with the tables as they are made now."""
    for name, make in tables().items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        before, found, rest = page.partition(begin)
        if found:
            page = f"{before}{begin}\n{markdown(make())}{end}{rest.partition(end)[2]}"
    return page


def best_settings(tuning: Report) -> list[tuple[dict[str, Any], str, dict[str, float]]]:
    """(point of the grid, method, settings) with the highest accuracy over the run, and that as 'score'."""
    found = []
    for point, own in points(tuning.records.runs, tuning.experiment.grid_at("lab")):
        for method, group in own.groupby("method", observed=True, sort=False):
            row = group.loc[group["mean_accuracy"].idxmax()]
            revives = METHODS[str(method)].settings.get("revival") is not None
            varied = {name: float(row[name]) for name in TUNED if name != "distillation.lr" or revives}
            found.append((point, str(method), varied | {"score": float(row["mean_accuracy"])}))
    return found


def tuning_table() -> list[dict[str, str]]:
    """A row per cell of the map: the settings that each method got."""
    rows: dict[str, dict[str, str]] = {}
    for point, method, best in best_settings(read(RECORDS / TUNING)):
        said = ", ".join(f"{TUNED[name]} {best[name]:g}" for name in TUNED if name in best)
        row = rows.setdefault(
            label(point), {"K": str(point["federation.concurrency"]), "alpha": str(point["data.alpha"])}
        )
        row[METHODS[method].title] = f"{said} ({100 * best['score']:.1f})"
    return list(rows.values())


def map_table() -> list[dict[str, str]]:
    """A row per cell of the map: FedRevive, and its lead over the better of the baselines, paired by seed."""
    report = read(RECORDS / MAP)
    grid = report.experiment.grid_at("lab")
    rows = []
    for point, own in points(report.records.runs, grid):
        revived = own[own["arm"] == "fedrevive"]
        row = {
            "K": str(point["federation.concurrency"]),
            "alpha": str(point["data.alpha"]),
            "mean staleness": f"{revived['mean_staleness'].mean():.0f}",
            "FedRevive, end %": interval(*(100 * value for value in confidence_interval(revived["final_accuracy"]))),
        }
        for verdict in report.verdicts[report.verdicts["at"] == label(point)].to_dict("records"):
            heading = {"time_to 0.6": "less time to 60%, %"}.get(
                verdict["metric"], f"lead {SCORES.get(verdict['metric'], '')}"
            )
            row[heading] = _bold(verdict["ours"], verdict["ours"] - verdict["low"]) + f" ({verdict['against']})"
        rows.append(row)
    return rows


def _bold(mean: float, half: float) -> str:
    """'+1.2 ± 0.5', bold if the interval leaves zero out."""
    said = f"{mean:+.1f} ± {half:.1f}"
    return f"**{said}**" if abs(mean) > half else said


def ablation_leads() -> pd.DataFrame:
    """A row per arm of every ablation: question, arm, seeds, for each of SCORES its lead over FedRevive as it is, in
    points paired by seed, with half width; and its server seconds as a multiple of FedRevive's."""
    rows = []
    for name in ABLATIONS:
        if not (RECORDS / name).exists():
            continue
        found = collect(RECORDS / name)
        runs = found.records.runs
        seconds = runs.groupby("arm", observed=True)["server_seconds"].median()
        for arm in dict.fromkeys(runs["arm"]):
            if arm == "fedrevive":
                continue
            row: dict[str, Any] = {"question": found.experiment.question, "arm": arm}
            for score in SCORES:
                sample = 100 * lead(runs, score, arm, "fedrevive")
                row["seeds"] = len(sample)
                row[score], row[f"{score}_half"] = confidence_interval(sample)
            rows.append(row | {"server": seconds[arm] / seconds["fedrevive"]})
    return pd.DataFrame(rows)


def ablation_table() -> list[dict[str, str]]:
    """`ablation_leads` to be read."""
    return [
        {
            "change": row["arm"],
            **{f"points {said}": _bold(row[score], row[f"{score}_half"]) for score, said in SCORES.items()},
            "seeds": str(row["seeds"]),
            "server time": f"{row['server']:.2g} x",
        }
        for row in ablation_leads().to_dict("records")
    ]


def count_flops() -> dict[str, float]:
    """Floating-point operations of convolutions and matrix products on lab-digits: of a client's job, and of what
    FedRevive's server adds to an arrival (mean of arrivals 100 to 200, beside AFL-DW's on the same timeline)."""
    from fedrevive_core.assembly import num_threads
    from fedrevive_core.simulate import Simulation
    from fedrevive_core.training import Job
    from reproduce.bench import flops_of

    window: dict[str, float] = {}
    with num_threads(1):
        for method in ("afl-dw", "fedrevive"):
            simulation = Simulation(build("lab-digits", method))
            simulation.trainer.stacks = False  # the counter does not see through operators that vmap batches
            steps = simulation.steps()
            _advance(steps, 100)
            window[method] = flops_of(functools.partial(_advance, steps, 100))
        first = [Job(0, 0, simulation.server.state)]
        job = flops_of(functools.partial(simulation.trainer.train, first))
    return {"client_job": job, "revival": (window["fedrevive"] - window["afl-dw"]) / 100}


def _advance(steps: Iterator[bool], count: int) -> None:
    for _ in itertools.islice(steps, count):
        pass


@mpl.rc_context(STYLE)
def plot_compute(flops: dict[str, float], staleness: int = 80, alpha: float = 0.1) -> Figure:
    """Accuracy of one cell of the map against simulated time, and against all that clients and server computed."""
    evaluations = collect(RECORDS / MAP).records.evaluations
    cell = (evaluations["federation.concurrency"] == staleness) & (evaluations["data.alpha"] == alpha)
    evaluations = evaluations[cell]
    per_arrival = flops["client_job"] + flops["revival"] * (evaluations["arm"] == "fedrevive")
    evaluations = evaluations.assign(compute=evaluations["num_arrivals"] * per_arrival / 1e9)
    figure = Plot(figsize=(11, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, x, said in zip(
        panels, ("sim_time", "compute"), ("simulated time", "GFLOP of clients and server"), strict=True
    ):
        for arm, colour in colours(list(dict.fromkeys(evaluations["arm"]))).items():
            own = evaluations[evaluations["arm"] == arm]
            # All seeds are evaluated at the same versions, so at the same compute; their times differ.
            mean = own.groupby("version")[[x, "accuracy"]].mean()
            axes.plot(mean[x], mean["accuracy"], color=colour, label=arm)
        axes.set(xlabel=said, xlim=(0, None), ylim=(0, 1))
    panels[0].set_ylabel("test accuracy, mean of 5 seeds")
    panels[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    panels[0].legend()
    figure.suptitle(f"K = {staleness}, alpha = {alpha}: the same runs, against time and against work", fontsize=13)
    return figure


def compared(directory: Path) -> list[dict[str, str]]:
    """Every arm and point of the sweep in `directory` beside the same runs of the committed one."""
    found = collect(directory)
    known = collect(RECORDS / found.experiment.name)
    grid = found.experiment.grid_at("lab" if found.scale == "lab" else "paper")
    both = found.records.runs.merge(known.records.runs, on=["arm", "seed", *grid], suffixes=("", " then"))
    rows = []
    for point, own in points(both, grid):
        for arm, group in own.groupby("arm", observed=True, sort=False):
            now, then = group["mean_accuracy"], group["mean_accuracy then"]
            same = int((group["state_sha256"] == group["state_sha256 then"]).sum())
            rows.append(
                {
                    "arm": str(arm), "at": label(point), "runs": str(len(group)), "identical": str(same),
                    "over the run now %": f"{100 * now.mean():.2f}", "committed %": f"{100 * then.mean():.2f}",
                    "within 2 points": "yes" if abs(now.mean() - then.mean()) <= TOLERANCE else "no",
                }
            )  # fmt: skip
    return rows


@mpl.rc_context(STYLE)
def plot_map(report: Report) -> Figure:
    """FedRevive's lead over the better baseline in every cell, at the end and over the run: the map of who wins."""
    grid = report.experiment.grid_at("lab")
    (up_name, up), (across_name, across) = grid.items()
    figure = Plot(figsize=(11, 4), layout="constrained")
    for axes, (score, said) in zip(figure.subplots(1, len(SCORES)), SCORES.items(), strict=True):
        own = report.verdicts[report.verdicts["metric"] == score].set_index("at")
        cells = [[own.loc[label({up_name: u, across_name: a})] for a in across] for u in up]
        means = np.array([[cell["ours"] for cell in row] for row in cells], dtype=float)
        widest = max(1.0, float(np.abs(means).max()))
        axes.imshow(
            means, cmap="PuOr_r", norm=TwoSlopeNorm(0, -1.6 * widest, 1.6 * widest), origin="lower", aspect="auto"
        )
        for row, line in enumerate(cells):
            for column, cell in enumerate(line):
                half = cell["ours"] - cell["low"]
                weight = "bold" if abs(cell["ours"]) > half else "normal"
                text = f"{cell['ours']:+.1f} ± {half:.1f}"
                axes.text(column, row, text, ha="center", va="center", fontweight=weight)
        axes.set_xticks(range(len(across)), list(map(str, across)))
        axes.set_yticks(range(len(up)), list(map(str, up)))
        axes.grid(visible=False)
        axes.set(xlabel="alpha: clients alike to the right", ylabel="jobs in flight K: staler upwards")
        axes.set_title(f"Lead {said}, in points", fontsize=12)
    figure.suptitle("FedRevive against the better tuned baseline (bold: the 95% interval leaves zero out)", fontsize=13)
    return figure


@mpl.rc_context(STYLE)
def plot_leads(leads: pd.DataFrame) -> Figure:
    """Every ablation as a row: its lead over FedRevive as it is, in accuracy over the run, with 95% interval."""
    shown = leads.iloc[::-1].reset_index(drop=True)
    figure = Plot(figsize=(10, 1.2 + 0.32 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for height, row in shown.iterrows():
        clear = abs(row["mean_accuracy"]) > row["mean_accuracy_half"]
        colour = "#888888" if not clear else "#0072B2" if row["mean_accuracy"] < 0 else "#D55E00"
        style: Any = {"color": colour, "ms": 7, "capsize": 3}
        axes.errorbar(row["mean_accuracy"], height, xerr=np.nan_to_num(row["mean_accuracy_half"]), fmt="o", **style)
    axes.axvline(0, color="#888888", lw=1)
    axes.set_yticks(range(len(shown)), list(shown["arm"]), fontsize=10)
    _separate(axes, list(shown["question"]))
    axes.set(xlabel="accuracy over the run, points above FedRevive as it is", ylim=(-0.7, len(shown) - 0.3))
    axes.set_title("What each part is worth (grey: the 95% interval holds zero)")
    return figure


def _separate(axes: Any, questions: Sequence[str]) -> None:
    """A line between rows of different questions."""
    for height, (below, above) in enumerate(itertools.pairwise(questions)):
        if below != above:
            axes.axhline(height + 0.5, color="#cccccc", lw=1)
