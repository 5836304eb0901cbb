"""Benchmarks: the package against the plain reference path, in one process, side by side.

Both paths do the same work on the same inputs, in turn (A B A B ...) on one thread, and medians are compared, so that a
machine that slows down slows both. On a CPU the ratios are of CPU time, which other processes disturb least; on a GPU
they are of wall time. Absolute numbers are of one machine; the ratios are the result.
"""

from __future__ import annotations

import copy
import functools
import itertools
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import psutil
import torch
from matplotlib.figure import Figure
from torch import Tensor

from fedrevive_core.aggregation import new_version
from fedrevive_core.config import DataConfig, FederationConfig, TrainingConfig, build
from fedrevive_core.data import FederatedData, Images
from fedrevive_core.evaluation import evaluate
from fedrevive_core.models import Executor, StateLayout, build_model, seeded
from fedrevive_core.plots import METHOD_COLOURS, STYLE, Plot
from fedrevive_core.records import provenance
from fedrevive_core.revival import Distiller, ImageGenerator, SamplePool, Synthesizer, teacher_weights
from fedrevive_core.seeding import stream
from fedrevive_core.server import blend
from fedrevive_core.simulation import Simulation, num_threads
from fedrevive_core.timeline import simulate_timeline
from fedrevive_core.training import Job, LocalTrainer
from fedrevive_core.transforms import Preparation
from reproduce.benchmark import reference
from reproduce.benchmark.limit import arithmetic_rates, flops_of

CIFAR_AUGMENTATION = {"crop_padding": 4, "flip": True}
# name: preset (model and synthesis), channels, side, shard, steps of a job, jobs in a batch (the steady state of
# look-ahead), augmentation
WORKLOADS: dict[str, tuple[str, int, int, int, int, int, dict[str, Any]]] = {
    "LabNet 8x8": ("lab-digits", 1, 8, 60, 15, 24, {}),
    "LabNet 14x14": ("lab-fashion", 1, 14, 120, 10, 12, {}),
    "LabNet 28x28": ("lab-fashion", 1, 28, 350, 10, 6, {}),
    "ConvNet 28x28": ("femnist", 1, 28, 350, 5, 4, {}),
    "ResNet-18 32x32": ("cifar10", 3, 32, 350, 1, 2, CIFAR_AUGMENTATION),
}
ON_CUDA = {"steps": 25, "jobs": 12}  # a GPU is measured at the paper's size


class Workload:
    """One model and data shape with random images: enough for timing."""

    def __init__(self, name: str, device: torch.device) -> None:
        preset, channels, side, shard, steps, jobs, augmentation = WORKLOADS[name]
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
        self.config = build(preset, "fedrevive")
        self.data_config = DataConfig(name="cifar10", augmentation=augmentation)
        self.training = TrainingConfig(steps=steps, batch_size=32, lr=1e-3)
        self.device, self.shards, self.num_jobs = device, shards, jobs
        with seeded(rng, device):
            model = build_model(self.config.model, channels, side, 10).to(device)
            self.generator = ImageGenerator(
                self.config.synthesis.noise_dim, self.config.synthesis.width, channels, side
            ).to(device)
        self.layout = StateLayout(model, device)
        self.state = self.layout.pack(model)
        prepare = Preparation(self.data_config, device)
        self.trainer = LocalTrainer(self.layout, data, prepare, self.training, seed=0)
        self.model = reference.plain_model(self.config.model, channels, side, 10).to(device)
        self.samples = reference.Samples(self.images, self.data_config)
        self.named = self.by_name(self.state)

    def by_name(self, state: Tensor) -> dict[str, Tensor]:
        """`state` (size,) as the reference path keeps it."""
        return {name: tensor.clone() for name, tensor in self.layout.views(state).items()}

    def train(self) -> None:
        """All jobs, by the package."""
        self.trainer.train([Job(number, number, self.state) for number in range(self.num_jobs)])

    def train_reference(self) -> None:
        """All jobs, one after the other."""
        rng = np.random.default_rng(0)
        for shard in self.shards:
            batches = reference.shuffled(shard, self.training, rng)
            reference.train_client(self.model, self.named, self.samples, batches, self.training)

    def prepare_revival(self) -> tuple[Callable[[], None], Callable[[], None]]:
        """A revived arrival with 8 teachers by the package and by the reference path: a synthesis, then a distillation.

        64 images in two steps with all three losses; 10 steps of 32 samples a teacher from a pool of 1,000.
        """
        config, share = self.config, np.full((8, 10), 0.1)
        prepare = Preparation(self.data_config, self.device, synthetic=True)
        synthesizer = Synthesizer(self.layout, prepare, copy.deepcopy(self.generator), config.synthesis, guard=True)
        distiller = Distiller(self.layout, prepare, config.distillation, self.device, guard=True)
        shape, labels = tuple(self.images.images.shape[1:]), self.images.labels.cpu().numpy()
        pool = SamplePool(4000, shape, 10, self.device)
        pool.add(self.images.images, labels)
        teachers = [self.state + 0.01 * m for m in range(8)]
        weights = torch.from_numpy(teacher_weights(share)).to(self.state)

        def ours() -> None:
            rng = stream(0, "distillation", 0)
            draws = synthesizer.draw(rng, share)
            made = synthesizer.synthesise(draws, teachers, weights, self.state, adversarial=True)
            pool.add(made.samples, draws.labels)
            distiller.distil_from(self.state, teachers, pool, share, rng)

        generator = reference.make_generator(config.synthesis, shape[0], shape[1]).to(self.device)
        reference.copy_parameters(self.generator, generator)
        synthesis, guard = reference.Synthesis(generator, config.synthesis, prepare), reference.Guard()
        loaded = [reference.loaded(self.model, self.by_name(teacher)) for teacher in teachers]
        batches = deque([(self.images.images, labels)])

        def theirs() -> None:
            rng = stream(0, "distillation", 0)
            draws = synthesizer.draw(rng, share)
            student = reference.loaded(self.model, self.named)
            images = synthesis.make(draws, loaded, weights, student, shape[1])
            if images is not None:
                batches.append((images, draws.labels))
            samples, augmentation = reference.draw_samples(batches, share, prepare, config.distillation, rng)
            reference.distil(self.model, self.named, loaded, samples, augmentation, prepare, config.distillation, guard)

        return ours, theirs


