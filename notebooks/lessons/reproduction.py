"""The committed lab records, what a sweep says in words and figures, and the checks of the lesson on reading it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Markdown
from matplotlib.figure import Figure
from scipy.special import stdtrit

import reproduce
from fedrevive_core.plots import plot_curves
from fedrevive_core.records import confidence_interval, summarise
from lessons.exercise import Verdict, check, one_number, right, wrong
from reproduce.reports.figures import plot_claims
from reproduce.reports.report import Report
from reproduce.reports.report import tables as report_tables
from reproduce.reports.text import markdown
from reproduce.sweeps.experiment import shipped
from reproduce.sweeps.figures import plot_lead, plot_settings

RECORDS = Path(reproduce.__file__).parent / "results" / "records"
# Invented, so that every wrong way to read them gives another number.
SEEDS = pd.DataFrame({"seed": [0, 1, 2], "A": [71.0, 80.0, 88.5], "B": [68.0, 76.0, 86.0]})
TIMES: tuple[float | None, ...] = (8.0, 11.0, None, 9.0)  # simulated time to 80%; the third run never got there
END = 30.0  # of all four runs
CURVE = pd.DataFrame(
    {
        "sim_time": [0.0, 5.0, 10.0, 20.0, 28.6, 28.9, 29.2, 29.5],
        "accuracy": [0.10, 0.42, 0.86, 0.78, 0.80, 0.74, 0.83, 0.75],
    }
)


def directory(records: str, experiment: str = "figure2-cifar10") -> Path:
    """The sweep that the parameter names, or the committed one."""
    return Path(records).expanduser() if records else RECORDS / experiment


def shown(path: Path) -> str:
    """`path` from the repository's root, where commands are given, if it is below it."""
    root = Path(reproduce.__file__).parent.parent
    return str(path.resolve().relative_to(root) if path.resolve().is_relative_to(root) else path)


def about(report: Report) -> Markdown:
    """What was run: the experiment, its note, and what is not there, with the command that makes it."""
    experiment, runs = report.experiment, report.records.runs
    done = ", ".join(f"`{arm}` ({count})" for arm, count in runs["arm"].value_counts(sort=False).items())
    text = (
        f"**{experiment.question}**\n\nExperiment `{experiment.name}` at scale `{report.scale}`; finished runs: {done}."
    )
    if report.missing:
        known = experiment.name if experiment.name in shipped() else shown(report.directory / "experiment.yaml")
        command = f"python -m reproduce sweep {known} --scale {report.scale} --out runs/sweeps/{experiment.name}"
        text += f"\n\n**Not there: {len(report.missing)} of {len(runs) + len(report.missing)} runs.** All: `{command}`"
    return Markdown(f"{text}\n\n{experiment.note}")


def table(rows: Sequence[dict[str, str]], caption: str = "") -> Markdown:
    """Rows of text as a table under its caption."""
    shown = markdown(rows) if rows else "*Nothing to show: no run of this is there.*"
    return Markdown(f"*{caption}*\n\n{shown}" if caption else shown)


def tables(report: Report) -> dict[str, Markdown]:
    """The tables of the report by heading: Claims, Accuracy, Simulated time to a target, Costs.

    The two columns that the verdict puts into words are left out.
    """
    told = ("same direction", "within tolerance")
    return {
        heading: table([{name: cell for name, cell in row.items() if name not in told} for row in rows], caption)
        for heading, caption, rows in report_tables(report)
    }


def counts(verdicts: pd.DataFrame) -> Markdown:
    """How many claims got which verdict."""
    if verdicts.empty:
        return Markdown("This experiment makes no claims.")
    found = verdicts["verdict"].value_counts()
    return Markdown("\n".join(f"- **{number}** {verdict}" for verdict, number in found.items()))


def claims_figure(report: Report) -> Figure | Markdown:
    """Claims beside measurements; a sentence if nothing that is claimed was measured."""
    measured = len(report.verdicts) and report.verdicts["ours"].notna().any()
    return plot_claims(report.verdicts) if measured else Markdown("*Nothing that is claimed was measured here.*")


