"""The synthesis microscope: one class of one synthesis, its images, losses and votes, step by step.

Everything it shows was computed before by `trace_grid`, so a control only chooses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ipywidgets as ipw
from matplotlib.figure import Figure

from fedrevive_core.plots import plot_trace
from fedrevive_core.records import Switches, Trace
from fedrevive_core.widgets.panel import WIDE, Panel, choice, slider


def synthesis_microscope(grid: Mapping[tuple[int, Switches], Trace], class_names: Sequence[str]) -> Panel:
    """A panel to choose version, class, steps and losses.

    Args:
        grid: traces by version and by which losses are on, from `trace_grid`. class_names: of all classes, in order.
    """
    versions = sorted({version for version, _ in grid})
    num_steps = len(next(iter(grid.values())).images)

    def draw(version: int, label: int, steps: int, feature: bool, hot: bool, adversarial: bool) -> Figure:
        on = (feature, hot, adversarial)
        if not any(on):
            raise ValueError("with no loss there is nothing to optimise: switch at least one on")
        return plot_trace(grid[version, on], label, class_names, steps=steps, on=on)

    controls = {
        "version": choice("version of the model", versions, versions[-1]),
        "label": choice("class", [(name, number) for number, name in enumerate(class_names)], 0),
        "steps": slider("steps", range(num_steps), num_steps - 1),
        "feature": _switch("feature loss L_feat"),
        "hot": _switch("label loss L_hot"),
        "adversarial": _switch("adversarial loss L_adv"),
    }
    return Panel(draw, controls, title="Synthesis microscope")


def _switch(description: str) -> ipw.Checkbox:
    return ipw.Checkbox(description=description, value=True, style=WIDE, indent=True)
