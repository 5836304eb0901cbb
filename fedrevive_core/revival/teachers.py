"""Teachers: the most recently returned client models, and what the server believes about each client's classes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedrevive_core.config import RevivalConfig
from fedrevive_core.models import StateLayout, to_device
from fedrevive_core.seeding import stream

ProbeInputs = Callable[[np.random.Generator, int], np.ndarray]


@dataclass(frozen=True)
class Teacher:
    """A returned client model: who sent it, and its state (size,)."""

    client: int
    state: Tensor


class ClassProportions:
    """Estimated class proportions of clients: true histograms, or a proxy that needs nothing from the client.

    The proxy feeds Gaussian inputs to each of a client's first two uploads and averages softmax(logits / T_probe). The
    first is the running estimate, the mean of both is final.

    Args:
        layout: the model. probe_inputs: draws that many Gaussian inputs of it. true: (N, C) histograms, or None for
            the proxy.
    """

    def __init__(
        self,
        layout: StateLayout,
        probe_inputs: ProbeInputs,
        config: RevivalConfig,
        seed: int,
        true: np.ndarray | None = None,
    ) -> None:
        self.layout, self.probe_inputs, self.config, self.seed, self.true = layout, probe_inputs, config, seed, true
        self.estimates: dict[int, list[np.ndarray]] = {}

    def state_dict(self) -> dict[str, Any]:
        """The estimates of every client that was observed, and whether true histograms stand in their place."""
        estimates = {str(client): [torch.from_numpy(e) for e in known] for client, known in self.estimates.items()}
        return {"true": self.true is not None, "estimates": estimates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.estimates = {
            int(client): [estimate.numpy() for estimate in known] for client, known in state["estimates"].items()
        }

    def observe(self, arrival: int, teacher: Teacher) -> None:
        """Look at an uploaded model; `arrival` names the random stream of the inputs."""
        known = self.estimates.setdefault(teacher.client, [])
        if self.true is None and len(known) < 2:
            known.append(self._probe(arrival, teacher.state))

    def of(self, client: int) -> np.ndarray:
        """Current estimate for a client that was observed, (C,) float64 summing to 1."""
        return self.true[client] if self.true is not None else np.mean(self.estimates[client], axis=0)

    def known(self, client: int) -> np.ndarray | None:
        """`of`, or None for a client of which nothing is known yet."""
        return self.of(client) if self.true is not None or self.estimates.get(client) else None

    @torch.no_grad()
    def _probe(self, arrival: int, state: Tensor) -> np.ndarray:
        rng = stream(self.seed, "probing", arrival)
        inputs = self.probe_inputs(rng, self.config.num_probe_inputs)
        logits = self.layout.call(self.layout.views(state), to_device(inputs, state.device))
        probs = (logits.double() / self.config.probe_temperature).softmax(dim=1).cpu().numpy()
        probs = probs[np.isfinite(probs).all(axis=1)]
        # A finite model can still overflow on every input; then nothing is known about its client.
        return probs.mean(axis=0) if len(probs) else np.full(logits.shape[1], 1 / logits.shape[1])


class TeacherBuffer:
    """The `capacity` most recently returned models, newest first; with `one_per_client` only the newest of a client."""

    def __init__(self, capacity: int, one_per_client: bool = False) -> None:
        self.teachers: deque[Teacher] = deque(maxlen=capacity)
        self.one_per_client = one_per_client

    def add(self, teacher: Teacher) -> None:
        """Put `teacher` first; the oldest leaves when the buffer is full."""
        if self.one_per_client:
            others = [other for other in self.teachers if other.client != teacher.client]
            self.teachers = deque(others, maxlen=self.teachers.maxlen)
        self.teachers.appendleft(teacher)

    def state_dict(self) -> dict[str, Any]:
        """The teachers, newest first; their states are shared and never changed."""
        teachers = [{"client": teacher.client, "state": teacher.state} for teacher in self.teachers]
        return {"capacity": self.teachers.maxlen, "teachers": teachers}

    def load_state_dict(self, state: Mapping[str, Any], layout: StateLayout) -> None:
        """Restore what `state_dict` gave. Raises ValueError if there are too many, or not of this `layout`."""
        if len(state["teachers"]) > (self.teachers.maxlen or 0):
            raise ValueError(f"{len(state['teachers'])} teachers, but the buffer holds {self.teachers.maxlen}")
        teachers = [Teacher(int(teacher["client"]), layout.checked(teacher["state"])) for teacher in state["teachers"]]
        self.teachers = deque(teachers, maxlen=self.teachers.maxlen)

    def __iter__(self) -> Iterator[Teacher]:
        return iter(self.teachers)

    def __len__(self) -> int:
        return len(self.teachers)


def teacher_weights(proportions: np.ndarray) -> np.ndarray:
    """w_m(y) = q_m(y) / sum_n q_n(y), for class proportions (M, C); columns sum to 1.

    A class that no teacher has (sum under 1e-8) gets weight ~0 everywhere, as in the authors' code.
    """
    return proportions / np.maximum(proportions.sum(axis=0, keepdims=True), 1e-8)


def class_coverage(proportions: np.ndarray) -> float:
    """exp(entropy of the mean of class proportions (M, C)) / C, in (0, 1]: 1 if the teachers know all classes alike."""
    mean = proportions.mean(axis=0)
    known = mean[mean > 0]
    return float(np.exp(-(known * np.log(known)).sum()) / len(mean))
