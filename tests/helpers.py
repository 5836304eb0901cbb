"""Small builders that several test files share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from fedrevive_core.config import FederationConfig, RunConfig
from fedrevive_core.presets import build
from fedrevive_core.record import Record
from fedrevive_core.simulate import Simulation


def constant(duration: float) -> dict[str, Any]:
    """A delay that never varies."""
    return {"kind": "constant", "means": [duration], "odds": [1.0]}


def steady(training: float, download: float = 0.0, upload: float = 0.0) -> dict[str, Any]:
    """A schedule in which every job of every client lasts equally long."""
    return {"training": constant(training), "download": constant(download), "upload": constant(upload)}


def federation(num_clients: int, concurrency: int, **settings: Any) -> FederationConfig:
    """A federation on the default schedule; `settings` as in FederationConfig."""
    values = {"num_clients": num_clients, "concurrency": concurrency, "schedule": "default", **settings}
    return FederationConfig.model_validate(values)


def run_python(code: str) -> str:
    """Standard output of `code` in a fresh interpreter; a failure shows what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# A run of every part of the pipeline in a fraction of a second, whatever the method.
SMALL: dict[str, Any] = {
    "federation.num_clients": 14,
    "federation.concurrency": 8,
    "federation.max_sim_time": None,
    "federation.max_versions": 16,
    "training.steps": 3,
    "revival.warmup": 3,
    "synthesis.every": 2,
    "synthesis.noise_dim": 8,
    "synthesis.width": 4,
    "distillation.steps": 2,
    "distillation.batch_size": 8,
    "num_threads": 1,
}


def small(method: str, **overrides: Any) -> RunConfig:
    """SMALL on lab-digits, with `overrides` such as server__lr=0.1."""
    return build("lab-digits", method, overrides=SMALL | {k.replace("__", "."): v for k, v in overrides.items()})


def compared(record: Record) -> tuple:
    """All of a record that must not depend on interruptions."""
    evaluations = record.evaluations.assign(class_accuracy=record.evaluations["class_accuracy"].map(tuple))
    samples = {name: array.tobytes() for name, array in record.samples.items()}
    return record.summary, evaluations.to_dict("list"), record.arrivals.to_json(double_precision=15), samples


def run_until(simulation: Simulation, stop: int) -> Simulation:
    for _ in simulation.steps():
        if simulation.num_processed == stop:
            return simulation
    raise AssertionError(f"the run is over before {stop} arrivals")


def resident() -> int:
    """Bytes of memory that this process holds at the moment."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
