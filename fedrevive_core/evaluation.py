"""Evaluation of the global model on labelled samples."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fedrevive_core.data import Preparation
from fedrevive_core.state import StateLayout


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
    hits, counts = totals.cpu()
    loss = float(F.cross_entropy(logits, labels))
    return float(hits.sum() / counts.sum()), loss, (hits / counts).tolist()
