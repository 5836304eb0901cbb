"""The evidence behind docs/RESULTS.md: tables and figures made of the packed sweeps, and re-runs held against them.

The page is written by hand but for what stands between `<!-- begin NAME -->` and `<!-- end NAME -->`: made here.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from fedrevive_core.config import method_title
from fedrevive_core.errors import ConfigError
from fedrevive_core.files import atomic_directory, atomic_file, check_file, writing
from fedrevive_core.plots import plot_curves, png_bytes
from fedrevive_core.records import confidence_interval
from reproduce.evidence import endings, images, inflight, privacy, studies
from reproduce.evidence.common import (
    MAP,
    RECORDS,
    SCORES,
    TRIALS,
    TUNED,
    cell_columns,
    lead_over,
    percent,
    tuning_table,
)
from reproduce.evidence.figures import plot_compute, plot_leads, plot_slow_owners, plot_winners
from reproduce.evidence.measured import PLUS, measure
from reproduce.reports.claims import label
from reproduce.reports.report import read_report, time_to
from reproduce.reports.text import interval, markdown
from reproduce.sweeps.figures import lead
from reproduce.sweeps.grid import points
from reproduce.sweeps.results import collect

MEASURED = Path(__file__).parents[1] / "results" / "measured.json"  # see `measure`
PAGE = Path(__file__).parents[2] / "docs" / "RESULTS.md"
TUNING, HEADLINE = "map-tuning", "lab-headline"
SLOW, SLOW_TUNING, STORE = "slow-owners", "slow-owners-tuning", "slow-owners-store"
SKEWS = {"data.speed_skew": [0.0, 0.5, 1.0]}
ABLATIONS = (
    "ablation-synthesis", "ablation-t_gen", "ablation-teachers", "ablation-distillation", "proxy-vs-true", "beta-rules",
)  # fmt: skip
NOT_DRAWN = ("fedbuff-momentum", "fedbuff-adam", "fadas", "ca2fl", "mifa")  # neither the paper's nor FedAsync
TOLERANCE = 0.02  # least tolerance of a mean over seeds on another kind of machine; on the same kind bits are equal


def write_results() -> list[Path]:
    """Fill the tables of docs/RESULTS.md and draw its figures; what was written.

    Raises ConfigError, before any work, where there is no such page, as in an installed copy, or it cannot be written.
    """
    if not PAGE.exists():
        raise ConfigError(f"there is no '{PAGE}': run this command in a checkout of the repository")
    for path in (PAGE, MEASURED):
        check_file(path)
    measured = measure()
    with writing(MEASURED), atomic_file(MEASURED) as path:
        path.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    figures = PAGE.parent / "figures"
    with writing(PAGE), atomic_directory(PAGE.parent, last=PAGE.name) as work:
        (work / figures.name).mkdir()
        for name, drawn in FIGURES.items():
            (work / figures.name / name).write_bytes(png_bytes(drawn()))
        (work / PAGE.name).write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return [PAGE, MEASURED, *(figures / name for name in FIGURES)]


def filled(page: str) -> str:
    """`page` with the tables as they are made now."""
    tables = re.compile(r"(<!-- begin (\S+) -->\n).*?(?=<!-- end \2 -->)", re.DOTALL)
    return tables.sub(lambda table: table[1] + markdown(TABLES[table[2]]()), page)


def _judged(verdict: Mapping[str, Any]) -> str:
    """The lead over the better baseline, and which one that is."""
    bound = f"{verdict['bound']} " if verdict["bound"] else ""
    return f"{bound}{interval(verdict['ours'], verdict['ours'] - verdict['low'], lead=True)} ({verdict['against']})"


def map_table() -> list[dict[str, str]]:
    """A row per cell of the map: FedRevive, and its lead over the better of the baselines, paired by seed."""
    report = read_report(RECORDS / MAP)
    headings = {"time_to 0.6": "less time to 60%, %"} | {score: f"lead {said}" for score, said in SCORES.items()}
    rows = []
    for point, runs in points(report.records.runs, report.grid):
        revived = runs[runs["arm"] == "fedrevive"]
        staleness = f"{revived['mean_staleness'].mean():.0f}"
        row = {"mean staleness": staleness, "FedRevive, end %": percent(revived["final_accuracy"])}
        verdicts = report.verdicts[report.verdicts["at"] == label(point)].to_dict("records")
        rows.append(cell_columns(point) | row | {headings[verdict["metric"]]: _judged(verdict) for verdict in verdicts})
    return rows


def sceptic_table() -> list[dict[str, str]]:
    """FedRevive's lead over the better baseline, with as many trials for each, and with twice as many for baselines."""
    return [
        {"trials of a baseline": trials, "accuracy": SCORES[verdict["metric"]], "FedRevive's lead": _judged(verdict)}
        for trials, name in (("5", MAP), ("10", "sceptic"))
        for verdict in read_report(RECORDS / name).verdicts.to_dict("records")
        if verdict["at"] in ("", "concurrency=80, alpha=0.1") and verdict["metric"] in SCORES
    ]


