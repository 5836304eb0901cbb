"""Progress and host time of long work.

A bar in terminals and notebooks, throttled plain lines elsewhere (logs, CI) and in notebooks that run in a batch.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import TracebackType
from typing import Any

import pandas as pd
from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0
LINES = "FEDREVIVE_PROGRESS_LINES"  # environment variable, set for notebooks in a batch: nobody watches a bar there


class Progress:
    """Counts towards `total` of some `unit` under a `title`; use it as a context manager.

    With `show` False it is silent. Lines and bars go to standard error, so that standard output stays readable by
    programs.
    """

    def __init__(self, title: str, total: int, *, unit: str = "versions", show: bool = True) -> None:
        self.title, self.total, self.count = title, total, 0
        self.status = ""
        self.started = time.monotonic()
        self.next_line = self.started + SECONDS_BETWEEN_LINES
        self.bar: tqdm | None = None
        self.lines = show and not (_in_notebook() or sys.stderr.isatty())
        if show and not self.lines:
            # tqdm.notebook needs ipywidgets, which only notebooks have.
            bar = import_module("tqdm.notebook").tqdm if _in_notebook() else tqdm
            # Given here, because tqdm prints nothing on a terminal that says it has 0 columns and 0 rows.
            width = None if _in_notebook() else min(120, shutil.get_terminal_size().columns)
            self.bar = bar(total=total, desc=title, unit=f" {unit}", ncols=width, nrows=20)

    def advance(self, count: int, status: str) -> None:
        """Say that `count` of the total are done; `status` is shown beside it."""
        step, self.count, self.status = count - self.count, count, status
        if self.bar is not None:
            self.bar.set_postfix_str(status, refresh=False)
            self.bar.update(step)
        elif self.lines and time.monotonic() >= self.next_line:
            self._line()

    def say(self, message: str) -> None:
        """Print `message` on a line of its own."""
        if self.bar is not None:
            self.bar.write(f"{self.title}: {message}", file=sys.stderr)
        elif self.lines:
            print(f"{self.title}: {message}", file=sys.stderr)

    def _line(self) -> None:
        now = time.monotonic()
        self.next_line = now + SECONDS_BETWEEN_LINES
        # Nothing is known about the time left before something is done.
        left = f", {(now - self.started) / self.count * (self.total - self.count):.0f} s left" if self.count else ""
        print(f"{self.title}: {self.count}/{self.total}, {self.status}{left}", file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()
        elif self.lines:
            seconds = time.monotonic() - self.started
            print(f"{self.title}: {self.count}/{self.total}, {self.status}, took {seconds:.0f} s", file=sys.stderr)


def _in_notebook() -> bool:
    if LINES in os.environ:
        return False
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return shell is not None and shell.__class__.__name__ == "ZMQInteractiveShell"


class Timer:
    """Adds up host seconds per part. On a GPU they are those of the launching thread, which may run ahead."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: defaultdict[str, int] = defaultdict(int)

    @contextmanager
    def __call__(self, part: str, calls: int = 1) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - started
        self.calls[part] += calls

    def state_dict(self) -> dict[str, list[Any]]:
        """[seconds, calls] of each part."""
        return {part: [seconds, self.calls[part]] for part, seconds in self.seconds.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Count on from what `state_dict` gave. Raises ValueError if it does not hold numbers."""
        for part, (seconds, calls) in state.items():
            self.seconds[part], self.calls[part] = float(seconds), int(calls)

    def table(self) -> pd.DataFrame:
        """A row per part: `part`, `seconds`, `calls` (for training: jobs)."""
        rows = [(part, seconds, self.calls[part]) for part, seconds in self.seconds.items()]
        return pd.DataFrame(rows, columns=["part", "seconds", "calls"])
