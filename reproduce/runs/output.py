"""Where the record of a run goes, and the checkpoints of a run that may be interrupted."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrevive_core.errors import ConfigError
from fedrevive_core.files import check_free, check_writable, writing
from reproduce.console import console, print_table, save_figure

if TYPE_CHECKING:
    from fedrevive_core.config import RunConfig
    from fedrevive_core.records import Record


class OutputDirectory:
    """The directory `out` of a record, and `out`.partial beside it, which holds checkpoints until there is a record.

    Raises ConfigError before any work if `out` is taken, or if `out`.partial holds a run and it is not to `resume`.
    """

    def __init__(
        self, out: Path, checkpoint_every: str | None, keep_every: int, resume: bool, allow_other_code: bool
    ) -> None:
        from fedrevive_core.simulation import checkpoint

        named = out if out.name.strip(".") else Path(os.path.realpath(out))  # `.` has no name
        self.out, self.partial = out, named.with_name(named.name + ".partial")
        self.every, self.keep_every, self.allow_other_code = checkpoint_every, keep_every, allow_other_code
        with writing(out):
            self.is_finished = self.was_finished = resume and (out / "run.json").exists()
        if not self.is_finished:
            check_free(out)
        check_writable(self.partial)
        if not resume and checkpoint.list_checkpoints(self.partial):
            raise ConfigError(
                f"'{self.partial}' holds an interrupted run: add --resume to continue it, or remove it to start again"
            )

    def options(self) -> dict[str, Any]:
        """The arguments of `run` that say where and when checkpoints are written, and which may be resumed."""
        return {
            "checkpoints": self.partial,
            "checkpoint_every": self.every or "300s",
            "keep_every": self.keep_every,
            "allow_other_code": self.allow_other_code,
        }

    def finished(self, config: RunConfig) -> Record | None:
        """The record that is there already. Raises ConfigError if it is of another configuration than `config`."""
        from fedrevive_core.records import Record

        if not self.is_finished:
            return None
        record = Record.load(self.out)
        if differing := record.config.differences(config):
            raise ConfigError(
                f"out = '{self.out}' already holds a run, which differs in {differing[0]}: choose another directory"
            )
        return record

    def save(self, record: Record) -> None:
        """Save `record`, unless it is there already, with figures and the kept checkpoints; remove `out`.partial."""
        from fedrevive_core.plots import plot_accuracy, plot_participation
        from fedrevive_core.simulation import checkpoint

        if not self.is_finished:
            record.save(self.out)
        if (self.partial / checkpoint.STAYING).exists():
            shutil.move(self.partial / checkpoint.STAYING, self.out)  # another file system if `out` is a mount point
        checkpoint.remove(self.partial)
        if not (self.out / "curves.png").exists():
            save_figure(plot_accuracy([record]), self.out / "curves.png")
        if len(record.classes) and not (self.out / "heard.png").exists():
            save_figure(plot_participation(record), self.out / "heard.png")


def finish(record: Record, output: OutputDirectory, as_json: bool) -> None:
    """Save the record and print its summary; both also if it was finished before."""
    from reproduce.reports.text import comparison_table

    output.save(record)
    if as_json:
        print(json.dumps(record.summary))
        return
    print_table(f"{record.config.preset}, seed {record.config.seed}", comparison_table([record]))
    how = " (it was finished before; nothing was run)" if output.was_finished else ""
    console.print(f"Record: {output.out}{how}", soft_wrap=True)
