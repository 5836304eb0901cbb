"""A sweep: every cell of an experiment is one run, done once, whatever happens in between.

A run is named by what determines its result (configuration, data, the core's source, kind of device), so a finished one
is never repeated and is shared between the sweeps that lie side by side. Nothing is remembered but what is on disk.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

import fedrevive_core
from fedrevive_core.config import DataConfig, RunConfig
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
from fedrevive_core.records import Record
from reproduce.sweeps.executors import Executor
from reproduce.sweeps.experiment import Cell, Experiment, ScaleName, cells
from reproduce.sweeps.progress import SweepProgress
from reproduce.sweeps.scheduler import run_all
from reproduce.sweeps.worker import CellRun

CORE = Path(fedrevive_core.__file__).parent
# What shows results, or turns names into a configuration, does not determine them.
BESIDE = ("plots/*", "widgets/*", "config/preset*", "config/methods.py", "*/synthesis_trace.py")


@dataclass(frozen=True)
class Sweep:
    """All runs of an experiment at one scale on one kind of device ('cpu' or 'cuda')."""

    experiment: Experiment
    scale: ScaleName
    device: str
    runs: tuple[CellRun, ...]

    def header(self) -> dict[str, Any]:
        """What `sweep.json` holds."""
        listed = [{"run": r.name, "arm": r.cell.arm, "seed": r.cell.seed, "grid": r.cell.grid} for r in self.runs]
        return {
            "experiment": self.experiment.name,
            "scale": self.scale,
            "device": self.device,
            "code": code_hash(),
            "cells": listed,
        }


def plan(experiment: Experiment, scale: ScaleName, device: str) -> Sweep:
    """Name every run. Raises ConfigError listing each cell that cannot be built or whose data is absent."""
    every = experiment.scales[scale].checkpoint_every
    runs, problems = [], []
    for cell in cells(experiment, scale):
        if cell.config.device == "auto":
            cell = Cell(cell.arm, cell.seed, cell.grid, cell.config.model_copy(update={"device": device}))
        federation = cell.config.federation
        try:
            fingerprint = _fingerprint(cell.config.data, federation.num_clients)
        except ConfigError as error:
            problems.append(f"\n  {cell}: {error}")
            continue
        name = f"{cell.arm}-s{cell.seed}-{run_hash(cell.config, fingerprint)}"
        runs.append(CellRun(name, cell, max(1, every // federation.buffer_size)))
    if problems:
        raise ConfigError(f"{experiment.name} at scale {scale} has {len(problems)} invalid cells:{''.join(problems)}")
    return Sweep(experiment, scale, device, tuple(runs))


def run_hash(config: RunConfig, fingerprint: str) -> str:
    """12 hexadecimal digits of what determines a result; `config` names the device."""
    determining = {"config": config.to_dict(), "data": fingerprint, "code": code_hash()}
    return hashlib.sha256(json.dumps(determining, sort_keys=True).encode()).hexdigest()[:12]


@functools.cache
def code_hash() -> str:
    """SHA-256 of the core's source code, without what is BESIDE a run."""
    digest = hashlib.sha256()
    for path in sorted(CORE.rglob("*.py")):
        if any(path.relative_to(CORE).match(pattern) for pattern in BESIDE):
            continue
        digest.update(f"{path.relative_to(CORE)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


@functools.cache
def _fingerprint(data: DataConfig, num_clients: int) -> str:
    import torch

    from fedrevive_core.data import load_federated

    return load_federated(data, num_clients, torch.device("cpu")).fingerprint


def check_out(sweep: Sweep, chosen: Iterable[CellRun], out: Path, *, resume: bool) -> None:
    """May this sweep be written to `out`? Raises ConfigError if not; changes nothing."""
    with writing(out):
        is_new = not (out / "sweep.json").exists()
    if is_new:
        check_free(out)
        if resume:
            raise ConfigError(f"--resume: there is no sweep in '{out}' to resume; leave --resume out to start")
        return
    _check_same(sweep, out)
    check_writable(out)
    if not resume and not all(run.is_finished(out) for run in chosen):
        raise ConfigError(
            f"out = '{out}' holds an unfinished sweep: add --resume to continue it, or choose another directory"
        )


def _check_same(sweep: Sweep, out: Path) -> None:
    """Raise ConfigError if `out` holds another sweep."""
    refuse_links(out)
    held = header(out)
    if (held["experiment"], held["scale"]) != (sweep.experiment.name, sweep.scale):
        raise ConfigError(
            f"out = '{out}' holds the sweep of {held['experiment']} at scale {held['scale']}: choose another directory"
        )


def header(out: Path) -> dict[str, Any]:
    """What `sweep.json` in `out` holds. Raises ConfigError if it cannot be read."""
    try:
        return json.loads((out / "sweep.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{out} does not hold a readable sweep: {error}") from None


@contextmanager
def opened(sweep: Sweep, out: Path) -> Iterator[None]:
    """Hold `out` for this sweep: keep other processes out, describe it, remove what killed ones left half written.

    Raises ConfigError if it cannot be written or another process uses it.
    """
    files = {
        "experiment.yaml": yaml.safe_dump(sweep.experiment.model_dump(mode="json"), sort_keys=False),
        "sweep.json": json.dumps(sweep.header(), indent=2) + "\n",
    }
    with lock(out):
        if (out / "sweep.json").exists():
            _check_same(sweep, out)  # another process may have begun one since
        with writing(out):
            with atomic_directory(out, last="sweep.json") as work:
                for name, text in files.items():
                    (work / name).write_text(text, encoding="utf-8")
            for name in ("runs", "failures"):
                (out / name).mkdir(exist_ok=True)
        for run in sweep.runs:
            if run.is_finished(out):
                shutil.rmtree(run.partial_path(out), ignore_errors=True)
        try:
            yield
        finally:
            remove_unfinished(out / "runs")  # of runs that were killed


def siblings(out: Path) -> dict[str, Path]:
    """Finished runs of the sweeps beside `out`, by the hash in their name."""
    records = (header.parent for header in out.absolute().parent.glob("*/runs/*/run.json"))
    return {
        record.name.rpartition("-")[2]: record
        for record in records
        if not record.name.startswith(".") and record.parent.parent != out.absolute()
    }


def share(runs: Iterable[CellRun], out: Path) -> list[CellRun]:
    """Copy the runs that a sweep beside `out` has finished already. Returns the runs that were copied."""
    known, copied = siblings(out), []
    for run in runs:
        finished = known.get(run.name.rpartition("-")[2])
        if finished is not None and not run.is_finished(out):
            try:
                Record.load(finished).save(run.record_path(out), with_model=False)
            except ConfigError as error:
                print(f"{error}; {run.name} is computed instead", file=sys.stderr)
                continue
            copied.append(run)
    return copied


def run_sweep(sweep: Sweep, chosen: Sequence[CellRun], executor: Executor, out: Path, console: Console) -> list[str]:
    """Do what is unfinished of the `chosen` runs of `sweep`, with its progress on `console`.

    Returns the names of the runs that failed. Raises ConfigError if `out` cannot be written or is in use, and
    Interrupted on a signal to stop.
    """
    with opened(sweep, out):
        copied = share(chosen, out)
        if copied:
            console.print(f"{len(copied)} runs were finished in sweeps beside {out} and are copied", soft_wrap=True)
        done = [run for run in chosen if run.is_finished(out)]
        todo = [run for run in chosen if not run.is_finished(out)]
        with SweepProgress(f"{sweep.experiment.name}, {sweep.scale}", chosen, done, console) as progress:
            return list(run_all(todo, executor, progress.report, progress.tick))
