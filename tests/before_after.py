"""What a change gains: CPU time of the same work by two checkouts, in turn, with one thread.

python tests/before_after.py /path/to/before [--pairs 15] [--only WORD] [--out tests/results/before_after.json]

Each checkout has a process of its own, and the two take turns call by call (A B A B ...), so that a busy machine slows
both. What counts is the processor time of the process, not the time that passes. It uses nothing but names that every
version of the package has, wherever they are there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
CALLS = {"new version, ResNet-18": 10, "upload, ResNet-18": 5}  # calls that are timed together; 1 where not named
PROFILED = ("client steps, LabNet 8x8", "one distillation, lab-digits")
# Kinds of operation by the beginning of their names; the first that fits.
KINDS = {
    "convolution": ("mkldnn_convolution", "convolution", "_slow_conv", "thnn_conv"),
    "pooling": ("max_pool", "maximum"),
    "matrix products": ("addmm", "mm", "bmm", "baddbmm", "linear"),
    "ReLU": ("relu", "clamp", "threshold"),
    "Adam": ("_fused_adam", "Optimizer"),
    "copies and fills": ("copy_", "clone", "fill_", "zero", "cat", "stack", "index", "contiguous", "_to_copy"),
}


def named(name: str, *homes: str) -> Any:
    """`name` of the first of the modules `homes` of fedrevive_core that this version has it in."""
    for home in homes:
        try:
            return getattr(import_module(f"fedrevive_core.{home}"), name)
        except (ImportError, AttributeError):
            continue
    raise ImportError(f"no {name} in {homes}")


def workloads() -> dict[str, Callable[[], Callable[[], object]]]:
    """By name: what prepares the work, and returns the call that is timed."""
    return {
        "client steps, LabNet 8x8": lambda: client_steps(8, 24),
        "client steps, LabNet 14x14": lambda: client_steps(14, 24),
        "client steps, LabNet 28x28": lambda: client_steps(28, 6),
        "revived arrival with synthesis, lab-digits": lambda: revived_arrival(100),
        "revived arrival without synthesis, lab-digits": lambda: revived_arrival(101),
        "one distillation, lab-digits": distillation,
        "new version, ResNet-18": new_version,
        "upload, ResNet-18": upload,
        "20 versions of FedRevive, lab-digits": lambda: versions("fedrevive", 20),
        "100 versions of FedBuff, lab-digits": lambda: versions("fedbuff", 100),
    }


def simulation(method: str, **overrides: Any) -> Any:
    from fedrevive_core import Simulation, build

    return Simulation(build("lab-digits", method, overrides={"device": "cpu"} | overrides))


def client_steps(side: int, num_jobs: int) -> Callable[[], object]:
    """15 steps each of `num_jobs` jobs on random images; 24 is the mean size of a group on lab-digits."""
    import torch

    from fedrevive_core import ImageData, Images, Simulation, build, federate

    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1800, 1, side, side, generator=generator)
    labels = torch.randint(10, (1800,), generator=generator)
    config = build("lab-digits", "fedbuff", overrides={"device": "cpu", "data.alpha": 100.0})
    data = federate(ImageData(Images(images, labels), None, tuple("0123456789")), config.data, 150)
    made = Simulation(config, data=data)
    job = named("Job", "training")
    jobs = [job(number, number, made.server.state) for number in range(num_jobs)]
    return lambda: made.trainer.train(jobs)


def revived_arrival(version: int) -> Callable[[], object]:
    """One upload at `version` with staleness 75, eight teachers and a pool of five syntheses; 100 synthesises."""
    made = simulation("fedrevive")
    for number in range(50):
        made.process(number)
    server = made.server
    start, newest = server.state, next(iter(server.reviver.buffer))
    kind = named("Upload", "server")

    def call() -> None:
        server.state, server.version = start, version
        receipt = server.receive(kind(client=newest.client, staleness=75, downloaded=start, returned=newest.state))
        assert receipt.revived

    return call


def distillation() -> Callable[[], object]:
    """One distillation of eight teachers, ten steps of 256 samples."""
    import torch

    made = simulation("fedrevive")
    for number in range(50):
        made.process(number)
    distiller, state = made.reviver.distiller, made.server.state
    states = [teacher.state for teacher in made.reviver.buffer]
    generator = torch.Generator().manual_seed(0)
    samples = torch.rand(8, 10, 32, 1, 8, 8, generator=generator)
    return lambda: distiller.distil(state, states, samples, torch.zeros(8, 10, 32, 4))


def resnet() -> tuple[Any, Any, Any]:
    """The layout of a ResNet-18, a state, and an update."""
    import torch

    build_model, layout_of = named("build_model", "models"), named("StateLayout", "models", "state")
    model = build_model("resnet18", 3, 32, 10)
    layout = layout_of(model)
    state = layout.pack(model)
    return layout, state, torch.randn(layout.size, generator=torch.Generator().manual_seed(0)).mul_(1e-3)


def new_version() -> Callable[[], object]:
    """Two updates blended and a version made of the result."""
    layout, state, update = resnet()
    blend, step = named("blend", "server"), named("new_version", "aggregation")
    return lambda: step(layout, state, [blend(update, update, 0.3)], 0.1)


def upload() -> Callable[[], object]:
    """A whole upload by AFL-DW: difference, checks, blend, norm, new version."""
    from fedrevive_core import build

    layout, state, update = resnet()
    config = build("cifar10", "afl-dw")
    made = named("Server", "server")(state, layout, config.server, config.staleness, config.federation)
    kind, returned = named("Upload", "server"), state + update
    return lambda: made.receive(kind(client=0, staleness=30, downloaded=state, returned=returned))


def versions(method: str, count: int) -> Callable[[], object]:
    """`count` arrivals of a run, after the first 60; every call continues the run."""
    made = simulation(method)
    for number in range(60):
        made.process(number)

    def call() -> None:
        for number in range(made.num_processed, made.num_processed + count):
            made.process(number)

    return call


def worker() -> None:
    """Answer lines of standard input: a name prepares that workload, `go` times it, `profile` profiles it."""
    import torch

    torch.set_num_threads(1)
    call: Callable[[], object] = lambda: None  # noqa: E731
    repeats = 1
    for line in sys.stdin:
        order, reply = line.strip(), 0.0
        if order == "go":
            started = time.process_time()
            for _ in range(repeats):
                call()
            reply = (time.process_time() - started) / repeats
        elif order == "profile":
            reply = shares(call)  # type: ignore[assignment]
        else:
            call, repeats = workloads()[order](), CALLS.get(order, 1)
            call(), call()
        print(json.dumps(reply), flush=True)


def shares(call: Callable[[], object]) -> dict[str, float]:
    """Per cent of the operations' own time, by kind."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(5):
            call()
    spent = dict.fromkeys([*KINDS, "the rest"], 0.0)
    for event in profiled.key_averages():
        name = event.key.removeprefix("aten::")
        kind = next((k for k, beginnings in KINDS.items() if name.startswith(beginnings)), "the rest")
        spent[kind] += event.self_cpu_time_total
    return {kind: round(100 * value / sum(spent.values()), 1) for kind, value in spent.items()}


