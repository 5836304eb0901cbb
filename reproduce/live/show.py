"""What a live run shows while it lasts: a table in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedrevive_core.simulation import Progress
from reproduce.live.run import LiveRun

REFRESH = 0.5  # seconds


class Show(Protocol):
    """Where a live run is shown."""

    def say(self, words: str) -> None:
        """Print a line of its own."""

    def update(self, run: LiveRun) -> None:
        """Show the present state."""


@contextmanager
def shown(title: str, num_arrivals: int, slowdowns: Sequence[float]) -> Iterator[Show]:
    """Show a run on standard error while the block lasts."""
    if sys.stderr.isatty():
        with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
            yield _Screen(title, slowdowns, live)
    else:
        with Progress(title, num_arrivals, unit="arrivals") as bar:
            yield _Lines(bar)


class _Lines:
    def __init__(self, bar: Progress) -> None:
        self.bar = bar

    def say(self, words: str) -> None:
        self.bar.say(words)

    def update(self, run: LiveRun) -> None:
        self.bar.advance(run.num_processed, f"version {run.version}, accuracy {_accuracy(run):.3f}")


class _Screen:
    def __init__(self, title: str, slowdowns: Sequence[float], live: Live) -> None:
        self.title, self.slowdowns, self.live, self.shown = title, slowdowns, live, 0.0

    def say(self, words: str) -> None:
        self.live.console.print(words, highlight=False, soft_wrap=True)

    def update(self, run: LiveRun) -> None:
        if time.monotonic() - self.shown > REFRESH:
            self.shown = time.monotonic()
            self.live.update(table(self.title, run, self.slowdowns), refresh=True)


def table(title: str, run: LiveRun, slowdowns: Sequence[float]) -> Group:
    """Who works on what, since when and from which version; how stale the last update of each client was."""
    done, log = run.num_processed, run.log
    if log.client:
        left = f", about {(run.num_arrivals - done) * log.now() / done:.0f} s left" if done else ""
        state = f"version {run.version}, accuracy {_accuracy(run):.3f}, {log.now():.0f} s{left}"
        heading = f"{title}: {done} of {run.num_arrivals} arrivals, {state}"
    else:
        heading = f"{title}: the clients start, {len(run.present)} of {len(slowdowns)} are there"
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("client", "slowdown", "works on", "since", "arrivals", "lost", "staleness"):
        grid.add_column(name, justify="left" if name == "works on" else "right")
    arrived = np.array([log.client[job] for job in log.arrivals], dtype=np.int64)
    lost = [log.client[job] for job in log.lost]
    staleness = run.timeline.arrival_staleness
    for client, slowdown in enumerate(slowdowns):
        job = run.at_work.get(client)
        if job is not None:
            base = log.dispatched_after[job] // run.config.federation.buffer_size
            work, since = f"job {job} from version {base}", f"{log.now() - log.dispatched[job]:.1f} s"
        else:
            work, since = ("waits" if client in run.present else "is not there" if log.client else "starts"), ""
        own = np.flatnonzero(arrived == client)
        last = str(staleness[own[-1]]) if len(own) else ""
        grid.add_row(str(client), f"{slowdown:g}", work, since, str(len(own)), str(lost.count(client)), last)
    return Group(Text(heading, style="bold"), grid)


def _accuracy(run: LiveRun) -> float:
    return float(run.recorder.evaluations[-1]["accuracy"]) if run.recorder.evaluations else float("nan")
