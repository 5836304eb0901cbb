"""Time travel: any arrival of recorded runs, and how a run would have continued under another rule or method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import ipywidgets as ipw
from matplotlib.figure import Figure

from fedrevive_core.config import RunConfig, method_title
from fedrevive_core.plots import plot_arrival, plot_branches
from fedrevive_core.records import Record
from fedrevive_core.widgets.panel import Panel, choice

if TYPE_CHECKING:
    from fedrevive_core.simulation import Simulation


def time_travel(records: Sequence[Record], *, start: float | None = None) -> Panel:
    """A slider through the simulated time of recorded runs, one arrival a step, and a choice of the run.

    Args:
        records: at least one; the steps are the arrivals of the first. start: simulated time shown first; unset shows
            the middle.
    """
    titles = [method_title(record.config.method) for record in records]
    times = records[0].arrivals["sim_time"].tolist()
    start = times[len(times) // 2] if start is None else min(times, key=lambda time: abs(time - start))
    controls = {
        "run": choice("method", list(zip(titles, range(len(records)), strict=True)), 0),
        "sim_time": choice("simulated time", [(f"{time:.2f}", time) for time in times], start),
    }
    return Panel(lambda run, sim_time: plot_arrival(records[run], sim_time), controls, title="Time travel")


class WhatIf(Panel):
    """Choose a version and other settings; a button trains from there and draws the branch beside the others.

    Args:
        simulations: of one run, stopped at different versions (from `Simulation.branched`); they are not modified.
        alternatives: configurations to continue with, by title. record: of the run to its end.

    Training runs in the kernel, with a progress bar; `branches` holds the records made, by title.
    """

    children: tuple[ipw.Widget, ...]

    def __init__(
        self, simulations: Sequence[Simulation], alternatives: Mapping[str, RunConfig], record: Record
    ) -> None:
        self.simulations, self.alternatives, self.record = list(simulations), dict(alternatives), record
        self.branches: dict[str, Record] = {}
        self.button = ipw.Button(description="Branch and train", button_style="primary", icon="code-fork")
        self.bar = ipw.IntProgress(min=0, layout={"width": "20em", "visibility": "hidden"})
        starts = [(f"version {s.server.version}, time {s.now:.2f}", n) for n, s in enumerate(self.simulations)]
        controls = {
            "start": choice("branch at", starts, len(starts) // 2),
            "title": choice("continue with", list(self.alternatives), next(iter(self.alternatives))),
        }
        super().__init__(self._figure, controls, title="What if the server had used other settings?")
        self.children = (*self.children[:-3], ipw.HBox([self.button, self.bar]), *self.children[-3:])
        self.button.on_click(lambda _: self.train())

    def train(self) -> None:
        """Branch as the controls say, train to the end and draw; an error is shown in the panel."""
        simulation, title = self.simulations[self.controls["start"].value], self.controls["title"].value
        self.button.disabled = True
        self.bar.layout.visibility = "visible"
        try:
            name = f"{title}, from version {simulation.server.version}"
            self.branches[name] = branch(simulation, self.alternatives[title], self._show)
        except Exception as error:  # the reader looks at the panel, not at the kernel's log
            self.say(f"Not trained: {type(error).__name__}: {error}", error=True)
        else:
            accuracy = self.branches[name].summary["final_accuracy"]
            self.redraw(f"Trained: {name}. Final accuracy {accuracy:.1%}.")
        finally:
            self.button.disabled = False
            self.bar.layout.visibility = "hidden"

    def _show(self, done: int, total: int) -> None:
        self.bar.max, self.bar.value = total, done
        self.say(f"training: {done} of {total} uploads ...")

    def _figure(self, start: int, title: str) -> Figure:
        return plot_branches(self.record, self.branches, at=self.simulations[start].now, note=f"continue with {title}")


def branch(simulation: Simulation, config: RunConfig, show: Callable[[int, int], None] = lambda *_: None) -> Record:
    """The record of a copy of `simulation` that continues to its end with `config`.

    show: called after each upload with the number of uploads processed since the branch, and of all to process.
    """
    branched = simulation.branched(config)
    first, last = simulation.num_processed, len(branched.timeline.arrivals)
    for _ in branched.steps():
        show(branched.num_processed - first, last - first)
    return branched.run(progress=False)