def trials_table(name: str, score: str) -> list[dict[str, str]]:
    """Every setting tried in the tuning sweep `name`: final accuracy (mean over the run); best by `score` in bold."""
    runs = collect(TRIALS / name).records.runs
    varied = [setting for setting in TUNED if setting in runs]
    means = runs.groupby(["method", *varied], observed=True, sort=False)[list(SCORES)].mean().reset_index()
    rows = []
    for method, trials in means.groupby("method", observed=True, sort=False):
        best = trials[score].idxmax()
        changing = [setting for setting in varied if trials[setting].nunique() > 1]
        cells = []
        for number, row in trials.iterrows():
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
            ahead = "" if arm == "fedrevive" else lead_over(report.records.runs, score, "fedrevive", arm)
            shown[f"FedRevive's lead {said}"] = ahead
        rows.append(shown)
    return rows


def plus_trials_table() -> list[dict[str, str]]:
    """What was tried for FedRevive-plus: accuracy on the validation split, and the server's time beside FedRevive's."""
    runs = collect(TRIALS / "plus-tuning").records.runs
    server = runs["server_seconds"] / runs.loc[runs["arm"] == "fedrevive", "server_seconds"].median()
    return [
        {"setting": row["arm"]}
        | {f"{said} %": f"{100 * row[score]:.1f}" for score, said in SCORES.items()}
        | {"server time": f"{times:.2f} x"}
        for row, times in zip(runs.to_dict("records"), server, strict=True)
    ]


def plus_table() -> list[dict[str, str]]:
    """A row per cell: what FedRevive-plus reaches, and its lead over FedRevive and the better baseline of the map."""
    plus = collect(RECORDS / PLUS)
    runs = pd.concat([collect(RECORDS / MAP).records.runs, plus.records.runs])
    rows = []
    for point, cell in points(runs, plus.grid):
        row = cell_columns(point) | {"at the end %": percent(cell[cell["arm"] == PLUS]["final_accuracy"])}
        means = cell.groupby("arm", observed=True)[list(SCORES)].mean()
        for score, said in SCORES.items():
            better = str(means.loc[["whole-updates", "afl-dw"], score].idxmax())
            for against, name in (("fedrevive", "FedRevive"), (better, "the better baseline")):
                row[f"above {name} {said}"] = lead_over(cell, score, PLUS, against)
        rows.append(row)
    return rows


