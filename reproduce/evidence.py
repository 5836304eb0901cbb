"""The evidence behind docs/RESULTS.md: tables and figures made of the packed sweeps, and re-runs held against them.

The page is written by hand but for what stands between `<!-- begin NAME -->` and `<!-- end NAME -->`: made here.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from fedrevive_core.plots_sweeps import lead
from fedrevive_core.presets import METHODS, build
from fedrevive_core.record import confidence_interval
from fedrevive_core.style import png_bytes
from reproduce.collected import collect
from reproduce.comparison import markdown
from reproduce.evidence_plots import plot_compute, plot_leads, plot_map
from reproduce.report import Report, interval, read
from reproduce.verdicts import label, points

RECORDS = Path(__file__).parent / "results" / "records"
TRIALS = Path(__file__).parent / "results" / "tuning"  # packed sweeps, too
FLOPS = Path(__file__).parent / "results" / "flops.json"
PAGE = Path(__file__).parent.parent / "docs" / "RESULTS.md"
MAP, TUNING = "staleness-vs-heterogeneity", "map-tuning"
ABLATIONS = (
    "ablation-synthesis", "ablation-t_gen", "ablation-teachers", "ablation-distillation", "proxy-vs-true", "beta-rules",
)  # fmt: skip
TUNED = {"server.lr": "eta", "distillation.lr": "lr_kd"}  # what map-tuning varies
SCORES = {"final_accuracy": "at the end", "mean_accuracy": "over the run"}
TOLERANCE = 0.02  # least tolerance of a mean over seeds on another kind of machine; on the same kind bits are equal


def write() -> list[Path]:
    """Fill the tables of docs/RESULTS.md and draw its figures; what was written."""
    flops = count_flops()
    FLOPS.write_text(json.dumps(flops, indent=2) + "\n")
    figures = PAGE.parent / "figures"
    drawn = {
        "results-map.png": plot_map(read(RECORDS / MAP), SCORES),
        "results-ablations.png": plot_leads(ablation_leads()),
        "results-compute.png": plot_compute(collect(RECORDS / MAP).records.evaluations, flops),
    }
    for name, figure in drawn.items():
        (figures / name).write_bytes(png_bytes(figure))
    PAGE.write_text(filled(PAGE.read_text()))
    return [PAGE, FLOPS, *(figures / name for name in drawn)]


def tables() -> dict[str, Callable[[], list[dict[str, str]]]]:
    """What makes the rows of each table of the page."""
    return {
        "tuning": tuning_table,
        "map": map_table,
        "sceptic": sceptic_table,
        "ablations": ablation_table,
        "baselines": baselines_table,
        "more": more_table,
    }


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
    for point, method, best in best_settings(read(TRIALS / TUNING)):
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
            bound = f"{verdict['bound']} " if verdict["bound"] else ""
            said = _bold(verdict["ours"], verdict["ours"] - verdict["low"])
            row[heading] = f"{bound}{said} ({verdict['against']})"
        rows.append(row)
    return rows


def sceptic_table() -> list[dict[str, str]]:
    """FedRevive's lead over the better baseline, with as many trials for each, and with twice as many for baselines."""
    rows = []
    for trials, name in (("5", MAP), ("10", "sceptic")):
        found = read(RECORDS / name).verdicts
        for verdict in found[found["at"].isin(["", "concurrency=80, alpha=0.1"])].to_dict("records"):
            if verdict["metric"] in SCORES:
                lead = f"{_bold(verdict['ours'], verdict['ours'] - verdict['low'])} ({verdict['against']})"
                rows.append(
                    {"trials of a baseline": trials, "accuracy": SCORES[verdict["metric"]], "FedRevive's lead": lead}
                )
    return rows


def baselines_table() -> list[dict[str, str]]:
    """Tuning of the baselines that the paper does not have: final accuracy (mean over the run) of every rate."""
    runs = collect(TRIALS / "baselines-tuning").records.runs
    means = runs.groupby(["method", "server.lr"], observed=True, sort=False)[list(SCORES)].mean().reset_index()
    rows = []
    for method, own in means.groupby("method", observed=True, sort=False):
        best = own["final_accuracy"].idxmax()
        cells = []
        for number, row in own.iterrows():
            said = f"eta {row['server.lr']:g}: {row['final_accuracy']:.3f} ({row['mean_accuracy']:.3f})"
            cells.append(f"**{said}**" if number == best else said)
        rows.append({"method": METHODS[str(method)].title, "final accuracy (mean over the run)": "<br>".join(cells)})
    return rows


def more_table() -> list[dict[str, str]]:
    """The baselines that the paper does not have, and their lead over FedBuff, paired by seed."""
    report = read(RECORDS / "more-baselines")
    rows = []
    for row in report.arms.to_dict("records"):
        shown = {"method": METHODS[row["arm"]].title}
        for score, said in SCORES.items():
            ahead = 100 * lead(report.records.runs, score, row["arm"], "fedbuff")
            shown[f"{said} %"] = interval(100 * row[score], 100 * row[f"{score}_half"])
            shown[f"above FedBuff {said}"] = "" if row["arm"] == "fedbuff" else _bold(*confidence_interval(ahead))
        rows.append(shown)
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


def compared(directory: Path) -> list[dict[str, str]]:
    """Every arm and point of the sweep in `directory` beside the same runs of the committed one.

    On the same kind of processor runs are identical. On others a mean is as before if it differs by at most 2 points,
    or by two standard errors of as many other seeds.
    """
    found = collect(directory)
    known = collect(RECORDS / found.experiment.name)
    grid = found.experiment.grid_at("lab" if found.scale == "lab" else "paper")
    both = known.records.runs.merge(found.records.runs, on=["arm", "seed", *grid], suffixes=("", " now"), how="left")
    rows = []
    for point, own in points(both, grid):
        for arm, group in own.groupby("arm", observed=True, sort=False):
            again = group.dropna(subset="mean_accuracy now")
            if again.empty:
                continue
            now, then = again["mean_accuracy now"].mean(), again["mean_accuracy"].mean()
            error = group["mean_accuracy"].std() / math.sqrt(len(again)) if len(group) > 1 else 0.0
            tolerance = max(TOLERANCE, 2 * float(error))
            rows.append(
                {
                    "arm": str(arm), "at": label(point), "runs": str(len(again)),
                    "identical": str(int((again["state_sha256"] == again["state_sha256 now"]).sum())),
                    "over the run now %": f"{100 * now:.2f}", "committed %": f"{100 * then:.2f}",
                    "tolerance": f"{100 * tolerance:.1f}", "as before": "yes" if abs(now - then) <= tolerance else "no",
                }
            )  # fmt: skip
    return rows
