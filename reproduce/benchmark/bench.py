"""Benchmarks: the package against the plain reference path, in one process, side by side.

Both paths do the same work on the same inputs, in turn (A B A B ...), and medians are compared, so that a machine that
slows down slows both. Absolute numbers are of one machine; the ratios are the result.
"""

from __future__ import annotations

import functools
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import psutil
import torch
from matplotlib.figure import Figure
from torch.utils.flop_counter import FlopCounterMode

from fedrevive_core.aggregation import new_version
from fedrevive_core.config import DataConfig, DistillationConfig, FederationConfig, TrainingConfig, build
from fedrevive_core.data import FederatedData, Images
from fedrevive_core.evaluation import evaluate
from fedrevive_core.models import Executor, StateLayout, build_model
from fedrevive_core.plots import METHOD_COLOURS, STYLE, Plot
from fedrevive_core.records import provenance
from fedrevive_core.revival import Distiller, SamplePool
from fedrevive_core.seeding import stream
from fedrevive_core.server import blend
from fedrevive_core.simulation import Simulation, num_threads
from fedrevive_core.timeline import simulate_timeline
from fedrevive_core.training import Job, LocalTrainer
from fedrevive_core.transforms import Preparation
from reproduce.benchmark import reference

CIFAR_AUGMENTATION = {"crop_padding": 4, "flip": True}
# name: model, channels, side, shard, steps of a job, jobs in a batch (the steady state of look-ahead), augmentation
WORKLOADS: dict[str, tuple[str, int, int, int, int, int, dict[str, Any]]] = {
    "LabNet 8x8": ("labnet", 1, 8, 60, 15, 12, {}),
    "LabNet 28x28": ("labnet", 1, 28, 350, 10, 6, {}),
    "ConvNet 28x28": ("convnet", 1, 28, 350, 5, 4, {}),
    "ResNet-18 32x32": ("resnet18", 3, 32, 350, 2, 2, CIFAR_AUGMENTATION),
}
ON_CUDA = {"steps": 25, "jobs": 12}  # a GPU is measured at the paper's size