def slow_runs(*names: str) -> pd.DataFrame:
    """The runs of `slow-owners`, and of the sweeps `names`, with their accuracy on slow owners' classes and on others.

    owned, others: mean over these classes, over the run, and gap between both; owned_end, others_end: of the last
    evaluation. `named` are the classes that slow clients own at skew 1, the same at every skew and seed: skew 0 shows
    them while their owners are no slower than others.
    """
    runs = pd.concat([collect(RECORDS / name).records.runs for name in (SLOW, *names)])
    (named,) = runs.loc[runs["data.speed_skew"] == 1, "slow_classes names"].unique()
    known = [name.removeprefix("mean_class_accuracy ") for name in runs if name.startswith("mean_class_accuracy ")]
    classes = {"owned": named.split(", "), "others": [name for name in known if name not in named.split(", ")]}
    columns = {"named": named}
    for name, chosen in classes.items():
        columns[name] = runs[[f"mean_class_accuracy {each}" for each in chosen]].mean(axis=1)
        columns[f"{name}_end"] = runs[[f"class_accuracy {each}" for each in chosen]].mean(axis=1)
    return runs.assign(**columns, gap=columns["owned"] - columns["others"])


SLOW_SCORES = {score: f"all, {said}" for score, said in SCORES.items()} | {
    "owned": "slow owners', over the run", "owned_end": "slow owners', at the end", "others": "others, over the run",
}  # fmt: skip


SLOW_LEADS = {
    "mean_accuracy": "on all", "owned": "on slow owners'", "others": "on others", "gap": "more on slow owners'",
}  # fmt: skip


def slow_table() -> list[dict[str, str]]:
    """A row per skew and method: accuracy on all classes, on slow owners' and on the others."""
    return [
        cell_columns(point)
        | {"method": method_title(str(arm))}
        | {f"{said} %": percent(its[score]) for score, said in SLOW_SCORES.items()}
        for point, runs in points(slow_runs(), SKEWS)
        for arm, its in runs.groupby("arm", observed=True, sort=False)
    ]


def slow_leads_table() -> list[dict[str, str]]:
    """A row per skew and baseline: FedRevive's lead over the run, and whether slow owners' classes have more of it."""
    return [
        cell_columns(point)
        | {"over": method_title(str(arm))}
        | {said: lead_over(runs, score, "fedrevive", str(arm)) for score, said in SLOW_LEADS.items()}
        for point, runs in points(slow_runs(), SKEWS)
        for arm in dict.fromkeys(runs["arm"])
        if arm != "fedrevive"
    ]


def slow_store_table() -> list[dict[str, str]]:
    """At skew 1: FedRevive with one teacher of every client, its lead over each method, and whom that goes to."""
    every = slow_runs(STORE)
    runs, rows = every[every["data.speed_skew"] == 1], []
    family = len(SLOW_LEADS) * (runs["arm"].nunique() - 1)
    for arm, its in runs.groupby("arm", observed=True, sort=False):
        row = {"method": "FedRevive, a teacher of every client" if arm == "store" else method_title(str(arm))}
        row |= {f"{SLOW_SCORES[score]} %": percent(its[score]) for score in ("mean_accuracy", "owned", "others")}
        row |= {
            said if score == "gap" else f"lead {said}": (
                "" if arm == "store" else lead_over(runs, score, "store", str(arm), family)
            )
            for score, said in SLOW_LEADS.items()
        }
        rows.append(row)
    return rows


def slow_heard_table() -> list[dict[str, str]]:
    """A row per method at skew 1: what the server took in of slow owners' classes, and what their slowness costs."""
    every, rows = slow_runs(), []
    for arm, its in every[every["data.speed_skew"] == 1].groupby("arm", observed=True, sort=False):
        calm = every[(every["arm"] == arm) & (every["data.speed_skew"] == 0)].set_index("seed")["owned"]
        lost = 100 * (its.set_index("seed")["owned"] - calm).dropna()
        updates = (f"{its[f'speed_group_updates {name}'].mean():.1f}" for name in ("fast", "medium", "slow"))
        shares = {name: its[f"slow_classes {name}"] for name in ("own", "distilled")}
        rows.append(
            {"method": method_title(str(arm)), "updates of fast, medium, slow": ", ".join(updates)}
            | {"held %": f"{100 * its['slow_classes held'].mean():.1f}"}
            | {f"{name} %": percent(share) for name, share in shares.items()}
            | {"taken in %": percent(shares["own"] + shares["distilled"])}
            | {"accuracy against skew 0": interval(*confidence_interval(lost), lead=True)}
        )
    return rows


