"""What all labelled samples share, images or texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """Labelled samples: `inputs` (n, ...), what a model is fed before preparation; `labels` (n,) int64."""

    inputs: Tensor
    labels: Tensor

    def take(self, numbers: np.ndarray) -> Self:
        """The samples of these numbers, in this order."""
        chosen = torch.from_numpy(numbers)
        return type(self)(self.inputs[chosen], self.labels[chosen])

    def to(self, device: torch.device) -> Self:
        """The same samples on `device`."""
        return type(self)(self.inputs.to(device), self.labels.to(device))


class Images(Samples):
    """Images (n, C, S, S) float32 in [0, 1]."""

    @property
    def images(self) -> Tensor:
        """The inputs, by their own name."""
        return self.inputs


class Texts(Samples):
    """Texts as rows of token numbers (n, L) int64, padded at the end."""

    @property
    def tokens(self) -> Tensor:
        """The inputs, by their own name."""
        return self.inputs
