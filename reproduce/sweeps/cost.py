"""What a sweep will cost, from a measured sample: a short run of each method, taken apart and extrapolated."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from fedrevive_core.config import RunConfig
from reproduce.sweeps.worker import CellRun

SAMPLE_JOBS = 12  # in flight; as many as are worth training together
SAMPLE_ARRIVALS = 40
SAMPLE_STEPS = 5  # of a job


@dataclass(frozen=True)
class Cost:
    """Of one run: host seconds, bytes that stay, and bytes of checkpoints while it runs."""

    seconds: float
    record_bytes: float
    checkpoint_bytes: float


def costs(runs: Iterable[CellRun]) -> dict[str, Cost]:
    """An estimate for every run, by name; runs that do the same work per arrival share one sample."""
    return {run.name: _cost(run.cell.config) for run in runs}


def _cost(config: RunConfig) -> Cost:
    from fedrevive_core.timeline import simulate_timeline

    sample = _measured(_sample_of(config))
    timeline = simulate_timeline(config.federation, config.seed)
    arrivals, federation = len(timeline.arrivals), config.federation
    steps = config.training.steps / min(config.training.steps, SAMPLE_STEPS)
    evaluations = timeline.num_versions // config.evaluation.every + 2
    seconds = (
        _start_seconds()
        + sample.setup
        + sample.per_job * steps * max(arrivals, federation.concurrency)
        + sample.per_arrival * arrivals
        + sample.per_evaluation * evaluations
    )
    # In memory, so an upper end of what compressed files take.
    record = sample.sample_bytes + arrivals * sample.arrival_bytes + evaluations * sample.evaluation_bytes
    states = 2 * federation.concurrency + config.revival.num_teachers
    return Cost(seconds, record, 2.0 * states * sample.state_bytes)  # two checkpoints are kept


@cache
def _start_seconds() -> float:
    """Of the process of a run, until it can begin."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import fedrevive_core.simulation"], check=True)
    return time.perf_counter() - started


def _sample_of(config: RunConfig) -> RunConfig:
    """A short run with the same work per arrival: revival from the first arrival on, few jobs, few steps each."""
    values = config.to_dict()
    values["seed"] = 0
    federation = values["federation"]
    for field in ("concurrency", "buffer_size", "refill_size"):
        federation[field] = min(federation[field], SAMPLE_JOBS)
    federation["max_versions"] = max(2, SAMPLE_ARRIVALS // federation["buffer_size"])
    federation["max_sim_time"] = None
    values["training"]["steps"] = min(config.training.steps, SAMPLE_STEPS)
    values["evaluation"]["target_accuracy"] = None
    if config.revival.source != "none":
        values["staleness"] = {"rule": "constant", "constant": 0.5}
        values["revival"]["freeze"] = 0
        values["revival"]["warmup"] = values["revival"]["warmup"] and 0
    return RunConfig.from_dict(values)


@dataclass(frozen=True)
class _Sample:
    setup: float
    per_job: float
    per_arrival: float
    per_evaluation: float
    sample_bytes: float
    arrival_bytes: float
    evaluation_bytes: float
    state_bytes: float


@cache
def _measured(config: RunConfig) -> _Sample:
    from fedrevive_core.simulation import Simulation, num_threads
    from fedrevive_core.simulation.recorder import VERSIONS_KEPT

    with num_threads(config.num_threads):
        started = time.perf_counter()
        simulation = Simulation(config)
        setup = time.perf_counter() - started
        record = simulation.run(progress=False)
    timings = record.timings.set_index("part")
    per_call = timings["seconds"] / timings["calls"]
    moments = max(1, len(record.samples["version"]))
    return _Sample(
        setup,
        per_call["training"],
        per_call["server"],
        per_call["evaluation"],
        sum(array.nbytes for array in record.samples.values()) / moments * VERSIONS_KEPT + 10_000,
        record.arrivals.memory_usage(index=False).sum() / len(record.arrivals),
        8.0 * (record.evaluations.shape[1] + len(record.evaluations["class_accuracy"].iloc[0])),
        sum(array.nbytes for array in record.model.values()),
    )
