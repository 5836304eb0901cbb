"""What a run leaves behind: tables, samples, the final model and where it all came from; in memory and on disk.

A record on disk is a directory that any tool can read: JSON, parquet, npz without objects, safetensors. Never pickle.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import pyarrow.parquet

from fedrevive_core.config import RunConfig
from fedrevive_core.untrusted import check, read_json
from fedrevive_core.validation import ConfigError

TARGETS = (0.5, 0.6, 0.7, 0.8, 0.9)
TABLES = ("evaluations", "arrivals", "timings")
PACKAGES = ("fedrevive", "torch", "torchvision", "numpy", "scikit-learn", "pandas", "matplotlib", "scipy")


@dataclass(frozen=True)
class Record:
    """Everything one run leaves.

    config: of the run. summary: numbers that compare runs (see `summarise`). provenance: versions, device, threads.
    evaluations: a row per evaluation (version, sim_time, num_arrivals, accuracy, loss, class_accuracy). arrivals: a row
    per processed upload, the same columns for every method. timings: host seconds per part; nothing else in a record
    depends on the host's speed. samples: the pool's newest images over time: `version` (s,), `images` (s, n, C, S, S)
    uint8 (of texts, `texts` (s, n): nearest tokens), `labels` (s, n), -1 where there is none. model: named tensors of
    the final global model, without frozen ones; empty if it was left out.
    """

    config: RunConfig
    summary: dict[str, Any]
    provenance: dict[str, Any]
    evaluations: pd.DataFrame
    arrivals: pd.DataFrame
    timings: pd.DataFrame
    samples: dict[str, np.ndarray]
    model: dict[str, np.ndarray]

    def save(self, directory: Path | str, *, with_model: bool = True) -> None:
        """Write the record as `directory`, which appears whole or not at all.

        Raises ConfigError if it holds a run, or cannot be written.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        directory = check_free(directory)
        work = None
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
            for name in TABLES:
                getattr(self, name).to_parquet(work / f"{name}.parquet", index=False)
            np.savez_compressed(work / "samples.npz", **self.samples)  # type: ignore[arg-type]
            if with_model and self.model:
                save_file(self.model, work / "model.safetensors")
            header = {"config": self.config.to_dict(), "summary": self.summary, "provenance": self.provenance}
            (work / "run.json").write_text(json.dumps(header, indent=2) + "\n")
            work.chmod(0o755)  # mkdtemp makes it private
            if directory.exists():
                directory.rmdir()
            os.replace(work, directory)
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"no record could be written to {directory} ({error}): make room or free it") from None
        finally:
            if work is not None:
                shutil.rmtree(work, ignore_errors=True)

    @classmethod
    def load(cls, directory: Path | str) -> Record:
        """Read a record that `save` wrote. Raises ConfigError if it is not one."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        directory = Path(directory)
        try:
            header = read_json(directory / "run.json")
            stored = directory / "model.safetensors"
            optional = [stored.name] if stored.exists() else []
            for name in (*(f"{table}.parquet" for table in TABLES), "samples.npz", *optional):
                check(directory / name)
            tables = {name: pd.read_parquet(directory / f"{name}.parquet") for name in TABLES}
            with np.load(directory / "samples.npz", allow_pickle=False) as archive:
                samples = dict(archive)
            model = load_file(stored) if optional else {}
            config = RunConfig.from_dict(header["config"])
            return cls(config, header["summary"], header["provenance"], **tables, samples=samples, model=model)
        except (OSError, KeyError, TypeError, ValueError, BadZipFile, SafetensorError) as error:
            raise ConfigError(f"{directory} does not hold a readable run: {error}") from None


class Records(NamedTuple):
    """Tables of many runs, each with the columns `run`, `method`, `seed` and every setting that varies among them.

    `run` is the record's path below the directory that was read. runs: a row per run with its summary (nested entries
    as 'time_to 0.8', None where the target was never reached) and host seconds per part ('server_seconds').
    evaluations, arrivals: the tables of all runs, one after the other.
    """

    runs: pd.DataFrame
    evaluations: pd.DataFrame
    arrivals: pd.DataFrame


def load_many(directory: Path | str) -> Records:
    """Read the tables of all records below `directory`, without models and samples; others may be written meanwhile.

    Raises ConfigError if there is none, or one that is damaged.
    """
    directory = Path(directory)
    places = sorted(header.parent for header in directory.rglob("run.json") if not header.parent.name.startswith("."))
    if not places:
        raise ConfigError(f"{directory} holds no runs: give a directory that a sweep or a comparison wrote")
    configs: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    tables: dict[str, list[pyarrow.Table]] = {"evaluations": [], "arrivals": []}
    for place in places:
        try:
            header = read_json(place / "run.json")
            configs.append(_flat(header["config"], "."))
            for name, parts in tables.items():
                parts.append(_read_table(place / f"{name}.parquet"))
            timings = _read_table(place / "timings.parquet").to_pylist()
            seconds = {f"{row['part']}_seconds": row["seconds"] for row in timings}
            rows.append(_flat(header["summary"], " ") | seconds)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{place} does not hold a readable run: {error}") from None
    names = dict.fromkeys(name for config in configs for name in config)
    varied = [name for name in names if len({str(config.get(name)) for config in configs}) > 1]
    columns = list(dict.fromkeys(["method", "seed", *varied]))
    settings = pd.DataFrame(
        {"run": [place.relative_to(directory).as_posix() for place in places]}
        | {name: [config.get(name) for config in configs] for name in columns}
    )
    summaries = pd.DataFrame(rows)
    runs = settings.join(summaries[[name for name in summaries if name not in settings]])
    # Categories, because a text per row would cost more than the row.
    texts = [name for name in settings if settings[name].map(type).eq(str).all()]
    settings = settings.astype(dict.fromkeys(texts, "category"))
    return Records(runs, *(_joined(settings, tables[name]) for name in tables))


def _flat(values: dict[str, Any], separator: str, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with joined names; lists as tuples, which can be compared and grouped by."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, separator, f"{prefix}{name}{separator}")
        else:
            flat[prefix + name] = tuple(value) if isinstance(value, list) else value
    return flat


def _read_table(path: Path) -> pyarrow.Table:
    check(path)
    return pyarrow.parquet.ParquetFile(path).read(use_threads=False)


def _joined(settings: pd.DataFrame, tables: list[pyarrow.Table]) -> pd.DataFrame:
    """All `tables` below each other, each row beside the row of `settings` that belongs to its table."""
    table = pyarrow.concat_tables(tables, promote_options="permissive").to_pandas()
    repeated = settings.iloc[np.repeat(np.arange(len(tables)), [len(part) for part in tables])]
    return pd.concat([repeated.reset_index(drop=True), table[[n for n in table if n not in settings]]], axis=1)


def check_free(directory: Path | str) -> Path:
    """`directory` as a path, if it is absent or empty and can be made. Raises ConfigError otherwise."""
    directory = Path(directory)
    ground = next(parent for parent in (directory.absolute(), *directory.absolute().parents) if parent.exists())
    if not ground.is_dir() or not os.access(ground, os.W_OK):
        raise ConfigError(f"out = '{directory}': '{ground}' is not a directory that can be written to; choose another")
    if directory.exists() and any(directory.iterdir()):
        kind = "already holds a run" if (directory / "run.json").exists() else "is not empty"
        raise ConfigError(f"out = '{directory}' {kind}: choose another directory, or remove this one first")
    return directory


def summarise(evaluations: pd.DataFrame, sim_time: float) -> dict[str, Any]:
    """Numbers that compare runs, from the table of evaluations and the run's length in simulated time.

    final_accuracy: mean over evaluations in the last 5% of simulated time (the last one if there is none). last_,
    best_accuracy. mean_accuracy: over simulated time, each evaluation holding until the next. time_to: simulated time
    of the first evaluation that reaches each of TARGETS, None if none does.
    """
    time, accuracy = evaluations["sim_time"].to_numpy(), evaluations["accuracy"].to_numpy()
    end = max(sim_time, time[-1])
    late = accuracy[time >= 0.95 * end]
    held = np.diff(np.append(time, end))
    reached = {target: time[accuracy >= target] for target in TARGETS}
    return {
        "final_accuracy": float(late.mean()) if len(late) else float(accuracy[-1]),
        "last_accuracy": float(accuracy[-1]),
        "best_accuracy": float(accuracy.max()),
        "mean_accuracy": float((accuracy * held).sum() / end),
        "time_to": {str(target): float(times[0]) if len(times) else None for target, times in reached.items()},
    }


def stack_samples(
    samples: Sequence[tuple[int, np.ndarray, np.ndarray]],
    count: int,
    stack: Callable[[Sequence[np.ndarray], int], Mapping[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """`samples` of a Record from (version, shown, labels) at each moment; `stack` joins what is shown, `count` each."""
    labels = np.full((len(samples), count), -1, dtype=np.int64)
    for moment, (_, _, wanted) in enumerate(samples):
        labels[moment, : len(wanted)] = wanted
    return {
        "version": np.array([version for version, _, _ in samples], dtype=np.int64),
        **stack([shown for _, shown, _ in samples], count),
        "labels": labels,
    }


def confidence_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Mean and half width of the 95% Student t interval over `values`, one per seed; half width NaN for one value."""
    from scipy.special import stdtrit  # comes with scikit-learn

    sample = np.asarray(values, dtype=float)
    if sample.size == 0:
        raise ValueError("a confidence interval needs at least one value")
    if sample.size == 1:
        return float(sample[0]), math.nan
    return float(sample.mean()), float(stdtrit(sample.size - 1, 0.975) * sample.std(ddof=1) / math.sqrt(sample.size))


def state_sha256(state: np.ndarray) -> str:
    """SHA-256 of a flat float32 state, as little-endian bytes."""
    return hashlib.sha256(np.ascontiguousarray(state, dtype="<f4").tobytes()).hexdigest()


def provenance(device: str, num_threads: int) -> dict[str, Any]:
    """Where a run was made: package versions, interpreter, platform, device, threads, git commit if there is one."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "versions": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "device": device,
        "num_threads": num_threads,
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    root = Path(__file__).parent.parent
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    found = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None
