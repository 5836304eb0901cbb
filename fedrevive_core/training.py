"""Local training on the client side: jobs in, returned models out.

Jobs are trained together although each starts from its own version: the flat states of J jobs are stacked into one
(J, size) tensor and one vectorised pass computes all their gradients. A job's batches come from a random stream of its
own, so its result does not depend on which jobs it was trained with (to rounding).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap
from torch.nn import functional as F

from fedrevive_core.config import TrainingConfig
from fedrevive_core.data import FederatedData
from fedrevive_core.models import StateLayout, seeded
from fedrevive_core.seeding import stream
from fedrevive_core.transforms import Preparation, channels_last


@dataclass(frozen=True)
class Job:
    """One piece of work: `number` names its random stream, `client` its shard, `start` (size,) what it downloads."""

    number: int
    client: int
    start: Tensor


class LocalTrainer:
    """Trains jobs on their clients' shards: `config.steps` Adam steps on cross-entropy, fresh optimiser for each job.

    Args:
        layout: the model. data: shards. prepare: of clients' samples. seed: of the batches.
    """

    def __init__(
        self, layout: StateLayout, data: FederatedData, prepare: Preparation, config: TrainingConfig, seed: int
    ) -> None:
        self.layout, self.data, self.prepare, self.config, self.seed = layout, data, prepare, config, seed
        self.device = data.clients.labels.device
        self.stacks = layout.stacks and config.together

    def train(self, jobs: Sequence[Job]) -> list[Tensor]:
        """Returned state (size,) of each job, in order. The downloaded states are not modified."""
        # Jobs of one stack take batches of the same sizes, which depend on the size of the shard alone.
        stacks: dict[int, list[int]] = {}
        for index, job in enumerate(jobs):
            stacks.setdefault(len(self.data.shards[job.client]) if self.stacks else -1 - index, []).append(index)
        returned: dict[int, Tensor] = {}
        for indices in stacks.values():
            with seeded(stream(self.seed, "dropout", 0, jobs[indices[0]].number), self.device):
                states = self._train_stack([jobs[index] for index in indices])
            # Copies, so that the stack is freed although its jobs arrive at different times.
            returned.update(zip(indices, (state.clone() for state in states), strict=True))
        return [returned[index] for index in range(len(jobs))]

    def _train_stack(self, jobs: Sequence[Job]) -> Tensor:
        """(J, size) returned states of jobs with shards of equal size."""
        sizes = batch_sizes(len(self.data.shards[jobs[0].client]), self.config.steps, self.config.batch_size)
        numbers, draws = (self._to_device(np.stack(part)) for part in zip(*map(self._draw, jobs), strict=True))
        start = torch.stack([job.start for job in jobs])
        parameters = self.layout.parameters(start).clone().requires_grad_()
        buffers = self.layout.buffers(start)
        optimiser = torch.optim.Adam([parameters], lr=self.config.lr, fused=True)
        first = 0
        for size in sizes:
            chosen = slice(first, first + size)
            inputs, labels = self._batch(numbers[:, chosen], draws[:, chosen])
            tensors = self.layout.parameter_views(parameters) | buffers
            if len(jobs) == 1:
                # Indexing loses the memory format of one-channel images.
                loss = self._loss({name: t[0] for name, t in tensors.items()}, channels_last(inputs[0]), labels[0])
            else:
                # The sum over jobs has, for each job's own parameters, the gradient of that job's loss.
                loss = vmap(self._loss, randomness="different")(tensors, inputs, labels).sum()
            parameters.grad = torch.autograd.grad(loss, parameters)[0]
            optimiser.step()
            first += size
        return torch.cat([parameters.detach(), *(buffer.flatten(1) for buffer in buffers.values())], dim=1)

    def _loss(self, tensors: dict[str, Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.layout.call(tensors, inputs, training=True), labels)

    def _draw(self, job: Job) -> tuple[np.ndarray, np.ndarray]:
        """Sample numbers (n,) and augmentation draws (n, ...) of all n = sum(batch_sizes) samples a job sees."""
        rng = stream(self.seed, "batches", job.number)
        shard = self.data.shards[job.client]
        total = sum(batch_sizes(len(shard), self.config.steps, self.config.batch_size))
        passes = [rng.permutation(shard) for _ in range(-(-total // len(shard)))]
        return np.concatenate(passes)[:total], self.prepare.draw(rng, total)

    def _batch(self, numbers: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Prepared inputs (J, b, ...) and labels (J, b) of sample numbers (J, b)."""
        source = self.data.clients
        inputs = self.prepare(source.inputs[numbers].flatten(0, 1), draws.flatten(0, 1))
        return inputs.unflatten(0, numbers.shape), source.labels[numbers]

    def _to_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)


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
