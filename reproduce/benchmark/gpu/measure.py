"""All that `python -m reproduce gpu` finds out, part after part within its time, each kept as soon as it is there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fedrevive_core.config import build
from fedrevive_core.data import FederatedData, load_images
from fedrevive_core.errors import ConfigError
from fedrevive_core.files import atomic_file, writing
from fedrevive_core.records import provenance
from fedrevive_core.simulation import Simulation, num_threads
from fedrevive_core.timeline import simulate_timeline
from reproduce.benchmark.gpu import checks, probe
from reproduce.benchmark.gpu.material import random_data, tiny
from reproduce.benchmark.limit import arithmetic_rates

VERSIONS = 500  # of the paper's run that are made
IMAGES = 20_000  # random ones in its place; clients may share them
# Part of the time after which each part must end, counted from the beginning; the last has what is left.
CHECKS_END, PROBE_END, RUN_END = 0.3, 0.65, 0.97
RESULTS, EXECUTORS = "results.json", "executors.json"


class Measurement:
    """What is known so far, in `found`; every change is written to the directory `out`.

    Args:
        device: what is measured. minutes: to take at most. few: tiny sizes, to try the command itself.
    """

    def __init__(self, device: torch.device, minutes: float, out: Path, *, few: bool) -> None:
        self.device, self.few, self.out = device, few, out
        self.started, self.limit = time.monotonic(), 60 * minutes
        card = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        self.found: dict[str, Any] = {
            "device": card,
            "tiny": few,
            "minutes": minutes,
            "finished": False,
            "provenance": provenance(card, torch.get_num_threads()),
        }

    def until(self, share: float) -> Callable[[], bool]:
        """A question: is less than `share` of the time over?"""
        return lambda: time.monotonic() - self.started < share * self.limit

    def make(self) -> dict[str, Any]:
        """Do every part, and return what was found. On a CPU with one thread: others would wait for each other."""
        with num_threads(1 if self.device.type == "cpu" else None):
            return self._make()

    def _make(self) -> dict[str, Any]:
        device = self.device
        with self._part("checks"):
            self.found["checks"] = [
                {"check": "states that wait on the host are pinned", "holds": self._pinned()},
                {"check": "recorded steps repeat", "holds": checks.recordings_repeat(device)},
            ]
            self._fill("devices", checks.compare_devices(device, few=self.few), CHECKS_END)
        with self._part("probe"):
            self.found["arithmetic_flops_per_second"] = rates = arithmetic_rates(device, tiny=self.few)
            for name in ("labnet", "labtext") if self.few else probe.MODELS:
                self._probe(probe.Workload(name, device, tiny=self.few), max(rates.values()))
        with self._part("run"):
            self.found["run"] = self._run()
        self.found["finished"] = True
        self.found["minutes_taken"] = (time.monotonic() - self.started) / 60
        self.save()
        return self.found

    def save(self) -> None:
        """Write what is known, and the fastest executor of each model on a GPU."""
        tables = {RESULTS: self.found, EXECUTORS: {self.found["device"]: self.winners()}}
        for name, values in tables.items():
            with writing(self.out / name), atomic_file(self.out / name) as path:
                path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")

    def winners(self) -> dict[str, str]:
        """The fastest executor of each model, of those whose result is the plain one's to rounding."""
        best: dict[str, dict[str, Any]] = {}
        for row in self.found.get("executors", []):
            if "rate" in row and row["rate"] > best.get(row["model"], {"rate": 0.0})["rate"]:
                best[row["model"]] = row
        return {model: row["executor"] for model, row in best.items()}

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        """A part of the measurement; a failure of one is noted and does not end the others."""
        try:
            yield
        except (RuntimeError, ConfigError) as error:
            self.found.setdefault("failures", {})[name] = str(error).splitlines()[0][:300]
        self.save()

    def _fill(self, name: str, rows: Iterator[dict[str, Any]], share: float) -> None:
        """Append `rows` to what was found under `name`, each at once, while there is time."""
        table, has_time = self.found.setdefault(name, []), self.until(share)
        for row in rows:
            table.append(row)
            self.save()
            if not has_time():
                self.found.setdefault("cut", []).append(name)
                break

    def _pinned(self) -> bool | None:
        """None where there is no GPU: then nothing is pinned."""
        return checks.offloaded_states_are_pinned(self.device) if self.device.type == "cuda" else None

    def _probe(self, workload: probe.Workload, limit: float) -> None:
        names = list(probe.MODELS)
        share = CHECKS_END + (PROBE_END - CHECKS_END) * (names.index(workload.name) + 1) / len(names)
        has_time = self.until(share)
        self._fill("executors", probe.probe_model(workload, limit, has_time), 1)
        if workload.is_text:
            return
        self._fill("students", probe.probe_student(workload, has_time), 1)
        self._fill("numbers", probe.probe_numbers(workload, has_time), 1)
        self._fill("formats", iter([probe.probe_formats(workload)]), 1)

    def _run(self) -> dict[str, Any]:
        """The first versions of the preset `cifar10` with the fastest executor, and how long all would take."""
        executor = self.winners().get("resnet18", "auto") if self.device.type == "cuda" else "auto"
        settings = {"device": self.device.type, "executor": executor}
        paper = build("cifar10", "fedrevive")
        total = simulate_timeline(paper.federation, 0).num_versions
        if self.few:
            config = tiny("cifar10", "fedrevive", model="labnet", **settings)
        else:
            limits = {"federation.max_versions": VERSIONS, "federation.max_sim_time": None}
            config = build("cifar10", "fedrevive", overrides=settings | limits)
        data: FederatedData | None = None
        if self.few or not _there(config.data.name):
            data = random_data(config, IMAGES if not self.few else None)
        simulation = Simulation(config, data=data)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        has_time, times = self.until(RUN_END), [time.perf_counter()]
        for is_new in simulation.steps():
            if is_new:
                times.append(time.perf_counter())
            if not has_time():
                break
        half = len(times) // 2  # the beginning trains all clients, and distils from few teachers
        pace = (times[-1] - times[half]) / max(len(times) - 1 - half, 1)
        memory = torch.cuda.max_memory_allocated(self.device) / 2**20 if self.device.type == "cuda" else None
        return {
            "preset": "cifar10 at tiny size, with LabNet" if self.few else "cifar10",
            "data": "random images of its shape" if data is not None else "CIFAR-10",
            "executor": str(simulation.trainer.executor),
            "versions": simulation.version,
            "seconds": times[-1] - times[0],
            "seconds_per_version": pace,
            "versions_of_the_paper": total,
            "projected_minutes": pace * total / 60,
            "memory_mib": memory,
            "timings": simulation.timer.table().to_dict("records"),
        }


def _there(name: str) -> bool:
    """Whether the data set is on this machine; nothing is downloaded."""
    try:
        load_images(name, download=False)
    except ConfigError:
        return False
    return True
