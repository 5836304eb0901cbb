"""One run of a sweep, in a process of its own, from its checkpoint if there is one."""

from __future__ import annotations

import os
import platform
import signal
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any

from fedrevive_core.errors import ConfigError, Interrupted
from fedrevive_core.records import changes, software
from reproduce.sweeps.experiment import Cell


@dataclass(frozen=True)
class CellRun:
    """A cell with the name of its results: `runs/NAME` below the sweep's directory."""

    name: str
    cell: Cell
    checkpoint_every: int  # versions
    planned_by: Mapping[str, Any]  # `software` of the process that planned it; the one that does it has the same
    allow_other_code: bool = False  # also resume what other code began

    def record_path(self, out: Path) -> Path:
        """Where the record is, or will be."""
        return out / "runs" / self.name

    def partial_path(self, out: Path) -> Path:
        """Where the checkpoints are while the run is not finished."""
        return out / "runs" / f"{self.name}.partial"

    def failure_path(self, out: Path) -> Path:
        """The file that says why the run failed."""
        return out / "failures" / f"{self.name}.txt"

    def is_finished(self, out: Path) -> bool:
        """Does its record exist? (A record appears whole or not at all.)"""
        return (self.record_path(out) / "run.json").exists()


def execute(run: CellRun, out: Path) -> str | None:
    """Do `run` and save its record, without the model. Returns what went wrong, or None. Raises Interrupted."""
    from fedrevive_core.simulation import checkpoint
    from fedrevive_core.simulation import simulation as simulate

    partial = run.partial_path(out)
    try:
        if differing := changes(run.planned_by, software()):
            raise ConfigError(
                f"{platform.node()} runs other code than the sweep: {', '.join(differing)}; install the same versions "
                "on every node, and do not change them while a sweep runs"
            )
        record = simulate.run(
            run.cell.config,
            progress=False,
            checkpoints=partial,
            checkpoint_every=run.checkpoint_every,
            allow_other_code=run.allow_other_code,
        )
        record.save(run.record_path(out), with_model=False)
    except Interrupted:
        raise
    except Exception as error:
        # A full disk shows while something is written: one sentence says so, the traceback helps to look closer.
        kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
        return f"{kind}{error}\n\n{traceback.format_exc()}"
    checkpoint.remove(partial)
    return None


def main(run: CellRun, out: Path, parent: Connection) -> None:
    """`execute` as the main function of a process; sends the outcome to `parent`, and ends with it."""
    Thread(target=_obey, args=(parent,), daemon=True).start()
    try:
        parent.send(execute(run, out))
    except Interrupted as stopped:
        sys.exit(128 + stopped.signal)


def _obey(parent: Connection) -> None:
    """Stop the run when `parent` sends something; end at once when it is gone."""
    while True:
        try:
            parent.recv()
        except (EOFError, OSError):
            # Without a checkpoint: a sweep that is started again must not find this run still at work.
            os._exit(1)
        signal.raise_signal(signal.SIGTERM)  # the run writes a checkpoint and raises Interrupted
