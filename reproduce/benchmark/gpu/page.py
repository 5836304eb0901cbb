"""The page about a GPU: what holds, what is fastest, and how long the paper's run would take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from fedrevive_core.plots import METHOD_COLOURS, STYLE, Plot
from reproduce.benchmark.gpu.measure import EXECUTORS
from reproduce.reports.html import Illustration, made_with, write_page

NAMES = {"labnet": "LabNet", "convnet": "ConvNet", "labtext": "LabText", "resnet18": "ResNet-18"}


def write_gpu_page(found: dict[str, Any], winners: dict[str, str], path: Path, command: str) -> Path:
    """Write the page about what was `found` (see `Measurement`), and return its path."""
    timed = [row for row in found.get("executors", []) if "rate" in row]
    caption = "Each dot is an executor, checked against the plain one before it was timed; filled: the fastest."
    figures = [Illustration("Client steps a second", caption, plot_executors(timed, winners))] if timed else []
    return write_page(
        path,
        title=f"FedRevive on {found['device']}",
        intro=_intro(found, winners),
        tables=_tables(found, winners),
        illustrations=figures,
        command=command,
        provenance=made_with(found["provenance"]),
    )


def _intro(found: dict[str, Any], winners: dict[str, str]) -> list[str]:
    paragraphs = []
    if found["device"] == "cpu":
        paragraphs.append(
            "Measured on a CPU, to try the command: nothing on this page says anything about a GPU. On a CPU recorded "
            "steps are called, not recorded."
        )
    if found["tiny"]:
        paragraphs.append("At tiny size: the rates are those of the smallest batches, and compare nothing.")
    rows = found.get("devices", [])
    if rows:
        wrong = [row for row in rows if row["problem"]]
        furthest = max((row["apart"] for row in rows if row["apart"] is not None), default=0.0)
        paragraphs.append(
            f"{len(rows)} tiny runs were made here and on the CPU; {len(wrong)} of them differ by more than rounding. "
            f"The largest distance of two models is {furthest:.2g} of the way that they moved."
        )
    run = found.get("run")
    if run is not None:
        paragraphs.append(
            f"{run['versions']} versions of the preset {run['preset']} ({run['data']}) took {run['seconds']:.1f} s. "
            + (
                ""
                if found["tiny"]
                else f"At the pace of their second half, all {run['versions_of_the_paper']:,} versions would take "
                f"{run['projected_minutes']:.0f} minutes."
            )
            + ("" if found["device"] == "cpu" else " Its convolutions are in TF32, as PyTorch does them on a GPU.")
        )
    if winners and found["device"] != "cpu":
        paragraphs.append(
            f"The fastest executor of each model is in {EXECUTORS}. Runs with executor = 'auto' take it where the "
            f"environment variable FEDREVIVE_EXECUTORS names that file."
        )
    if not found["finished"]:
        paragraphs.append("It was stopped before the end: what is missing was not measured.")
    for name in dict.fromkeys(found.get("cut", [])):
        paragraphs.append(f"The time was over before all of '{name}' was done.")
    for name, problem in found.get("failures", {}).items():
        paragraphs.append(f"The part '{name}' failed: {problem}.")
    return paragraphs


def _tables(found: dict[str, Any], winners: dict[str, str]) -> list[tuple[str, str, list[dict[str, str]]]]:
    run = found.get("run") or {"timings": []}
    tables = [
        (
            "Checks",
            "",
            [
                {"check": row["check"], "holds": {True: "yes", False: "no", None: "not on a CPU"}[row["holds"]]}
                for row in found.get("checks", [])
            ],
        ),
        (
            "This device and the CPU",
            "The same tiny run on both, with small models stacked (auto) and with recorded steps (captured). Largest "
            "distance of the global models over the methods, relative to how far they moved.",
            _devices(found.get("devices", [])),
        ),
        (
            "Executors",
            "Apart: distance of a job's result from the plain executor's, relative to how far it moved. Limit: the "
            f"larger of the float32 rates measured here: {_rates(found.get('arithmetic_flops_per_second', {}))}.",
            [_executor(row, winners) for row in found.get("executors", [])],
        ),
        (
            "Distillation",
            "Students a second, from eight teachers in ten steps; captured: the steps are recorded once.",
            [
                {"model": NAMES[row["model"]], "student": row["student"], **_measured(row, "distillations/s")}
                for row in found.get("students", [])
            ],
        ),
        (
            "Other numbers",
            "TF32 and bfloat16 move a job's result by more than rounding. They are never chosen; their effect on "
            "accuracy was not measured.",
            [
                {"model": NAMES[row["model"]], "numbers": row["numbers"], "apart": f"{row['apart']:.1e}"}
                | {"client steps/s": f"{row['rate']:,.4g}"}
                for row in found.get("numbers", [])
            ],
        ),
        (
            "Order in memory",
            "Gradients of a batch of images a second, with channels last (as the package does it) and first.",
            [
                {"model": NAMES[row["model"]], "channels last": f"{row['last']:,.4g}"}
                | {"channels first": f"{row['first']:,.4g}"}
                for row in found.get("formats", [])
            ],
        ),
        (
            "Where the run spends its time",
            "The host's clock: on a GPU work is queued in one part and may be waited for in another.",
            [{name: f"{value:,.4g}" if isinstance(value, float) else str(value) for name, value in row.items()}
             for row in run["timings"]],
        ),
    ]  # fmt: skip
    # Without columns that are empty, such as memory on a CPU.
    return [
        (heading, words, [{name: row[name] for name in row if any(other[name] for other in rows)} for row in rows])
        for heading, words, rows in tables
    ]


def _rates(rates: dict[str, float]) -> str:
    return ", ".join(f"{name} {rate / 1e12:.3g} TFLOP/s" for name, rate in rates.items()) or "none"


def _devices(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """A row for each preset and way of training, over its methods."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["preset"], row["executor"]), []).append(row)
    shown = []
    for (preset, executor), group in groups.items():
        far = [row["apart"] for row in group if row["apart"] is not None]
        problems = "; ".join(f"{row['method']}: {row['problem']}" for row in group if row["problem"])
        shown.append(
            {"preset": preset, "executor": executor, "methods": str(len(group))}
            | {"apart": f"{max(far):.1e}" if far else "", "problems": problems or "none"}
        )
    return shown


