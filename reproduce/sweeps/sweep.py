"""A sweep: every cell of an experiment is one run, done once, whatever happens in between.

A run is named by what determines its result (configuration, data, the core's source, kind of device), so a finished one
is never repeated and is shared between the sweeps that lie side by side. Nothing is remembered but what is on disk.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from fedrevive_core.config import DataConfig, RunConfig, check_price
from fedrevive_core.errors import ConfigError
from fedrevive_core.files import (
    atomic_directory,
    check_free,
    check_writable,
    lock,
    refuse_links,
    remove_unfinished,
    writing,
)
from fedrevive_core.records import OTHER_CODE, Record, changes, code_hash, software
from reproduce.sweeps import plain_yaml
from reproduce.sweeps.executors import Executor
from reproduce.sweeps.experiment import Cell, Experiment, ScaleName, cells
from reproduce.sweeps.progress import SweepProgress
from reproduce.sweeps.scheduler import run_all
from reproduce.sweeps.sweep_file import header
from reproduce.sweeps.worker import CellRun

SHARDS = "shards"  # in the sweep's directory: a directory for each shard, with its lock
SECONDS = 60.0  # for which a shard waits while others begin


@dataclass(frozen=True)
class Sweep:
    """All runs of an experiment at one scale on one kind of device ('cpu' or 'cuda').

    begun_by: `software` that began it and is in the names of its runs.
    """

    experiment: Experiment
    scale: ScaleName
    device: str
    begun_by: Mapping[str, Any]
    runs: tuple[CellRun, ...]

    def header(self) -> dict[str, Any]:
        """What `sweep.json` holds."""
        listed = [{"run": r.name, "arm": r.cell.arm, "seed": r.cell.seed, "grid": r.cell.grid} for r in self.runs]
        return {
            "experiment": self.experiment.name,
            "scale": self.scale,
            "device": self.device,
            **self.begun_by,
            "cells": listed,
        }


@dataclass(frozen=True)
class Shard:
    """Part `number` (from 1) of `count` parts of a sweep, for as many jobs that know nothing of each other."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}-of-{self.count}"

    def of(self, runs: Sequence[CellRun]) -> list[CellRun]:
        """Its runs: every `count`-th, so that each part gets equally many of every arm."""
        return list(runs[self.number - 1 :: self.count])