def _seconds(call: Callable[[], object]) -> tuple[float, float]:
    """CPU time of this process and wall time that `call` takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.process_time() - cpu, time.perf_counter() - wall


def side_by_side(
    ours: Callable[[], object], theirs: Callable[[], object], work: float, repeats: int, device: torch.device
) -> dict[str, float]:
    """Rates of both (`work` per second, medians) after one warm-up each, run in turn, and ratios ours / reference.

    ours, reference, ratio (with smallest and largest pair): by CPU time, on a GPU by wall time; *_wall: by wall time.
    """
    pairs = [(_seconds(ours), _seconds(theirs)) for _ in range(repeats + 1)][1:]
    found: dict[str, float] = {}
    cpu, wall = [[tuple(path[clock] for path in pair) for pair in pairs] for clock in (0, 1)]
    decides = wall if device.type == "cuda" else cpu
    for suffix, times in (("", decides), ("_wall", wall)):
        fast, slow = zip(*times, strict=True)
        found |= {f"ours{suffix}": work / statistics.median(fast), f"reference{suffix}": work / statistics.median(slow)}
    ratios = [slow / fast for fast, slow in decides]
    found |= {"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}
    return found | {"ratio_wall": statistics.median(slow / fast for fast, slow in wall)}


def run_benchmark(device: torch.device, *, quick: bool) -> dict[str, Any]:
    """What `python -m reproduce bench` measures, as JSON-able values; `quick` takes the smallest workload alone."""
    load = [psutil.getloadavg()[0]]  # of the machine, before and after
    with num_threads(1):
        rates = arithmetic_rates(device)
        results: dict[str, Any] = {"client steps/s": {}, "revived arrivals/s": {}, "server updates/s": {}}
        for name in ["LabNet 8x8"] if quick else list(WORKLOADS):
            for kind, measured in _measure(name, device, 2 if quick else 5, max(rates.values())):
                results[kind][name] = measured
        results["timeline arrivals/s"] = _timeline(quick)
        results["whole-run versions/s"] = {"FedRevive on lab-digits": _whole_run(device, quick)}
    return {
        "results": results,
        "load": [*load, psutil.getloadavg()[0]],
        "cores": psutil.cpu_count(),
        "clock": "wall time" if device.type == "cuda" else "CPU time",
        "arithmetic_flops_per_second": rates,
        "peak_memory_mib": _peak_memory(device),
        "quick": quick,
        "provenance": provenance(torch.cuda.get_device_name() if device.type == "cuda" else "cpu", 1),
    }


def _measure(name: str, device: torch.device, repeats: int, limit: float) -> Iterator[tuple[str, dict[str, float]]]:
    """What is measured, and its rates, for the workload `name`; limit: FLOP/s of this device."""
    workload = Workload(name, device)
    steps = workload.training.steps * workload.num_jobs
    executor, workload.trainer.executor = workload.trainer.executor, Executor("single")
    flops = flops_of(workload.train)  # one job after the other: the counter does not see through vmap's operators
    workload.trainer.executor = executor
    measured = side_by_side(workload.train, workload.train_reference, steps, repeats, device)
    yield "client steps/s", measured | {"fraction_of_limit": flops / steps * measured["ours"] / limit}
    if device.type == "cuda" or not name.startswith("ResNet"):
        ours, theirs = workload.prepare_revival()
        heavy = device.type == "cpu" and name.startswith("ConvNet")  # half a minute a pair
        measured = side_by_side(ours, theirs, 1, 2 if heavy else repeats, device)
        yield "revived arrivals/s", measured | {"fraction_of_limit": flops_of(ours) * measured["ours"] / limit}
    yield "server updates/s", side_by_side(*_updates(workload), 100, repeats, device)


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
            median[arrivals] = statistics.median(_seconds(call)[0] for _ in range(5))
        rates[f"N = {num_clients:,}"] = (many - few) / (median[many] - median[few])
    return rates


def _whole_run(device: torch.device, quick: bool) -> dict[str, float]:
    """FedRevive on lab-digits once distillation has begun: versions a second over a stretch of both paths."""
    first, count, pieces = (30, 4, 2) if quick else (100, 40, 4)
    config = build("lab-digits", "fedrevive", overrides={"device": device.type})
    simulation, other = Simulation(config), Simulation(config)
    stretches = []
    for path in (simulation, reference.ReferenceRun(other)):
        numbers = itertools.count()
        _process(path, numbers, first)
        stretches.append(functools.partial(_process, path, numbers, count))
    ours, theirs = stretches
    return side_by_side(ours, theirs, count, pieces, device)


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
    axes.set_xlabel(f"rate relative to the plain reference path, by {measured['clock']} (log scale)")
    axes.set_title(f"Speed on {measured['provenance']['device']}, one CPU thread")
    axes.axvline(1, color="black", linewidth=1)
    axes.margins(x=0.12)
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.xaxis.set_minor_formatter("")
    axes.grid(axis="y", visible=False)
    return figure