def _executor(row: dict[str, Any], winners: dict[str, str]) -> dict[str, str]:
    best = winners.get(row["model"]) == row["executor"]
    share = f"{row['flops'] * row['rate'] / row['limit']:.1%}" if "rate" in row else ""
    return (
        {"model": NAMES[row["model"]], "executor": row["executor"] + (" (fastest)" if best else "")}
        | _measured(row, "client steps/s")
        | {"share of the limit": share}
    )


def _measured(row: dict[str, Any], unit: str) -> dict[str, str]:
    apart, memory = row.get("apart"), row.get("memory_mib")
    return {
        unit: f"{row['rate']:,.4g}" if "rate" in row else row["problem"],
        "apart": "" if apart is None else f"{apart:.1e}",
        "peak memory, MiB": "" if memory is None else f"{memory:,.0f}",
    }


@mpl.rc_context(STYLE)
def plot_executors(rows: list[dict[str, Any]], winners: dict[str, str]) -> Figure:
    """Client steps a second of each executor, one panel for each model."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    groups = [[row for row in rows if row["model"] == model][::-1] for model in models]
    height = 0.9 + sum(0.55 + 0.26 * len(group) for group in groups)
    figure = Plot(figsize=(9, height), layout="constrained")
    panels = figure.subplots(len(models), 1, squeeze=False, height_ratios=[1 + len(group) for group in groups])[:, 0]
    colour = METHOD_COLOURS["fedrevive"]
    for axes, model, group in zip(panels, models, groups, strict=True):
        for number, row in enumerate(group):
            best = winners.get(model) == row["executor"]
            axes.plot([0, row["rate"]], [number, number], color="#c8c8c8", zorder=1)
            axes.plot(row["rate"], number, "o", color=colour, markerfacecolor=colour if best else "white")
        axes.set(yticks=range(len(group)), yticklabels=[row["executor"] for row in group], title=NAMES[model])
        axes.set_xlim(0, 1.05 * max(row["rate"] for row in group))
        axes.set_ylim(-0.7, len(group) - 0.3)
        axes.grid(axis="y", visible=False)
    panels[-1].set_xlabel("client steps a second")
    return figure
