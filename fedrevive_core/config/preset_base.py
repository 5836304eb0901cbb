"""The class of presets, and settings that several presets share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedrevive_core.config.base import merge


@dataclass(frozen=True)
class Preset:
    """A data set with settings. base: for all methods. methods: for single methods. sim_time: budget by schedule.

    A schedule that is not in `sim_time` has the budget of 'default', because it has the same mean durations. That of
    'devices' is in seconds.
    """

    title: str
    base: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]]
    sim_time: Mapping[str, float]


BUFFERS_TWO = {
    name: {"federation": {"buffer_size": 2}}
    for name in ("fedbuff", "fedbuff-momentum", "fedbuff-adam", "fadas", "ca2fl", "mifa")
}


def method_settings(**rates: float) -> dict[str, dict[str, Any]]:
    """BUFFERS_TWO and server learning rates; methods are named with underscores: fedbuff_adam=0.1."""
    return merge(BUFFERS_TWO, {name.replace("_", "-"): {"server": {"lr": lr}} for name, lr in rates.items()})
