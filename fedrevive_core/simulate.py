"""A run: the timeline says what happens when, training and server make it happen, the record keeps it.

The only module that knows both the timeline and the server.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from fedrevive_core import checkpoint
from fedrevive_core.assembly import build_reviver, initialised, num_threads, pick_device
from fedrevive_core.certificate import link
from fedrevive_core.config import RunConfig
from fedrevive_core.data import FederatedData, Preparation, load_federated
from fedrevive_core.evaluation import evaluate
from fedrevive_core.models import check_model
from fedrevive_core.moment import SAMPLE_MOMENTS, SAMPLES_SHOWN, branched
from fedrevive_core.progress import Progress, Stopwatch
from fedrevive_core.record import Record, provenance, state_sha256, summarise
from fedrevive_core.server import METRICS, Receipt, Server, Upload
from fedrevive_core.state import StateLayout
from fedrevive_core.timeline import Timeline, simulate_timeline, speed_groups
from fedrevive_core.training import Job, LocalTrainer


def run(
    config: RunConfig,
    *,
    model: nn.Module | None = None,
    progress: bool = True,
    checkpoints: Path | None = None,
    checkpoint_every: int | str = 100,
    keep_every: int = 0,
) -> Record:
    """Carry out one run and return its record.

    Args:
        model: your own network instead of `config.model`, as initialised; it must return (B, num_classes) logits.
        progress: show versions, simulated time and accuracy while it runs.
        checkpoints: a directory; every `checkpoint_every` versions (or seconds: '300s'), and on SIGINT or SIGTERM, all
            that is needed to go on is written there, and a run that finds a checkpoint goes on from it. Unset writes
            none. The two newest stay, and those at multiples of `keep_every` versions.

    Global random state is not used; the number of CPU threads is set for the run and restored. Raises ConfigError
    before any training if the configuration cannot be carried out, Interrupted after a signal.
    """
    with num_threads(config.num_threads):
        return Simulation(config, model).run(
            progress=progress, checkpoints=checkpoints, checkpoint_every=checkpoint_every, keep_every=keep_every
        )


class Simulation:
    """One run, taken apart: its timeline, data, trainer and server are attributes that a lesson can look at."""

    def __init__(self, config: RunConfig, model: nn.Module | None = None) -> None:
        self.config = config
        self.stopwatch = Stopwatch()
        self.device = pick_device(config.device)
        with self.stopwatch("timeline"):
            self.timeline: Timeline = simulate_timeline(config.federation, config.seed)
        with self.stopwatch("data"):
            self.data: FederatedData = load_federated(config.data, config.federation.num_clients, self.device)
        self.model_name = config.model if model is None else type(model).__qualname__
        if model is None:
            model = initialised(config, self.data)
        check_model(model, self.data.image_shape, self.data.num_classes)
        self.layout = StateLayout(model, self.device)
        prepare = Preparation(config.data, self.device)
        self.prepare = prepare
        self.trainer = LocalTrainer(self.layout, self.data, prepare, config.training, config.seed)
        self.reviver = build_reviver(config, self.layout, self.data, prepare, self.device)
        self.server = Server(
            self.layout.pack(model), self.layout, config.server, config.staleness, config.federation, self.reviver
        )
        # Versions that jobs still need, each shared by all jobs that start from it and freed with the last one. Memory
        # is (versions in use + models trained and not yet arrived, each at most K) x the size of a state.
        self.snapshots: dict[int, Tensor] = {0: self.server.state}
        self.users = np.bincount(
            self.timeline.base_version[self.timeline.arrivals], minlength=self.timeline.num_versions + 1
        )
        self.returned: dict[int, Tensor] = {}
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
                    bar.advance(self.server.version, f"time {self._now():.1f}, accuracy {accuracy:.3f}")
                keep(is_new)
        return self._record()

    def steps(self) -> Iterator[bool]:
        """Process the arrivals that are left, evaluating where it is due; each step says if it made a new version.

        Stop anywhere; another `steps`, `run` or `branched` goes on from there.
        """
        if not self.evaluations:
            self._evaluate()
        while self.num_processed < len(self.timeline.arrivals) and not self._target_reached():
            before = self.server.version
            self.process(self.num_processed)
            version = self.server.version
            is_new = version != before
            if is_new and (version % self.config.evaluation.every == 0 or version == self.timeline.num_versions):
                self._evaluate()
                self._keep_samples()
            yield is_new

    def branched(self, config: RunConfig) -> Simulation:
        """A simulation that goes on from the present moment of this one as `config` says; this one is left as it is.

        Seed, device, model, federation, data, training and the split evaluated on must be the same; what the server
        does may differ. docs/DURABILITY.md says what is carried over. Raises ConfigError naming what must not differ.
        """
        return branched(self, config)

    def _now(self) -> float:
        """Simulated time of the last arrival processed."""
        last = self.timeline.arrivals[self.num_processed - 1]
        return float(self.timeline.arrival_time[last]) if self.num_processed else 0.0

    def _target_reached(self) -> bool:
        target, last = self.config.evaluation.target_accuracy, self.evaluations[-1]
        return target is not None and last["version"] > 0 and last["accuracy"] >= target

    def process(self, number: int) -> None:
        """Arrival `number` (from 0, in order): train what must be trained before it, then hand it to the server."""
        timeline = self.timeline
        if number in timeline.training_groups:
            self.train_group(number)
        job = int(timeline.arrivals[number])
        base = int(timeline.base_version[job])
        upload = Upload(
            client=int(timeline.client[job]),
            staleness=int(timeline.staleness[job]),
            downloaded=self.snapshots[base],
            returned=self.returned.pop(job),
        )
        self.users[base] -= 1
        if self.users[base] == 0:
            del self.snapshots[base]
        with self.stopwatch("server"):
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
            Job(job, int(timeline.client[job]), self.snapshots[int(timeline.base_version[job])])
            for job in timeline.training_groups[number].tolist()
        ]
        with self.stopwatch("training", len(jobs)):
            returned = self.trainer.train(jobs)
        self.returned.update({job.number: state for job, state in zip(jobs, returned, strict=True)})

    def _evaluate(self) -> None:
        part = self.data.test if self.config.evaluation.split == "test" else self.data.validation
        with self.stopwatch("evaluation"):
            accuracy, loss, class_accuracy = evaluate(
                self.layout, self.server.state, self.prepare, part.images, part.labels, self.data.num_classes
            )
        evaluation = {
            "version": self.server.version,
            "sim_time": self._now(),
            "num_arrivals": self.num_processed,
            "accuracy": accuracy,
            "loss": loss,
            "class_accuracy": class_accuracy,
            "state_sha256": state_sha256(self.server.state.cpu().numpy()),
        }
        self.evaluations.append(evaluation | {"chain": self._link(evaluation)})

    def _link(self, row: dict[str, Any]) -> str:
        """The certificate up to now; see certificate.py."""
        last: dict[str, Any] = self.evaluations[-1] if self.evaluations else {"chain": "", "num_arrivals": 0}
        return link(last["chain"], row, _arrivals_table(self.timeline, self.receipts, last["num_arrivals"]))

    def _keep_samples(self) -> None:
        if self.reviver is None or self.reviver.synthesizer is None or len(self.reviver.pool) == 0:
            return
        version = self.server.version
        spacing = self.timeline.num_versions / SAMPLE_MOMENTS
        if self.samples and version - self.samples[-1][0] < spacing and version != self.timeline.num_versions:
            return
        images, labels = self.reviver.pool.newest(SAMPLES_SHOWN)
        self.samples.append((version, images.mul(255).round().byte().cpu().numpy(), labels))

    def _record(self) -> Record:
        config, timeline = self.config, self.timeline
        state = self.server.state.cpu()
        evaluated = pd.DataFrame(self.evaluations)
        # A run that its budget in time ended lasts until then; any other, until its last version.
        out_of_time = (
            self.num_processed == len(timeline.arrivals) and self.server.version != config.federation.max_versions
        )
        sim_time = float((out_of_time and config.federation.max_sim_time) or evaluated["sim_time"].iloc[-1])
        class_accuracy = np.array(self.evaluations[-1]["class_accuracy"])
        per_client = self.data.class_proportions @ np.nan_to_num(class_accuracy)
        groups = speed_groups(timeline.mean_duration)
        arrivals = _arrivals_table(timeline, self.receipts)
        summary = {
            **summarise(evaluated, sim_time),
            "num_versions": self.server.version,
            "num_arrivals": self.num_processed,
            "sim_time": sim_time,
            "mean_staleness": float(arrivals["staleness"].mean()),
            "class_accuracy": dict(zip(self.data.class_names, class_accuracy.tolist(), strict=True)),
            # Expected test accuracy of a client: class accuracies weighted by its own class proportions.
            "speed_group_accuracy": {name: float(per_client[clients].mean()) for name, clients in groups.items()},
            "rejected_uploads": int((arrivals["rejected"] != "").sum()),
            "rejected_terms": int(np.nansum(arrivals["rejected_terms"])),
            "model": self.model_name,
            "num_parameters": self.layout.num_parameters,
            "state_sha256": state_sha256(state.numpy()),
        }
        summary["certificate"] = self._link({"state_sha256": summary["state_sha256"]})
        device = torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"
        return Record(
            config=config,
            summary=summary,
            provenance=provenance(device, torch.get_num_threads())
            | {"num_resumed": self.num_resumed, "branches": self.branches},
            evaluations=evaluated,
            arrivals=arrivals,
            timings=self.stopwatch.table(),
            samples=_stack_samples(self.samples, self.data.image_shape),
            model={name: tensor.clone().numpy() for name, tensor in self.layout.views(state).items()},
        )


def _arrivals_table(timeline: Timeline, receipts: list[Receipt], first: int = 0) -> pd.DataFrame:
    """A row per arrival from number `first` on."""
    jobs, receipts = timeline.arrivals[first : len(receipts)], receipts[first:]
    rows = [receipt.metrics for receipt in receipts]
    metrics = torch.stack(rows).cpu().numpy() if rows else np.empty((0, len(METRICS)), np.float32)
    return pd.DataFrame(
        {
            "job": jobs,
            "client": timeline.client[jobs],
            "sim_time": timeline.arrival_time[jobs],
            "version": timeline.arrival_version[jobs],
            "staleness": timeline.staleness[jobs],
            "beta": [receipt.beta for receipt in receipts],
            "revived": [receipt.revived for receipt in receipts],
            "rejected": [receipt.rejected for receipt in receipts],
            "pool_size": [receipt.pool_size for receipt in receipts],
            **{name: metrics[:, column] for column, name in enumerate(METRICS)},
        }
    )


def _stack_samples(
    samples: list[tuple[int, np.ndarray, np.ndarray]], image_shape: tuple[int, ...]
) -> dict[str, np.ndarray]:
    images = np.zeros((len(samples), SAMPLES_SHOWN, *image_shape), dtype=np.uint8)
    labels = np.full((len(samples), SAMPLES_SHOWN), -1, dtype=np.int64)
    for moment, (_, pixels, wanted) in enumerate(samples):
        images[moment, : len(wanted)], labels[moment, : len(wanted)] = pixels, wanted
    return {
        "version": np.array([version for version, _, _ in samples], dtype=np.int64),
        "images": images,
        "labels": labels,
    }
