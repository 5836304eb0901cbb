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

import numpy as np
import pandas as pd

from fedrevive_core.config import METHODS, build, method_title
from fedrevive_core.plots import plot_curves, png_bytes
from fedrevive_core.records import confidence_interval
from reproduce.evidence.figures import plot_compute, plot_leads, plot_winners
from reproduce.reports.claims import label, points
from reproduce.reports.report import Report, read_report, time_to
from reproduce.reports.text import interval, markdown
from reproduce.sweeps.experiment import load_experiment
from reproduce.sweeps.figures import lead
from reproduce.sweeps.results import collect

RECORDS = Path(__file__).parents[1] / "results" / "records"
TRIALS = Path(__file__).parents[1] / "results" / "tuning"  # packed sweeps, too
MEASURED = Path(__file__).parents[1] / "results" / "measured.json"  # see `measure`
PAGE = Path(__file__).parents[2] / "docs" / "RESULTS.md"
MAP, TUNING, PLUS, HEADLINE = "staleness-vs-heterogeneity", "map-tuning", "fedrevive-plus", "lab-headline"
ABLATIONS = (
    "ablation-synthesis", "ablation-t_gen", "ablation-teachers", "ablation-distillation", "proxy-vs-true", "beta-rules",
)  # fmt: skip
TUNED = {"server.lr": "eta", "distillation.lr": "lr_kd"}  # what map-tuning varies
SCORES = {"final_accuracy": "at the end", "mean_accuracy": "over the run"}
TOLERANCE = 0.02  # least tolerance of a mean over seeds on another kind of machine; on the same kind bits are equal


def write_results() -> list[Path]:
    """Fill the tables of docs/RESULTS.md and draw its figures; what was written."""
    measured = measure()
    MEASURED.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    figures = PAGE.parent / "figures"
    drawn = {
        "results-map.png": plot_winners(read_report(RECORDS / MAP), SCORES),
        "results-ablations.png": plot_leads(ablation_leads()),
        "lab-digits.png": plot_curves(_of_methods(collect(RECORDS / HEADLINE).records.evaluations)),
        "results-compute.png": plot_compute(collect(RECORDS / MAP).records.evaluations, measured["flops"]),
    }
    for name, figure in drawn.items():
        (figures / name).write_bytes(png_bytes(figure))
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return [PAGE, MEASURED, *(figures / name for name in drawn)]


def _of_methods(evaluations: pd.DataFrame) -> pd.DataFrame:
    """`evaluations` of the paper's methods and FedAsync."""
    return evaluations[~evaluations["arm"].isin(["fedbuff-momentum", "fedbuff-adam", "fadas", "ca2fl", "mifa"])]


def table_makers() -> dict[str, Callable[[], list[dict[str, str]]]]:
    """What makes the rows of each table of the page."""
    return {
        "tuning": tuning_table,
        "map": map_table,
        "sceptic": sceptic_table,
        "ablations": ablation_table,
        "methods": functools.partial(methods_table, HEADLINE),
        "baselines": functools.partial(trials_table, "baselines-tuning", "final_accuracy"),
        "fashion": functools.partial(methods_table, "lab-fashion"),
        "fashion-trials": functools.partial(trials_table, "fashion-tuning", "mean_accuracy"),
        "plus-trials": plus_trials_table,
        "plus": plus_table,
    }


def filled(page: str) -> str:
    """`page` with the tables as they are made now."""
    for name, make in table_makers().items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        before, found, rest = page.partition(begin)
        if found:
            page = f"{before}{begin}\n{markdown(make())}{end}{rest.partition(end)[2]}"
    return page


def best_settings(tuning: Report) -> list[tuple[dict[str, Any], str, dict[str, float]]]:
    """(point of the grid, method, settings) with the highest accuracy over the run, and that as 'score'."""
    found = []
    for point, own in points(tuning.records.runs, tuning.grid):
        for method, group in own.groupby("method", observed=True, sort=False):
            row = group.loc[group["mean_accuracy"].idxmax()]
            revives = METHODS[str(method)].settings.get("revival") is not None
            varied = {name: float(row[name]) for name in TUNED if name != "distillation.lr" or revives}
            found.append((point, str(method), varied | {"score": float(row["mean_accuracy"])}))
    return found


