"""Several methods, several seeds, one table: runs that share draws of clients and delays, and what they add up to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fedrevive_core.config import RunConfig
from fedrevive_core.presets import METHODS
from fedrevive_core.record import Record, check_free, confidence_interval
from fedrevive_core.validation import ConfigError

# Columns of the table: key in `Record.summary`, heading, format.
COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("final_accuracy", "final accuracy", "{:.3f}".format),
    ("mean_accuracy", "mean over the run", "{:.3f}".format),
    ("mean_staleness", "mean staleness", "{:.1f}".format),
    ("num_versions", "versions", "{:.0f}".format),
)
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
    """A row per method, in order of first appearance: title, seeds, and each of COLUMNS as mean or mean +- interval.

    The interval is the 95% interval over seeds (Student's t); with one seed there is none.
    """
    rows = []
    for method in dict.fromkeys(record.config.method for record in records):
        own = [record for record in records if record.config.method == method]
        row = {"method": METHODS[method].title if method in METHODS else method, "seeds": str(len(own))}
        for key, heading, show in COLUMNS:
            row[heading] = _interval([record.summary[key] for record in own], show)
        times = [record.summary["time_to"][TARGET] for record in own]
        reached = [time for time in times if time is not None]
        # Seeds that never reach it are counted, not dropped.
        missing = f" ({len(reached)} of {len(own)})" if len(reached) < len(own) and len(own) > 1 else ""
        row[f"time to {TARGET}"] = (_interval(reached, "{:.1f}".format) if reached else "never") + missing
        row["seconds"] = _interval([float(record.timings["seconds"].sum()) for record in own], "{:.0f}".format)
        rows.append(row)
    return rows


def _interval(values: Sequence[float], show: Callable[[float], str]) -> str:
    mean, half = confidence_interval(values)
    return show(mean) if len(values) == 1 else f"{show(mean)} ± {show(half)}"


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """The table as Markdown."""
    headings = list(rows[0])
    lines = [headings, ["---"] * len(headings), *([row[heading] for heading in headings] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
