"""The tables of docs/SPEED.md, made from what was measured: `python -m reproduce.benchmark.tables` writes them there.

A block of the document between `<!-- made: NAME -->` and `<!-- end -->` is what `BLOCKS[NAME]` makes of a JSON file.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedrevive_core.records import confidence_interval
from reproduce.benchmark.peers.show import table

ROOT = Path(__file__).parents[2]
DOCUMENT, RESULTS = ROOT / "docs" / "SPEED.md", ROOT / "reproduce" / "results" / "bench"


def bench_table(measured: dict[str, Any]) -> str:
    """Rates and ratios of `python -m reproduce bench`, and what holds for all of them."""
    clock = measured["clock"]
    lines = [
        f"| what, per second of {clock} | workload | here | reference path | ratio (smallest to largest pair) "
        "| ratio by wall time | fraction of the limit |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, workloads in measured["results"].items():
        for name, values in workloads.items():
            if isinstance(values, dict):
                limit = f"{values['fraction_of_limit']:.0%}" if "fraction_of_limit" in values else ""
                ratio = f"{values['ratio']:.2f} ({values['ratio_min']:.2f} to {values['ratio_max']:.2f})"
                cells = [kind.removesuffix("/s"), name, number(values["ours"]), number(values["reference"]), ratio]
                lines.append(f"| {' | '.join([*cells, format(values['ratio_wall'], '.2f'), limit])} |")
    rates = measured["results"]["timeline arrivals/s"].items()
    arrivals = " and ".join(f"{number(rate)} with {clients}" for clients, rate in rates)
    reached = " and ".join(
        f"a {name} reached {rate / 1e9:.0f}" for name, rate in measured["arithmetic_flops_per_second"].items()
    )
    shortened = "Measured with `--quick`: the smallest network, two pairs. " if measured["quick"] else ""
    return "\n".join(
        [
            *lines,
            "",
            f"{shortened}{busy(measured['load'], measured['cores'])} On one thread {reached} GFLOP/s; the whole "
            f"benchmark took {measured['peak_memory_mib'] / 1024:.1f} GiB of memory at its peak. Once its clients are "
            f"set up, the timeline makes {arrivals} arrivals a second.",
        ]
    )


def peers_table(found: dict[str, Any]) -> str:
    """Jobs per second of this package and its peers, and how busy the machine was."""
    loads = [run["load"] for run in found["runs"]]
    return f"{table(found)}\n\n{busy([loads[0], statistics.median(loads)], found['cores'])}"


def accuracy_table(found: dict[str, Any]) -> str:
    """Final accuracy (mean over the run) by both paths, and the differences of the means."""
    lines = ["| seed | here | reference path |", "|---|---|---|"]
    for row in found["runs"]:
        cells = [f"{final:.3f} ({mean:.3f})" for final, mean in zip(row["final"], row["mean"], strict=True)]
        lines.append(f"| {row['seed']} | {' | '.join(cells)} |")
    parts = []
    for key, when in (("final", "at the end"), ("mean", "over the run")):
        mean, half = confidence_interval([100 * (row[key][0] - row[key][1]) for row in found["runs"]])
        parts.append(f"{mean:+.1f} ± {half:.1f} points {when}")
    return "\n".join(
        [*lines, "", f"Differences (here minus reference path; mean and 95% interval): {', '.join(parts)}."]
    )


BLOCKS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "bench": ("cpu.json", bench_table),
    "peers": ("peers.json", peers_table),
    "accuracy": ("accuracy.json", accuracy_table),
}


def busy(load: list[float], cores: int) -> str:
    """A sentence on the machine's load at the start and later on, when the benchmark itself makes 1 of it."""
    if load[0] < 0.5 and load[1] < 1.5:
        return f"The machine ({cores} cores) did nothing else."
    return f"**The machine may have done other work** (load {load[0]:.1f}, then {load[1]:.1f}, on {cores} cores)."


def number(value: float) -> str:
    """`value` with three digits, or whole if it is large."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def made(text: str, results: Path = RESULTS) -> str:
    """`text` with every block made from the files in `results`."""

    def block(match: re.Match[str]) -> str:
        file, make = BLOCKS[match[1]]
        found = json.loads((results / file).read_text(encoding="utf-8"))
        return f"<!-- made: {match[1]} -->\n\n{make(found)}\n\n<!-- end -->"

    return re.sub(r"<!-- made: (\w+) -->\n.*?<!-- end -->", block, text, flags=re.DOTALL)


if __name__ == "__main__":
    DOCUMENT.write_text(made(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
