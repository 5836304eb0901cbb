"""For 08_reproduce: the committed lab records, a sweep in words and figures, and checks of the exercises."""

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
# Invented: every usual mistake gives a different number.
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
    """Return the directory that the parameter names, or that of the committed sweep."""
    return Path(records).expanduser() if records else RECORDS / experiment


def shown(path: Path) -> str:
    """Return `path` relative to the repository's root, where commands are run, if it lies below it."""
    root = Path(reproduce.__file__).parent.parent
    return str(path.resolve().relative_to(root) if path.resolve().is_relative_to(root) else path)


def about(report: Report) -> Markdown:
    """Describe what was run: the experiment, its note, and which runs are missing, with the command for them."""
    experiment, runs = report.experiment, report.records.runs
    done = ", ".join(f"`{arm}` ({count})" for arm, count in runs["arm"].value_counts(sort=False).items())
    text = (
        f"**{experiment.question}**\n\nExperiment `{experiment.name}` at scale `{report.scale}`; finished runs: {done}."
    )
    if report.missing:
        known = experiment.name if experiment.name in shipped() else shown(report.directory / "experiment.yaml")
        command = f"python -m reproduce sweep {known} --scale {report.scale} --out runs/sweeps/{experiment.name}"
        text += (
            f"\n\n**Missing: {len(report.missing)} of {len(runs) + len(report.missing)} runs.** To run all: `{command}`"
        )
    return Markdown(f"{text}\n\n{experiment.note}")


def table(rows: Sequence[dict[str, str]], caption: str = "") -> Markdown:
    """Return rows of text as a Markdown table under its caption."""
    shown = markdown(rows) if rows else "*Nothing to show: there are no such runs.*"
    return Markdown(f"*{caption}*\n\n{shown}" if caption else shown)


def tables(report: Report) -> dict[str, Markdown]:
    """Return the tables of the report by heading: Claims, Accuracy, Simulated time to a target, Costs.

    Two columns are left out: the verdict says the same in words.
    """
    in_verdict = ("same direction", "within tolerance")
    return {
        heading: table([{name: cell for name, cell in row.items() if name not in in_verdict} for row in rows], caption)
        for heading, caption, rows in report_tables(report)
    }


def counts(verdicts: pd.DataFrame) -> Markdown:
    """Say how many claims got which verdict."""
    if verdicts.empty:
        return Markdown("This experiment makes no claims.")
    numbers = verdicts["verdict"].value_counts()
    return Markdown("\n".join(f"- **{number}** {verdict}" for verdict, number in numbers.items()))


def claims_figure(report: Report) -> Figure | Markdown:
    """Plot claims beside measurements, or say that no claim was measured."""
    measured = len(report.verdicts) and report.verdicts["ours"].notna().any()
    return plot_claims(report.verdicts) if measured else Markdown("*No claim was measured here.*")


def figure(report: Report, metric: str = "mean_accuracy") -> Figure:
    """Plot curves of the arms; with a grid, `metric` over its field, or a map of two arms over two fields."""
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
    """Judge the half width of the 95% interval of A's lead over B in SEEDS, paired by seed."""
    leads = (SEEDS["A"] - SEEDS["B"]).to_numpy()
    _, paired = confidence_interval(leads)
    spread = math.sqrt((SEEDS["A"].var() + SEEDS["B"].var()) / 3)
    named = {
        float(stdtrit(4, 0.975))
        * spread: "This treats A and B as if their seeds differed. Take differences within a seed first.",
        1.96
        * leads.std(ddof=1)
        / math.sqrt(3): "1.96 is for many seeds; with three, Student's t has 2 degrees of freedom.",
        float(stdtrit(2, 0.975))
        * leads.std()
        / math.sqrt(3): "Divide the sum of squares by n - 1: the mean was estimated too.",
        float(stdtrit(2, 0.975))
        * leads.std(ddof=1): "This is for one single seed, not for the mean: divide by sqrt(3).",
        leads.std(ddof=1): "This is the standard deviation; an interval needs Student's t and sqrt(3).",
        float(leads.mean()): "This is the lead itself; give the half width of its interval.",
    }
    for value, message in named.items():
        if abs(answer - value) < max(0.02, 0.01 * value):
            return wrong(message)
    if abs(answer - paired) < 0.02:
        return right(
            "Seeds differ by 17 points, leads by 1.5: within a seed both arms have the same clients and delays."
        )
    return wrong("This is not the paired interval, nor one of the usual mistakes. The three leads are 3, 4 and 2.5.")


@check
def check_final(answer: Callable[[np.ndarray, np.ndarray], float]) -> Verdict:
    """Judge a function (sim_time, accuracy) that returns the mean accuracy over the last 5% of simulated time."""
    time, accuracy = CURVE["sim_time"].to_numpy(), CURVE["accuracy"].to_numpy()
    given = one_number(answer(time.copy(), accuracy.copy()))
    wanted = summarise(CURVE, time[-1])
    named = {
        wanted[
            "best_accuracy"
        ]: "This is the best evaluation. It picks the luckiest one, and more evaluations make it higher.",
        wanted["last_accuracy"]: "This is the last evaluation alone: one point of a curve that goes up and down.",
        float(accuracy.mean()): "This is the mean over all evaluations, the beginning included.",
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
            f"The best evaluation says {100 * best:.0f} points more, at a time nobody could have chosen in advance."
        )
    return wrong(f"For the curve of the exercise this gives {given:.3f}; look at the evaluations from 28.03 on.")


@check
def check_mean_time(answer: float) -> Verdict:
    """Judge the mean time to the target of TIMES, restricted to END."""
    reached = [time for time in TIMES if time is not None]
    if abs(answer - sum(reached) / len(reached)) < 0.01:
        return wrong("This drops the run that failed: the method that fails most would look fastest.")
    if abs(answer - sum(reached) / len(TIMES)) < 0.01:
        return wrong("This counts the run that never reached the target as if it had taken no time at all.")
    if abs(answer - (sum(reached) + END) / len(TIMES)) < 0.01:
        return right(
            "The third run counts with its end. The true mean is later still, so say '> 14.5, 3 of 4 reached'."
        )
    return wrong("Let the third run count with the last time at which you know that it had not reached the target.")
