"""Damaged and foreign files for every reader: what was written is read, or refused with a ConfigError, never else."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from helpers import SMALL, run_until, small

from fedrevive_core.errors import ConfigError
from fedrevive_core.records import Record
from fedrevive_core.simulation import checkpoint
from fedrevive_core.simulation.simulation import Simulation
from reproduce.cli.tools import verify
from reproduce.reports.report import read_report
from reproduce.runs.branching import run_branch
from reproduce.sweeps.collection import load_many
from reproduce.sweeps.experiment import load_experiment
from reproduce.sweeps.results import collect, pack, provenance
from reproduce.sweeps.sweep import opened, plan
from reproduce.sweeps.worker import execute

STRANGE: list[Any] = [
    None, True, -1, 0, 1.5, 10**30, 10**400, 1e308, float("nan"), float("inf"), "", "x" * 5000, "../../x", "\x1b[31m",
    "\x00", [], [[]], {}, {"a": {"b": [1]}}, [1, "x"], "1",
]  # fmt: skip


def prepare(directory: Path) -> dict[str, Path]:
    """One of each thing that is read: a record, its checkpoints, a sweep with a failed run, and the sweep packed."""
    places = {name: directory / name for name in ("record", "checkpoints", "sweep")}
    simulation = Simulation(small("fedrevive", federation__max_versions=8, evaluation__every=4))
    checkpoint.write(run_until(simulation, 4), places["checkpoints"])
    simulation.run(progress=False).save(places["record"])
    settings = {name: value for name, value in SMALL.items() if name != "num_threads"} | {"federation.max_versions": 4}
    scale = {"preset": "lab-digits", "seeds": [0, 1], "settings": settings}
    described = {
        "name": "tiny", "question": "Does it work?", "notebook": "08_reproduce", "scales": {"lab": scale},
        "arms": {"fedbuff": {"method": "fedbuff"}}, "grid": {"server.lr": [0.05]},
    }  # fmt: skip
    path = directory / "tiny.yaml"
    path.write_text(yaml.safe_dump(described), encoding="utf-8")
    sweep = plan(load_experiment(path), "lab", "cpu")
    with opened(sweep, places["sweep"]):
        for run in sweep.runs:
            assert execute(run, places["sweep"]) is None
    run.failure_path(places["sweep"]).write_text("It failed.\n", encoding="utf-8")
    return places | {"packed": pack(places["sweep"], directory / "packed")}


def readers(place: str) -> list[Callable[[Path], Any]]:
    """Everything that reads a thing of this kind."""
    if place == "record":
        return [Record.load, load_many, lambda path: verify([path, path])]
    if place == "checkpoints":
        fresh = Simulation(small("fedrevive", federation__max_versions=8, evaluation__every=4))
        return [
            lambda path: checkpoint.restore(fresh, path),
            lambda path: run_branch(path, None, None, {"federation.max_versions": 8}),
        ]
    return [collect, lambda path: provenance(path, read_report(path).records)]


def damage(path: Path, others: list[Path], rng: np.random.Generator) -> str:
    """Change the file at `path` in one of many ways; returns which."""
    kinds = ["flip", "truncate", "splice", "noise", "empty", "swap", "absent"]
    if path.name == checkpoint.TENSORS and rng.random() < 0.8:  # its hash finds any change
        path = path.with_name(checkpoint.MANIFEST)
    structured = {".json": "value", ".parquet": "column", ".npz": "array"}.get(path.suffix)
    kind = structured if structured and rng.random() < 0.6 else str(rng.choice(kinds))
    content = bytearray(path.read_bytes())
    if kind == "value":
        _change_value(path, rng)
        if path.name == checkpoint.MANIFEST:  # by somebody who knows that the directory's name holds its hash
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            path.parent.rename(path.parent.with_name(f"{path.parent.name.partition('-')[0]}-{digest}"))
        return kind
    if kind == "column":
        _change_column(path, rng)
        return kind
    if kind == "array":
        _change_array(path, rng)
        return kind
    if kind == "absent":
        path.unlink()
        return kind
    if kind == "flip":
        for place in rng.integers(max(1, len(content)), size=rng.integers(1, 9)) if content else ():
            content[place] ^= int(rng.integers(1, 256))
    elif kind == "truncate":
        content = content[: rng.integers(len(content) + 1)]
    elif kind == "splice":
        cut = int(rng.integers(len(content) + 1))
        content[cut:cut] = content[: rng.integers(len(content) + 1)]
    elif kind == "swap":
        content = bytearray(others[rng.integers(len(others))].read_bytes())
    else:
        content = bytearray(rng.bytes(int(rng.integers(1, 5000)))) if kind == "noise" else bytearray()
    path.write_bytes(content)
    return kind


def _change_value(path: Path, rng: np.random.Generator) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    inner: Any = content
    while True:
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        key = keys[rng.integers(len(keys))]
        if not isinstance(inner[key], dict | list) or not inner[key] or rng.random() < 0.15:
            break
        inner = inner[key]
    if rng.random() < 0.25:
        del inner[key]
    elif rng.random() < 0.1 and isinstance(inner, dict):
        inner["more"] = STRANGE[rng.integers(len(STRANGE))]
    else:
        inner[key] = STRANGE[rng.integers(len(STRANGE))]
    path.write_text(json.dumps(content), encoding="utf-8")


def _change_column(path: Path, rng: np.random.Generator) -> None:
    table = pd.read_parquet(path)
    name = table.columns[rng.integers(len(table.columns))]
    kind = rng.integers(7)
    if kind == 0:
        table = table.drop(columns=[name])
    elif kind == 1:
        table = table.iloc[: rng.integers(len(table) + 1)]
    elif kind == 2:
        table = pd.concat([table, table])
    elif kind == 3:
        table = table.rename(columns={name: "other"})
    else:
        values = [None, "x", -1, 10**12, np.nan, np.inf, True, b"x", [1.0], ["x"], {"a": 1}, 2**63, pd.Timestamp(0)]
        value = values[rng.integers(len(values))]
        column = [value] * len(table) if kind > 4 else [value, *table[name].iloc[1:]]
        table[name] = pd.Series(column, dtype=object, index=table.index)
    with contextlib.suppress(Exception):  # not every mixture can be written
        table.to_parquet(path, index=False)


def _change_array(path: Path, rng: np.random.Generator) -> None:
    with np.load(path) as archive:
        arrays = dict(archive)
    name = sorted(arrays)[rng.integers(len(arrays))]
    changes: list[Callable[[np.ndarray], np.ndarray]] = [
        lambda array: array.astype(object), lambda array: array.astype(float), lambda array: array[..., None],
        lambda array: array[:0], lambda array: np.array("x"), lambda array: array + array.dtype.type(1),
    ]  # fmt: skip
    arrays[name if rng.random() < 0.8 else "../x"] = changes[rng.integers(len(changes))](arrays[name])
    np.savez_compressed(path, **arrays)


def attempt(directory: Path, number: int, seed: int = 0, places: dict[str, Path] | None = None) -> dict[str, Any]:
    """Damage `number` files, one at a time, and let every reader try. Anything but a ConfigError is a traceback."""
    rng = np.random.default_rng(seed)
    places = prepare(directory / "whole") if places is None else places
    counts: Counter[str] = Counter()
    examples: list[str] = []
    known = {place: readers(place) for place in places}
    for turn in range(number):
        place = list(places)[turn % len(places)]
        copy = directory / f"copy-{turn}" / places[place].name
        shutil.copytree(places[place], copy)
        # What an experiment may say is checked elsewhere.
        files = sorted(path for path in copy.rglob("*") if path.is_file() and path.suffix not in (".yaml", ".lock"))
        files = [path for path in files if path.name != "lock"]
        path = files[rng.integers(len(files))]
        what = f"{damage(path, files, rng)} of {path.name} in {place} (seed {seed}, number {turn})"
        for reader in known[place]:
            counts["read"] += 1
            try:
                with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                    warnings.simplefilter("ignore")
                    reader(copy)
                counts["accepted"] += 1
            except ConfigError as error:
                counts["refused"] += 1
                if "\n" in str(error):
                    examples.append(f"{what}: several lines: {error}")
            except Exception as error:
                if type(error).__name__ == "Exit":  # of verify: the record differs from what its run left
                    counts["refused"] += 1
                    continue
                examples.append(f"{what}: {error!r}\n{traceback.format_exc()}")
        shutil.rmtree(copy.parent)
    return {"files": number, **counts, "wrong": len(examples), "examples_of_wrong": examples[:20]}
