"""How a sweep is going: a live table on a terminal, throttled plain lines in a log."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import fmean
from types import TracebackType

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from reproduce.sweeps.sweep import Event
from reproduce.sweeps.worker import Run

SECONDS_BETWEEN_LINES = 30.0
COLUMNS = ("done", "running", "failed", "left")


class Board:
    """Counts runs by arm; `report` and `tick` are what `sweep.carry_out` calls."""

    def __init__(self, title: str, runs: Sequence[Run], done: Sequence[Run], slots: int, console: Console) -> None:
        self.title, self.slots, self.console = title, slots, console
        self.arm = {run.name: run.cell.arm for run in runs}
        self.state = dict.fromkeys(self.arm, "left") | {run.name: "done" for run in done}
        self.started: dict[str, float] = {}
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)  # of finished runs, by arm
        self.next_line = time.monotonic() + SECONDS_BETWEEN_LINES
        self.live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Board:
        if self.live is not None:
            self.live.start()
        self._show()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show()
        if self.live is not None:
            self.live.stop()

    def report(self, event: Event) -> None:
        """Count `event`; what went wrong is said at once, in one line."""
        name, now = event.run.name, time.monotonic()
        self.state[name] = {"started": "running", "retried": "left"}.get(event.kind, event.kind)
        if event.kind == "started":
            self.started[name] = now
        elif event.kind == "done":
            self.seconds[self.arm[name]].append(now - self.started[name])
        else:
            first = event.problem.splitlines()[0]
            what = "is tried once more" if event.kind == "retried" else "has failed"
            self.console.print(Text(f"{event.run.cell} {what}: {first}"), soft_wrap=True)
        if self.live is not None or event.kind == "failed":
            self._show()

    def tick(self) -> None:
        """Refresh the table, or print a line now and then."""
        if self.live is not None:
            self._show()
        elif time.monotonic() >= self.next_line:
            self.next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            self._show()

    def seconds_left(self) -> float | None:
        """From runs of the same arm that have ended, or of any if none has; None before the first."""
        everything = [seconds for own in self.seconds.values() for seconds in own]
        if not everything:
            return None
        now, total = time.monotonic(), 0.0
        for name, state in self.state.items():
            if state in ("left", "running"):
                expected = fmean(self.seconds.get(self.arm[name]) or everything)
                total += max(0.0, expected - (now - self.started[name] if state == "running" else 0.0))
        return total / self.slots

    def _show(self) -> None:
        counts = Counter(self.state.values())
        left = self.seconds_left()
        ahead = counts["left"] + counts["running"] > 0
        until = f", about {duration(left)} left" if ahead and left is not None else ""
        if self.live is None:
            line = ", ".join(f"{counts[column]} {column}" for column in COLUMNS)
            self.console.print(Text(f"{self.title}: {line}{until}"), soft_wrap=True)
            return
        table = Table(title=self.title + until, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("arm")
        for column in COLUMNS:
            table.add_column(column, justify="right")
        for arm in dict.fromkeys(self.arm.values()):
            own = Counter(state for name, state in self.state.items() if self.arm[name] == arm)
            table.add_row(arm, *(str(own[column]) for column in COLUMNS))
        table.add_row("all", *(str(counts[column]) for column in COLUMNS), style="bold")
        self.live.update(table, refresh=True)


def duration(seconds: float) -> str:
    """'40 s', '12 min' or '3.5 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
