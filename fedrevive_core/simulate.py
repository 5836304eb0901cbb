"""A run: the timeline says what happens when, training and server make it happen, the record keeps it.

The only module that knows both the timeline and the server.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrevive_core.config import ConfigError, RunConfig
from fedrevive_core.data import FederatedData, Preparation, load_federated
from fedrevive_core.distillation import Distiller
from fedrevive_core.models import build_model, check_model
from fedrevive_core.pool import SamplePool
from fedrevive_core.progress import Progress
from fedrevive_core.record import Record, provenance, state_sha256, summarise
from fedrevive_core.revival import Reviver
from fedrevive_core.seeding import stream
from fedrevive_core.server import METRICS, Receipt, Server, Upload
from fedrevive_core.state import StateLayout
from fedrevive_core.synthesis import Generator, Synthesizer
from fedrevive_core.teachers import ClassProportions
from fedrevive_core.timeline import Timeline, simulate_timeline, speed_groups
from fedrevive_core.training import Job, LocalTrainer

EVALUATION_BATCH = 2000
SAMPLES_SHOWN = 32  # newest images of the pool kept at a moment
SAMPLE_MOMENTS = 24  # moments at which they are kept, at most


def run(config: RunConfig, *, model: nn.Module | None = None, progress: bool = True) -> Record:
    """Carry out one run and return its record.

    Args:
        model: your own network instead of `config.model`, as initialised; it must return (B, num_classes) logits.
        progress: show versions, simulated time and accuracy while it runs.

    Global random state is not used; the number of CPU threads is set for the run and restored. Raises ConfigError
    before any training if the configuration cannot be carried out.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(config.num_threads or threads)
    try:
        return Simulation(config, model).run(progress=progress)
    finally:
        torch.set_num_threads(threads)


def pick_device(name: str) -> torch.device:
    """Device for 'auto' (CUDA if there is one), 'cpu' or 'cuda'. Raises ConfigError if CUDA is asked for and absent."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = 'cuda' but PyTorch sees no CUDA GPU here: use device = 'cpu' or 'auto'")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


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
        self.num_dispatched = 0
        self.arrives = self.timeline.arrival_version >= 0

    def run(self, *, progress: bool = True) -> Record:
        """Process every arrival and return the record."""
        config, timeline = self.config, self.timeline
        evaluations: list[dict[str, Any]] = []
        receipts: list[Receipt] = []
        samples: list[tuple[int, np.ndarray, np.ndarray]] = []
        title = f"{config.preset}/{config.method}/seed {config.seed}"
        with Progress(title, timeline.num_versions, show=progress) as bar:
            evaluations.append(self._evaluate(0, 0.0, 0))
            for number, job in enumerate(timeline.arrivals.tolist(), start=1):
                version = self.server.version
                receipts.append(self._process(number - 1, job))
                now = float(timeline.arrival_time[job])
                if self.server.version == version:
                    continue
                version = self.server.version
                if version % config.evaluation.every == 0 or version == timeline.num_versions:
                    evaluations.append(self._evaluate(version, now, number))
                    self._keep_samples(samples, version)
                    target = config.evaluation.target_accuracy
                    if target is not None and evaluations[-1]["accuracy"] >= target:
                        break
                bar.advance(version, f"time {now:.1f}, accuracy {evaluations[-1]['accuracy']:.3f}")
        return self._record(evaluations, receipts, samples)

    def _process(self, processed: int, job: int) -> Receipt:
        """Hand the returned model of `job` to the server; `processed` arrivals came before it."""
        timeline = self.timeline
        if job not in self.returned:
            self._train_dispatched(processed)
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
        version = self.server.version
        if version not in self.snapshots and self.users[version] > 0:
            self.snapshots[version] = self.server.state
        return receipt

    def _train_dispatched(self, processed: int) -> None:
        """Train, together, every job that has been dispatched, is not trained yet, and will arrive."""
        dispatched = int(np.searchsorted(self.timeline.dispatched_after, processed, side="right"))
        jobs = [
            Job(number, int(self.timeline.client[number]), self.snapshots[int(self.timeline.base_version[number])])
            for number in range(self.num_dispatched, dispatched)
            if self.arrives[number]
        ]
        with self.stopwatch("training", len(jobs)):
            returned = self.trainer.train(jobs)
        self.returned.update({job.number: state for job, state in zip(jobs, returned, strict=True)})
        self.num_dispatched = dispatched

    def _evaluate(self, version: int, sim_time: float, num_arrivals: int) -> dict[str, Any]:
        part = self.data.test if self.config.evaluation.split == "test" else self.data.validation
        with self.stopwatch("evaluation"):
            accuracy, loss, class_accuracy = evaluate(
                self.layout, self.server.state, self.prepare, part.images, part.labels, self.data.num_classes
            )
        return {
            "version": version,
            "sim_time": sim_time,
            "num_arrivals": num_arrivals,
            "accuracy": accuracy,
            "loss": loss,
            "class_accuracy": class_accuracy,
        }

    def _keep_samples(self, samples: list[tuple[int, np.ndarray, np.ndarray]], version: int) -> None:
        if self.reviver is None or self.reviver.synthesizer is None or len(self.reviver.pool) == 0:
            return
        spacing = self.timeline.num_versions / SAMPLE_MOMENTS
        if samples and version - samples[-1][0] < spacing and version != self.timeline.num_versions:
            return
        images, labels = self.reviver.pool.newest(SAMPLES_SHOWN)
        samples.append((version, images.mul(255).round().byte().cpu().numpy(), labels))

    def _record(
        self,
        evaluations: list[dict[str, Any]],
        receipts: list[Receipt],
        samples: list[tuple[int, np.ndarray, np.ndarray]],
    ) -> Record:
        config, timeline = self.config, self.timeline
        state = self.server.state.cpu()
        evaluated = pd.DataFrame(evaluations)
        # A run that its budget ended lasts until the end of the budget; one that reached its target, until then.
        finished = len(receipts) == len(timeline.arrivals)
        sim_time = (config.federation.max_sim_time if finished else None) or evaluated["sim_time"].iloc[-1]
        if config.federation.max_versions and self.server.version == config.federation.max_versions:
            sim_time = evaluated["sim_time"].iloc[-1]
        class_accuracy = np.array(evaluations[-1]["class_accuracy"])
        per_client = self.data.class_proportions @ np.nan_to_num(class_accuracy)
        groups = speed_groups(timeline.mean_duration)
        arrivals = _arrivals_table(timeline, receipts)
        summary = {
            **summarise(evaluated, float(sim_time)),
            "num_versions": self.server.version,
            "num_arrivals": len(receipts),
            "sim_time": float(sim_time),
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
        device = torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"
        return Record(
            config=config,
            summary=summary,
            provenance=provenance(device, torch.get_num_threads()),
            evaluations=evaluated,
            arrivals=arrivals,
            timings=self.stopwatch.table(),
            samples=_stack_samples(samples, self.data.image_shape),
            model={name: tensor.clone().numpy() for name, tensor in self.layout.views(state).items()},
        )


def initialised(config: RunConfig, data: FederatedData) -> nn.Module:
    """`config.model` for `data`, with weights drawn from the run's seed (not from PyTorch's global generator)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(stream(config.seed, "initialisation", 0).integers(2**63)))
        return build_model(config.model, data.image_shape[0], data.image_shape[-1], data.num_classes)