def plan(experiment: Experiment, scale: ScaleName, device: str, begun_by: Mapping[str, Any] | None = None) -> Sweep:
    """Name every run, as `begun_by` does, which may be other code; None is this code.

    Raises ConfigError listing each cell that cannot be built or whose data is absent.
    """
    every, here = experiment.scales[scale].checkpoint_every, software()
    begun = begun_by or here
    runs, problems = [], []
    for cell in cells(experiment, scale):
        if cell.config.device == "auto":
            cell = Cell(cell.arm, cell.seed, cell.grid, cell.config.model_copy(update={"device": device}))
        federation = cell.config.federation
        try:
            check_price(cell.config)
            fingerprint = _fingerprint(cell.config.data, federation.num_clients)
        except ConfigError as error:
            problems.append(f"\n  {cell}: {error}")
            continue
        name = f"{cell.arm}-s{cell.seed}-{run_hash(cell.config, fingerprint, begun['code'])}"
        runs.append(CellRun(name, cell, max(1, every // federation.buffer_size), here, begun_by is not None))
    if problems:
        raise ConfigError(f"{experiment.name} at scale {scale} has {len(problems)} invalid cells:{''.join(problems)}")
    return Sweep(experiment, scale, device, begun, tuple(runs))


def run_hash(config: RunConfig, fingerprint: str, code: str | None = None) -> str:
    """12 hexadecimal digits of what determines a result; `config` names the device. code: unset takes the present."""
    determining = {"config": config.to_dict(), "data": fingerprint, "code": code or code_hash()}
    return hashlib.sha256(json.dumps(determining, sort_keys=True).encode()).hexdigest()[:12]


def begun_by(out: Path) -> dict[str, Any] | None:
    """The `software` that began the sweep in `out`; None if there is none."""
    if not (out / "sweep.json").exists():
        return None
    held = header(out)
    return {"code": held.get("code", ""), "versions": held.get("versions", {})}


@functools.cache
def _fingerprint(data: DataConfig, num_clients: int) -> str:
    import torch

    from fedrevive_core.data import load_federated

    return load_federated(data, num_clients, torch.device("cpu")).fingerprint


def check_out(sweep: Sweep, chosen: Iterable[CellRun], out: Path, *, resume: bool) -> None:
    """May this sweep be written to `out`? Raises ConfigError if not; changes nothing."""
    with writing(out):
        begun = begun_by(out)
    if begun is None:
        check_free(out)
        return
    refuse_links(out)
    check_writable(out)
    held = header(out)
    if (held["experiment"], held["scale"]) != (sweep.experiment.name, sweep.scale):
        raise ConfigError(
            f"out = '{out}' holds the sweep of {held['experiment']} at scale {held['scale']}: choose another directory"
        )
    if begun != sweep.begun_by and (differing := changes(begun, software())):
        raise ConfigError(f"out = '{out}' holds a sweep that other code began: {', '.join(differing)}; {OTHER_CODE}")
    if not resume and not all(run.is_finished(out) for run in chosen):
        raise ConfigError(
            f"out = '{out}' holds an unfinished sweep: add --resume to continue it, or choose another directory"
        )


@contextmanager
def opened(sweep: Sweep, out: Path, shard: Shard | None = None) -> Iterator[None]:
    """Hold `out` for this sweep: describe it, keep other processes out, remove what killed ones left half written.

    With `shard`, only that part of it is held, and other shards of as many may work in `out` at the same time.
    Raises ConfigError if it cannot be written or another process uses it.
    """
    from fedrevive_core.simulation import checkpoint

    files = {
        "experiment.yaml": plain_yaml.dump(sweep.experiment.model_dump(mode="json")),
        "sweep.json": json.dumps(sweep.header(), indent=2) + "\n",
    }
    with ExitStack() as whole, ExitStack() as part:
        whole.enter_context(lock(out, SECONDS if shard else 0))
        alone = not _other_shards(out, shard)
        check_out(sweep, (), out, resume=True)  # another process may have begun one since
        if shard:
            part.enter_context(lock(out / SHARDS / str(shard)))
        with writing(out):
            with atomic_directory(out, last="sweep.json") as work:
                for name, text in files.items():
                    (work / name).write_text(text, encoding="utf-8")
            for name in ("runs", "failures"):
                (out / name).mkdir(exist_ok=True)
        for run in sweep.runs if alone else ():
            if run.is_finished(out):
                checkpoint.remove(run.partial_path(out))
        if alone:
            remove_unfinished(out / "runs")
        if shard:
            whole.close()
        else:
            part.callback(remove_unfinished, out / "runs")  # of runs that are killed
        yield


def _other_shards(out: Path, shard: Shard | None) -> list[Path]:
    """Shards of `out` that other processes work on. Raises ConfigError if they and this one exclude each other."""
    live = []
    for other in sorted((out / SHARDS).glob("*-of-*")):
        try:
            with lock(other):
                pass
        except ConfigError:
            if shard is None or other.name == str(shard) or not other.name.endswith(f"-of-{shard.count}"):
                raise
            live.append(other)
    return live


def siblings(out: Path) -> dict[str, Path]:
    """Finished runs of the sweeps beside `out`, by the hash in their name."""
    records = (header.parent for header in out.absolute().parent.glob("*/runs/*/run.json"))
    return {
        record.name.rpartition("-")[2]: record
        for record in records
        if not record.name.startswith(".") and record.parent.parent != out.absolute()
    }


def share(runs: Iterable[CellRun], out: Path) -> list[CellRun]:
    """Copy the runs that a sweep beside `out` has finished already. Returns the runs that were copied.

    A run is taken if its tables fit its certificate, and its configuration, its data and this code give its name.
    """
    known, copied = siblings(out), []
    for run in runs:
        digits = run.name.rpartition("-")[2]
        finished = known.get(digits)
        if finished is not None and not run.is_finished(out):
            try:
                record = Record.load(finished)
                if run_hash(record.config, record.provenance.get("data_sha256", "")) != digits:
                    raise ConfigError(f"{finished} holds another run than its name says")
                if "certificate" not in record.summary:
                    raise ConfigError(f"{finished} has no certificate")
                if any(changes(part, software()) for part in record.provenance.get("segments") or [{}]):
                    raise ConfigError(f"{finished} was made by other code")
                record.save(run.record_path(out), with_model=False)
            except ConfigError as error:
                print(f"{error}; {run.name} is computed instead", file=sys.stderr)
                continue
            copied.append(run)
    return copied


def run_sweep(
    sweep: Sweep,
    chosen: Sequence[CellRun],
    executor: Executor,
    out: Path,
    console: Console,
    shard: Shard | None = None,
) -> list[str]:
    """Do what is unfinished of the `chosen` runs of `sweep`, with its progress on `console`.

    Returns the names of the runs that failed. Raises ConfigError if `out` cannot be written or is in use, and
    Interrupted on a signal to stop.
    """
    with opened(sweep, out, shard):
        copied = share(chosen, out)
        if copied:
            console.print(f"{len(copied)} runs were finished in sweeps beside {out} and are copied", soft_wrap=True)
        done = [run for run in chosen if run.is_finished(out)]
        todo = [run for run in chosen if not run.is_finished(out)]
        with SweepProgress(f"{sweep.experiment.name}, {sweep.scale}", chosen, done, console) as progress:
            return list(run_all(todo, executor, progress.report, progress.tick))
