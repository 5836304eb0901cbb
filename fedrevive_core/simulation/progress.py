"""Progress and host time of long work.

A bar in terminals and notebooks, throttled plain lines elsewhere (logs, CI) and in notebooks that run in a batch.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pandas as pd
import tqdm.auto

LINES = "FEDREVIVE_PROGRESS_LINES"  # environment variable, set for notebooks in a batch: nobody watches a bar there
# tqdm.auto has looked whether this is a notebook with widgets.
IN_NOTEBOOK = any(base.__module__ == "tqdm.notebook" for base in tqdm.auto.tqdm.__mro__)


class Progress:
    """Counts towards `total` of some `unit` under a `title`; use it as a context manager.

    With `show` False it is silent. Bars, and lines at least 10 seconds apart, go to standard error, so that standard
    output stays readable by programs.
    """

    def __init__(self, title: str, total: int, *, unit: str = "versions", show: bool = True) -> None:
        kind, look = tqdm.auto.tqdm, dict[str, Any]()
        if sys.stderr.isatty():
            # Given here, because tqdm prints nothing on a terminal that says it has 0 columns and 0 rows.
            look = {"ncols": min(120, shutil.get_terminal_size().columns), "nrows": 20}
        elif not IN_NOTEBOOK or LINES in os.environ:
            text = "{desc}: {n_fmt}/{total_fmt}{postfix}, {elapsed} gone, {remaining} left"
            kind, look = tqdm.tqdm, {"file": _Lines(), "mininterval": 10, "miniters": 1, "bar_format": text}
        self.bar = kind(total=total, desc=title, unit=f" {unit}", disable=not show, **look)

    def advance(self, count: int, status: str) -> None:
        """Say that `count` of the total are done; `status` is shown beside it."""
        self.bar.set_postfix_str(status, refresh=False)
        self.bar.update(count - self.bar.n)

    def say(self, message: str) -> None:
        """Print `message` on a line of its own."""
        if not self.bar.disable:
            self.bar.write(f"{self.bar.desc}: {message}", file=sys.stderr)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *problem: object) -> None:
        self.bar.close()


class _Lines(io.TextIOBase):
    """Standard error for a log: every state of a bar as a line."""

    def write(self, text: str) -> int:
        if text.strip():
            print(text.strip(), file=sys.stderr, flush=True)
        return len(text)


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
