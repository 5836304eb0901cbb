"""Tables as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from fedrevive_core.config import method_title
from fedrevive_core.records import Record, confidence_interval


def interval(mean: float, half: float, *, lead: bool = False) -> str:
    """'12.3 ± 4.5', or '12.3' if there is no interval; a `lead` with its sign, bold if the interval excludes zero."""
    text = f"{mean:{'+' if lead else ''}.1f}" + ("" if math.isnan(half) else f" ± {half:.1f}")
    return f"**{text}**" if lead and abs(mean) > half else text


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
        time = interval(*confidence_interval(reached)) if reached else "never"
        missing = f" ({len(reached)} of {len(own)})" if 0 < len(reached) < len(own) else ""
        rows.append(
            {
                "method": method_title(method),
                "final %": interval(*confidence_interval([100 * record.summary["final_accuracy"] for record in own])),
                "run mean %": interval(*confidence_interval([100 * record.summary["mean_accuracy"] for record in own])),
                f"time to {float(TARGET):.0%}": time + missing,
                "staleness": f"{fmean(record.summary['mean_staleness'] for record in own):.1f}",
                "seconds": f"{fmean(record.timings['seconds'].sum() for record in own):.0f}",
            }
        )
    return rows


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """The table as Markdown."""
    headings = list(rows[0])
    lines = [headings, ["---"] * len(headings), *([row[heading] for heading in headings] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
