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
from fedrevive_core import build
from fedrevive_core.plots import plot_curves
from fedrevive_core.records import confidence_interval, summarise
from fedrevive_notebooks.lessons.exercise import Verdict, a_function, a_number, check, diagnose, elsewhere, one_number
from reproduce.reports.figures import plot_claims
from reproduce.reports.report import Report
from reproduce.reports.report import tables as report_tables
from reproduce.reports.text import interval, markdown
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


def data_of(report: Report) -> str:
    """Return the name of the data set that the runs of a sweep are on."""
    return build(report.experiment.scales[report.scale].preset, "fedrevive").data.name


def to_run_all(report: Report) -> str:
    """Say which runs are missing, with the command for them; empty if none is."""
    experiment, done = report.experiment, len(report.records.runs)
    if not report.missing:
        return ""
    known = experiment.name if experiment.name in shipped() else shown(report.directory / "experiment.yaml")
    command = f"python -m reproduce sweep {known} --scale {report.scale} --out runs/sweeps/{experiment.name}"
    return f"**Missing: {len(report.missing)} of {done + len(report.missing)} runs.** To run all: `{command}`"


def about(report: Report) -> Markdown:
    """Describe what was run: the experiment, its data, its note, and which runs are missing."""
    experiment, runs = report.experiment, report.records.runs
    done = ", ".join(f"`{arm}` ({count})" for arm, count in runs["arm"].value_counts(sort=False).items())
    what = f"Experiment `{experiment.name}` asks: *{experiment.question}* The runs below are at scale `{report.scale}`"
    what += f", on the data set **{data_of(report)}**. Finished: {done}."
    return Markdown("\n\n".join(filter(None, [what, to_run_all(report), experiment.note])))


def last_and_final(report: Report) -> Markdown:
    """Compare the last evaluation of each arm with its final accuracy, each with its interval over seeds."""
    said = []
    for arm, runs in report.records.runs.groupby("arm", sort=False, observed=True):
        last, final = (interval(*confidence_interval(100 * runs[f"{name}_accuracy"])) for name in ("last", "final"))
        said.append(f"`{arm}`: last evaluation {last}, final {final}")
    return Markdown("; ".join(said) + " (%).")


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


@check(a_number)
def check_half_width(answer: float) -> Verdict:
    """Judge the half width of the 95% interval of A's lead over B in SEEDS, paired by seed, to within 0.15."""
    leads = (SEEDS["A"] - SEEDS["B"]).to_numpy()
    _, paired = confidence_interval(leads)
    deviation, t = float(leads.std(ddof=1)), float(stdtrit(2, 0.975))
    spread, t4 = math.sqrt((SEEDS["A"].var() + SEEDS["B"].var()) / 3), float(stdtrit(4, 0.975))
    mistakes = {
        "This treats A and B as if their seeds differed. Take differences within a seed first.": [
            t4 * spread,
            t * spread,
            1.96 * spread,
        ],
        "1.96 is for many seeds; with three, Student's t has 2 degrees of freedom.": [
            1.96 * deviation / math.sqrt(3),
            2 * deviation / math.sqrt(3),
        ],
        "Student's t with 4 degrees of freedom is for two groups; three differences have 2.": t4
        * deviation
        / math.sqrt(3),
        "Divide the sum of squares by n - 1: the mean was estimated too.": t * float(leads.std()) / math.sqrt(3),
        "This is for one single seed, not for the mean: divide by sqrt(3).": t * deviation,
        "You divide by 3; the mean of three has the standard error s / sqrt(3).": t * deviation / 3,
        "This is the standard deviation; an interval needs Student's t and sqrt(3).": deviation,
        "This is the standard error; an interval multiplies it by Student's t.": deviation / math.sqrt(3),
        "This is the lead itself; give the half width of its interval.": float(leads.mean()),
        "This is the whole width; give half of it.": 2 * paired,
    }
    return diagnose(
        paired if abs(answer - paired) <= 0.15 else answer,
        paired,
        mistakes,
        f"It is {paired:.2f}. Seeds differ by {np.ptp(SEEDS['A']):.0f} points, leads by {np.ptp(leads):.1f}: within a "
        "seed both arms have the same clients and delays.",
        tolerance=0.02,
        otherwise=f"This is not the paired interval, nor one of the usual mistakes. The three leads are "
        f"{', '.join(f'{lead:g}' for lead in leads)}.",
    )


