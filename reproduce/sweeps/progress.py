"""The progress of a sweep: bars on a terminal, throttled plain lines in a log."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from reproduce.sweeps.scheduler import Event
from reproduce.sweeps.worker import CellRun

SECONDS_BETWEEN_LINES = 30.0


class SweepProgress:
    """Counts runs, in all and by arm; `report` and `tick` are what `run_all` calls."""

    def __init__(self, title: str, runs: Sequence[CellRun], done: Sequence[CellRun], console: Console) -> None:
        self.title, self.console = title, console
        columns = TextColumn("{task.fields[running]} running, {task.fields[failed]} failed")
        self.bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), columns, TimeRemainingColumn(),
            console=console, disable=not console.is_terminal, refresh_per_second=2,
            speed_estimate_period=math.inf,  # seconds; a run may take hours
        )  # fmt: skip
        self.all = self._add(title, len(runs), len(done))
        total, finished = (Counter(run.cell.arm for run in some) for some in (runs, done))
        self.arms = {arm: self._add(f"  {arm}", total[arm], finished[arm]) for arm in total}
        self.next_line = time.monotonic() + SECONDS_BETWEEN_LINES

    def _add(self, title: str, total: int, done: int) -> TaskID:
        return self.bars.add_task(title, start=False, total=total, completed=done, running=0, failed=0)

    def __enter__(self) -> SweepProgress:
        self.bars.start()
        self._line()
        return self

    def __exit__(self, *error: object) -> None:
        self._line()
        if not self.bars.disable:  # an older rich ends even bars that are not shown with an empty line
            self.bars.stop()

    def report(self, event: Event) -> None:
        """Count `event`; a problem is printed at once, in one line."""
        for key in (self.all, self.arms[event.run.cell.arm]):
            task = self.bars.tasks[key]
            if event.kind == "started" and task.start_time is None:
                self.bars.start_task(key)
                self.bars.advance(key, 0)  # time is measured from here on
            running = task.fields["running"] + (1 if event.kind == "started" else -1)
            self.bars.update(key, running=running, failed=task.fields["failed"] + (event.kind == "failed"))
            if event.kind == "done":
                self.bars.advance(key)
        if event.problem:
            what = "is tried once more" if event.kind == "retried" else "has failed"
            first = event.problem.splitlines()[0]
            self.bars.console.print(Text(f"{event.run.cell} {what}: {first}"), soft_wrap=True)

    def tick(self) -> None:
        """Print a line now and then where no bars are shown."""
        if time.monotonic() >= self.next_line:
            self._line()

    def _line(self) -> None:
        self.next_line = time.monotonic() + SECONDS_BETWEEN_LINES
        if not self.bars.disable:
            return
        task = self.bars.tasks[self.all]
        waiting = int(task.remaining or 0) - task.fields["running"] - task.fields["failed"]
        counts = {"done": int(task.completed)} | task.fields | {"waiting": waiting}
        line = ", ".join(f"{count} {what}" for what, count in counts.items())
        left = task.time_remaining
        until = f", about {duration(left)} left" if left and task.remaining else ""
        self.console.print(Text(f"{self.title}: {line}{until}"), soft_wrap=True)


def duration(seconds: float) -> str:
    """'40 s', '12 min' or '3.5 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
