"""For 06_ablations: who wins where, what a change costs, which sweeps are missing, and checks of the exercises."""

from __future__ import annotations

import functools
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import Markdown
from matplotlib.figure import Figure

from fedrevive_core import build
from fedrevive_core.config import method_title
from fedrevive_core.records import confidence_interval
from fedrevive_notebooks.lessons.exercise import Verdict, a_number, a_whole_number, check, right, wrong
from fedrevive_notebooks.lessons.reproduction import RECORDS, data_of, table, to_run_all
from reproduce.reports.report import Report, read_report
from reproduce.sweeps.experiment import load_experiment, shipped
from reproduce.sweeps.figures import lead, plot_settings

COMPARISONS = 20  # of the exercise
MAP = "staleness-vs-heterogeneity"


def open_sweeps(records: str) -> dict[str, Report]:
    """Return all sweeps in the directory `records`, by experiment.

    If `records` is empty: the committed map, and the committed sweeps that change one setting at a time.
    """
    root = Path(records).expanduser() if records else RECORDS
    sweeps = [root] if (root / "sweep.json").exists() else sorted(path.parent for path in root.glob("*/sweep.json"))
    if not sweeps:
        raise ValueError(f"records = '{records}': no sweep in {root}; give a directory of a sweep or of several")
    reports = {report.experiment.name: report for report in map(read_report, sweeps)}
    return {n: r for n, r in reports.items() if records or n == MAP or r.experiment.notebook == "06_ablations"}


def overview(sweeps: dict[str, Report]) -> Markdown:
    """Say what each sweep asks, on which data and with how many runs, and once what their notes have in common."""
    rows = [
        {
            "question": report.experiment.question,
            "experiment": f"`{name}`",
            "data": data_of(report),
            "runs": str(len(report.records.runs)),
            "seeds": str(report.records.runs["seed"].nunique()),
        }
        for name, report in sweeps.items()
    ]
    notes = [sentence for report in sweeps.values() for sentence in re.split(r"(?<=\.)\s+", report.experiment.note)]
    missing = [f"`{name}`: {said}" for name, report in sweeps.items() if (said := to_run_all(report))]
    return Markdown("\n\n".join([table(rows).data, *missing, " ".join(dict.fromkeys(notes))]))


def fields(report: Report) -> list[str]:
    """Return the settings of the grid that vary among the finished runs."""
    grid = report.grid
    return [name for name in grid if report.records.runs[name].nunique() > 1]


def maps(sweeps: dict[str, Report]) -> dict[str, Report]:
    """Return the sweeps with a grid of two settings and at least two arms."""
    return {n: r for n, r in sweeps.items() if len(fields(r)) == 2 and r.records.runs["arm"].nunique() > 1}


def figure(report: Report, metric: str) -> Figure:
    """Plot `metric` of every arm, or over the settings of the grid."""
    runs = report.records.runs
    return plot_settings(runs, metric, *fields(report)[:2]) if fields(report) else plot_settings(runs, metric, "arm")


def leads(report: Report, metric: str, reference: str) -> pd.DataFrame:
    """Tabulate each arm's lead over `reference` in points, paired by seed; clear if the interval excludes 0."""
    rows = []
    for arm in report.records.runs["arm"].unique():
        sample = 100 * lead(report.records.runs, metric, arm, reference) if arm != reference else []
        if len(sample):
            mean, half = confidence_interval(sample)
            clear = "yes" if abs(mean) > half else "no"
            rows.append({"arm": arm, "lead": mean, "half": half, "seeds": len(sample), "clear": clear})
    return pd.DataFrame(rows, columns=["arm", "lead", "half", "seeds", "clear"])


def changes(report: Report) -> dict[str, str]:
    """Say in Markdown, for each arm of a sweep, what differs from FedRevive as its preset has it."""
    usual = build(report.experiment.scales[report.scale].preset, "fedrevive")
    said = {}
    for name, arm in report.experiment.arms_at(report.scale).items():
        parts = [] if arm.method == "fedrevive" else [method_title(arm.method)]
        for field, value in arm.settings.items():
            before = functools.reduce(getattr, field.split("."), usual)
            parts.append(f"`{field}` = {_shown(value)}" + (f", not {_shown(before)}" if before != value else ""))
        said[name] = "; ".join(parts)
    return said


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def leads_table(report: Report, metric: str, reference: str = "fedrevive") -> Markdown:
    """Return `leads` as a Markdown table, with what each arm changes."""
    rows, changed = leads(report, metric, reference).to_dict("records"), changes(report)
    caption = f"Leads over {reference}, in points of {metric.replace('_', ' ')}, paired by seed: mean and 95% interval"
    return table(
        [
            {
                "arm": row["arm"],
                "what it changes": changed[row["arm"]],
                "lead": f"{row['lead']:+.1f}\u00a0±\u00a0{row['half']:.1f}",
                "seeds": str(row["seeds"]),
                "interval excludes zero": row["clear"],
            }
            for row in rows
        ],
        caption,
    )


