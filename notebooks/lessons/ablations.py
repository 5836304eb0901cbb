"""Several sweeps side by side: who wins where, what a change costs, what is not there; and the checks of the lesson."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
from IPython.display import Markdown
from matplotlib.figure import Figure

from fedrevive_core.records import confidence_interval
from lessons.exercise import Verdict, check, right, wrong
from lessons.reproduction import RECORDS, table
from reproduce.reports.report import Report, read_report
from reproduce.sweeps.experiment import load_experiment, shipped
from reproduce.sweeps.figures import lead, plot_settings

COMPARISONS = 20  # of the exercise
MAP = "staleness-vs-heterogeneity"


def open_sweeps(records: str) -> dict[str, Report]:
    """Every sweep in a directory that holds one or several, by experiment.

    If `records` is empty: the committed map, and the committed sweeps that change one part or knob at a time.
    """
    root = Path(records).expanduser() if records else RECORDS
    places = [root] if (root / "sweep.json").exists() else sorted(path.parent for path in root.glob("*/sweep.json"))
    if not places:
        raise ValueError(f"records = '{records}': there is no sweep in {root}")
    reports = {report.experiment.name: report for report in map(read_report, places)}
    return {n: r for n, r in reports.items() if records or n == MAP or r.experiment.notebook == "06_ablations"}


def fields(report: Report) -> list[str]:
    """Settings of the grid that vary among the finished runs."""
    grid = report.grid
    return [name for name in grid if report.records.runs[name].nunique() > 1]


def maps(sweeps: dict[str, Report]) -> dict[str, Report]:
    """The sweeps with a grid of two settings and at least two arms."""
    return {n: r for n, r in sweeps.items() if len(fields(r)) == 2 and r.records.runs["arm"].nunique() > 1}


def figure(report: Report, metric: str) -> Figure:
    """`metric` of every arm, or across the settings of the grid."""
    runs = report.records.runs
    return plot_settings(runs, metric, *fields(report)[:2]) if fields(report) else plot_settings(runs, metric, "arm")


def leads(report: Report, metric: str, reference: str) -> pd.DataFrame:
    """How far each arm is ahead of `reference`, in points, paired by seed; clear if the interval leaves 0 out."""
    rows = []
    for arm in report.records.runs["arm"].unique():
        sample = 100 * lead(report.records.runs, metric, arm, reference) if arm != reference else []
        if len(sample):
            mean, half = confidence_interval(sample)
            clear = "yes" if abs(mean) > half else "no"
            rows.append({"arm": arm, "lead": mean, "half": half, "seeds": len(sample), "clear": clear})
    return pd.DataFrame(rows, columns=["arm", "lead", "half", "seeds", "clear"])


def leads_table(report: Report, metric: str, reference: str = "fedrevive") -> Markdown:
    """`leads` to be read."""
    rows = leads(report, metric, reference).to_dict("records")
    return table(
        [
            {
                "arm": row["arm"],
                f"points ahead of {reference}": f"{row['lead']:+.1f} ± {row['half']:.1f}",
                "seeds": str(row["seeds"]),
                "interval leaves zero out": row["clear"],
            }
            for row in rows
        ]
    )


def kept_by_one_teacher(sweeps: dict[str, Report], metric: str) -> float | None:
    """Percent of FedRevive's lead over down-weighting at the same server rate that is left with one teacher.

    None if a sweep that it takes is not there.
    """
    found = {}
    for name, arm in (("beta-rules", "down-weighting"), ("ablation-teachers", "teachers-1")):
        if name not in sweeps:
            return None
        found[arm] = lead(sweeps[name].records.runs, metric, "fedrevive", arm).mean()
    return 100 * float(1 - found["teachers-1"] / found["down-weighting"])


def absent(sweeps: dict[str, Report]) -> Markdown:
    """The shipped ablations that are not among `sweeps`, with the command that makes each."""
    rows = []
    for name in shipped():
        experiment = load_experiment(name)
        if name not in sweeps and (experiment.notebook == "06_ablations" or name == MAP):
            command = f"`python -m reproduce sweep {name} --out runs/sweeps/{name}`"
            rows.append({"question": experiment.question, "command": command})
    return table(rows) if rows else Markdown("*Nothing: all of them are here.*")


@check
def check_one_teacher(answer: float, kept: float | None) -> Verdict:
    """Percent of the lead over down-weighting that is left with one teacher, within 15."""
    if kept is None:
        return wrong("The two sweeps that it takes are not among these records: leave `records` empty.")
    if 0 < answer < 1:
        return wrong("In percent, please.")
    if abs(answer - kept) <= 15:
        return right(
            f"{kept:.0f}%: one teacher is one client with few classes, who pulls the model its own way like its update."
        )
    if answer > 80:
        return wrong("That would mean that any one recent model knows what eight know. How many classes has a client?")
    return wrong("Look at what each halving of the teachers costs in the table of leads, and at down-weighting's row.")


@check
def check_clear(answer: int, found: pd.DataFrame) -> Verdict:
    """How many of the leads in `found` have an interval that leaves zero out."""
    clear = int((found["clear"] == "yes").sum())
    if answer == clear == len(found):
        return right(f"All {clear}: here the leads are so large that few seeds are enough to see them.")
    if answer == clear:
        return right(
            f"{clear} of {len(found)}. About the others these runs say: not much, or not enough seeds to tell."
        )
    if answer == len(found):
        return wrong("All of them differ by something; so would two repetitions of the same arm with other seeds.")
    if answer == int((found["lead"] < 0).sum()):
        return wrong("This counts those below zero, however wide their interval.")
    return wrong("Count the rows where the half width is smaller than the lead without its sign.")


@check
def check_false_alarms(answer: float) -> Verdict:
    """How many of COMPARISONS 95% intervals leave zero out on average if nothing matters at all."""
    if math.isclose(answer, COMPARISONS * 0.05):
        return right("One in twenty, by chance alone. Who tries enough ablations finds one that 'matters'.")
    if answer == 0:
        return wrong("An interval misses the truth in 5% of all cases, also if the truth is zero.")
    if math.isclose(answer, 0.05):
        return wrong("That is for one comparison.")
    if math.isclose(answer, COMPARISONS * 0.95):
        return wrong("That is how many hold zero.")
    return wrong(f"Each of the {COMPARISONS} misses zero with probability 0.05.")
