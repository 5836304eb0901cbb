"""Which executor is fastest for each model: every one is checked against the plain one before it is timed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrevive_core.config import DataConfig, DistillationConfig, TrainingConfig
from fedrevive_core.data import FederatedData, Images
from fedrevive_core.models import AGREEMENT, Checked, Executor, StateLayout, build_model, build_text_model
from fedrevive_core.revival import Distiller, SamplePool
from fedrevive_core.seeding import stream
from fedrevive_core.training import Job, LocalTrainer
from fedrevive_core.transforms import Preparation, TextPreparation, channels_last
from reproduce.benchmark.limit import float32, flops_of, seconds, tf32

TEACHERS = 8


@dataclass(frozen=True)
class Size:
    """What is trained at once: `jobs` of `steps` steps of `batch` samples. widths: of stacks; streams: of the GPU."""

    jobs: int
    steps: int
    batch: int = 32
    widths: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    streams: tuple[int, ...] = (2, 4, 8)


# channels, side (of a text: tokens), and what is trained at once; ResNet-18 is 800 times as large as LabNet.
MODELS = {
    "labnet": (1, 8, Size(64, 5)),
    "convnet": (1, 28, Size(64, 5)),
    "labtext": (0, 24, Size(64, 5)),
    "resnet18": (3, 32, Size(8, 5, widths=(1, 2, 4, 8))),
}
TINY = Size(2, 2, batch=4, widths=(1, 2), streams=())


class Workload:
    """A model with random samples, enough to train jobs and to distil."""

    def __init__(self, name: str, device: torch.device, *, tiny: bool) -> None:
        channels, side, size = MODELS[name]
        self.name, self.device, self.size = name, device, TINY if tiny else size
        rng, number = np.random.default_rng(0), 400
        labels = torch.from_numpy(rng.integers(10, size=number)).to(device)
        self.is_text = channels == 0
        model: nn.Module
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if self.is_text:
                model = build_text_model(name, 500, side, 0, None, 10, "")
            else:
                model = build_model(name, channels, side, 10)
        if self.is_text:
            inputs = torch.from_numpy(rng.integers(1, 500, size=(number, side))).to(device)
            prepare: Preparation = TextPreparation(side)
        else:
            inputs = torch.from_numpy(rng.random((number, channels, side, side), dtype=np.float32)).to(device)
            prepare = Preparation(DataConfig(name="cifar10"), device)
        self.samples, self.prepare = Images(inputs, labels), prepare
        shards = [rng.permutation(number)[: 2 * self.size.batch + 2] for _ in range(self.size.jobs)]
        share, server = np.full((len(shards), 10), 0.1), self.samples
        self.data = FederatedData(self.samples, shards, server, server, server, tuple("0123456789"), share)
        self.training = TrainingConfig(steps=self.size.steps, batch_size=self.size.batch, lr=1e-3)
        self.layout = StateLayout(model, device)
        self.state = self.layout.pack(model)
        self.jobs = [Job(number, number, self.state) for number in range(self.size.jobs)]

    def trainer(self, executor: str) -> LocalTrainer:
        """A trainer with this executor."""
        return LocalTrainer(self.layout, self.data, self.prepare, self.training, 0, Executor.parse(executor))

    def executors(self) -> list[str]:
        """Names of those that are tried, the plain one first."""
        streams = self.size.streams if self.device.type == "cuda" else ()
        stacks = [f"stacked-{width}" for width in self.size.widths if width > 1]
        captured = ["captured" + (f"-{width}" if width > 1 else "") for width in self.size.widths]
        return ["single", *stacks, *captured, *(f"streams-{count}" for count in streams)]

    def distiller(self, *, captured: bool) -> Callable[[], Tensor]:
        """A distillation from as many teachers as in the paper; gives the student's update."""
        config = DistillationConfig(batch_size=self.size.batch)
        made = Distiller(self.layout, self.prepare, config, self.device, guard=True, captured=captured)
        count = len(self.samples.labels)
        pool = SamplePool(count, self.data.sample_shape, 10, self.device, self.samples.inputs.dtype)
        pool.add(self.samples.inputs, self.samples.labels.cpu().numpy())
        teachers = [self.state + 0.01 * (m + 1) for m in range(TEACHERS)]
        shares = np.full((TEACHERS, 10), 0.1)
        return lambda: made.distil_from(self.state, teachers, pool, shares, stream(0, "distillation", 0)).update


