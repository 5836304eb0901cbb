"""A few methods on one preset, over a few seeds: a small sweep, whose arms are the methods.

OUT is the directory of a sweep, as sweeps/experiment.py describes it: the records are OUT/runs/METHOD-sSEED-HASH.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from fedrevive_core.config import build, price, sentences
from fedrevive_core.errors import ConfigError, Interrupted
from fedrevive_core.files import writing
from fedrevive_core.records import Record
from reproduce.console import command_line
from reproduce.sweeps.experiment import Experiment, load_experiment

NAME = "comparison"  # of the experiment


def comparison(
    preset: str, methods: Sequence[str], seeds: Sequence[int], schedule: str, settings: Mapping[str, Any]
) -> Experiment:
    """The experiment that compares `methods`. Raises ConfigError for a value that is not allowed or given twice."""
    if len(set(methods)) < len(methods):
        raise ConfigError(f"methods = {list(methods)}: each may be given once")
    for method in methods:  # one sentence about the first problem; a sweep would list every cell
        build(preset, method, seed=min(seeds, default=0), schedule=schedule, overrides=settings)
    scale = {"preset": preset, "schedule": schedule, "seeds": list(seeds), "settings": dict(settings)}
    try:
        return Experiment.model_validate(
            {
                "name": NAME,
                "question": f"How do {', '.join(methods)} compare on {preset}?",
                "notebook": "08_reproduce",
                "scales": {"lab": scale},
                "arms": {method: {"method": method} for method in methods},
            }
        )
    except ValidationError as error:
        raise ConfigError(sentences(Experiment, error)) from None


def run_comparison(experiment: Experiment, out: Path, jobs: int | None, allow_other_code: bool = False) -> list[Record]:
    """Do every run that `out` does not hold yet, `jobs` at a time. Returns the records by method, then seed.

    The longest run begins first, so that the others fill the cores beside it. `jobs`: as `slots` of LocalExecutor.

    Raises ConfigError, before any work, if `out` holds something else or a comparison with other settings. Ends the
    program with exit code 1 if a run fails, and with 128 + its number on a signal.
    """
    from reproduce.sweeps.executors import LocalExecutor
    from reproduce.sweeps.sweep import begun_by, check_out, plan, run_sweep

    _check_same_settings(experiment, out)
    executor = LocalExecutor(out, jobs)
    planned = plan(experiment, "lab", executor.device, begun_by(out) if allow_other_code else None)
    check_out(planned, planned.runs, out, resume=True)
    try:
        runs = sorted(planned.runs, key=lambda run: -price(run.cell.config)["operations"])
        failed = run_sweep(planned, runs, executor, out, Console(stderr=True))
    except Interrupted as stopped:
        print(f"stopped by signal {stopped.signal}; the same command resumes:\n{command_line()}", file=sys.stderr)
        sys.exit(128 + stopped.signal)
    if failed:
        print(
            f"error: {len(failed)} of {len(planned.runs)} runs have failed, {out / 'failures'} says why; "
            f"the same command tries them again:\n{command_line()}",
            file=sys.stderr,
        )
        sys.exit(1)
    return [Record.load(run.record_path(out)) for run in planned.runs]


def _check_same_settings(experiment: Experiment, out: Path) -> None:
    """May `out` get the runs of `experiment`? Methods and seeds may differ from those that it holds already."""
    with writing(out):
        old = None if (out / "sweep.json").exists() else next(out.glob("*/seed-*/run.json"), None)
    if old is not None:
        raise ConfigError(
            f"out = '{out}' holds '{old.parent.relative_to(out)}', as older versions arranged a comparison, which this "
            "version cannot resume: choose another directory"
        )
    if not (out / "experiment.yaml").exists():
        return
    held = load_experiment(out / "experiment.yaml")
    if held.name != NAME:
        return  # check_out refuses it
    method, seed = next(iter(experiment.arms)), experiment.scales["lab"].seeds[0]
    now, then = (
        build(scale.preset, method, seed=seed, schedule=scale.schedule, overrides=scale.settings)
        for scale in (experiment.scales["lab"], held.scales["lab"])
    )
    if now != then:
        raise ConfigError(
            f"out = '{out}' holds runs with other settings ({', '.join(now.differences(then))}): "
            "choose another directory"
        )