def build_reviver(
    config: RunConfig, layout: StateLayout, data: FederatedData, client_prepare: Preparation, device: torch.device
) -> Reviver | None:
    """The reviver that `config.revival` asks for, or None."""
    revival = config.revival
    if revival.source == "none":
        return None
    true = data.class_proportions if revival.proportions == "true" else None
    proportions = ClassProportions(layout, data.image_shape, revival, config.seed, true)
    if revival.source == "held_back":
        real = data.held_back
        pool = SamplePool(len(real.labels), data.image_shape, data.num_classes, device)
        pool.add(real.images, real.labels.cpu().numpy())
        synthesizer, prepare = None, client_prepare
    else:
        pool = SamplePool(config.synthesis.pool_size, data.image_shape, data.num_classes, device)
        prepare = Preparation(config.data, device, synthetic=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(stream(config.seed, "initialisation", 1).integers(2**63)))
            generator = Generator(config.synthesis.noise_dim, config.synthesis.width, *data.image_shape[:2])
        synthesizer = Synthesizer(layout, prepare, generator.to(device), config.synthesis, guard=revival.guard)
    distiller = Distiller(layout, prepare, config.distillation, device, guard=revival.guard)
    return Reviver(revival, config.synthesis, proportions, pool, synthesizer, distiller, config.seed)


@torch.no_grad()
def evaluate(
    layout: StateLayout, state: Tensor, prepare: Preparation, images: Tensor, labels: Tensor, num_classes: int
) -> tuple[float, float, list[float]]:
    """Accuracy, mean cross-entropy, and accuracy of each class (NaN without samples) of `state` on labelled images."""
    views = layout.views(state)
    logits = torch.cat([layout.call(views, prepare(batch)) for batch in images.split(EVALUATION_BATCH)])
    correct = (logits.argmax(dim=1) == labels).double()
    totals = torch.zeros(2, num_classes, dtype=torch.float64, device=labels.device)
    totals.index_add_(1, labels, torch.stack([correct, torch.ones_like(correct)]))
    hits, counts = totals.cpu()
    loss = float(F.cross_entropy(logits, labels))
    return float(hits.sum() / counts.sum()), loss, (hits / counts).tolist()


class Stopwatch:
    """Adds up host seconds per part. On a GPU they are those of the launching thread, which may run ahead."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: defaultdict[str, int] = defaultdict(int)

    @contextmanager
    def __call__(self, part: str, calls: int = 1) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - started
        self.calls[part] += calls

    def table(self) -> pd.DataFrame:
        """A row per part: `part`, `seconds`, `calls` (for training: jobs)."""
        rows = [(part, seconds, self.calls[part]) for part, seconds in self.seconds.items()]
        return pd.DataFrame(rows, columns=["part", "seconds", "calls"])


def _arrivals_table(timeline: Timeline, receipts: list[Receipt]) -> pd.DataFrame:
    jobs = timeline.arrivals[: len(receipts)]
    metrics = torch.stack([receipt.metrics for receipt in receipts]).cpu().numpy()
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
