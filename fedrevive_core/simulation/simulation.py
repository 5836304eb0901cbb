"""A run: the timeline says what happens when, training and server make it happen, the recorder keeps it.

The only module that knows both the timeline and the server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fedrevive_core.config import FAULTS, RunConfig
from fedrevive_core.data import FederatedData
from fedrevive_core.evaluation import diverged, evaluate
from fedrevive_core.records import Record, code_hash, made_by
from fedrevive_core.server import Upload
from fedrevive_core.simulation import checkpoint
from fedrevive_core.simulation.branch import branch
from fedrevive_core.simulation.build import build_components, num_threads
from fedrevive_core.simulation.progress import Progress, Timer
from fedrevive_core.simulation.resumable import identity_differences
from fedrevive_core.simulation.state_store import StateStore
from fedrevive_core.simulation.teaching import Teaching
from fedrevive_core.timeline import Timeline
from fedrevive_core.training import apply_fault


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
    allow_other_code: bool = False,
) -> Record:
    """Make one run and return its record.

    Args:
        model: your own network instead of `config.model`, as initialised; it must return (B, num_classes) logits.
        data: your own data instead of `config.data.name`, from `federate`, a shard for each client.
        beta: your own staleness rule instead of `config.staleness`, from staleness (versions) to a weight from 0 to 1.
        progress: show versions, simulated time and accuracy while it runs.
        checkpoints: a directory for checkpoints; None writes none. One is written every `checkpoint_every` versions (or
            seconds: '300s'), and on SIGINT or SIGTERM. A run that finds a checkpoint there resumes from it. The two
            newest stay, and every `keep_every`-th version.

    Global random state is not used; the number of CPU threads is set for the run and restored. Raises ConfigError
    before any training if the configuration cannot work, Interrupted after a signal.
    """
    simulation = Simulation(config, model, data, beta)
    return simulation.run(progress=progress, checkpoints=checkpoints, checkpoint_every=checkpoint_every,
                          keep_every=keep_every, allow_other_code=allow_other_code)  # fmt: skip


class Simulation:
    """One run, taken apart: its timeline, data, trainer, server and recorder are attributes that a lesson can look at.

    `custom` names what the configuration does not say (a given model, data or rule), each with its fingerprint.
    timeline: one that is still being recorded, in place of the one that the configuration describes.
    """

    def __init__(
        self,
        config: RunConfig,
        model: nn.Module | None = None,
        data: FederatedData | None = None,
        beta: Callable[[int], float] | None = None,
        timeline: Timeline | None = None,
    ) -> None:
        self.config, self.timer = config, Timer()
        with num_threads(config.num_threads):
            parts = build_components(config, model, data, beta, self.timer, timeline)
        self.device, self.timeline, self.data, self.layout = parts.device, parts.timeline, parts.data, parts.layout
        self.modality, self.trainer = parts.modality, parts.trainer
        self.reviver, self.server = parts.reviver, parts.server
        self.recorder, self.model_name, self.custom = parts.recorder, parts.model_name, parts.custom
        # Versions that jobs still need, each shared by all jobs that start from it and freed with the last one, and
        # models trained and not yet arrived: at most K states each.
        self.snapshots, self.returned = (StateStore(self.layout, offload=config.offload) for _ in range(2))
        self.snapshots[0] = self.server.state
        self.teaching = Teaching(config, self.timeline, self.trainer, self.timer)
        self.users = self._users(0)
        self.num_processed = self.num_resumed = self.first_arrival = 0  # the last: of the present part of the run
        self.branches: list[dict[str, Any]] = []  # where it was branched from others, oldest first
        self.past_segments: list[dict[str, Any]] = []  # parts of the run that are done, oldest first
        code_hash()  # now, because the files may change while the run lasts

    @property
    def version(self) -> int:
        """Version of the global model."""
        return self.server.version

    @property
    def now(self) -> float:
        """Simulated time of the last arrival processed, 0 before any."""
        timeline, count = self.timeline, self.num_processed
        return float(timeline.arrival_time[timeline.arrivals[count - 1]]) if count else 0.0

    def run(
        self,
        *,
        progress: bool = True,
        checkpoints: Path | None = None,
        checkpoint_every: int | str = 100,
        keep_every: int = 0,
        allow_other_code: bool = False,
    ) -> Record:
        """Process every arrival that is left and return the record; see `run` above for the arguments."""
        config, timeline = self.config, self.timeline
        with (
            num_threads(config.num_threads),
            checkpoint.kept(self, checkpoints, checkpoint_every, keep_every, allow_other_code) as keep,
            Progress(
                f"{config.preset}/{config.method}/seed {config.seed}", timeline.num_versions, show=progress
            ) as bar,
        ):
            for is_new in self.steps():
                if is_new:
                    accuracy = self.recorder.evaluations[-1]["accuracy"]
                    bar.advance(self.version, f"time {self.now:.1f}, accuracy {accuracy:.3f}")
                keep(is_new)
            if stopped := self.reason_to_stop():
                bar.say(f"stopped at time {self.now:.4g}, {stopped}")
            return self.record()

    def steps(self) -> Iterator[bool]:
        """Process the arrivals that are left, evaluating where it is due; each step says if it made a new version.

        Stop anywhere; another `steps`, `run` or `branched` continues from there.
        """
        if not self.recorder.evaluations:
            self.evaluate()
        while self.num_processed < len(self.timeline.arrivals) and not self.reason_to_stop():
            before = self.version
            self.process(self.num_processed)
            yield self.evaluate_if_due(before)

    def process(self, number: int) -> None:
        """Arrival `number` (from 0, in order): train what must be trained before it, then hand it to the server."""
        if number in self.timeline.training_groups:
            self.train_group(number)
        self.receive(number)

    def receive(self, number: int) -> None:
        """Hand arrival `number`, whose job is trained, to the server."""
        timeline = self.timeline
        job = int(timeline.arrivals[number])
        base = int(timeline.base_version[job])
        downloaded, returned = self.snapshots.fetch(base), self.returned.fetch(job)
        if not timeline.is_copy[number + 1 : number + 2].any():
            del self.returned[job]
        returned = self.teaching.corrected(number, returned, self.server.state, self.version)
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
        with num_threads(self.config.num_threads), self.timer("server"):
            receipt = self.server.receive(upload)
        self.teaching.keep(number, upload.returned, receipt.rejected)
        self.recorder.keep_receipt(receipt)
        self.num_processed = number + 1
        if self.version not in self.snapshots and self.users[self.version] > 0:
            self.snapshots[self.version] = self.server.state

    def train_group(self, number: int) -> None:
        """Train the jobs that the timeline groups before arrival `number`."""
        jobs = [self.teaching.job(job, self.snapshots) for job in self.timeline.training_groups[number].tolist()]
        with num_threads(self.config.num_threads), self.timer("training", len(jobs)):
            returned = self.trainer.train(jobs)
        for job, state in zip(jobs, returned, strict=True):
            self.returned[job.number] = state

    def evaluate_if_due(self, before: int) -> bool:
        """Whether there is a new version since `before`; it is evaluated if its turn has come."""
        is_new = self.version != before
        if is_new and (self.version % self.config.evaluation.every == 0 or self.version == self.recorder.last_version):
            self.evaluate()
            if self.reviver is not None and self.reviver.synthesizer is not None and len(self.reviver.pool) > 0:
                self.recorder.keep_samples(self.version, self.reviver.pool)
        return is_new

    def evaluate(self) -> None:
        """Evaluate the global model and record it."""
        part = self.data.test if self.config.evaluation.split == "test" else self.data.validation
        with num_threads(self.config.num_threads), self.timer("evaluation"):
            accuracy, loss, class_accuracy = evaluate(
                self.layout, self.server.state, self.modality.prepare, part.inputs, part.labels, self.data.num_classes
            )
        scores = {"accuracy": accuracy, "loss": loss, "class_accuracy": class_accuracy}
        self.recorder.keep_evaluation(self.version, self.now, self.server.state, scores)

    def reason_to_stop(self) -> str:
        """Why the run ends before its budget does; '' if it does not."""
        evaluation, evaluations = self.config.evaluation, self.recorder.evaluations
        last = evaluations[-1]
        if evaluation.target_accuracy and last["version"] > 0 and last["accuracy"] >= evaluation.target_accuracy:
            return "target accuracy reached"
        if self.timeline.ran_dry and self.num_processed == len(self.timeline.arrivals):
            return "every client has left the federation"
        chance_from = evaluation.stop_diverged
        return "" if chance_from is None else diverged(evaluations, self.data.num_classes, chance_from)

    def record(self) -> Record:
        """The record of the run as far as it has come."""
        return self.recorder.record(
            self.config,
            self.data,
            self.server.state,
            self.layout.views(self.server.state),
            stopped=self.reason_to_stop(),
            summary={"model": self.model_name, "num_parameters": self.layout.num_parameters},
            origin={
                **self.made_by(),
                "segments": self.segments(),
                "own": self.custom,
                "data_sha256": self.data.fingerprint,
                "num_resumed": self.num_resumed,
                "branches": self.branches,
                "executor": str(self.trainer.executor),
            },
            timings=self.timer.table(),
        )

    def made_by(self) -> dict[str, Any]:
        """The code, versions, device and threads that make the run from here on."""
        device = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return made_by(device, self.config.num_threads or torch.get_num_threads())

    def segments(self) -> list[dict[str, Any]]:
        """The parts of the run, oldest first: the number of the first arrival of each, and what made it."""
        now = {"first_arrival": self.first_arrival, **self.made_by()}
        is_new = not self.past_segments or {**self.past_segments[-1], "first_arrival": self.first_arrival} != now
        return [*self.past_segments, now] if is_new else self.past_segments

    def state_dict(self) -> dict[str, Any]:
        """All that cannot be computed again from the configuration, between two arrivals; tensors are shared."""
        return {
            "num_processed": self.num_processed,
            "num_resumed": self.num_resumed,
            "segments": self.segments(),
            "server": self.server.state_dict(),
            "snapshots": self.snapshots.state_dict(),
            "returned": self.returned.state_dict(),
            "teaching": self.teaching.state_dict(),
            "recorder": self.recorder.state_dict(),
            "timer": self.timer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises an error if names, counts or shapes do not match."""
        self.recorder.load_state_dict(state["recorder"])
        if state["num_processed"] != len(self.recorder.receipts):
            raise ValueError(f"{len(self.recorder.receipts)} uploads are recorded, not {state['num_processed']}")
        self.num_processed, self.num_resumed = int(state["num_processed"]), int(state["num_resumed"])
        # A version that did not name its code wrote no segments.
        self.past_segments = [dict(part) for part in state.get("segments", [{"first_arrival": 0}])]
        self.first_arrival = self.num_processed
        self.server.load_state_dict(state["server"])
        self.snapshots.load_state_dict(state["snapshots"])
        self.returned.load_state_dict(state["returned"])
        self.teaching.load_state_dict(state.get("teaching", {}), self.num_processed)  # an older version had none
        self.timer.load_state_dict(state["timer"])
        self.users = self._users(self.num_processed)

    def identity(self) -> dict[str, Any]:
        """What must be equal for a checkpoint to be resumed: configuration, data, what was given, branches."""
        given = {"data": self.data.fingerprint, "custom": self.custom}
        return {"config": self.config.to_dict(), **given, "branches": self.branches}

    def differences(self, identity: Mapping[str, Any]) -> list[str]:
        """In which respects `identity`, of a checkpoint, is another than this one's, in words."""
        return identity_differences(self.identity(), identity)

    def branched(self, config: RunConfig, beta: Callable[[int], float] | None = None) -> Simulation:
        """A simulation that continues from the present state of this one as `config` says; this one does not change.

        What the server does may differ, also by a rule `beta` of your own; docs/DURABILITY.md says what must not, and
        what is carried over. Raises ConfigError naming what must not differ.
        """
        return branch(self, config, beta)

    def _users(self, num_processed: int) -> np.ndarray:
        """(versions,) how many of the arrivals that are left start from each version."""
        left = self.timeline.base_version[self.timeline.arrivals[num_processed:]]
        return np.bincount(left, minlength=self.timeline.num_versions + 1)
