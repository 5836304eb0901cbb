"""What is asked of a live run, checked before anything is started."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrevive_core.config import RunConfig, build, check_price
from fedrevive_core.errors import ConfigError

SET_BY = {"num_clients": "--clients", "max_versions": "--arrivals", "timeline": "--out", "schedule": "the clients"}


def live_config(
    preset: str, method: str, seed: int, clients: int, arrivals: int, out: Path, settings: Mapping[str, Any]
) -> RunConfig:
    """The configuration of a run with real clients that ends after that number of arrivals.

    All clients work all the time unless `settings` have a lower federation.concurrency. The record in `out` will hold
    the timeline, so the configuration names it. Clients train one by one, each on one thread of a CPU.
    """
    for name, option in SET_BY.items():
        if f"federation.{name}" in settings:
            raise ConfigError(
                f"federation.{name} = {settings[f'federation.{name}']!r}: {option} says that in a live run"
            )
    if settings.get("executor", "single") != "single":
        raise ConfigError(
            f"executor = {settings['executor']!r}: real clients train one job at a time, so a repetition must, too: "
            "leave it out"
        )
    chosen: dict[str, Any] = {
        "federation.num_clients": clients,
        "federation.concurrency": clients,
        "federation.timeline": str(out),
        "federation.max_sim_time": None,
        "executor": "single",
        "device": "cpu",
        "num_threads": 1,
        **settings,
    }
    asked = build(preset, method, seed=seed, overrides=chosen)
    federation, teacher = asked.federation, asked.training.lesson.source
    if teacher != "none":
        raise ConfigError(
            f"training.lesson.teacher = '{teacher}': real clients are sent one model, so nobody can teach them: choose "
            "another method, or set it to none"
        )
    if any(federation.faults.probabilities):
        raise ConfigError("federation.faults are for simulated clients: leave them out, and end a process instead")
    versions = arrivals // federation.buffer_size
    if versions == 0:
        raise ConfigError(
            f"arrivals = {arrivals} is not enough for one version, which takes federation.buffer_size = "
            f"{federation.buffer_size}: ask for more"
        )
    config = build(preset, method, seed=seed, overrides={**chosen, "federation.max_versions": versions})
    check_price(config, versions * federation.buffer_size + federation.concurrency)
    return config


def parse_slowdowns(text: str, clients: int) -> list[float]:
    """Factors from a comma-separated list, repeated until every client has one."""
    factors = []
    for part in text.split(","):
        try:
            factor = float(part)
        except ValueError:
            factor = math.nan
        if not 1 <= factor <= 1e6:
            raise ConfigError(
                f"--slowdown {text}: must be numbers from 1 to 1000000, separated by commas, not {part!r}"
            )
        factors.append(factor)
    if len(factors) > clients:
        raise ConfigError(f"--slowdown {text}: {len(factors)} factors for {clients} clients: give at most one for each")
    return [factors[client % len(factors)] for client in range(clients)]
