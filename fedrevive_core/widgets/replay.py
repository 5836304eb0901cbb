"""Time travel: any moment of recorded runs, and what would have come of it under another rule or method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import ipywidgets as ipw
from matplotlib.figure import Figure

from fedrevive_core.config import RunConfig, method_title
from fedrevive_core.plots import plot_arrival, plot_branches
from fedrevive_core.records import Record
from fedrevive_core.widgets.panel import LAYOUT, WIDE, Panel, choice

if TYPE_CHECKING:
    from fedrevive_core.simulation import Simulation


def time_travel(records: Sequence[Record], *, start: float | None = None) -> Panel:
    """A slider through the simulated time of recorded runs, one arrival at a step, and a choice of the run.

    Args:
        records: at least one; the steps are the arrivals of the first. start: simulated time shown first; unset shows
            the middle.
    """
    titles = [method_title(record.config.method) for record in records]
    times = records[0].arrivals["sim_time"].tolist()
    start = times[len(times) // 2] if start is None else min(times, key=lambda time: abs(time - start))
    moment = ipw.SelectionSlider(
        description="simulated time",
        options=[(f"{time:.2f}", time) for time in times],
        value=start,
        continuous_update=False,
        style=WIDE,
        layout=LAYOUT,
    )
    return Panel(
        lambda run, sim_time: plot_arrival(records[run], sim_time),
        {"run": choice("method", list(zip(titles, range(len(records)), strict=True)), 0), "sim_time": moment},
        title="Time travel",
    )


class WhatIf(Panel):
    """Choose a moment and another way to go on; a button trains from there and draws the branch beside the others.

    Args:
        moments: simulations that stand at different moments of one run (from `Simulation.branched`); they are left as
            they are. alternatives: configurations to go on with, by title. record: the run to its own end.

    Training runs in the kernel while the bar shows how far it is; `branches` holds the records made, by title.
    """

    children: tuple[ipw.Widget, ...]

    def __init__(self, moments: Sequence[Simulation], alternatives: Mapping[str, RunConfig], record: Record) -> None:
        self.moments, self.alternatives, self.record = list(moments), dict(alternatives), record
        self.branches: dict[str, Record] = {}
        self.button = ipw.Button(description="Branch and train", button_style="primary", icon="code-fork")
        self.bar = ipw.IntProgress(min=0, layout={"width": "20em", "visibility": "hidden"})
        places = [(f"version {m.server.version}, time {m.now:.2f}", n) for n, m in enumerate(self.moments)]
        controls = {
            "moment": choice("branch at", places, len(places) // 2),
            "title": choice("go on with", list(self.alternatives), next(iter(self.alternatives))),
        }
        super().__init__(self._figure, controls, title="What if the server had changed its ways?")
        self.children = (*self.children[:-2], ipw.HBox([self.button, self.bar]), *self.children[-2:])
        self.button.on_click(lambda _: self.train())

    def train(self) -> None:
        """Branch as the controls say, train to the end and draw; an error is shown in the panel."""
        moment, title = self.moments[self.controls["moment"].value], self.controls["title"].value
        self.button.disabled = True
        self.bar.layout.visibility = "visible"
        try:
            name = f"{title}, from version {moment.server.version}"
            self.branches[name] = branch(moment, self.alternatives[title], self._show)
        except Exception as error:  # whatever it is, it belongs where the reader looks
            self.say(f"Not trained: {type(error).__name__}: {error}", error=True)
        else:
            self.redraw()
        finally:
            self.button.disabled = False
            self.bar.layout.visibility = "hidden"

    def _show(self, done: int, total: int) -> None:
        self.bar.max, self.bar.value = total, done
        self.say(f"training: {done} of {total} uploads ...")

    def _figure(self, moment: int, title: str) -> Figure:
        return plot_branches(self.record, self.branches, at=self.moments[moment].now, note=f"go on with {title}")


def branch(moment: Simulation, config: RunConfig, show: Callable[[int, int], None] = lambda *_: None) -> Record:
    """The record of `moment` gone on with as `config` says; `show` is told how many uploads are done, of how many."""
    import torch  # here, because time travel does without

    threads = torch.get_num_threads()
    torch.set_num_threads(config.num_threads or threads)
    try:
        simulation = moment.branched(config)
        first, last = moment.num_processed, len(simulation.timeline.arrivals)
        for _ in simulation.steps():
            show(simulation.num_processed - first, last - first)
        return simulation.run(progress=False)
    finally:
        torch.set_num_threads(threads)