def probe_model(workload: Workload, limit: float, has_time: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """A row for every executor: how far from the plain one, steps a second, memory, share of `limit` (FLOP/s)."""
    steps, device = workload.size.jobs * workload.size.steps, workload.device
    with float32():
        plain = torch.stack(workload.trainer("single").train(workload.jobs))
        flops = flops_of(lambda: workload.trainer("single").train(workload.jobs[:1])) * workload.size.jobs / steps
        for name in workload.executors():
            row: dict[str, Any] = {"model": workload.name, "executor": name}
            if not has_time():
                yield row | {"problem": "no time left"}
                continue
            trainer = workload.trainer(name)
            yield row | _timed(
                lambda: torch.stack(trainer.train(workload.jobs)), plain, workload.state, steps, device, trainer.checked  # noqa: B023
            ) | {"flops": flops, "limit": limit}  # fmt: skip


def probe_student(workload: Workload, has_time: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """A row for the plain and one for the recorded distillation: distillations a second."""
    with float32():
        start = torch.zeros_like(workload.state)
        plain = workload.distiller(captured=False)()
        for name in ("plain", "captured"):
            row: dict[str, Any] = {"model": workload.name, "student": name}
            if not has_time():
                yield row | {"problem": "no time left"}
                continue
            yield row | _timed(workload.distiller(captured=name == "captured"), plain, start, 1, workload.device)


def _timed(
    call: Callable[[], Tensor], plain: Tensor, start: Tensor, work: float, device: torch.device,
    checked: Checked | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Check `call` against the `plain` result that began at `start`, then time it: `work` a second, and memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            call()
            found = call()  # from the second call on, a recording is used
        moved, off = torch.linalg.vector_norm(plain - start), torch.linalg.vector_norm(found - plain)
        distance = float(off / moved)
        refused = [str(warning.message) for warning in warned if "is not used" in str(warning.message)]
        if refused or distance > AGREEMENT or (checked is not None and not checked.works):
            return {"apart": distance, "problem": (refused or ["too far"])[0]}
        rate = work / seconds(call, device)
    except RuntimeError as error:  # out of memory, or an operation that cannot be recorded
        return {"apart": None, "problem": str(error).splitlines()[0][:200]}
    memory = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    return {"apart": distance, "rate": rate, "memory_mib": memory, "problem": ""}


def probe_numbers(workload: Workload, has_time: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """A row for float32, TF32 and bfloat16 with the plain executor, and one for channels first.

    These change the results by more than rounding, so `auto` never chooses them: how far they move a job is shown.
    """
    device, trainer = workload.device, workload.trainer("single")
    steps = workload.size.jobs * workload.size.steps
    with float32():
        plain = torch.stack(trainer.train(workload.jobs))
    for name, inside in (
        ("float32", float32),
        ("TF32", tf32),
        ("bfloat16", lambda: torch.autocast(device.type, torch.bfloat16)),
    ):
        if not has_time():
            return
        with inside():
            moved = torch.linalg.vector_norm(plain - workload.state)
            found = torch.stack(trainer.train(workload.jobs))
            rate = steps / seconds(lambda: trainer.train(workload.jobs), device)
        distance = float(torch.linalg.vector_norm(found - plain) / moved)
        yield {"model": workload.name, "numbers": name, "apart": distance, "rate": rate}


def probe_formats(workload: Workload) -> dict[str, Any]:
    """Gradients a second of a batch of images with channels last and with channels first in memory."""
    views = workload.layout.parameter_views(workload.layout.parameters(workload.state).clone().requires_grad_())
    buffers = workload.layout.buffers(workload.state)
    labels = workload.samples.labels[: workload.size.batch]
    rates = {}
    for name, order in (("last", channels_last), ("first", Tensor.contiguous)):
        x = order(workload.prepare(workload.samples.inputs[: workload.size.batch]))

        def gradient(x: Tensor = x) -> None:
            loss = F.cross_entropy(workload.layout.call(views | buffers, x, training=True), labels)
            torch.autograd.grad(loss, list(views.values()))

        with float32():
            rates[name] = 1 / seconds(gradient, workload.device)
    return {"model": workload.name, **rates}
