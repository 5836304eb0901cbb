"""A pool of labelled samples to distil on: synthetic ones, first in first out, or a server's held-back real ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedrevive_core.models import to_device


class SamplePool:
    """At most `capacity` samples of `shape`, preallocated on `device`; labels are on the host, where they are drawn."""

    def __init__(
        self,
        capacity: int,
        shape: tuple[int, ...],
        num_classes: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.samples = torch.zeros(capacity, *shape, device=device, dtype=dtype)
        self.labels = np.zeros(capacity, dtype=np.int64)
        self.num_classes = num_classes
        self.num_added = 0

    def __len__(self) -> int:
        return min(self.num_added, len(self.labels))

    def state_dict(self) -> dict[str, Any]:
        """The samples and labels that it holds, by slot; shared, and changed in place by `add`."""
        size = len(self)
        return {
            "capacity": len(self.labels),
            "num_added": self.num_added,
            "samples": self.samples[:size],
            "labels": torch.from_numpy(self.labels[:size]),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` of a pool of this capacity gave, copied. Raises ValueError if it does not fit."""
        size = len(state["labels"])
        if len(state["samples"]) != size or size != min(state["num_added"], len(self.labels)):
            raise ValueError(f"a pool of {len(self.labels)} samples cannot hold these {size}")
        self.samples[:size] = state["samples"]
        self.labels[:size] = state["labels"].numpy()
        self.num_added = state["num_added"]

    def add(self, samples: Tensor, labels: np.ndarray) -> None:
        """Append `samples` (n, *shape) with `labels` (n,); the oldest leave when the pool is full. n <= capacity."""
        slots = np.arange(self.num_added, self.num_added + len(labels)) % len(self.labels)
        self.samples[to_device(slots, self.samples.device)] = samples
        self.labels[slots] = labels
        self.num_added += len(labels)

    def newest(self, count: int) -> tuple[Tensor, np.ndarray]:
        """The `count` newest samples (or all there are), newest first, with labels."""
        slots = np.arange(self.num_added - 1, self.num_added - 1 - min(count, len(self)), -1) % len(self.labels)
        return self.samples[to_device(slots, self.samples.device)], self.labels[slots]

    def sample(self, proportions: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """Slots (count,) of samples whose labels follow `proportions` (C,), in random order.

        Within a class nothing repeats while there are enough; a class the pool does not have is replaced by any sample.
        Raises ValueError if the pool is empty.
        """
        if len(self) == 0:
            raise ValueError("the pool is empty: there is nothing to sample")
        wanted = rng.choice(self.num_classes, size=count, p=proportions)
        order = rng.permutation(len(self))
        order = order[np.argsort(self.labels[order], kind="stable")]  # shuffled within each class
        available = np.bincount(self.labels[: len(self)], minlength=self.num_classes)
        first = np.cumsum(available) - available  # where each class begins in `order`
        chosen = rng.integers(len(self), size=count)  # for classes that are not there
        present = available[wanted] > 0
        labels = wanted[present]
        chosen[present] = order[first[labels] + occurrence(labels) % available[labels]]
        return chosen


def occurrence(labels: np.ndarray) -> np.ndarray:
    """How often each entry's value came before it: [3, 5, 3, 3] -> [0, 0, 1, 2]."""
    by_label = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_label], labels[by_label], side="left")
    result = np.empty(len(labels), dtype=np.int64)
    result[by_label] = np.arange(len(labels)) - starts
    return result
