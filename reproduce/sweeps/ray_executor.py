"""The runs of a sweep as tasks of an existing Ray cluster, which all see the sweep's directory."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from fedrevive_core.errors import ConfigError
from reproduce.sweeps.experiment import Scale
from reproduce.sweeps.worker import CellRun, execute

PROBE_SECONDS = 45
RETRIES = 5  # of a run whose worker was lost; each attempt resumes from the run's checkpoint


class RayExecutor:
    """Tasks of the cluster at `address`, with the CPUs and GPUs that `scale` declares for a run."""

    def __init__(self, out: Path, address: str, scale: Scale) -> None:
        self.out, self.scale, self.ray = out.absolute(), scale, connect(address)
        gpus = scale.gpus if self.device == "cuda" else 0
        self.task = self.ray.remote(execute).options(num_cpus=scale.cpus, num_gpus=gpus, max_retries=RETRIES)
        self.tasks: dict[Any, CellRun] = {}

    @property
    def device(self) -> str:
        """Kind of device that runs get: 'cuda' if the cluster has GPUs."""
        return "cuda" if self.ray.cluster_resources().get("GPU", 0) else "cpu"

    @property
    def slots(self) -> int:
        """As many as fit the CPUs that are there now; nodes may come and go."""
        return max(1, int(self.ray.cluster_resources().get("CPU", 0) / self.scale.cpus))

    @property
    def running(self) -> list[CellRun]:
        """The runs that were started and not yet reported."""
        return list(self.tasks.values())

    def start(self, run: CellRun) -> None:
        """Start `run` as a task."""
        self.tasks[self.task.remote(run, self.out)] = run

    def wait(self, seconds: float) -> list[tuple[CellRun, str | None]]:
        """Wait until a run ends, `seconds` at most. Returns the runs that ended."""
        ready, _ = self.ray.wait(list(self.tasks), timeout=seconds)
        return [(self.tasks.pop(task), self._outcome(task)) for task in ready]

    def _outcome(self, task: Any) -> str | None:
        try:
            return self.ray.get(task)
        except self.ray.exceptions.RayError as error:
            return f"{type(error).__name__}: {error}"

    def stop(self) -> None:
        """Let every run write a checkpoint and end."""
        for task in self.tasks:
            self.ray.cancel(task)  # interrupts the run, which writes a checkpoint
        while self.tasks:
            self.wait(60)


def connect(address: str) -> Any:
    """The module `ray`, connected to `address` ('auto' or host:port). Raises ConfigError if there is no cluster."""
    try:
        import ray
    except ImportError:
        raise ConfigError("--engine ray needs Ray: pip install -e '.[cluster]'") from None
    host, _, port = address.rpartition(":")
    try:
        if address != "auto":
            socket.create_connection((host, int(port)), 5).close()  # where nothing listens, the answer is quick
        # Ray itself would try for many minutes, and cannot be told not to: another process tries first.
        probe = [sys.executable, "-c", f"import ray; ray.init(address={address!r}, log_to_driver=False)"]
        subprocess.run(probe, timeout=PROBE_SECONDS, check=True, capture_output=True)
    except (OSError, ValueError, subprocess.SubprocessError):
        remedy = "start one with `ray start --head` and give its HOST:PORT, or `auto` on a node of it"
        raise ConfigError(f"--address {address}: no Ray cluster answers there; {remedy}") from None
    ray.init(address=address, log_to_driver=False, configure_logging=False)
    return ray