def figure(report: Report, metric: str = "mean_accuracy") -> Figure:
    """Curves of the arms; with a grid, `metric` across its field, or a map of the first two arms over two fields."""
    runs = report.records.runs
    fields = [name for name in report.experiment.grid_at(report.scale) if runs[name].nunique() > 1]  # type: ignore[arg-type]
    arms = list(dict.fromkeys(runs["arm"]))
    if not fields:
        return plot_curves(report.records.evaluations)
    if len(fields) > 1 and len(arms) > 1:
        return plot_lead(runs, metric, fields[0], fields[1], arms[-1], arms[0])
    if len(fields) > 1:
        return plot_settings(runs, metric, fields[0], fields[1])
    return plot_settings(runs, metric, fields[0])


@check
def check_half_width(answer: float) -> Verdict:
    """Half width of the 95% interval of A's lead over B in SEEDS, paired by seed."""
    leads = (SEEDS["A"] - SEEDS["B"]).to_numpy()
    _, paired = confidence_interval(leads)
    spread = math.sqrt((SEEDS["A"].var() + SEEDS["B"].var()) / 3)
    named = {
        float(stdtrit(4, 0.975))
        * spread: "This treats A and B as if they had other seeds. Take differences within a seed first.",
        1.96
        * leads.std(ddof=1)
        / math.sqrt(3): "1.96 is for many seeds; with three, Student's t has 2 degrees of freedom.",
        float(stdtrit(2, 0.975))
        * leads.std()
        / math.sqrt(3): "Divide the squares by n - 1: the mean was estimated too.",
        float(stdtrit(2, 0.975))
        * leads.std(ddof=1): "This is for one more seed, not for their mean: divide by sqrt(3).",
        leads.std(ddof=1): "This is the standard deviation; an interval needs Student's t and sqrt(3).",
        float(leads.mean()): "This is the lead itself; its half width is asked for.",
    }
    for value, message in named.items():
        if abs(answer - value) < max(0.02, 0.01 * value):
            return wrong(message)
    if abs(answer - paired) < 0.02:
        return right(
            "Seeds differ by 17 points, leads by 1.5: within a seed both arms meet the same clients and delays."
        )
    return wrong("Neither paired nor one of the usual slips. The three leads are 3, 4 and 2.5.")


@check
def check_final(answer: Callable[[np.ndarray, np.ndarray], float]) -> Verdict:
    """A function (sim_time, accuracy) that gives the final accuracy: the mean over the last 5% of simulated time."""
    time, accuracy = CURVE["sim_time"].to_numpy(), CURVE["accuracy"].to_numpy()
    given = one_number(answer(time.copy(), accuracy.copy()))
    wanted = summarise(CURVE, time[-1])
    named = {
        wanted[
            "best_accuracy"
        ]: "That is the best evaluation. It picks the luckiest moment, and the more one evaluates the higher it is.",
        wanted["last_accuracy"]: "That is the last evaluation alone: one draw of a curve that goes up and down.",
        float(accuracy.mean()): "That is the mean over all evaluations, the beginning included.",
        float(
            accuracy[-2:].mean()
        ): "The last 5% of what? Evaluations may be dense; take those with sim_time >= 0.95 of the end.",
    }
    for value, message in named.items():
        if abs(given - value) < 1e-6:
            return wrong(message)
    if abs(given - wanted["final_accuracy"]) < 1e-6:
        best = wanted["best_accuracy"] - wanted["final_accuracy"]
        return right(
            f"The best evaluation would have said {100 * best:.0f} points more, at a moment nobody could have chosen."
        )
    return wrong(f"For the curve of the exercise this gives {given:.3f}; look at the evaluations from 28.03 on.")


@check
def check_mean_time(answer: float) -> Verdict:
    """Mean time to the target of TIMES, restricted to END."""
    reached = [time for time in TIMES if time is not None]
    if abs(answer - sum(reached) / len(reached)) < 0.01:
        return wrong("This drops the run that failed: whoever fails most would look fastest.")
    if abs(answer - sum(reached) / len(TIMES)) < 0.01:
        return wrong("This counts the run that never got there as if it had taken no time at all.")
    if abs(answer - (sum(reached) + END) / len(TIMES)) < 0.01:
        return right(
            "It counts with the end of its run. The true mean is later still, so say '> 14.5, 3 of 4 reached'."
        )
    return wrong("Let the third run count with the last moment at which one knows that it was not there yet.")
