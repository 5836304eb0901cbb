"""Models: the statistic probe, the networks that contain it, and the state of a model as one flat vector."""

from __future__ import annotations

from fedrevive_core.models.build import build_model, build_text_model, check_model
from fedrevive_core.models.device import AGREEMENT, Captured, Checked, Executor, reset, to_device
from fedrevive_core.models.probes import StatisticProbe, channel_statistics, observe
from fedrevive_core.models.stacking import call_stacked, max_pool
from fedrevive_core.models.state import StateLayout, seeded
from fedrevive_core.models.text import TextModel

__all__ = [
    "AGREEMENT",
    "Captured",
    "Checked",
    "Executor",
    "StateLayout",
    "StatisticProbe",
    "TextModel",
    "build_model",
    "build_text_model",
    "call_stacked",
    "channel_statistics",
    "check_model",
    "max_pool",
    "observe",
    "reset",
    "seeded",
    "to_device",
]