def largest_and_smallest(report: Report, metric: str, arm: str, other: str) -> Markdown:
    """Say at which point of a map the lead of `arm` over `other` is largest, and where it is smallest."""
    runs, (x, y) = report.records.runs, fields(report)
    found = {
        at: confidence_interval(100 * sample)
        for at, cell in runs.groupby([x, y])
        if len(sample := lead(cell, metric, arm, other))
    }
    said = [
        f"{word} at {x} = {at[0]:g}, {y} = {at[1]:g}: **{found[at][0]:+.1f} ± {found[at][1]:.1f}** points"
        for word, at in (
            ("largest", max(found, key=found.__getitem__)),
            ("smallest", min(found, key=found.__getitem__)),
        )
    ]
    return Markdown(f"The lead over `{other}` is {', and '.join(said)}.")


def kept_by_one_teacher(sweeps: dict[str, Report], metric: str) -> float | None:
    """Return the percentage of FedRevive's lead over down-weighting (same server rate) that one teacher keeps.

    None if one of the two sweeps is missing.
    """
    lead_over = {}
    for name, arm in (("beta-rules", "down-weighting"), ("ablation-teachers", "teachers-1")):
        if name not in sweeps:
            return None
        lead_over[arm] = lead(sweeps[name].records.runs, metric, "fedrevive", arm).mean()
    return 100 * float(1 - lead_over["teachers-1"] / lead_over["down-weighting"])


def absent(sweeps: dict[str, Report]) -> Markdown:
    """List the ablations that are not among `sweeps`, with the command that makes each."""
    rows = []
    for name in shipped():
        experiment = load_experiment(name)
        if name not in sweeps and (experiment.notebook == "06_ablations" or name == MAP):
            command = f"`python -m reproduce sweep {name} --out runs/sweeps/{name}`"
            rows.append({"question": experiment.question, "command": command})
    return table(rows) if rows else Markdown("*Nothing is missing.*")


@check(a_number)
def check_one_teacher(answer: float, kept: float | None) -> Verdict:
    """Judge the percentage of the lead over down-weighting that one teacher keeps, to within 15."""
    if kept is None:
        return wrong("The two sweeps of this exercise are not among these records: leave `records` empty.")
    if 0 < answer < 1 and abs(answer - kept) > 0.1:
        return wrong("Give your answer in percent.")
    if abs(answer - kept) <= 15:
        return right(f"{kept:.0f}%: one teacher knows only its client's few classes and pulls the model towards them.")
    if answer > 100:
        return wrong("More than 100% would mean that one teacher is better than eight.")
    if abs(answer - (100 - kept)) <= 15:
        return wrong("This is about the part that is lost without the other teachers; the question is what is left.")
    if answer > 80:
        return wrong("This would mean that any one recent model knows what eight know. How many classes has a client?")
    if answer < 0:
        return wrong("Less than 0% would mean that one teacher is worse than none. Compare the two rows again.")
    return wrong("Compare two rows in the tables of leads: that of `down-weighting`, and that of `teachers-1`.")


@check(a_whole_number)
def check_clear(answer: int, rows: pd.DataFrame) -> Verdict:
    """Judge how many leads in `rows` have an interval that excludes zero."""
    clear = int((rows["clear"] == "yes").sum())
    if answer == clear == len(rows):
        return right(f"All {clear}: here the leads are so large that few seeds are enough to see them.")
    if answer == clear:
        return right(f"{clear} of {len(rows)}. The other leads are small, or these seeds are too few to tell.")
    if not 0 <= answer <= len(rows):
        return wrong(f"There are {len(rows)} leads: give a number from 0 to {len(rows)}.")
    if answer == len(rows):
        return wrong("All arms differ by something, but so would two repetitions of the same arm with other seeds.")
    if answer == len(rows) - clear:
        return wrong("This counts the leads that are not clear, whose interval contains zero.")
    if answer == int((rows["lead"] < 0).sum()):
        return wrong("This counts the leads below zero, however wide their interval.")
    if answer == int((rows["lead"] > 0).sum()):
        return wrong("This counts the leads above zero, however wide their interval.")
    return wrong("Count the rows whose half width is smaller than the absolute value of the lead.")


@check(a_number)
def check_false_alarms(answer: float) -> Verdict:
    """Judge how many of COMPARISONS 95% intervals exclude zero on average if nothing matters at all."""
    some = 1 - 0.95**COMPARISONS
    if math.isclose(answer, COMPARISONS * 0.05):
        return right("One in twenty, by chance alone. If you try enough ablations, you find one that 'matters'.")
    if answer == 0:
        return wrong("An interval misses the truth in 5% of all cases, even if the truth is zero.")
    if math.isclose(answer, 0.05):
        return wrong("This is for one comparison.")
    if math.isclose(answer, 5):
        return wrong("5 is the percentage: 5% of the comparisons are fewer.")
    if math.isclose(answer, COMPARISONS * 0.025):
        return wrong("An interval excludes zero on either side, each with 2.5%: take both.")
    if math.isclose(answer, COMPARISONS * 0.95):
        return wrong("This is how many contain zero.")
    if math.isclose(answer, COMPARISONS):
        return wrong("Not all: an interval of 95% contains the truth in most cases.")
    if abs(answer - some) < 0.01 or abs(answer - 100 * some) < 1:
        return wrong("This is the probability that at least one excludes zero. How many do, on average?")
    return wrong(f"Each of the {COMPARISONS} misses zero with probability 0.05.")