class Checkout:
    """A process that works with the package of one checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8",
            cwd=folder, env={**os.environ, **ONE_THREAD, "PYTHONPATH": str(folder)},
        )  # fmt: skip

    def ask(self, order: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def commit(self) -> str:
        command = ["git", "-C", str(self.folder), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def compare(before: Path, pairs: int, only: str) -> dict[str, Any]:
    """Milliseconds of processor time by workload: medians and ranges of both, and the ratio of each pair."""
    sides = [Checkout(before), Checkout(HERE)]
    results: dict[str, Any] = {}
    for name in workloads():
        if only not in name:
            continue
        for side in sides:
            side.ask(name)
        times = [[side.ask("go") for side in (sides if turn % 2 else sides[::-1])] for turn in range(pairs)]
        slow, fast = zip(*(pair if turn % 2 else pair[::-1] for turn, pair in enumerate(times)), strict=True)
        ratios = sorted(one / other for one, other in zip(slow, fast, strict=True))
        results[name] = {
            **{label: summary([1e3 * t for t in part]) for label, part in (("before_ms", slow), ("after_ms", fast))},
            "ratio": summary(ratios),
        }
        if name in PROFILED:
            results[name]["shares"] = {
                label: side.ask("profile") for label, side in zip(("before", "after"), sides, strict=True)
            }
        print(f"{name}: {json.dumps(results[name])}", flush=True)
    return {
        "command": "python tests/before_after.py BEFORE", "pairs": pairs,
        "before": sides[0].commit(), "after": sides[1].commit(),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, one thread used",
        "results": results,
    }  # fmt: skip


def summary(values: list[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {name: round(f(values), 4) for name, f in (("median", statistics.median), ("min", min), ("max", max))}


if __name__ == "__main__":
    if sys.argv[1:] == ["--worker"]:
        worker()
        sys.exit()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = compare(given.before.resolve(), given.pairs, given.only)
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
