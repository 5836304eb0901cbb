"""One run of a sweep: carried out in a process of its own, from its checkpoint if there is one."""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread

from fedrevive_core.errors import ConfigError, Interrupted
from reproduce.sweeps.experiment import Cell


@dataclass(frozen=True)
class Run:
    """A cell with the name of its results: `runs/NAME` below the sweep's directory."""

    name: str
    cell: Cell
    checkpoint_every: int  # versions

    def place(self, out: Path) -> Path:
        """Where the record is, or will be."""
        return out / "runs" / self.name

    def partial(self, out: Path) -> Path:
        """Where the checkpoints are while the run is not finished."""
        return out / "runs" / f"{self.name}.partial"

    def failure(self, out: Path) -> Path:
        """Where it says why the run failed."""
        return out / "failures" / f"{self.name}.txt"

    def is_finished(self, out: Path) -> bool:
        """Is its record there? (A record appears whole or not at all.)"""
        return (self.place(out) / "run.json").exists()


def execute(run: Run, out: Path) -> str | None:
    """Carry out `run` and save its record, without the model; what went wrong, or None. Raises Interrupted."""
    from fedrevive_core.simulation import simulation as simulate

    partial = run.partial(out)
    try:
        record = simulate.run(
            run.cell.config, progress=False, checkpoints=partial, checkpoint_every=run.checkpoint_every
        )
        record.save(run.place(out), with_model=False)
    except Interrupted:
        raise
    except Exception as error:
        # A full disk is found while something is written: one sentence says so, the rest is for whoever looks closer.
        kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
        return f"{kind}{error}\n\n{traceback.format_exc()}"
    shutil.rmtree(partial, ignore_errors=True)
    return None


def main(run: Run, out: Path, outcome: Connection) -> None:
    """`execute` as the main function of a process that ends with its parent."""
    Thread(target=_end_with_parent, daemon=True).start()
    try:
        outcome.send(execute(run, out))
    except Interrupted as stopped:
        sys.exit(128 + stopped.signal)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        # At once, without a checkpoint: whoever starts the sweep again must not find this run still going.
        os._exit(1)
