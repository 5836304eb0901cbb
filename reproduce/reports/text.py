"""Tables as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from fedrevive_core.config import method_title
from fedrevive_core.records import Record, confidence_interval


def interval(mean: float, half: float) -> str:
    """'12.3 ± 4.5', or '12.3' if there is no interval."""
    return f"{mean:.1f}" if math.isnan(half) else f"{mean:.1f} ± {half:.1f}"


TARGET = "0.8"  # accuracy whose time to reach is shown


def comparison_table(records: Sequence[Record]) -> list[dict[str, str]]:
    """A row per method, in order of first appearance, over its seeds.

    final %: test accuracy at the end. run mean %: accuracy averaged over simulated time. time to 80%: simulated time to
    that accuracy; seeds that never reach it are counted, not dropped. Each with its 95% interval over seeds (Student's
    t) where there are several. staleness, host seconds: means.
    """
    rows = []
    for method in dict.fromkeys(record.config.method for record in records):
        own = [record for record in records if record.config.method == method]
        times = [record.summary["time_to"][TARGET] for record in own]
        reached = [time for time in times if time is not None]
        missing = f" ({len(reached)} of {len(own)})" if len(reached) < len(own) else ""
        rows.append(
            {
                "method": method_title(method),
                "final %": _interval([100 * record.summary["final_accuracy"] for record in own]),
                "run mean %": _interval([100 * record.summary["mean_accuracy"] for record in own]),
                f"time to {float(TARGET):.0%}": _interval(reached) + missing if reached else "never",
                "staleness": f"{fmean(record.summary['mean_staleness'] for record in own):.1f}",
                "seconds": f"{fmean(record.timings['seconds'].sum() for record in own):.0f}",
            }
        )
    return rows


def _interval(values: Sequence[float]) -> str:
    mean, half = confidence_interval(values)
    return f"{mean:.1f}" if len(values) == 1 else f"{mean:.1f} ± {half:.1f}"


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """The table as Markdown."""
    headings = list(rows[0])
    lines = [headings, ["---"] * len(headings), *([row[heading] for heading in headings] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
