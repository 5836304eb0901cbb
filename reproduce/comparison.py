"""Several methods, several seeds, one table: runs that share draws of clients and delays, and what they add up to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from fedrevive_core.config import RunConfig
from fedrevive_core.presets import METHODS
from fedrevive_core.record import Record, check_free, confidence_interval
from fedrevive_core.validation import ConfigError

TARGET = "0.8"  # accuracy whose time to reach is shown


def run_all(configs: Sequence[RunConfig], out: Path) -> list[Record]:
    """Carry out every configuration, each into `out`/METHOD/seed-S; what is finished there is read, not repeated.

    So an interrupted comparison goes on when the same command is given again. Raises ConfigError if `out` holds a run
    of another configuration.
    """
    from fedrevive_core.simulate import run

    places = [out / config.method / f"seed-{config.seed}" for config in configs]
    finished = {place: Record.load(place) for place in places if (place / "run.json").exists()}
    for config, place in zip(configs, places, strict=True):
        if place in finished and finished[place].config != config:
            differing = ", ".join(config.differences(finished[place].config))
            raise ConfigError(
                f"out = '{place}' holds a run with other settings ({differing}): choose another directory"
            )
    for place in places:
        if place not in finished:
            check_free(place)
    records = []
    for config, place in zip(configs, places, strict=True):
        if place not in finished:
            finished[place] = run(config)
            finished[place].save(place)
        records.append(finished[place])
    return records


def table(records: Sequence[Record]) -> list[dict[str, str]]:
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
                "method": METHODS[method].title if method in METHODS else method,
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
