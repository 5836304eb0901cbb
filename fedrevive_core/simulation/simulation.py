"""A run: the timeline says what happens when, training and server make it happen, the record keeps it.

The only module that knows both the timeline and the server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fedrevive_core.config import FAULTS, RunConfig
from fedrevive_core.data import FederatedData
from fedrevive_core.evaluation import diverged, evaluate
from fedrevive_core.models import StateLayout, check_model
from fedrevive_core.records import Record, link, state_sha256
from fedrevive_core.server import METRICS, Receipt, Server, Upload
from fedrevive_core.simulation import checkpoint
from fedrevive_core.simulation.branch import SAMPLE_MOMENTS, SAMPLES_SHOWN, branched
from fedrevive_core.simulation.build import (
    build_reviver,
    federated,
    fingerprints,
    initialised,
    num_threads,
    pick_device,
)
from fedrevive_core.simulation.modality import Inputs, build_modality
from fedrevive_core.simulation.progress import Progress, Timer
from fedrevive_core.simulation.recorder import arrivals_table, record_of
from fedrevive_core.simulation.state_store import StateStore
from fedrevive_core.staleness import tabulate
from fedrevive_core.timeline import Timeline, simulate_timeline
from fedrevive_core.training import Job, LocalTrainer, apply_fault


def run(
    config: RunConfig,
    *,
    model: nn.Module | None = None,
    data: FederatedData | None = None,
    beta: Callable[[int], float] | None = None,
    progress: bool = True,
    checkpoints: Path | None = None,
    checkpoint_every: int | str = 100,
    keep_every: int = 0,
) -> Record:
    """Carry out one run and return its record.

    Args:
        model: your own network instead of `config.model`, as initialised; it must return (B, num_classes) logits.
        data: your own data instead of `config.data.name`, from `federate`, a shard for each client.
        beta: your own staleness rule instead of `config.staleness`, from staleness (versions) to a weight from 0 to 1.
        progress: show versions, simulated time and accuracy while it runs.
        checkpoints: a directory; every `checkpoint_every` versions (or seconds: '300s'), and on SIGINT or SIGTERM, all
            that is needed to go on is written there, and a run that finds a checkpoint goes on from it. Unset writes
            none. The two newest stay, and those at multiples of `keep_every` versions.

    Global random state is not used; the number of CPU threads is set for the run and restored. Raises ConfigError
    before any training if the configuration cannot be carried out, Interrupted after a signal.
    """
    with num_threads(config.num_threads):
        return Simulation(config, model, data, beta).run(
            progress=progress, checkpoints=checkpoints, checkpoint_every=checkpoint_every, keep_every=keep_every
        )


class Simulation:
    """One run, taken apart: its timeline, data, trainer and server are attributes that a lesson can look at.

    `own` names what the configuration does not say (a model, data or rule of your own), each with its fingerprint.
    """

    def __init__(
        self,
        config: RunConfig,
        model: nn.Module | None = None,
        data: FederatedData | None = None,
        beta: Callable[[int], float] | None = None,
    ) -> None:
        self.config = config
        self.timer = Timer()
        self.device = pick_device(config.device)
        with self.timer("timeline"):
            self.timeline: Timeline = simulate_timeline(config.federation, config.seed)
        with self.timer("data"):
            self.data = federated(config, data, self.device)
        weights = None if beta is None else tabulate(beta, int(self.timeline.arrival_staleness.max()))
        self.own = fingerprints(model, data, weights)
        self.model_name = config.model if model is None else type(model).__qualname__
        if model is None:
            model = initialised(config, self.data)
        check_model(model, self.data.sample_shape, self.data.num_classes, self.data.clients.inputs.dtype)
        self.layout = StateLayout(model, self.device)
        self.inputs: Inputs = build_modality(config, self.data, self.layout.template, self.device)
        self.prepare = self.inputs.prepare
        self.trainer = LocalTrainer(self.layout, self.data, self.prepare, config.training, config.seed)
        self.reviver = build_reviver(config, self.layout, self.data, self.inputs, self.device)
        first = self.layout.pack(model)
        self.server = Server(
            first, self.layout, config.server, config.staleness, config.federation, self.reviver, weights
        )
        # Versions that jobs still need, each shared by all jobs that start from it and freed with the last one, and
        # models trained and not yet arrived: at most K states each.
        self.snapshots, self.returned = (StateStore(self.device, offload=config.offload) for _ in range(2))
        self.snapshots[0] = self.server.state
        self.users = np.bincount(
            self.timeline.base_version[self.timeline.arrivals], minlength=self.timeline.num_versions + 1
        )
        # The record so far.
        self.num_processed = self.num_resumed = 0
        self.branches: list[dict[str, Any]] = []  # where it was branched from others, oldest first
        self.evaluations: list[dict[str, Any]] = []
        self.receipts: list[Receipt] = []
        # All receipts share this memory: kept one by one they would lie between large tensors and hold theirs back.
        self.metrics = torch.empty(len(self.timeline.arrivals), len(METRICS), device=self.device)
        self.samples: list[tuple[int, np.ndarray, np.ndarray]] = []

    def run(
        self,
        *,
        progress: bool = True,
        checkpoints: Path | None = None,
        checkpoint_every: int | str = 100,
        keep_every: int = 0,
    ) -> Record:
        """Process every arrival that is left and return the record; see `run` above for the arguments."""
        config, timeline = self.config, self.timeline
        title = f"{config.preset}/{config.method}/seed {config.seed}"
        with (
            checkpoint.kept(self, checkpoints, checkpoint_every, keep_every) as keep,
            Progress(title, timeline.num_versions, show=progress) as bar,
        ):
            for is_new in self.steps():
                if is_new:
                    accuracy = self.evaluations[-1]["accuracy"]
                    bar.advance(self.server.version, f"time {self.now:.1f}, accuracy {accuracy:.3f}")
                keep(is_new)
            if stopped := self.reason_to_stop():
                bar.say(f"stopped at time {self.now:.4g}, {stopped}")
        return record_of(self)

    def steps(self) -> Iterator[bool]:
        """Process the arrivals that are left, evaluating where it is due; each step says if it made a new version.

        Stop anywhere; another `steps`, `run` or `branched` goes on from there.
        """
        if not self.evaluations:
            self._evaluate()
        while self.num_processed < len(self.timeline.arrivals) and not self.reason_to_stop():
            before = self.server.version
            self.process(self.num_processed)
            version = self.server.version
            is_new = version != before
            if is_new and (version % self.config.evaluation.every == 0 or version == self.timeline.num_versions):
                self._evaluate()
                self._keep_samples()
            yield is_new

    def branched(self, config: RunConfig, beta: Callable[[int], float] | None = None) -> Simulation:
        """A simulation that goes on from the present moment of this one as `config` says; this one is left as it is.

        Seed, device, model, federation, data, training and the split evaluated on must be the same; what the server
        does may differ, also by a staleness rule `beta` of your own. docs/DURABILITY.md says what is carried over.
        Raises ConfigError naming what must not differ.
        """
        return branched(self, config, beta)

    @property
    def now(self) -> float:
        """Simulated time of the last arrival processed, 0 before any."""
        last = self.timeline.arrivals[self.num_processed - 1]
        return float(self.timeline.arrival_time[last]) if self.num_processed else 0.0

    def reason_to_stop(self) -> str:
        """Why the run ends before its budget does; '' if it does not."""
        evaluation, last = self.config.evaluation, self.evaluations[-1]
        if evaluation.target_accuracy and last["version"] > 0 and last["accuracy"] >= evaluation.target_accuracy:
            return "target accuracy reached"
        if self.timeline.ran_dry and self.num_processed == len(self.timeline.arrivals):
            return "every client has left the federation"
        chance_from = evaluation.stop_diverged
        return "" if chance_from is None else diverged(self.evaluations, self.data.num_classes, chance_from)

    def process(self, number: int) -> None:
        """Arrival `number` (from 0, in order): train what must be trained before it, then hand it to the server."""
        timeline = self.timeline
        if number in timeline.training_groups:
            self.train_group(number)
        job = int(timeline.arrivals[number])
        base = int(timeline.base_version[job])
        downloaded, returned = self.snapshots.fetch(base), self.returned.fetch(job)
        if not timeline.is_copy[number + 1 : number + 2].any():
            del self.returned[job]
        fault = FAULTS[timeline.arrival_fault[number]]
        upload = Upload(
            client=int(timeline.client[job]),
            staleness=int(timeline.arrival_staleness[number]),
            downloaded=downloaded,
            returned=apply_fault(self.layout, downloaded, returned, fault, self.config.federation.faults.scale),
            job=job,
        )
        self.users[base] -= 1
        if self.users[base] == 0:
            del self.snapshots[base]
        with self.timer("server"):
            receipt = self.server.receive(upload)
        self.metrics[number] = receipt.metrics
        self.receipts.append(replace(receipt, metrics=self.metrics[number]))
        self.num_processed = number + 1
        version = self.server.version
        if version not in self.snapshots and self.users[version] > 0:
            self.snapshots[version] = self.server.state

    def train_group(self, number: int) -> None:
        """Train the jobs that the timeline groups before arrival `number`."""
        timeline = self.timeline
        jobs = [
            Job(job, int(timeline.client[job]), self.snapshots.fetch(int(timeline.base_version[job])))
            for job in timeline.training_groups[number].tolist()
        ]
        with self.timer("training", len(jobs)):
            returned = self.trainer.train(jobs)
        for job, state in zip(jobs, returned, strict=True):
            self.returned[job.number] = state

    def _evaluate(self) -> None:
        part = self.data.test if self.config.evaluation.split == "test" else self.data.validation
        with self.timer("evaluation"):
            accuracy, loss, class_accuracy = evaluate(
                self.layout, self.server.state, self.prepare, part.inputs, part.labels, self.data.num_classes
            )
        evaluation = {
            "version": self.server.version,
            "sim_time": self.now,
            "num_arrivals": self.num_processed,
            "accuracy": accuracy,
            "loss": loss,
            "class_accuracy": class_accuracy,
            "state_sha256": state_sha256(self.server.state.cpu().numpy()),
        }
        self.evaluations.append(evaluation | {"chain": self.certificate(evaluation)})

    def certificate(self, row: dict[str, Any]) -> str:
        """The certificate up to now; see certificate.py."""
        last: dict[str, Any] = self.evaluations[-1] if self.evaluations else {"chain": "", "num_arrivals": 0}
        return link(last["chain"], row, arrivals_table(self.timeline, self.receipts, last["num_arrivals"]))

    def _keep_samples(self) -> None:
        if self.reviver is None or self.reviver.synthesizer is None or len(self.reviver.pool) == 0:
            return
        version = self.server.version
        spacing = self.timeline.num_versions / SAMPLE_MOMENTS
        if self.samples and version - self.samples[-1][0] < spacing and version != self.timeline.num_versions:
            return
        samples, labels = self.reviver.pool.newest(SAMPLES_SHOWN)
        self.samples.append((version, self.inputs.show(samples), labels))
