"""Evaluation of the global model on labelled samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedrevive_core.models import StateLayout
from fedrevive_core.transforms import Preparation

PATIENCE = 10  # evaluations in a row that must say a run has diverged
CHANCE = 1.5  # an accuracy at most this multiple of one class in all is no better than guessing


@torch.no_grad()
def evaluate(
    layout: StateLayout, state: Tensor, prepare: Preparation, inputs: Tensor, labels: Tensor, num_classes: int
) -> tuple[float, float, list[float]]:
    """Accuracy, mean cross-entropy, and accuracy of each class (NaN without samples) of `state` on labelled samples."""
    views = layout.views(state)
    logits = torch.cat([layout.call(views, prepare(batch)) for batch in inputs.split(prepare.largest_batch)])
    correct = (logits.argmax(dim=1) == labels).double()
    totals = torch.zeros(2, num_classes, dtype=torch.float64, device=labels.device)
    totals.index_add_(1, labels, torch.stack([correct, torch.ones_like(correct)]))
    loss = F.cross_entropy(logits, labels).double()
    # All at once, because here the host waits.
    *found, mean_loss = torch.cat([totals.flatten(), loss.view(1)]).tolist()
    hits, counts = np.array(found).reshape(2, num_classes)
    with np.errstate(invalid="ignore"):
        return float(hits.sum() / counts.sum()), mean_loss, (hits / counts).tolist()


def diverged(evaluations: Sequence[Mapping[str, Any]], num_classes: int, chance_from: float) -> str:
    """Why a run has diverged, from the rows of its evaluations; '' if it has not.

    chance_from: simulated time from which accuracy at chance counts.
    """
    last = evaluations[-PATIENCE:]
    if len(last) < PATIENCE:
        return ""
    if not any(math.isfinite(row["loss"]) for row in last):
        return f"diverged: loss not finite in {PATIENCE} evaluations in a row"
    if all(row["sim_time"] >= chance_from and row["accuracy"] <= CHANCE / num_classes for row in last):
        return f"diverged: accuracy at chance in {PATIENCE} evaluations in a row"
    return ""
