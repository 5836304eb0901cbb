"""Who trains what, when it arrives, and how stale it is. Computed before any training, with NumPy only."""

from __future__ import annotations

from fedrevive_core.timeline.event_loop import simulate_timeline
from fedrevive_core.timeline.timeline import Timeline, expected_staleness, expected_throughput, speed_groups

__all__ = ["Timeline", "expected_staleness", "expected_throughput", "simulate_timeline", "speed_groups"]
