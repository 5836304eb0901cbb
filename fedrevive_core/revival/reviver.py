"""Revival: from a stale arrival to a distilled update of the current global model.

One class serves both ways of having samples to distil on. FedRevive fills the pool by synthesis; the data-dependent
baseline is handed a pool of the server's held-back real samples and no synthesizer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedrevive_core.config import RevivalConfig, SynthesisConfig
from fedrevive_core.models import seeded, to_device
from fedrevive_core.revival.distillation import Distiller
from fedrevive_core.revival.pool import SamplePool
from fedrevive_core.revival.synthesis import Synthesizer
from fedrevive_core.revival.teacher_guard import TeacherGuard
from fedrevive_core.revival.teachers import ClassProportions, Teacher, TeacherBuffer, class_coverage, teacher_weights
from fedrevive_core.seeding import stream


@dataclass
class Revival:
    """What revival gives for one arrival.

    update (size,) or None if the client's update stays whole; refused: why the client's model does not teach, '' if it
    does; coverage: of the classes by the teachers, see `Measured`; metrics: 0-d tensors on the device, by name.
    """

    update: Tensor | None = None
    refused: str = ""
    coverage: float = math.nan
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Reviver:
    """Teacher buffer, class proportions, pool, synthesis and distillation of one run."""

    def __init__(
        self,
        config: RevivalConfig,
        synthesis: SynthesisConfig,
        proportions: ClassProportions,
        pool: SamplePool,
        synthesizer: Synthesizer | None,
        distiller: Distiller,
        seed: int,
    ) -> None:
        self.config, self.synthesis, self.seed = config, synthesis, seed
        self.proportions, self.pool = proportions, pool
        self.synthesizer, self.distiller = synthesizer, distiller
        self.buffer = TeacherBuffer(config.num_teachers, config.one_per_client)
        self.guard = TeacherGuard(distiller.layout, distiller.prepare, config) if config.guards_teachers else None

    def state_dict(self) -> dict[str, Any]:
        """What lasts between arrivals. A pool that is not synthesised is not part of it: it never changes."""
        state = {
            "source": self.config.source,
            "teachers": self.buffer.state_dict(),
            "proportions": self.proportions.state_dict(),
            "distiller": self.distiller.state_dict(),
        }
        if self.synthesizer is not None:
            state |= {"pool": self.pool.state_dict(), "synthesizer": self.synthesizer.state_dict()}
        if self.guard is not None:
            state["teacher_guard"] = self.guard.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises an error if names or shapes do not match."""
        self.buffer.load_state_dict(state["teachers"], self.distiller.layout)
        self.proportions.load_state_dict(state["proportions"])
        self.distiller.load_state_dict(state["distiller"])
        if self.synthesizer is not None:
            self.pool.load_state_dict(state["pool"])
            self.synthesizer.load_state_dict(state["synthesizer"])
        if self.guard is not None:
            self.guard.load_state_dict(state["teacher_guard"])

    def revive(
        self, arrival: int, teacher: Teacher, update: Tensor, wanted: bool, version: int, global_state: Tensor
    ) -> Revival:
        """Take the model in unless the guard refuses it; where the schedule says so, synthesise and distil.

        Args:
            arrival: its number, which names the random streams. update: (size,) of the client, before clipping.
            wanted: whether a distilled update would count. version: current version, whose state is `global_state`
            (size,).
        """
        revival = Revival()
        if self.guard is not None:
            known = self.proportions.known(teacher.client)
            revival.refused = self.guard.refusal(teacher.state, update, known, self.pool)
        if not revival.refused:
            self.buffer.add(teacher)
            self.proportions.observe(arrival, teacher)
        if not wanted or version < self.config.freeze or len(self.buffer) == 0:
            return revival
        # Newest first. A client's newest estimate also serves for its older models in the buffer.
        states = [teacher.state for teacher in self.buffer]
        shares = np.stack([self.proportions.of(teacher.client) for teacher in self.buffer])  # (M, C)
        revival.coverage = class_coverage(shares)
        if self.synthesizer is not None and version % self.synthesis.every == 0:
            self._synthesise(self.synthesizer, arrival, states, shares, version, global_state, revival)
        distils = self.config.warmup is None or version > self.config.warmup
        if distils and len(self.pool) > 0:
            self._distil(arrival, states, shares, global_state, revival)
        elif self.config.before_distillation == "zero":
            revival.update = torch.zeros_like(global_state)
        return revival

    def _synthesise(
        self,
        synthesizer: Synthesizer,
        arrival: int,
        states: list[Tensor],
        shares: np.ndarray,
        version: int,
        global_state: Tensor,
        revival: Revival,
    ) -> None:
        draws = synthesizer.draw(stream(self.seed, "synthesis", arrival), shares)
        weights = to_device(teacher_weights(shares).astype(np.float32), global_state.device)
        counted = version if self.config.adversary_counts == "versions" else synthesizer.num_calls + 1
        adversarial = self.config.warmup is None or counted >= self.config.warmup
        made = synthesizer.synthesise(draws, states, weights, global_state, adversarial=adversarial)
        if made.usable:  # here the host waits
            self.pool.add(made.samples, draws.labels)
        names = ("feature_loss", "label_loss", "adversarial_loss")
        revival.metrics.update(zip(names, made.losses, strict=True))
        _count_rejected(revival.metrics, made.num_rejected)

    def _distil(
        self, arrival: int, states: list[Tensor], shares: np.ndarray, global_state: Tensor, revival: Revival
    ) -> None:
        rng = stream(self.seed, "distillation", arrival)
        with seeded(stream(self.seed, "dropout", 1, arrival), global_state.device):
            made = self.distiller.distil_from(global_state, states, self.pool, shares, rng)
        revival.update = made.update
        revival.metrics["distillation_loss"] = made.losses.mean()
        _count_rejected(revival.metrics, made.num_rejected)


def _count_rejected(metrics: dict[str, Tensor], number: Tensor) -> None:
    metrics["rejected_terms"] = metrics.get("rejected_terms", torch.zeros_like(number)) + number