def faults_table() -> list[dict[str, str]]:
    """A row per arm of the experiment on faults: what it reaches, and how far it is ahead of FedRevive as it is."""
    runs = collect(RECORDS / "faults").records.runs
    rows = []
    for arm, its in runs.groupby("arm", observed=True, sort=False):
        row = {"arm": str(arm), "seeds": str(len(its))}
        row |= {f"{said} %": percent(its[score]) for score, said in SCORES.items()}
        for score, said in SCORES.items():
            row[f"above FedRevive {said}"] = "" if arm == "fedrevive" else lead_over(runs, score, str(arm), "fedrevive")
        rows.append(row)
    return rows


def faults_each_table() -> list[dict[str, str]]:
    """A row per fault and method: what it reaches, what the fault costs it, and how far it is ahead of FedRevive."""
    runs = collect(RECORDS / "faults-each").records.runs
    rows = []
    for arm, its in runs.groupby("arm", observed=True, sort=False):
        fault, method = str(arm).split("-", 1)
        row = {"fault": fault, "method": method, "seeds": str(len(its))}
        row |= {f"{said} %": percent(its[score]) for score, said in SCORES.items()}
        for against, name in ((f"none-{method}", "itself without faults"), (f"{fault}-fedrevive", "FedRevive")):
            row[f"above {name}, over the run"] = (
                "" if arm == against else lead_over(runs, "mean_accuracy", str(arm), against)
            )
        rows.append(row)
    return rows


def ablation_leads() -> pd.DataFrame:
    """A row per arm of every ablation: question, arm, seeds, for each of SCORES its lead over FedRevive as it is, in
    points paired by seed, with half width; and its server seconds as a multiple of FedRevive's."""
    rows = []
    for ablation in (collect(RECORDS / name) for name in ABLATIONS if (RECORDS / name).exists()):
        runs = ablation.records.runs
        seconds = runs.groupby("arm", observed=True)["server_seconds"].median()
        for arm in dict.fromkeys(runs.loc[runs["arm"] != "fedrevive", "arm"]):
            row: dict[str, Any] = {"question": ablation.experiment.question, "arm": arm}
            for score in SCORES:
                sample = 100 * lead(runs, score, arm, "fedrevive")
                row["seeds"] = len(sample)
                row[score], row[f"{score}_half"] = confidence_interval(sample)
            rows.append(row | {"server": seconds[arm] / seconds["fedrevive"]})
    return pd.DataFrame(rows)


def ablation_table() -> list[dict[str, str]]:
    """`ablation_leads` to be read."""
    return [
        {"change": row["arm"]}
        | {f"points {said}": interval(row[score], row[f"{score}_half"], lead=True) for score, said in SCORES.items()}
        | {"seeds": str(row["seeds"]), "server time": f"{row['server']:.2g} x"}
        for row in ablation_leads().to_dict("records")
    ]


def compare_with_committed(directory: Path) -> list[dict[str, str]]:
    """Every arm and point of the sweep in `directory` beside the same runs of the committed one.

    On the same kind of processor runs are identical. On others a mean is as before if it differs by at most 2 points,
    or by two standard errors of as many other seeds.
    """
    swept = collect(directory)
    known = collect(RECORDS / swept.experiment.name)
    grid = swept.grid
    both = known.records.runs.merge(swept.records.runs, on=["arm", "seed", *grid], suffixes=("", " now"), how="left")
    rows = []
    for point, runs in points(both, grid):
        for arm, group in runs.groupby("arm", observed=True, sort=False):
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


