"""What presets are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """title; base: settings of all methods; methods: settings of some; sim_time: budget by schedule.

    A schedule that is not in `sim_time` has the mean durations of 'default', and its budget.
    """

    title: str
    base: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]]
    sim_time: Mapping[str, float]


def server_lr(**by_method: float) -> dict[str, dict[str, Any]]:
    """A server learning rate for each of some methods, which are named with underscores."""
    return {name.replace("_", "-"): {"server": {"lr": lr}} for name, lr in by_method.items()}


BUFFERS_TWO = {
    name: {"federation": {"buffer_size": 2}}
    for name in ("fedbuff", "fedbuff-momentum", "fedbuff-adam", "fadas", "ca2fl", "mifa")
}
