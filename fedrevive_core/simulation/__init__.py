"""A run: the loop over a timeline, and what it needs around it."""

from __future__ import annotations

from fedrevive_core.simulation.build import num_threads, pick_device
from fedrevive_core.simulation.progress import LINES, Progress
from fedrevive_core.simulation.simulation import Simulation, run
from fedrevive_core.simulation.synthesis_trace import SynthesisStart, capture, trace_grid, trace_synthesis

__all__ = [
    "LINES",
    "Progress",
    "Simulation",
    "SynthesisStart",
    "capture",
    "num_threads",
    "pick_device",
    "run",
    "trace_grid",
    "trace_synthesis",
]