@check(a_function)
def check_final(answer: Callable[[np.ndarray, np.ndarray], float]) -> Verdict:
    """Judge a function (sim_time, accuracy) that returns the mean accuracy over the last 5% of simulated time."""
    time, accuracy = CURVE["sim_time"].to_numpy(), CURVE["accuracy"].to_numpy()
    given = one_number(answer(time.copy(), accuracy.copy()))
    wanted = summarise(CURVE, time[-1])
    late, best = time >= 0.95 * time[-1], wanted["best_accuracy"] - wanted["final_accuracy"]
    mistakes = {
        "This is the best evaluation. It picks the luckiest one, and more evaluations make it higher.": wanted[
            "best_accuracy"
        ],
        "This is the last evaluation alone: one point of a curve that goes up and down.": wanted["last_accuracy"],
        "This is the mean over all evaluations, the beginning included.": float(accuracy.mean()),
        "The last 5% of what? Evaluations may be dense; take those with sim_time >= 0.95 of the end.": [
            float(accuracy[-2:].mean()),
            float(accuracy[-3:].mean()),
        ],
        "The comparison is the wrong way round: this is the mean over all times but the last 5%.": float(
            accuracy[~late].mean()
        ),
        "This leaves out the beginning alone; take only the last 5% of the time.": float(
            accuracy[time >= 0.05 * time[-1]].mean()
        ),
        "This is the best of the last 5%; take their mean.": float(accuracy[late].max()),
        "This is the median of the last 5%; take their mean.": float(np.median(accuracy[late])),
        "This is a sum; divide by the number of evaluations in it.": float(accuracy[late].sum()),
        "This is a percentage; give a number between 0 and 1.": 100 * wanted["final_accuracy"],
        "You divide by the number of all evaluations; divide by those in the last 5%.": float(
            accuracy[late].sum() / len(accuracy)
        ),
    }
    praise = f"The best evaluation says {100 * best:.0f} points more, at a time nobody could have chosen in advance."
    start = f"{0.95 * time[-1]:.3f}"
    otherwise = f"For the curve of the exercise this gives {given:.3f}; look at the evaluations from {start} on."
    verdict = diagnose(given, wanted["final_accuracy"], mistakes, praise, otherwise=otherwise)

    def correct(time: np.ndarray, accuracy: np.ndarray) -> float:
        return float(accuracy[time >= 0.95 * time[-1]].mean())

    cases = {
        "a run that ends at 99": (np.arange(100.0), np.linspace(0, 1, 100)),
        "a run with one late evaluation": (np.array([0.0, 1.0, 2.0]), np.array([0.1, 0.5, 0.6])),
    }
    return elsewhere(verdict, answer, correct, cases)


@check(a_number)
def check_mean_time(answer: float) -> Verdict:
    """Judge the mean time to the target of TIMES, restricted to END."""
    reached = [time for time in TIMES if time is not None]
    known = [END if time is None else time for time in TIMES]
    expected = sum(known) / len(TIMES)
    mistakes = {
        "This drops the run that failed: the method that fails most would look fastest.": sum(reached) / len(reached),
        "This counts the run that never reached the target as if it had taken no time at all.": sum(reached)
        / len(TIMES),
        "This is the median; the question is the mean.": [float(np.median(known)), float(np.median(reached))],
        "This is a sum; divide it by the number of runs.": [sum(known), sum(reached)],
        "This divides the time of all four runs by three.": sum(known) / len(reached),
        "This is the end of the runs; three of them were faster.": END,
    }
    praise = f"The third run counts with its end. The true mean is later: say '> {expected:g}, 3 of 4 reached'."
    otherwise = "Let the third run count with the last time at which you know that it had not reached the target."
    return diagnose(answer, expected, mistakes, praise, tolerance=0.01, otherwise=otherwise)
