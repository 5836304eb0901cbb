"""Commands that measure and check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fedrevive_core.errors import ConfigError
from reproduce.cli.options import (
    JsonOption,
)
from reproduce.console import print_table, save_figure


def bench(
    out: Annotated[Path, typer.Option("--out", help="JSON file; a figure of the same name (.png) goes beside it.")],
    device: Annotated[str, typer.Option("--device", help="`cpu`, `cuda`, or `auto`: CUDA if there is one.")] = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="Smallest workload, few repeats: half a minute.")] = False,
    accuracy: Annotated[
        bool, typer.Option("--accuracy", help="Compare accuracies instead, three seeds: a quarter of an hour.")
    ] = False,
) -> None:
    """Measure speed against a plain reference path: one client after the other, DataLoader, eager Adam, `.item()`.

    Both run in turn in one process and medians are compared, so that a noisy machine slows both. Example:
    `python -m reproduce bench --device cpu --out build/bench.json`
    """
    from fedrevive_core.simulation import pick_device
    from reproduce.benchmark.bench import accuracies, plot_bench
    from reproduce.benchmark.bench import bench as measure

    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device {device}: must be auto, cpu or cuda")
    out.parent.mkdir(parents=True, exist_ok=True)
    if accuracy:
        found = accuracies(pick_device(device), *(((0,), 40) if quick else ()))
        out.write_text(json.dumps(found, indent=2) + "\n")
        print_table(
            "FedRevive on lab-digits: final accuracy (mean over the run)",
            [
                {"seed": str(row["seed"])}
                | {
                    path: f"{final:.3f} ({mean:.3f})"
                    for path, final, mean in zip(found["order"], row["final"], row["mean"], strict=True)
                }
                for row in found["runs"]
            ],
        )
        return
    measured = measure(pick_device(device), quick=quick)
    out.write_text(json.dumps(measured, indent=2) + "\n")
    save_figure(plot_bench(measured), out.with_suffix(".png"))
    rows = [
        {"what": kind, "workload": name, **{key: f"{value:,.3g}" for key, value in values.items()}}
        for kind, workloads in measured["results"].items()
        for name, values in workloads.items()
        if isinstance(values, dict)
    ]
    columns = ["what", "workload", "ours", "reference", "ratio", "fraction_of_limit"]
    print_table("Rates and ratios", [{column: row.get(column, "") for column in columns} for row in rows])


def doctor(as_json: JsonOption = False) -> None:
    """Say what is installed, which device is used, which data sets are present, and what to do about the rest."""
    from reproduce.doctor import examine

    findings = examine()
    if as_json:
        print(json.dumps(findings, indent=2))
    else:
        print_table("Doctor", findings)
