"""Several methods, several seeds, one table: runs that share draws of clients and delays, and what they add up to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedrevive_core.config import RunConfig
from fedrevive_core.errors import ConfigError
from fedrevive_core.files import check_free
from fedrevive_core.records import Record


def run_all(configs: Sequence[RunConfig], out: Path) -> list[Record]:
    """Carry out every configuration, each into `out`/METHOD/seed-S; what is finished there is read, not repeated.

    So an interrupted comparison goes on when the same command is given again. Raises ConfigError if `out` holds a run
    of another configuration.
    """
    from fedrevive_core.simulation import run

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
