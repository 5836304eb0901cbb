"""Multi-teacher distillation: the current global model learns what the teachers say about a pool of samples."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedrevive_core.config import DistillationConfig
from fedrevive_core.models import Captured, Checked, StateLayout, reset, to_device
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
        captured: record the student's steps once for each shape of samples, and replay them.
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
        captured: bool = False,
    ) -> None:
        self.layout, self.prepare, self.config, self.track_statistics = layout, prepare, config, track_statistics
        self.guard = LossGuard(1, device, enabled=guard)
        self.captured = captured
        self.checked = Checked("distillation")
        self.students: dict[torch.Size, tuple[_Student, Captured]] = {}

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
        config = self.config
        prepared = self.prepare(samples.flatten(0, 2), augmentation.flatten(0, 2)).unflatten(0, samples.shape[:3])
        soft = self.teacher_logits(teachers, prepared) / config.temperature  # (M, steps, b, C)
        soft = soft.transpose(0, 1).flatten(1, 2)  # (steps, M * b, C)
        if not self.captured:
            return self._student(global_state, prepared, soft, self.guard)
        # A student of the plain way must not move the guard that the recorded one goes by.
        guard = copy.deepcopy(self.guard)
        made: list[Distillation] = []

        def recorded() -> Tensor:
            made.append(self._recorded(global_state, prepared, soft))
            return made[-1].update

        def plain() -> Tensor:
            made.append(self._student(global_state, prepared, soft, guard))
            return made[-1].update

        self.checked(prepared.shape, recorded, plain, torch.zeros_like(global_state))
        if not self.checked.works:
            self.guard.load_state_dict(guard.state_dict())
        return made[0]

    def _student(self, global_state: Tensor, prepared: Tensor, soft: Tensor, guard: LossGuard) -> Distillation:
        """A student of `prepared` samples (M, steps, b, ...) and soft labels (steps, M * b, C)."""
        student = _Student(self, global_state, prepared, soft)
        student.learn(guard)
        return student.result(global_state)

    def _recorded(self, global_state: Tensor, prepared: Tensor, soft: Tensor) -> Distillation:
        """The same by a recording, made at the first call with this shape."""
        if prepared.shape not in self.students:
            student = _Student(self, global_state, prepared.clone(), soft.clone())
            before = {name: tensor.clone() for name, tensor in self.guard.state_dict().items()}
            self.students[prepared.shape] = student, Captured(partial(student.learn, self.guard), prepared.device)
            self.guard.load_state_dict(before)
        student, learn = self.students[prepared.shape]
        student.begin(global_state, prepared, soft)
        learn()
        return student.result(global_state)

    @torch.no_grad()
    def teacher_logits(self, teachers: Sequence[Tensor], prepared: Tensor) -> Tensor:
        """(M, steps, b, num_classes): each teacher on all its samples in one pass, in evaluation mode."""
        outputs = [
            self.layout.call(self.layout.views(teacher), channels_last(inputs.flatten(0, 1)))
            for teacher, inputs in zip(teachers, prepared, strict=True)
        ]
        return torch.stack(outputs).unflatten(1, prepared.shape[1:3])


class _Student:
    """A copy of the global model, and all that its steps need; learning changes its tensors in place.

    Args:
        prepared: (M, steps, b, ...). soft: (steps, M * b, C), logits of the teachers divided by the temperature.
    """

    def __init__(self, distiller: Distiller, global_state: Tensor, prepared: Tensor, soft: Tensor) -> None:
        self.distiller, self.prepared, self.soft = distiller, prepared, soft
        config, layout = distiller.config, distiller.layout
        self.parameters = layout.parameters(global_state).clone().requires_grad_()
        self.buffers = layout.buffers(global_state)
        self.optimiser = torch.optim.Adam(
            [self.parameters],
            lr=config.lr,
            weight_decay=config.weight_decay,
            fused=True,
            capturable=global_state.is_cuda,
        )
        self.losses = self.accepted = global_state[:0]

    @torch.no_grad()
    def begin(self, global_state: Tensor, prepared: Tensor, soft: Tensor) -> None:
        """Start again from `global_state` with other samples of the same shape."""
        layout = self.distiller.layout
        self.prepared.copy_(prepared)
        self.soft.copy_(soft)
        self.parameters.copy_(layout.parameters(global_state))
        for name, buffer in layout.buffers(global_state).items():
            self.buffers[name].copy_(buffer)
        reset(self.optimiser)

    def learn(self, guard: LossGuard) -> None:
        """All steps."""
        config, layout, track = self.distiller.config, self.distiller.layout, self.distiller.track_statistics
        losses, accepted = [], []
        for inputs, target in zip(self.prepared.unbind(1), self.soft, strict=True):
            tensors = layout.parameter_views(self.parameters) | self.buffers
            parts = list(inputs) if track else [channels_last(inputs.flatten(0, 1))]
            logits = torch.cat([layout.call(tensors, part, training=True, track=track) for part in parts])
            divergence = kl_divergence(target, logits / config.temperature).sum()
            loss = config.temperature**2 * divergence / (inputs.shape[0] * inputs.shape[1])
            gradient = torch.autograd.grad(loss, self.parameters)[0]
            losses.append(loss.detach())
            accepted.append(guard.accept(loss.view(1)))
            if config.rejected_loss == "skips":
                self.parameters.grad = gradient
                step_unless(self.optimiser, ~accepted[-1][0])
            else:
                self.parameters.grad = torch.where(accepted[-1], gradient, 0.0)
                self.optimiser.step()
        self.losses, self.accepted = torch.stack(losses), torch.stack(accepted)

    def result(self, global_state: Tensor) -> Distillation:
        """What was learned, copied."""
        student = torch.cat([self.parameters.detach(), *(buffer.flatten() for buffer in self.buffers.values())])
        return Distillation(student - global_state, self.losses.clone(), (~self.accepted).sum())
