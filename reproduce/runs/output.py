"""Where the record of a run goes, and the checkpoints of a run that may be interrupted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrevive_core.errors import ConfigError
from fedrevive_core.files import check_free, check_writable
from reproduce.console import save_figure

if TYPE_CHECKING:
    from fedrevive_core.records import Record


class OutputDirectory:
    """The directory `out` of a record, and `out`.partial beside it, which holds checkpoints until there is a record.

    Raises ConfigError before any work if `out` is taken, or if `out`.partial does not match `resume`.
    """

    def __init__(self, out: Path, checkpoint_every: str | None, keep_every: int, resume: bool) -> None:
        self.out = check_free(out)
        named = out if out.name.strip(".") else Path(os.path.realpath(out))  # `.` has no name
        self.partial = named.with_name(named.name + ".partial")
        self.every, self.keep_every = checkpoint_every, keep_every
        self.keeps = resume or checkpoint_every is not None or keep_every > 0
        check_writable(self.partial)
        if self.partial.exists() and not resume:
            raise ConfigError(
                f"'{self.partial}' holds an interrupted run: add --resume to continue it, or remove it to start again"
            )
        if resume and not self.partial.exists():
            raise ConfigError(f"--resume: there is no '{self.partial}' to resume from; leave --resume out to start")

    def checkpoints(self) -> dict[str, Any]:
        """The arguments of `run` that say where and when checkpoints are written."""
        return {
            "checkpoints": self.partial if self.keeps else None,
            "checkpoint_every": self.every or 100,
            "keep_every": self.keep_every,
        }

    def save(self, record: Record) -> None:
        """Save `record` with its curves and the kept checkpoints, then remove `out`.partial."""
        from fedrevive_core.plots import plot_accuracy
        from fedrevive_core.simulation import checkpoint

        record.save(self.out)
        if (self.partial / checkpoint.STAYING).exists():
            shutil.move(self.partial / checkpoint.STAYING, self.out)  # another file system if `out` is a mount point
        shutil.rmtree(self.partial, ignore_errors=True)
        save_figure(plot_accuracy([record]), self.out / "curves.png")