def tuning_table() -> list[dict[str, str]]:
    """A row per cell of the map: the settings that each method got."""
    rows: dict[str, dict[str, str]] = {}
    for point, method, best in best_settings(read_report(TRIALS / TUNING)):
        said = ", ".join(f"{TUNED[name]} {best[name]:g}" for name in TUNED if name in best)
        row = rows.setdefault(
            label(point), {"K": str(point["federation.concurrency"]), "alpha": str(point["data.alpha"])}
        )
        row[method_title(method)] = f"{said} ({100 * best['score']:.1f})"
    return list(rows.values())


def map_table() -> list[dict[str, str]]:
    """A row per cell of the map: FedRevive, and its lead over the better of the baselines, paired by seed."""
    report = read_report(RECORDS / MAP)
    rows = []
    for point, own in points(report.records.runs, report.grid):
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
        found = read_report(RECORDS / name).verdicts
        for verdict in found[found["at"].isin(["", "concurrency=80, alpha=0.1"])].to_dict("records"):
            if verdict["metric"] in SCORES:
                lead = f"{_bold(verdict['ours'], verdict['ours'] - verdict['low'])} ({verdict['against']})"
                rows.append(
                    {"trials of a baseline": trials, "accuracy": SCORES[verdict["metric"]], "FedRevive's lead": lead}
                )
    return rows


def trials_table(name: str, score: str) -> list[dict[str, str]]:
    """Every setting tried in the tuning sweep `name`: final accuracy (mean over the run); best by `score` in bold."""
    runs = collect(TRIALS / name).records.runs
    varied = [setting for setting in TUNED if setting in runs]
    means = runs.groupby(["method", *varied], observed=True, sort=False)[list(SCORES)].mean().reset_index()
    rows = []
    for method, own in means.groupby("method", observed=True, sort=False):
        best = own[score].idxmax()
        changing = [setting for setting in varied if own[setting].nunique() > 1]
        cells = []
        for number, row in own.iterrows():
            setting = ", ".join(f"{TUNED[name]} {row[name]:g}" for name in changing)
            said = f"{setting}: {row['final_accuracy']:.3f} ({row['mean_accuracy']:.3f})"
            cells.append(f"**{said}**" if number == best else said)
        rows.append({"method": method_title(str(method)), "final accuracy (mean over the run)": "<br>".join(cells)})
    return rows


def methods_table(name: str) -> list[dict[str, str]]:
    """A row per arm of the sweep `name`, and FedRevive's lead over it, paired by seed."""
    report = read_report(RECORDS / name)
    reached = {(row["arm"], row["target"]): time_to(row) for row in report.times.to_dict("records")}
    rows = []
    for row in report.arms.to_dict("records"):
        arm = row["arm"]
        shown = {"method": method_title(arm)}
        for score, said in SCORES.items():
            shown[f"{said} %"] = interval(100 * row[score], 100 * row[f"{score}_half"])
        shown["time to 60%"] = reached[arm, 0.6]
        for score, said in SCORES.items():
            ahead = 100 * lead(report.records.runs, score, "fedrevive", arm)
            shown[f"FedRevive's lead {said}"] = "" if arm == "fedrevive" else _bold(*confidence_interval(ahead))
        rows.append(shown)
    return rows


def plus_trials_table() -> list[dict[str, str]]:
    """What was tried for FedRevive-plus: accuracy on the validation split, and the server's time beside FedRevive's."""
    runs = collect(TRIALS / "plus-tuning").records.runs
    server = runs["server_seconds"] / runs.loc[runs["arm"] == "fedrevive", "server_seconds"].median()
    return [
        {
            "setting": row["arm"],
            **{f"{said} %": f"{100 * row[score]:.1f}" for score, said in SCORES.items()},
            "server time": f"{times:.2f} x",
        }
        for row, times in zip(runs.to_dict("records"), server, strict=True)
    ]


