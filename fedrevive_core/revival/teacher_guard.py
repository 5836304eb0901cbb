"""The guard on teachers: an upload that it refuses does not teach. Whether it is aggregated is not decided here."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedrevive_core.config import RevivalConfig
from fedrevive_core.models import StateLayout
from fedrevive_core.revival.pool import SamplePool
from fedrevive_core.transforms import Preparation, channels_last

WINDOW = 100  # lengths of uploads that are remembered
SMALLEST_WINDOW = 10  # before that many, no length is refused
NUM_SAMPLES = 256  # newest samples of the pool on which agreement is measured


class TeacherGuard:
    """Decides which uploads may teach; keeps the lengths of the last uploads, refused ones included.

    length: the update's length, before clipping, is within `teacher_norm_factor` of the median of the last ones. A
    median does not move as long as most uploads are honest.
    agreement: the model gives at least `teacher_agreement` of the pool's samples their label, on which the teachers
    agreed when they were made. Samples are weighted by what was known of the client's classes before: agreement on all
    classes does not tell liars from honest clients that have seen two of ten (docs/FAULTS.md). A client's first upload
    is not judged.
    """

    def __init__(self, layout: StateLayout, prepare: Preparation, config: RevivalConfig) -> None:
        self.layout, self.prepare, self.config = layout, prepare, config
        self.norms: deque[float] = deque(maxlen=WINDOW)

    def state_dict(self) -> dict[str, Any]:
        """The lengths of the last uploads, oldest first."""
        return {"norms": torch.tensor(self.norms, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.norms = deque(state["norms"].tolist(), maxlen=WINDOW)

    def refusal(self, returned: Tensor, update: Tensor, known: np.ndarray | None, pool: SamplePool) -> str:
        """Why the model `returned` (size,) may not teach; '' if it may.

        Args:
            update: (size,) of the client, before clipping. known: (C,) class proportions of the client, or None.
        """
        before = list(self.norms)
        self.norms.append(torch.linalg.vector_norm(self.layout.parameters(update)).item())
        factor, least = self.config.teacher_norm_factor, self.config.teacher_agreement
        if factor is not None and len(before) >= SMALLEST_WINDOW:
            median = statistics.median(before)
            if not median / factor <= self.norms[-1] <= median * factor:
                return "length"
        if least is not None and known is not None and len(pool) > 0:
            weights, agrees = self._agreement(returned, known, pool)
            if (weights * agrees).sum() < least * weights.sum():
                return "agreement"
        return ""

    @torch.no_grad()
    def _agreement(self, returned: Tensor, known: np.ndarray, pool: SamplePool) -> tuple[np.ndarray, np.ndarray]:
        """Of the newest samples (n,): the weights, and whether the model's class is the label."""
        samples, labels = pool.newest(NUM_SAMPLES)
        logits = self.layout.call(self.layout.views(returned), channels_last(self.prepare(samples)))
        agrees = (logits.argmax(dim=1).cpu().numpy() == labels) & logits.isfinite().all(dim=1).cpu().numpy()
        return known[labels], agrees
