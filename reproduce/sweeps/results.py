"""The results of a sweep so far, read from its records; or packed into a few small files to commit or send.

A packed sweep holds what tables and figures need, and no records of single runs with their samples and arrivals:

    experiment.yaml, sweep.json    as the sweep has them
    runs.parquet                   a row per finished run: arm, seed, grid, summary, host seconds, costs
    evaluations.parquet            run, arm, seed, grid, version, sim_time, num_arrivals, accuracy
    provenance.json                versions, device and commit of its first run
    failures/                      as the sweep has them

A packed sweep cannot prove itself. What its evaluations say is computed again when it is read (accuracies, times to a
target), and its cells are those of `sweep.json`; the rest is shown as stored: staleness, costs, seconds, provenance. If
in doubt, run the sweep again: `evidence --check` compares.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fedrevive_core.config import RunConfig, flatten, merge, unflatten
from fedrevive_core.errors import ConfigError
from fedrevive_core.files import atomic_directory, check_free, refuse_links, writing
from fedrevive_core.records import Altered, Provenance, check_file, read_header, read_json, read_table, summarise
from fedrevive_core.timeline import simulate_timeline
from reproduce.sweeps.collection import Records, load_many
from reproduce.sweeps.experiment import Experiment, ScaleName, load_experiment, scale_of
from reproduce.sweeps.grid import columns
from reproduce.sweeps.sweep import run_hash
from reproduce.sweeps.sweep_file import header

FAILURE_LIMIT = 2**20  # bytes of a file that says why a run failed
BYTES = 4  # of a parameter
CURVE = ["run", "arm", "seed", "version", "sim_time", "num_arrivals", "accuracy"]
CURVES = dict(zip(CURVE, ("text", "text", "int", "int", "float", "int", "float"), strict=True))
SCORES = ("final_accuracy", "last_accuracy", "best_accuracy", "mean_accuracy")
NUMBERS = {
    "seed": "int", "num_arrivals": "int", "num_parameters": "int",
    **dict.fromkeys((*SCORES, "sim_time", "mean_staleness", "server_seconds"), "float"),
}  # fmt: skip
COSTS = dict.fromkeys(("client_steps", "bytes_up", "bytes_down"), "int")


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
    experiment = load_experiment(out / "experiment.yaml")
    scale = scale_of(experiment, described["scale"])
    points = [cell["grid"] for cell in described["cells"]]
    if lacking := set(experiment.grid_at(scale)) - set(points[0]):
        raise ConfigError(f"{out}: sweep.json has no values of {', '.join(sorted(lacking))}, as experiment.yaml has")
    cells = pd.DataFrame([{"run": cell["run"], "arm": cell["arm"]} for cell in described["cells"]])
    cells = cells.join(columns(experiment.grid_at(scale), points))
    records = _with_cells(_unpacked(out) if is_packed(out) else load_many(out / "runs"), cells)
    if records.runs.empty:
        raise ConfigError(f"{out} holds no finished run of its experiment")
    if lost := [name for name in NUMBERS if name not in records.runs or records.runs[name].isna().any()]:
        raise ConfigError(f"{out}: a run lacks {', '.join(lost)}, so there is no table of them: run the sweep again")
    if not is_packed(out):
        _check_cells(described, out)
        records = records._replace(runs=with_costs(records.runs, out / "runs"))
    failures = {run: out / "failures" / f"{run}.txt" for run in cells["run"]}
    finished = set(records.runs["run"])
    missing = [run for run in cells["run"] if run not in finished]
    return SweepResults(
        experiment, scale, records, missing, {run: _reason(path) for run, path in failures.items() if path.exists()}
    )


def _reason(path: Path) -> str:
    """The first line of the file that says why a run failed."""
    try:
        check_file(path, FAILURE_LIMIT)
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, ValueError) as error:
        return f"its file cannot be read ({error})"
    return "".join(letter if letter.isprintable() else "?" for letter in lines[0]) if lines else "no reason is given"


def _with_cells(records: Records, cells: pd.DataFrame) -> Records:
    """`records` of the runs among `cells`, in their order, with the arm and the grid that `cells` have for each: runs
    that the experiment no longer has, or that were made with other code, stay on disk and out of the tables."""
    return Records(
        *(
            cells.merge(table.drop(columns=[name for name in cells if name != "run" and name in table]), on="run")
            if "run" in table
            else table
            for table in records
        )
    )


def _check_cells(described: Mapping[str, Any], out: Path) -> None:
    """Raise Altered if a run of the sweep in `out` is another than its name and `sweep.json` say."""
    for cell in described["cells"]:
        path = out / "runs" / cell["run"]
        if not (path / "run.json").exists():  # not finished
            continue
        try:
            config, values = read_header(path)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} does not hold a readable run: {error}") from None
        digits = run_hash(config, values["provenance"].get("data_sha256", ""), described["code"])
        if f"{cell['arm']}-s{config.seed}-{digits}" != cell["run"] or config.seed != cell["seed"]:
            raise Altered(f"{path} holds another run than its name says: remove it, and run the sweep again")
        if RunConfig.from_dict(merge(config.to_dict(), unflatten(cell["grid"]))) != config:
            raise Altered(f"{path} is not at the point {cell['grid']} of the grid, as sweep.json says")


def with_costs(runs: pd.DataFrame, directory: Path) -> pd.DataFrame:
    """`runs` with `client_steps`, `bytes_up` and `bytes_down`.

    Every processed upload is `training.steps` steps and a model's parameters up; every job that was dispatched until
    the run ended, a model's parameters down. Class proportions and probe statistics are not counted: they are small.
    """
    costs = []
    for row in runs.to_dict("records"):
        config, _ = read_header(directory / row["run"])
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
    """The tables of the packed sweep in `directory`; what its evaluations say is computed again."""
    texts = dict.fromkeys(("run", "arm", "method"), "text")
    try:
        runs = read_table(directory / "runs.parquet", {**texts, **NUMBERS, **COSTS}).to_pandas()
        evaluations = read_table(directory / "evaluations.parquet", CURVES).to_pandas()
        curves = dict(list(evaluations.groupby("run", sort=False)))
        for row in runs.to_dict("records"):
            if row["run"] not in curves:
                raise Altered(f"{directory}: evaluations.parquet has no rows of {row['run']}")
            again = flatten(summarise(curves[row["run"]], row["sim_time"]), " ")
            for field, value in again.items():
                if not _same(stated := row.get(field), value):
                    raise Altered(f"{directory}: {row['run']} has {field} = {stated}, and its evaluations give {value}")
    except Altered:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"{directory} does not hold a readable packed sweep: {error}") from None
    return Records(runs, evaluations, pd.DataFrame())


def _same(stated: Any, computed: float | None) -> bool:
    """Equal but for the last bits, which depend on the version of NumPy; None is missing."""
    if computed is None or pd.isna(stated):
        return computed is None and pd.isna(stated)
    return math.isclose(stated, computed, rel_tol=1e-9)


def provenance(directory: Path, records: Records) -> dict[str, Any]:
    """Where the first run of a sweep, packed or not, was made."""
    try:
        if not is_packed(directory):
            return read_header(directory / "runs" / records.runs["run"].iloc[0])[1]["provenance"]
        values = read_json(directory / "provenance.json")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{directory} does not say where it was made: {error}") from None
    Provenance.from_dict(values)
    return values
