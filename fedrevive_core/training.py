"""Local training on the client side: jobs in, returned models out.

Jobs are trained together although each starts from its own version: the flat states of J jobs are stacked into one
(J, size) tensor and one vectorised pass computes all their gradients. A job's batches come from a random stream of its
own, so its result does not depend on which jobs it was trained with (to rounding).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedrevive_core.config import TrainingConfig
from fedrevive_core.data import FederatedData
from fedrevive_core.models import Captured, Checked, Executor, StateLayout, call_stacked, reset, seeded, to_device
from fedrevive_core.seeding import stream
from fedrevive_core.transforms import Preparation, channels_last

DROPOUT = {"batches": 0, "corrections": 2}  # first index of the stream "dropout"
LARGEST_STACK = 24  # jobs trained together on a CPU: more gain little there, and each takes memory


@dataclass(frozen=True)
class Job:
    """One piece of work: `number` names its random stream, `client` its shard, `start` (size,) what it downloads.

    teacher: state (size,) whose answers weigh `weight` in the loss; None has no such part.
    """

    number: int
    client: int
    start: Tensor
    teacher: Tensor | None = None
    weight: float = 0.0


class LocalTrainer:
    """Trains jobs on their clients' shards: `config.steps` Adam steps on cross-entropy, fresh optimiser for each job.

    Where a job has a teacher, its loss is cross-entropy + weight * T^2 KL(teacher || model) at temperature T.

    Args:
        layout: the model. data: shards. prepare: of clients' samples. seed: of the batches. executor: how jobs are
            trained; by default small models side by side, others one after the other. draws: what names the batches.
    """

    def __init__(
        self,
        layout: StateLayout,
        data: FederatedData,
        prepare: Preparation,
        config: TrainingConfig,
        seed: int,
        executor: Executor | None = None,
        draws: Literal["batches", "corrections"] = "batches",
    ) -> None:
        self.draws: Literal["batches", "corrections"] = draws
        self.layout, self.data, self.prepare, self.config, self.seed = layout, data, prepare, config, seed
        self.device = data.clients.labels.device
        self.executor = executor or Executor("stacked" if layout.stacks else "single")
        self.captured: _CapturedStack | None = None
        self.checked = Checked("training of clients")

    def train(self, jobs: Sequence[Job]) -> list[Tensor]:
        """Returned state (size,) of each job, in order. The downloaded states are not modified."""
        # Jobs of one stack take batches of the same sizes, which depend on the size of the shard alone.
        stacks: dict[tuple[int, bool], list[int]] = {}
        for index, job in enumerate(jobs):
            alike = len(self.data.shards[job.client]) if self.executor.stacks else -1 - index
            stacks.setdefault((alike, job.teacher is None), []).append(index)
        returned: dict[int, Tensor] = {}
        for number, indices in enumerate(self._divided(stacks.values())):
            with (
                seeded(stream(self.seed, "dropout", DROPOUT[self.draws], jobs[indices[0]].number), self.device),
                self._beside(number),
            ):
                states = self._train_stack([jobs[index] for index in indices])
                # Copies, so that the stack is freed although its jobs arrive at different times.
                returned.update(zip(indices, (state.clone() for state in states), strict=True))
        for other in self.streams:
            torch.cuda.current_stream(self.device).wait_stream(other)
        return [returned[index] for index in range(len(jobs))]

    def _divided(self, stacks: Iterable[list[int]]) -> Iterator[list[int]]:
        """The stacks in parts of at most the executor's width; without one, of LARGEST_STACK on a CPU."""
        for indices in stacks:
            width = self.executor.width or (LARGEST_STACK if self.device.type == "cpu" else len(indices))
            yield from (indices[first : first + width] for first in range(0, len(indices), width))

    def _beside(self, number: int) -> AbstractContextManager[Any]:
        """The stream for stack `number`, if the executor has several; what is queued now comes first."""
        if not self.streams:
            return nullcontext()
        if number < len(self.streams):
            self.streams[number].wait_stream(torch.cuda.current_stream(self.device))
        return torch.cuda.stream(self.streams[number % len(self.streams)])

    @cached_property
    def streams(self) -> list[torch.cuda.Stream]:
        """The executor's streams of the GPU; none if it has one queue alone."""
        count = self.executor.width if self.executor.kind == "streams" else 0
        return [torch.cuda.Stream(self.device) for _ in range(count)]

    def _train_stack(self, jobs: Sequence[Job]) -> Tensor:
        """(J, size) returned states of jobs with shards of equal size."""
        sizes = batch_sizes(len(self.data.shards[jobs[0].client]), self.config.steps, self.config.batch_size)
        numbers, draws = (to_device(np.stack(part), self.device) for part in zip(*map(self._draw, jobs), strict=True))
        start = torch.stack([job.start for job in jobs])
        teachers = [job.teacher for job in jobs if job.teacher is not None]  # all or none
        if teachers:
            weights = to_device(np.array([job.weight for job in jobs], dtype=np.float32), self.device)
            lesson = Lesson(self.layout.views(torch.stack(teachers)), weights, self.config.lesson.temperature)
            return _Stack(self, start, lesson).train(sizes, numbers, draws)
        if self.executor.kind != "captured":
            return self._train_plain(start, sizes, numbers, draws)
        # A recording is of one shape: a stack that is not full is filled with copies of its last job.
        count, width = len(jobs), max(self.executor.width, 1)
        last = torch.arange(width, device=self.device).clamp(max=count - 1)
        return self.checked(
            tuple(sizes),
            lambda: self._train_recorded(start[last], sizes, numbers[last], draws[last])[:count],
            lambda: self._train_plain(start, sizes, numbers, draws),
            start,
        )

    def _train_plain(self, start: Tensor, sizes: Sequence[int], numbers: Tensor, draws: Tensor) -> Tensor:
        return _Stack(self, start).train(sizes, numbers, draws)

    def _train_recorded(self, start: Tensor, sizes: Sequence[int], numbers: Tensor, draws: Tensor) -> Tensor:
        if self.captured is None:
            self.captured = _CapturedStack(self, start)
        return self.captured.train_from(start, sizes, numbers, draws)

    def step(
        self, parameters: Tensor, buffers: Mapping[str, Tensor], optimiser: torch.optim.Adam, numbers: Tensor,
        draws: Tensor, lesson: Lesson | None = None,
    ) -> None:  # fmt: skip
        """One step of J jobs on the samples with these `numbers` (J, b), changed by `draws` (J, b, ...), in place."""
        inputs, labels = self._batch(numbers, draws)
        logits = self._answers(self.layout.parameter_views(parameters) | dict(buffers), inputs, training=True)
        # The sum over jobs has, for each job's own parameters, the gradient of that job's loss.
        loss = F.cross_entropy(logits.view(labels.numel(), -1), labels.view(-1), reduction="sum") / numbers.shape[1]
        if lesson is not None:
            with torch.no_grad():
                taught = self._answers(lesson.teachers, inputs, training=False)
            loss = loss + lesson.loss(taught, logits.view_as(taught))
        parameters.grad = torch.autograd.grad(loss, parameters)[0]
        optimiser.step()

    def _answers(self, tensors: Mapping[str, Tensor], inputs: Tensor, *, training: bool) -> Tensor:
        """Logits (J, b, C) of J models, or (b, C) of one, on inputs (J, b, ...)."""
        call = partial(self.layout.call, training=training)
        if len(inputs) == 1:
            # Indexing loses the memory format of one-channel images.
            return call({name: tensor[0] for name, tensor in tensors.items()}, channels_last(inputs[0]))
        return call_stacked(call, tensors, inputs)

    def _draw(self, job: Job) -> tuple[np.ndarray, np.ndarray]:
        """Sample numbers (n,) and augmentation draws (n, ...) of all n = sum(batch_sizes) samples a job sees."""
        rng = stream(self.seed, self.draws, job.number)
        shard = self.data.shards[job.client]
        total = sum(batch_sizes(len(shard), self.config.steps, self.config.batch_size))
        passes = [rng.permutation(shard) for _ in range(-(-total // len(shard)))]
        return np.concatenate(passes)[:total], self.prepare.draw(rng, total)

    def _batch(self, numbers: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Prepared inputs (J, b, ...) and labels (J, b) of sample numbers (J, b)."""
        source = self.data.clients
        inputs = self.prepare(source.inputs[numbers].flatten(0, 1), draws.flatten(0, 1))
        return inputs.unflatten(0, numbers.shape), source.labels[numbers]


@dataclass(frozen=True)
class Lesson:
    """What J jobs are taught: named tensors (J, *shape) of their teachers, `weights` (J,) >= 0, `temperature` > 0."""

    teachers: Mapping[str, Tensor]
    weights: Tensor
    temperature: float

    def loss(self, taught: Tensor, logits: Tensor) -> Tensor:
        """Sum over jobs of weight * T^2 * mean KL(teacher || model), from logits (J, b, C) of both, or (b, C)."""
        soft, own = ((answers / self.temperature).log_softmax(dim=-1) for answers in (taught, logits))
        divergence = F.kl_div(own, soft, reduction="none", log_target=True).sum(dim=-1)
        return self.temperature**2 * (self.weights * divergence.view(len(self.weights), -1).mean(dim=1)).sum()


class _Stack:
    """What J jobs train, from their states `start` (J, size): parameters, buffers, and an optimiser of them."""

    def __init__(self, trainer: LocalTrainer, start: Tensor, lesson: Lesson | None = None) -> None:
        self.trainer, self.lesson = trainer, lesson
        self.parameters = trainer.layout.parameters(start).clone().requires_grad_()
        self.buffers = trainer.layout.buffers(start)
        self.optimiser = torch.optim.Adam([self.parameters], lr=trainer.config.lr, fused=True, capturable=start.is_cuda)

    def train(self, sizes: Sequence[int], numbers: Tensor, draws: Tensor) -> Tensor:
        """(J, size) after steps on the samples with these `numbers` (J, n), n = sum of the batches' `sizes`."""
        first = 0
        for size in sizes:
            chosen = slice(first, first + size)
            self.step(numbers[:, chosen], draws[:, chosen])
            first += size
        buffers = (buffer.flatten(1) for buffer in self.buffers.values())
        return torch.cat([self.parameters.detach(), *buffers], dim=1)

    def step(self, numbers: Tensor, draws: Tensor) -> None:
        """One step in place on samples (J, b)."""
        self.trainer.step(self.parameters, self.buffers, self.optimiser, numbers, draws, self.lesson)


class _CapturedStack(_Stack):
    """The same with steps that are recorded, one for each size of a batch; its tensors stay where they are."""

    def __init__(self, trainer: LocalTrainer, start: Tensor) -> None:
        super().__init__(trainer, start)
        self.steps: dict[int, tuple[Tensor, Tensor, Captured]] = {}

    def train_from(self, start: Tensor, sizes: Sequence[int], numbers: Tensor, draws: Tensor) -> Tensor:
        """`train`, from states `start` (J, size)."""
        for size in set(sizes) - set(self.steps):
            batch = numbers[:, :size].clone(), draws[:, :size].clone()
            self.steps[size] = *batch, Captured(partial(super().step, *batch), start.device)
        with torch.no_grad():
            self.parameters.copy_(self.trainer.layout.parameters(start))
            for name, buffer in self.trainer.layout.buffers(start).items():
                self.buffers[name].copy_(buffer)
        reset(self.optimiser)
        return self.train(sizes, numbers, draws)

    def step(self, numbers: Tensor, draws: Tensor) -> None:
        """One recorded step in place on samples (J, b)."""
        of_numbers, of_draws, recorded = self.steps[numbers.shape[1]]
        of_numbers.copy_(numbers)
        of_draws.copy_(draws)
        recorded()


def apply_fault(layout: StateLayout, downloaded: Tensor, returned: Tensor, fault: str, scale: float) -> Tensor:
    """What a client with `fault` uploads in place of `returned` (size,), which is not modified; see config/faults.py.

    `sign_flip` and `scaled` change the update of the parameters and leave statistics alone. A fault that does not
    change what is uploaded gives `returned` itself.
    """
    if fault == "wrong_size":
        return returned[:-1]
    if fault not in ("non_finite", "sign_flip", "scaled"):
        return returned
    upload = returned.clone()
    parameters, start = layout.parameters(upload), layout.parameters(downloaded)
    if fault == "non_finite":
        parameters[0] = torch.nan
    else:
        parameters.sub_(start).mul_(-1.0 if fault == "sign_flip" else scale).add_(start)
    return upload


def batch_sizes(shard_size: int, steps: int, batch_size: int) -> list[int]:
    """Sizes of the `steps` batches of shuffled passes through a shard; the last batch of a pass may be short."""
    one_pass = [min(batch_size, shard_size - first) for first in range(0, shard_size, batch_size)]
    return [one_pass[step % len(one_pass)] for step in range(steps)]