TABLES: dict[str, Callable[[], list[dict[str, str]]]] = {  # of the page, each with what makes its rows
    "tuning": functools.partial(tuning_table, TUNING),
    "map": map_table,
    "sceptic": sceptic_table,
    "splits": studies.splits_table,
    "tuning-effect": studies.tuning_effect_table,
    "rivals": studies.rivals_table,
    "mechanisms": studies.mechanisms_table,
    "rivals-trials": functools.partial(tuning_table, "rivals-tuning"),
    "rivals-taught-trials": functools.partial(tuning_table, "rivals-taught-tuning"),
    "end": endings.end_table,
    "inflight": inflight.inflight_table,
    "inflight-laws": inflight.inflight_laws_table,
    "teachers": studies.teachers_table,
    "teachers-trials": functools.partial(tuning_table, "teachers-tuning", "revival.num_teachers"),
    "ablations": ablation_table,
    "weights": studies.weights_table,
    "weights-trials": functools.partial(tuning_table, "weights-tuning", "staleness.rule"),
    "ablations-second": studies.second_cell_table,
    "methods": functools.partial(methods_table, HEADLINE),
    "baselines": functools.partial(trials_table, "baselines-tuning", "final_accuracy"),
    "fashion": functools.partial(methods_table, "lab-fashion"),
    "fashion-trials": functools.partial(trials_table, "fashion-tuning", "mean_accuracy"),
    "pools-fashion": functools.partial(images.pools_table, "image-pools-fashion"),
    "pools-28": functools.partial(images.pools_table, "image-pools-28"),
    "pools-styles": functools.partial(images.pools_table, "image-pools-styles"),
    "pools-28-trials": functools.partial(trials_table, "image-pools-28-tuning", "mean_accuracy"),
    "pools-styles-trials": functools.partial(trials_table, "image-pools-styles-tuning", "mean_accuracy"),
    "plus-trials": plus_trials_table,
    "plus": plus_table,
    "slow": slow_table,
    "slow-leads": slow_leads_table,
    "slow-heard": slow_heard_table,
    "slow-trials": functools.partial(tuning_table, SLOW_TUNING),
    "slow-store": slow_store_table,
    "slow-store-trials": functools.partial(trials_table, "slow-owners-store-tuning", "mean_accuracy"),
    "privacy-attacks": lambda: privacy.attack_table(privacy.committed()),
    "privacy-labels": lambda: privacy.label_table(privacy.committed()),
    "privacy-accuracy": lambda: privacy.accuracy_table(privacy.committed()),
    "faults": faults_table,
    "faults-each": faults_each_table,
}


def _headline() -> Figure:
    """Curves of the paper's methods and of FedAsync on lab-digits."""
    curves = collect(RECORDS / HEADLINE).records.evaluations
    return plot_curves(curves[~curves["arm"].isin(NOT_DRAWN)])


def _compute() -> Figure:
    flops = json.loads(MEASURED.read_text(encoding="utf-8"))["flops"]
    return plot_compute(collect(RECORDS / MAP).records.evaluations, flops)


FIGURES: dict[str, Callable[[], Figure]] = {  # of the page, each with what draws it
    "results-map.png": lambda: plot_winners(read_report(RECORDS / MAP), SCORES),
    "results-tuning.png": studies.plot_tuning_effect,
    "results-rivals.png": studies.plot_rivals,
    "results-inflight.png": lambda: inflight.plot_inflight(inflight.inflight_runs(inflight.inflight_evaluations())),
    "results-teachers.png": studies.plot_teachers,
    "results-end.png": endings.plot_end,
    "results-weights.png": studies.plot_weights,
    "results-pools.png": images.plot_pools,
    "results-ablations.png": lambda: plot_leads(ablation_leads()),
    "results-slow-owners.png": lambda: plot_slow_owners(slow_runs()),
    "results-privacy.png": lambda: privacy.plot_privacy(privacy.committed()),
    "lab-digits.png": _headline,
    "results-compute.png": _compute,
}
