"""The results of a sweep so far, read from its records; or packed into a few small files to commit or send.

A packed sweep holds what tables and figures need, and no records of single runs with their samples and arrivals:

    experiment.yaml, sweep.json    as the sweep has them
    runs.parquet                   a row per finished run: arm, seed, grid, summary, host seconds, costs
    evaluations.parquet            run, arm, seed, grid, version, sim_time, num_arrivals, accuracy
    provenance.json                versions, device and commit of its first run
    failures/                      as the sweep has them
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fedrevive_core.config import RunConfig
from fedrevive_core.errors import ConfigError
from fedrevive_core.files import atomic_directory, check_free, refuse_links, writing
from fedrevive_core.records import check_file, read_json
from fedrevive_core.timeline import simulate_timeline
from reproduce.sweeps.collection import Records, load_many
from reproduce.sweeps.experiment import Experiment, ScaleName, load_experiment, scale_of
from reproduce.sweeps.sweep import header

BYTES = 4  # of a parameter
CURVE = ["run", "arm", "seed", "version", "sim_time", "num_arrivals", "accuracy"]


@dataclass(frozen=True)
class SweepResults:
    """The results of a sweep so far; `records` holds its finished runs, with arm, grid and costs as columns.

    A packed one has no arrivals.
    """

    experiment: Experiment
    scale: ScaleName
    records: Records
    missing: list[str]  # runs that are not finished
    failures: dict[str, str]  # why, in one sentence, by run

    @property
    def grid(self) -> dict[str, list[Any]]:
        """Grid of the experiment at the sweep's scale: dotted field, values."""
        return self.experiment.grid_at(self.scale)


def collect(out: Path | str) -> SweepResults:
    """Read the sweep in `out`, packed or not. Raises ConfigError if there is none, or nothing is finished."""
    out = Path(out)
    refuse_links(out)
    described = header(out)
    cells = [{"run": cell["run"], "arm": cell["arm"], **cell["grid"]} for cell in described["cells"]]
    records = _unpacked(out) if is_packed(out) else _with_cells(load_many(out / "runs"), pd.DataFrame(cells), out)
    failures = {
        path.stem: path.read_text(encoding="utf-8").splitlines()[0] for path in sorted((out / "failures").glob("*.txt"))
    }
    finished = set(records.runs["run"])
    missing = [cell["run"] for cell in cells if cell["run"] not in finished]
    experiment = load_experiment(out / "experiment.yaml")
    return SweepResults(experiment, scale_of(experiment, described["scale"]), records, missing, failures)


def _with_cells(records: Records, cells: pd.DataFrame, out: Path) -> Records:
    """`records` of the runs among `cells`, in their order: those that the experiment no longer has, or that were made
    with other code, stay on disk and out of the tables."""
    runs, evaluations, arrivals = (
        cells.merge(table.drop(columns=[name for name in cells if name != "run" and name in table]), on="run")
        for table in records
    )
    return Records(with_costs(runs, out / "runs"), evaluations, arrivals)


def with_costs(runs: pd.DataFrame, directory: Path) -> pd.DataFrame:
    """`runs` with `client_steps`, `bytes_up` and `bytes_down`.

    Every processed upload is `training.steps` steps and a model's parameters up; every job that was dispatched until
    the run ended, a model's parameters down. Class proportions and probe statistics are not counted: they are small.
    """
    costs = []
    for row in runs.to_dict("records"):
        config = RunConfig.from_dict(read_json(directory / row["run"] / "run.json")["config"])
        dispatched = simulate_timeline(config.federation, config.seed).dispatch_time
        size = BYTES * row["num_parameters"]
        costs.append(
            {
                "client_steps": config.training.steps * row["num_arrivals"],
                "bytes_up": size * row["num_arrivals"],
                "bytes_down": size * int((dispatched <= row["sim_time"]).sum()),
            }
        )
    return runs.join(pd.DataFrame(costs, index=runs.index))


def pack(directory: Path, out: Path) -> Path:
    """Write what the tables and figures of the sweep in `directory` need, as a packed sweep in `out`.

    It gets the experiment's name; the files of a packed sweep of that name are replaced. Raises ConfigError if nothing
    is finished, or if there is something else, or `directory` itself, in that place.
    """
    results = collect(directory)
    goal = out / results.experiment.name
    if goal.resolve() == directory.resolve():
        raise ConfigError(f"out = '{out}' is where '{directory}' lies: choose another directory")
    if not is_packed(goal):
        check_free(goal)
    with writing(goal), atomic_directory(goal, last="sweep.json") as work:
        results.records.runs.to_parquet(work / "runs.parquet", index=False)
        results.records.evaluations[CURVE + list(results.grid)].to_parquet(work / "evaluations.parquet", index=False)
        for name in ("experiment.yaml", "sweep.json"):
            shutil.copy(directory / name, work / name)
        made = json.dumps(provenance(directory, results.records), indent=2) + "\n"
        (work / "provenance.json").write_text(made, encoding="utf-8")
        (work / "failures").mkdir()
        for name in results.failures:
            shutil.copy(directory / "failures" / f"{name}.txt", work / "failures")
    for name in {*results.missing, *results.records.runs["run"]} - set(results.failures):
        (goal / "failures" / f"{name}.txt").unlink(missing_ok=True)  # it failed when the sweep was packed before
    return goal


def is_packed(directory: Path) -> bool:
    """Does `directory` hold a packed sweep?"""
    return (directory / "runs.parquet").exists()


def _unpacked(directory: Path) -> Records:
    try:
        paths = [directory / f"{name}.parquet" for name in ("runs", "evaluations")]
        for path in paths:
            check_file(path)
        runs, evaluations = (pd.read_parquet(path) for path in paths)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{directory} does not hold a readable packed sweep: {error}") from None
    return Records(runs, evaluations, pd.DataFrame())


def provenance(directory: Path, records: Records) -> dict[str, Any]:
    """Where the first run of a sweep, packed or not, was made."""
    if is_packed(directory):
        return read_json(directory / "provenance.json")
    return read_json(directory / "runs" / records.runs["run"].iloc[0] / "run.json")["provenance"]
