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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from fedrevive_core.config import RunConfig
from fedrevive_core.untrusted import check, read_json
from fedrevive_core.validation import ConfigError

TARGETS = (0.5, 0.6, 0.7, 0.8, 0.9)
TABLES = ("evaluations", "arrivals", "timings")
PACKAGES = ("fedrevive", "torch", "torchvision", "numpy", "scikit-learn", "pandas")


@dataclass(frozen=True)
class Record:
    """Everything one run leaves.

    config: of the run. summary: numbers that compare runs (see `summarise`). provenance: versions, device, threads.
    evaluations: a row per evaluation (version, sim_time, num_arrivals, accuracy, loss, class_accuracy). arrivals: a row
    per processed upload, the same columns for every method. timings: host seconds per part; nothing else in a record
    depends on the host's speed. samples: the pool's newest images over time: `version` (s,), `images` (s, n, C, S, S)
    uint8, `labels` (s, n), -1 where there is none. model: named tensors of the final global model.
    """

    config: RunConfig
    summary: dict[str, Any]
    provenance: dict[str, Any]
    evaluations: pd.DataFrame
    arrivals: pd.DataFrame
    timings: pd.DataFrame
    samples: dict[str, np.ndarray]
    model: dict[str, np.ndarray]

    def save(self, directory: Path | str) -> None:
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
            for name in (*(f"{table}.parquet" for table in TABLES), "samples.npz", "model.safetensors"):
                check(directory / name)
            tables = {name: pd.read_parquet(directory / f"{name}.parquet") for name in TABLES}
            with np.load(directory / "samples.npz", allow_pickle=False) as archive:
                samples = dict(archive)
            model = load_file(directory / "model.safetensors")
            config = RunConfig.from_dict(header["config"])
            return cls(config, header["summary"], header["provenance"], **tables, samples=samples, model=model)
        except (OSError, KeyError, TypeError, ValueError, BadZipFile, SafetensorError) as error:
            raise ConfigError(f"{directory} does not hold a readable run: {error}") from None


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
