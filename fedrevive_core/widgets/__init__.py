"""Interactive figures for notebooks. The only part of the core that imports ipywidgets.

Each explorer is one call on the last line of a cell. Moving a control redraws from what is already computed; training
starts only behind a button. Every control works with the keyboard.
"""

from __future__ import annotations

from fedrevive_core.widgets.heard import explore_heard
from fedrevive_core.widgets.panel import Panel, choice, slider
from fedrevive_core.widgets.replay import WhatIf, branch, time_travel
from fedrevive_core.widgets.synthesis import synthesis_microscope
from fedrevive_core.widgets.timeline import explore_timeline, with_stragglers

__all__ = [
    "Panel",
    "WhatIf",
    "branch",
    "choice",
    "explore_heard",
    "explore_timeline",
    "slider",
    "synthesis_microscope",
    "time_travel",
    "with_stragglers",
]
