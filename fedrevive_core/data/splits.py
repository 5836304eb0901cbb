"""Dealing samples to clients: Dirichlet and IID shards, and the parts that the server keeps."""

from __future__ import annotations

import numpy as np

from fedrevive_core.validation import ConfigError


def class_counts(alpha: float, size: int, num_classes: int, rng: np.random.Generator) -> np.ndarray:
    """Samples of each class for one client, (num_classes,) summing to `size`.

    Proportions ~ Dirichlet(alpha); counts are the rounded shares, a shortfall goes to one random class, an excess is
    taken off the largest (authors' settings).
    """
    counts = np.rint(rng.dirichlet(np.full(num_classes, alpha)) * size).astype(np.int64)
    excess = int(counts.sum()) - size
    if excess < 0:
        counts[rng.integers(num_classes)] -= excess
    while excess > 0:  # a loop, because the largest count may be smaller than the excess
        largest = int(counts.argmax())
        taken = min(excess, int(counts[largest]))
        counts[largest] -= taken
        excess -= taken
    return counts


class Dealer:
    """Deals `items` in shuffled order; a hand for which too few are left starts afresh, so hands may overlap."""

    def __init__(self, items: np.ndarray, rng: np.random.Generator) -> None:
        self.items, self.rng = items, rng
        self.deck = rng.permutation(items)

    def deal(self, count: int) -> np.ndarray:
        """The next `count` items, all different. `count` is at most the number of items."""
        if count > len(self.deck):
            self.deck = self.rng.permutation(self.items)
        hand, self.deck = self.deck[:count], self.deck[count:]
        return hand


def dirichlet_shards(
    labels: np.ndarray, candidates: np.ndarray, num_clients: int, size: int, alpha: float, rng: np.random.Generator
) -> list[np.ndarray]:
    """One array of `size` sample numbers per client, class proportions ~ Dirichlet(alpha).

    `labels` (n,) are those of all samples; only `candidates` (sample numbers) are dealt. Raises ConfigError if a client
    would need more samples of a class than there are.
    """
    num_classes = int(labels.max()) + 1
    dealers = [Dealer(candidates[labels[candidates] == y], rng) for y in range(num_classes)]
    shards = []
    for client in range(num_clients):
        counts = class_counts(alpha, size, num_classes, rng)
        for y in np.flatnonzero(counts > [len(dealer.items) for dealer in dealers]):
            raise ConfigError(
                f"data.samples_per_client = {size} with data.alpha = {alpha}: client {client} wants {counts[y]} "
                f"samples of class {y}, which has {len(dealers[y].items)}; lower samples_per_client or raise alpha"
            )
        shards.append(rng.permutation(np.concatenate([d.deal(n) for d, n in zip(dealers, counts, strict=True)])))
    return shards


def iid_shards(candidates: np.ndarray, num_clients: int, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """One array of `size` sample numbers per client, dealt without regard to class. Raises ConfigError if too few."""
    if size > len(candidates):
        raise ConfigError(f"data.samples_per_client = {size} must be at most the {len(candidates)} samples for clients")
    dealer = Dealer(candidates, rng)
    return [dealer.deal(size) for _ in range(num_clients)]


def portions(numbers: np.ndarray, fractions: tuple[float, ...], rng: np.random.Generator) -> list[np.ndarray]:
    """Split `numbers` at random into parts of the given `fractions` (summing to 1), sizes rounded cumulatively."""
    ends = np.rint(np.cumsum(fractions)[:-1] * len(numbers)).astype(int)
    return np.split(rng.permutation(numbers), ends)
