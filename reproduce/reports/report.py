"""The report of a sweep: its claims beside what was measured, times, costs; as Markdown, HTML and parquet."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fedrevive_core.files import atomic_directory, writing
from fedrevive_core.plots import plot_curves
from reproduce.reports.claims import arms_table, heard_table, judge_claims, said, times_table
from reproduce.reports.figures import plot_claims
from reproduce.reports.html import Illustration, made_with, write_page
from reproduce.reports.text import interval, markdown
from reproduce.sweeps.results import SweepResults, collect, provenance


@dataclass(frozen=True)
class Report(SweepResults):
    """The results of the sweep in `directory`, and the tables made of them."""

    directory: Path
    verdicts: pd.DataFrame
    arms: pd.DataFrame
    times: pd.DataFrame
    heard: pd.DataFrame


def read_report(directory: Path | str) -> Report:
    """Read the sweep in `directory`, packed or not, and judge its claims.

    Raises ConfigError if there is none, or nothing is finished.
    """
    directory = Path(directory)
    results = collect(directory)
    runs = results.records.runs
    return Report(
        **vars(results),
        directory=directory,
        verdicts=judge_claims(results.experiment, results.scale, runs),
        arms=arms_table(runs, results.grid),
        times=times_table(runs, results.grid),
        heard=heard_table(runs, results.grid),
    )


def write_report(directory: Path | str, command: str) -> Path:
    """Write `directory`/report: index.html, report.md and a parquet file for each table. Returns the page.

    Other files in it stay. Raises ConfigError if a link is in `directory`, or it cannot be written.
    """
    directory = Path(directory)
    report = read_report(directory)
    with writing(directory / "report"), atomic_directory(directory / "report", last="index.html") as work:
        _write(report, work, command)
    return directory / "report" / "index.html"


def _write(report: Report, out: Path, command: str) -> None:
    for name in ("verdicts", "arms", "times", "heard"):
        getattr(report, name).to_parquet(out / f"{name}.parquet", index=False)
    intro = _intro(report)
    shown = tables(report)
    sections = [f"# {report.experiment.question}", *intro]
    sections += [f"## {heading}\n\n{caption}\n\n{markdown(rows)}" for heading, caption, rows in shown if rows]
    (out / "report.md").write_text("\n\n".join([*sections, f"`{command}`"]) + "\n", encoding="utf-8")
    illustrations = []
    if report.verdicts.size and report.verdicts["ours"].notna().any():
        caption = "A diamond is the claim, a dot with its 95% interval what was measured; hollow: other data."
        illustrations.append(Illustration("Claims and measurements", caption, plot_claims(report.verdicts)))
    if len(report.arms["at"].unique()) == 1:
        caption = "Mean over seeds, with 95% interval or each seed; an evaluation holds until the next."
        illustrations.append(Illustration("Accuracy over the run", caption, plot_curves(report.records.evaluations)))
    write_page(
        out / "index.html",
        title=report.experiment.question,
        intro=intro,
        tables=shown,
        illustrations=illustrations,
        command=command,
        provenance={
            "experiment": f"{report.experiment.name}, scale {report.scale}",
            **made_with(provenance(report.directory, report.records)),
        },
    )


def _intro(report: Report) -> list[str]:
    experiment, runs = report.experiment, report.records.runs
    seeds = sorted(runs["seed"].unique().tolist())
    what = f"Experiment {experiment.name} at scale {report.scale}"
    paragraphs = [f"{what}: {len(runs)} runs, seeds {', '.join(map(str, seeds))}."]
    if report.missing:
        paragraphs.append(f"Not finished: {_runs(len(report.missing))}, {_shortened(report.missing)}.")
    if report.failures:
        why = "; ".join(f"{name}: {problem}" for name, problem in report.failures.items())
        paragraphs.append(f"Failed: {_runs(len(report.failures))}, {why}.")
    return [*paragraphs, experiment.note] if experiment.note else paragraphs


def _runs(count: int) -> str:
    return f"{count} run" + ("s" if count != 1 else "")


def _shortened(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def tables(report: Report) -> list[tuple[str, str, list[dict[str, str]]]]:
    """Heading, what the columns mean, and rows of text, for each table; columns that say nothing are left out."""
    found = [
        (
            "Claims",
            "Ours: mean and 95% interval over seeds, of the lead within each seed where both arms share it. "
            "Tolerances are ours.",
            [_claim_row(row) for row in report.verdicts.to_dict("records")],
        ),
        (
            "Accuracy",
            "In %, mean and 95% interval. Final: the last 5% of simulated time; best: the best evaluation, which "
            "favours a method that fluctuates; run mean: over simulated time.",
            [
                {"arm": row["arm"], "at": row["at"], "seeds": str(row["num_seeds"])}
                | {
                    heading: interval(100 * row[score], 100 * row[f"{score}_half"])
                    for heading, score in (
                        ("final", "final_accuracy"), ("best", "best_accuracy"), ("run mean", "mean_accuracy"),
                    )
                }
                | {"mean staleness": f"{row['mean_staleness']:.1f}"}
                for row in report.arms.to_dict("records")
            ],
        ),
        (
            "Simulated time to a target",
            "A run that never reaches the target counts with the end of the run; '>' marks such means, as too small.",
            [
                {"arm": row["arm"], "at": row["at"], "target": f"{row['target']:.0%}"}
                | {"reached": f"{row['reached']} of {row['num_seeds']}", "time": time_to(row)}
                for row in report.times.to_dict("records")
            ],
        ),
        (
            "Who was heard",
            "Updates per client in the fastest and the slowest third, and how unequal they are over all clients (Gini, "
            "0: equal). Slow owners' classes: those of whose samples the slowest third holds more than half; their "
            "share of all samples, their share of what the server took in (clients' own, distilled), and the accuracy "
            "on them in the last 5% of simulated time.",
            [
                {"arm": row["arm"], "at": row["at"], "Gini": f"{row['gini']:.2f}"}
                | {f"updates, {name}": f"{row[name]:.1f}" for name in ("fast", "slow")}
                | {"slow owners' classes": f"{row['owned']:.1f}"}
                | {f"{name} %": f"{100 * row[name]:.1f}" for name in ("held", "own", "distilled")}
                | {"accuracy %": _known(row["accuracy"], row["accuracy_half"])}
                for row in report.heard.to_dict("records")
            ],
        ),
        (
            "Costs",
            "Bytes are the parameters of the models sent, 4 each; server seconds are this machine's, the rest is not.",
            [
                {"arm": row["arm"], "at": row["at"], "simulated time": f"{row['sim_time']:.4g}"}
                | {"client steps": f"{row['client_steps']:,.0f}", "server seconds": f"{row['server_seconds']:.1f}"}
                | {"MB up": f"{row['bytes_up'] / 1e6:,.1f}", "MB down": f"{row['bytes_down'] / 1e6:,.1f}"}
                for row in report.arms.to_dict("records")
            ],
        ),
    ]  # fmt: skip
    return [(heading, caption, _trimmed(rows)) for heading, caption, rows in found]


def _known(mean: float, half: float) -> str:
    """An accuracy in %, '' if there is none."""
    return interval(100 * mean, 100 * half) if math.isfinite(mean) else ""


def _trimmed(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Without the columns that are empty in every row."""
    return [{name: row[name] for name in row if any(other[name] for other in rows)} for row in rows]


def _claim_row(row: dict[str, Any]) -> dict[str, str]:
    unit = "%" if row["unit"] == "percent faster" else "points"
    bound = f"{row['bound']} " if row["bound"] else ""
    ours = f"{bound}{interval(row['ours'], row['ours'] - row['low'])}" if math.isfinite(row["ours"]) else ""
    return {
        "claim": said(row),
        "verdict": row["verdict"],
        "source": row["source"],
        "claimed": f"{row['paper']:g} {unit}" if math.isfinite(row["paper"]) else "",
        "ours": f"{ours} {unit}".replace(" ", "\u00a0") if ours else "",
        "seeds": str(row["num_seeds"]) + ("" if row["paired"] or not row["against"] else ", not paired"),
        "against": row["against"],
        "reached": row["reached"],
        "same direction": row["direction"],
        "within tolerance": row["within"] if row["comparable"] else "",
    }


def time_to(row: dict[str, Any]) -> str:
    """A row of the table of times as text: '>' marks a mean that holds runs which never reached the target."""
    if row["reached"] == 0:
        return f"never by {row['horizon']:.4g}"
    return ("> " if row["reached"] < row["num_seeds"] else "") + interval(row["time"], row["half"])