def plus_table() -> list[dict[str, str]]:
    """A row per cell: what FedRevive-plus reaches, and its lead over FedRevive and the better baseline of the map."""
    plus = collect(RECORDS / PLUS)
    runs = pd.concat([collect(RECORDS / MAP).records.runs, plus.records.runs])
    rows = []
    for point, own in points(runs, plus.grid):
        row = {"K": str(point["federation.concurrency"]), "alpha": str(point["data.alpha"])}
        row["at the end %"] = interval(
            *(100 * v for v in confidence_interval(own[own["arm"] == PLUS]["final_accuracy"]))
        )
        means = own.groupby("arm", observed=True)[list(SCORES)].mean()
        for score, said in SCORES.items():
            better = str(means.loc[["whole-updates", "afl-dw"], score].idxmax())
            for against, name in (("fedrevive", "FedRevive"), (better, "the better baseline")):
                row[f"above {name} {said}"] = _bold(*confidence_interval(100 * lead(own, score, PLUS, against)))
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


def measure() -> dict[str, dict[str, float]]:
    """What is measured rather than read from records, on lab-digits, seed 0.

    flops: operations of convolutions and matrix products of a client's job, and what the server of FedRevive and of
    FedRevive-plus adds to an arrival (mean of arrivals 100 to 200, beside AFL-DW's on the same timeline). proxy: see
    `proxy_quality`, of the clients seen until then.
    """
    from fedrevive_core.simulation import Simulation, num_threads
    from fedrevive_core.training import Job
    from reproduce.benchmark.bench import flops_of

    plus = load_experiment(PLUS).arms_at("lab")[PLUS].settings
    configs = {
        "afl-dw": build("lab-digits", "afl-dw"),
        "fedrevive": build("lab-digits", "fedrevive"),
        PLUS: build("lab-digits", "fedrevive", overrides=plus),
    }
    window, simulations = {}, {}
    with num_threads(1):
        for name, config in configs.items():
            simulation = simulations[name] = Simulation(config)
            simulation.trainer.stacks = False  # the counter does not see through operators that vmap batches
            steps = simulation.steps()
            _advance(steps, 100)
            window[name] = flops_of(functools.partial(_advance, steps, 100))
        trainer, state = simulations["afl-dw"].trainer, simulations["afl-dw"].server.state
        job = flops_of(functools.partial(trainer.train, [Job(0, 0, state)]))
    added = {name: (window[name] - window["afl-dw"]) / 100 for name in ("fedrevive", PLUS)}
    revived = simulations["fedrevive"]
    assert revived.reviver is not None
    clients = sorted(revived.reviver.proportions.estimates)
    estimates = np.stack([revived.reviver.proportions.of(client) for client in clients])
    return {
        "flops": {"client_job": job, **added},
        "proxy": proxy_quality(estimates, revived.data.class_proportions[clients]),
    }


def proxy_quality(estimates: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """How near estimated class proportions (M, C) are to the `true` ones of the same clients (M, C).

    distance: mean total variation, 0 (equal) to 1; to_others: of an estimate from all other clients' true ones;
    of_uniform: of equal shares from the true ones; largest: share of clients whose largest class is guessed right.
    """

    def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.abs(a - b).sum(axis=-1) / 2

    every = distance(estimates[:, None], true[None])  # (M, M)
    others = every[~np.eye(len(true), dtype=bool)]
    return {
        "clients": len(true),
        "distance": float(every.diagonal().mean()),
        "to_others": float(others.mean()),
        "of_uniform": float(distance(np.full_like(true, 1 / true.shape[1]), true).mean()),
        "largest": float((estimates.argmax(axis=1) == true.argmax(axis=1)).mean()),
    }


def _advance(steps: Iterator[bool], count: int) -> None:
    for _ in itertools.islice(steps, count):
        pass


def compare_with_committed(directory: Path) -> list[dict[str, str]]:
    """Every arm and point of the sweep in `directory` beside the same runs of the committed one.

    On the same kind of processor runs are identical. On others a mean is as before if it differs by at most 2 points,
    or by two standard errors of as many other seeds.
    """
    found = collect(directory)
    known = collect(RECORDS / found.experiment.name)
    grid = found.grid
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
