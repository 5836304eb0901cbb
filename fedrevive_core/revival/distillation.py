"""Multi-teacher distillation: the current global model learns what the teachers say about a pool of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedrevive_core.config import DistillationConfig
from fedrevive_core.models import StateLayout, to_device
from fedrevive_core.revival.losses import LossGuard, kl_divergence, step_unless
from fedrevive_core.revival.pool import SamplePool
from fedrevive_core.transforms import Preparation, channels_last


@dataclass(frozen=True)
class Distillation:
    """update (size,): student minus global model; losses (steps,); num_rejected: steps left out. All on the device."""

    update: Tensor
    losses: Tensor
    num_rejected: Tensor


class Distiller:
    """Distils teachers into a student that starts as the global model; keeps the guard of its loss between calls.

    Args:
        track_statistics: let the student's probes follow its batches, one teacher at a time (authors' code). Every new
            global version resets them, so by default they are left alone and the student sees all teachers' batches in
            one pass.
    """

    def __init__(
        self,
        layout: StateLayout,
        prepare: Preparation,
        config: DistillationConfig,
        device: torch.device,
        *,
        guard: bool,
        track_statistics: bool = False,
    ) -> None:
        self.layout, self.prepare, self.config, self.track_statistics = layout, prepare, config, track_statistics
        self.guard = LossGuard(1, device, enabled=guard)

    def state_dict(self) -> dict[str, Any]:
        """The guard, with the temperature that sets the scale of its losses."""
        return {"temperature": self.config.temperature, "guard": self.guard.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave, copied."""
        self.guard.load_state_dict(state["guard"])

    def distil_from(
        self,
        global_state: Tensor,
        teachers: Sequence[Tensor],
        pool: SamplePool,
        proportions: np.ndarray,
        rng: np.random.Generator,
    ) -> Distillation:
        """`distil` on samples of `pool` that `rng` draws; labels follow each teacher's class `proportions` (M, C)."""
        steps, size = self.config.steps, self.config.batch_size
        slots = np.stack([pool.sample(share, steps * size, rng) for share in proportions])
        samples = pool.samples[to_device(slots, global_state.device)]  # (M, steps * b, ...)
        augmentation = to_device(self.prepare.draw(rng, len(teachers), steps, size), global_state.device)
        return self.distil(global_state, teachers, samples.unflatten(1, (steps, size)), augmentation)

    def distil(
        self, global_state: Tensor, teachers: Sequence[Tensor], samples: Tensor, augmentation: Tensor
    ) -> Distillation:
        """Train a copy of `global_state` (size,) on the soft labels of `teachers` (M states); neither is modified.

        Args:
            samples: (M, steps, b, ...), images in [0, 1] or texts; samples[m, i] are teacher m's in step i.
            augmentation: (M, steps, b, ...) from `Preparation.draw`.

        The loss of a step is T^2 * sum over teachers and samples of KL(teacher || student) at temperature T, divided by
        their number.
        """
        config, num_teachers = self.config, len(teachers)
        prepared = self.prepare(samples.flatten(0, 2), augmentation.flatten(0, 2)).unflatten(0, samples.shape[:3])
        soft = self.teacher_logits(teachers, prepared) / config.temperature  # (M, steps, b, C)
        soft = soft.transpose(0, 1).flatten(1, 2)  # (steps, M * b, C)
        parameters = self.layout.parameters(global_state).clone().requires_grad_()
        buffers = self.layout.buffers(global_state)
        optimiser = torch.optim.Adam([parameters], lr=config.lr, weight_decay=config.weight_decay, fused=True)
        losses, accepted = [], []
        for inputs, target in zip(prepared.unbind(1), soft, strict=True):
            tensors = self.layout.parameter_views(parameters) | buffers
            parts = list(inputs) if self.track_statistics else [channels_last(inputs.flatten(0, 1))]
            logits = torch.cat(
                [self.layout.call(tensors, part, training=True, track=self.track_statistics) for part in parts]
            )
            divergence = kl_divergence(target, logits / config.temperature).sum()
            loss = config.temperature**2 * divergence / (num_teachers * inputs.shape[1])
            parameters.grad = torch.autograd.grad(loss, parameters)[0]
            losses.append(loss.detach())
            accepted.append(self.guard.accept(loss.view(1)))
            step_unless(optimiser, ~accepted[-1][0])
        student = torch.cat([parameters.detach(), *(buffer.flatten() for buffer in buffers.values())])
        return Distillation(student - global_state, torch.stack(losses), (~torch.stack(accepted)).sum())

    @torch.no_grad()
    def teacher_logits(self, teachers: Sequence[Tensor], prepared: Tensor) -> Tensor:
        """(M, steps, b, num_classes): each teacher on all its samples in one pass, in evaluation mode."""
        outputs = [
            self.layout.call(self.layout.views(teacher), channels_last(inputs.flatten(0, 1)))
            for teacher, inputs in zip(teachers, prepared, strict=True)
        ]
        return torch.stack(outputs).unflatten(1, prepared.shape[1:3])