class Workload:
    """One model and data shape with random images: enough for timing."""

    def __init__(self, name: str, device: torch.device) -> None:
        model, channels, side, shard, steps, jobs, augmentation = WORKLOADS[name]
        if device.type == "cuda":
            steps, jobs = ON_CUDA["steps"], ON_CUDA["jobs"]
        rng = np.random.default_rng(0)
        number = 1000
        images = torch.from_numpy(rng.random((number, channels, side, side), dtype=np.float32)).to(device)
        labels = torch.from_numpy(rng.integers(10, size=number)).to(device)
        self.images = Images(images, labels)
        shards = [rng.permutation(number)[:shard] for _ in range(jobs)]
        data = FederatedData(
            self.images, shards, self.images, self.images, self.images, tuple("0123456789"), np.full((jobs, 10), 0.1)
        )
        self.data_config = DataConfig(name="cifar10", augmentation=augmentation)
        self.training = TrainingConfig(steps=steps, batch_size=32, lr=1e-3)
        self.device, self.shards, self.num_jobs = device, shards, jobs
        self.model = build_model(model, channels, side, 10).to(device)
        self.layout = StateLayout(self.model, device)
        self.state = self.layout.pack(self.model)
        prepare = Preparation(self.data_config, device)
        self.trainer = LocalTrainer(self.layout, data, prepare, self.training, seed=0)
        self.dataset = reference.ImageDataset(self.images, self.data_config)
        self.named = {name: tensor.cpu().clone() for name, tensor in self.layout.views(self.state).items()}

    def train(self) -> None:
        """All jobs, by the package."""
        self.trainer.train([Job(number, number, self.state) for number in range(self.num_jobs)])

    def train_reference(self) -> None:
        """All jobs, one after the other."""
        for shard in self.shards:
            reference.train_client(self.model, self.named, self.dataset, shard, self.training)

    def prepare_revival(self) -> tuple[Callable[[], None], Callable[[], None]]:
        """One distillation of 8 teachers, 10 steps, 32 samples a teacher, by the package and by the reference path."""
        config = DistillationConfig()
        prepare = Preparation(self.data_config, self.device, synthetic=True)
        distiller = Distiller(self.layout, prepare, config, self.device, guard=True)
        pool = SamplePool(4000, tuple(self.images.images.shape[1:]), 10, self.device)
        pool.add(self.images.images, self.images.labels.cpu().numpy())
        share = np.full(10, 0.1)
        teachers = [self.state + 0.01 * m for m in range(8)]
        named = [{n: t.cpu().clone() for n, t in self.layout.views(teacher).items()} for teacher in teachers]
        images, labels = list(self.images.images.cpu()), self.images.labels.tolist()

        def ours() -> None:
            rng = stream(0, "distillation", 0)
            distiller.distil_from(self.state, teachers, pool, np.tile(share, (len(teachers), 1)), rng)

        def theirs() -> None:
            reference.distil(self.model, self.named, named, [share] * 8, images, labels, self.data_config, config)

        return ours, theirs


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def side_by_side(ours: Callable[[], None], theirs: Callable[[], None], work: float, repeats: int) -> dict[str, float]:
    """Median rates (work per second) of both after one warm-up each, run in turn, and the ratio ours / theirs."""
    pairs = [(_seconds(ours), _seconds(theirs)) for _ in range(repeats + 1)][1:]
    rates = {
        name: work / statistics.median(times)
        for name, times in zip(("ours", "reference"), zip(*pairs, strict=True), strict=True)
    }
    ratios = [slow / fast for fast, slow in pairs]
    return rates | {"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}


def matrix_rate(device: torch.device, size: int = 2048) -> float:
    """Measured FLOP/s of a float32 matrix product: the limit that convolutions are held against."""
    a = torch.rand(size, size, device=device)
    times = [_seconds(lambda: a @ a) for _ in range(8)]
    return 2 * size**3 / statistics.median(times[2:])


def flops_of(call: Callable[[], object]) -> float:
    """Counted floating-point operations of convolutions and matrix products in `call`."""
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def run_benchmark(device: torch.device, *, quick: bool) -> dict[str, Any]:
    """What `python -m reproduce bench` measures, as JSON-able values; `quick` takes the smallest workload alone."""
    repeats = 2 if quick else 5
    limit = matrix_rate(device)
    names = ["LabNet 8x8"] if quick else list(WORKLOADS)
    results: dict[str, Any] = {"client steps/s": {}, "revived arrivals/s": {}, "server updates/s": {}}
    for name in names:
        workload = Workload(name, device)
        steps = workload.training.steps * workload.num_jobs
        executor, workload.trainer.executor = workload.trainer.executor, Executor("single")
        flops = flops_of(workload.train)  # one job after the other: the counter does not see through vmap's operators
        workload.trainer.executor = executor
        measured = side_by_side(workload.train, workload.train_reference, steps, repeats)
        measured["fraction_of_limit"] = flops / steps * measured["ours"] / limit
        results["client steps/s"][name] = measured
        if device.type == "cuda" or not name.startswith("ResNet"):
            ours, theirs = workload.prepare_revival()
            measured = side_by_side(ours, theirs, 1, repeats)
            measured["fraction_of_limit"] = flops_of(ours) * measured["ours"] / limit
            results["revived arrivals/s"][name] = measured
        results["server updates/s"][name] = side_by_side(*_updates(workload), 100, repeats)
    results["timeline arrivals/s"] = _timeline(quick)
    results["whole-run versions/s"] = {"FedRevive on lab-digits": _whole_run(device, quick)}
    return {
        "results": results,
        "matrix_flops_per_second": limit,
        "peak_memory_mib": _peak_memory(device),
        "quick": quick,
        "provenance": provenance(
            torch.cuda.get_device_name() if device.type == "cuda" else "cpu", torch.get_num_threads()
        ),
    }


def _updates(workload: Workload) -> tuple[Callable[[], None], Callable[[], None]]:
    update, weight = workload.state * 0.01, 0.3
    named = {name: tensor * 0.01 for name, tensor in workload.named.items()}

    def ours() -> None:
        for _ in range(100):
            new_version(workload.layout, workload.state, [blend(update, update, weight)], 0.1)

    def theirs() -> None:
        for _ in range(100):
            reference.blend_and_step(workload.named, named, named, weight, 0.1)

    return ours, theirs


def _timeline(quick: bool) -> dict[str, Any]:
    """Arrivals a second once the clients are set up, which takes time in proportion to their number."""
    few, many = 1_000, 20_000 if quick else 200_000
    rates: dict[str, float] = {}
    for num_clients in (1_000, 1_000_000):
        median = {}
        for arrivals in (few, many):
            federation = FederationConfig.model_validate(
                {"num_clients": num_clients, "concurrency": 100, "schedule": "default", "max_versions": arrivals}
            )
            call = functools.partial(simulate_timeline, federation, 0)
            median[arrivals] = statistics.median(_seconds(call) for _ in range(5))
        rates[f"N = {num_clients:,}"] = (many - few) / (median[many] - median[few])
    return rates


def _whole_run(device: torch.device, quick: bool) -> dict[str, float]:
    """FedRevive on lab-digits once distillation has begun: versions a second over a stretch of both paths."""
    first, count, pieces = (30, 4, 2) if quick else (100, 20, 4)
    config = build("lab-digits", "fedrevive", overrides={"device": device.type})
    simulation, other = Simulation(config), Simulation(config)
    stretches = []
    for path in (simulation, reference.ReferenceRun(other)):
        numbers = itertools.count()
        _process(path, numbers, first)
        stretches.append(functools.partial(_process, path, numbers, count))
    ours, theirs = stretches
    return side_by_side(ours, theirs, count, pieces)


def _process(path: Simulation | reference.ReferenceRun, numbers: Iterator[int], count: int) -> None:
    for number in itertools.islice(numbers, count):
        path.process(number)


def accuracies(device: torch.device, seeds: Sequence[int] = (0, 1, 2), versions: int = 500) -> dict[str, Any]:
    """FedRevive on lab-digits by both paths, on the same timelines: accuracy over versions and at the end, per seed.

    The paths draw different batches and samples, so they agree within the noise of a run, not exactly.
    """
    rows = []
    for seed in seeds:
        limits = {"federation.max_sim_time": None, "federation.max_versions": versions, "device": device.type}
        config = build("lab-digits", "fedrevive", seed=seed, overrides=limits)
        with num_threads(config.num_threads):
            simulation, other = Simulation(config), Simulation(config)
            plain = reference.ReferenceRun(other)
            ours, theirs = [], []
            for number in range(versions):
                simulation.process(number)
                plain.process(number)
                if (number + 1) % config.evaluation.every == 0:
                    ours.append(_accuracy(simulation, simulation.server.state))
                    theirs.append(_accuracy(simulation, plain.flat(plain.state).to(device)))
        last = -(-len(ours) // 20)  # 5% of the run
        rows.append(
            {
                "seed": seed,
                "final": [statistics.mean(path[-last:]) for path in (ours, theirs)],
                "mean": [statistics.mean(path) for path in (ours, theirs)],
            }
        )
    return {"versions": versions, "order": ["ours", "reference"], "runs": rows}


def _accuracy(simulation: Simulation, state: torch.Tensor) -> float:
    test = simulation.data.test
    prepare, classes = simulation.modality.prepare, simulation.data.num_classes
    return evaluate(simulation.layout, state, prepare, test.inputs, test.labels, classes)[0]


def _peak_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return psutil.Process().memory_info().peak_wset / 2**20
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


@mpl.rc_context(STYLE)
def plot_bench(measured: dict[str, Any]) -> Figure:
    """How many times the reference path's rate each workload reaches: median, smallest and largest of the pairs."""
    rows = [
        (f"{kind.removesuffix('/s')}, {name}", values)
        for kind, workloads in measured["results"].items()
        for name, values in workloads.items()
        if isinstance(values, dict)
    ][::-1]
    figure = Plot(figsize=(9, 1.2 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    colour = METHOD_COLOURS["fedrevive"]
    for height, (_, values) in enumerate(rows):
        axes.plot([1, values["ratio"]], [height, height], color="#c8c8c8", zorder=1)
        axes.plot([values["ratio_min"], values["ratio_max"]], [height, height], color=colour)
        axes.plot(values["ratio"], height, "o", color=colour)
        axes.annotate(f"{values['ratio']:.1f}x", (values["ratio_max"], height), (8, -4), textcoords="offset points")
    axes.set(yticks=range(len(rows)), yticklabels=[label for label, _ in rows], xscale="log")
    axes.set_xlabel("rate relative to the plain reference path (log scale)")
    axes.set_title(f"Speed on {measured['provenance']['device']}, {measured['provenance']['num_threads']} CPU threads")
    axes.axvline(1, color="black", linewidth=1)
    axes.margins(x=0.12)
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.xaxis.set_minor_formatter("")
    axes.grid(axis="y", visible=False)
    return figure
