"""One synthesis, step by step, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Switches = tuple[bool, bool, bool]  # which of L_feat, L_hot and L_adv take part


@dataclass(frozen=True)
class Trace:
    """One synthesis, step by step: entry k of `images`, `losses` and `votes` is after k updates of the fast copy.

    labels (n,): wanted classes, sorted, equally many of each. images (steps, n, C, S, S) uint8. losses (steps, 3):
    L_feat, L_hot, L_adv before their weights. votes (steps, M + 1, n, num_classes): probabilities that each teacher
    gives and, last, the student. clients, proportions: of the teachers, as in `SynthesisStart`.
    """

    version: int
    labels: np.ndarray
    images: np.ndarray
    losses: np.ndarray
    votes: np.ndarray
    clients: tuple[int, ...]
    proportions: np.ndarray
