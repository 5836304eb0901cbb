"""Where a run that may be interrupted keeps what it needs to go on, and where its record goes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from fedrevive_core.errors import ConfigError
from fedrevive_core.files import check_free
from fedrevive_core.records import Record
from reproduce.console import console, print_table, save_figure
from reproduce.reports.text import comparison_table


class Place:
    """The directory `out` of a record, and `out`.partial beside it while there is none yet.

    Raises ConfigError before any work if the one is taken, or if the other does not fit `resume`.
    """

    def __init__(self, out: Path, checkpoint_every: str | None, keep_every: int, resume: bool) -> None:
        self.out, self.partial = check_free(out), out.with_name(out.name + ".partial")
        self.every, self.keep_every = checkpoint_every, keep_every
        self.keeps = resume or checkpoint_every is not None or keep_every > 0
        if self.partial.exists() and not resume:
            raise ConfigError(
                f"'{self.partial}' holds an interrupted run: add --resume to go on, or remove it to start again"
            )
        if resume and not self.partial.exists():
            raise ConfigError(f"--resume: there is no '{self.partial}' to go on from; leave --resume out to start")

    def checkpoints(self) -> dict[str, Any]:
        """The arguments of `run` that say where and when checkpoints are written."""
        return {
            "checkpoints": self.partial if self.keeps else None,
            "checkpoint_every": self.every or 100,
            "keep_every": self.keep_every,
        }

    def finish(self, record: Record, as_json: bool) -> None:
        """Save `record` with its curves and the checkpoints that stay, and say so."""
        from fedrevive_core.plots import plot_accuracy
        from fedrevive_core.simulation import checkpoint

        record.save(self.out)
        if (self.partial / checkpoint.STAYING).exists():
            os.replace(self.partial / checkpoint.STAYING, self.out / checkpoint.STAYING)
        shutil.rmtree(self.partial, ignore_errors=True)
        save_figure(plot_accuracy([record]), self.out / "curves.png")
        if as_json:
            print(json.dumps(record.summary))
        else:
            print_table(f"{record.config.preset}, seed {record.config.seed}", comparison_table([record]))
            console.print(f"Record: {self.out}", soft_wrap=True)
