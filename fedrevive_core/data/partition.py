"""Partition of samples: Dirichlet, IID and natural shards for clients, and the parts that the server keeps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedrevive_core.config import DataConfig
from fedrevive_core.errors import ConfigError

# Shares of clients, validation, held back (and test, where there is no official one).
OFFICIAL_TEST = (0.75, 0.15, 0.10)  # authors' settings
NO_OFFICIAL_TEST = (0.60, 0.15, 0.05, 0.20)  # ours, for digits and docstrings; by class
NATURAL = (0.60, 0.15, 0.10, 0.15)  # authors' settings for FEMNIST; of all writers' samples together


@dataclass(frozen=True)
class Partition:
    """Sample numbers of the training set: one array per client, and what the server keeps.

    `test` is empty if there is an official test set.
    """

    shards: list[np.ndarray]
    validation: np.ndarray
    held_back: np.ndarray
    test: np.ndarray

    @property
    def clients(self) -> np.ndarray:
        """All sample numbers that clients hold, sorted, each once."""
        return np.unique(np.concatenate(self.shards))


def partition_samples(
    config: DataConfig,
    labels: np.ndarray,
    num_classes: int,
    num_clients: int,
    rng: np.random.Generator,
    *,
    official_test: bool,
    owners: np.ndarray | None = None,
) -> Partition:
    """Partition the samples with `labels` (n,) as `config` says; `owners` (n,) are their writers, for natural splits.

    Raises ConfigError if there are too few samples for a shard.
    """
    if config.split == "natural":
        if owners is None:
            raise ConfigError(f"data.split = 'natural' needs samples with writers, as femnist has; not {config.name}")
        candidates, validation, held_back, test = portions(np.arange(len(labels)), NATURAL, rng)
        return Partition(natural_shards(owners, candidates, num_clients), validation, held_back, test)
    if official_test:
        candidates, validation, held_back = portions(np.arange(len(labels)), OFFICIAL_TEST, rng)
        test = candidates[:0]
    else:
        parts = [portions(np.flatnonzero(labels == y), NO_OFFICIAL_TEST, rng) for y in range(num_classes)]
        candidates, validation, held_back, test = (np.concatenate(part) for part in zip(*parts, strict=True))
    if config.split == "iid":
        shards = iid_shards(candidates, num_clients, config.samples_per_client, rng)
    else:
        shards = dirichlet_shards(labels, candidates, num_clients, config.samples_per_client, config.alpha, rng)
    return Partition(shards, validation, held_back, test)


def natural_shards(owners: np.ndarray, candidates: np.ndarray, num_clients: int) -> list[np.ndarray]:
    """The `candidates` of each of `num_clients` writers; `owners` (n,) holds the writer of every sample, from 0.

    A writer with fewer samples than a batch trains on short batches. Raises ConfigError if a writer has none.
    """
    shards = [candidates[owners[candidates] == client] for client in range(num_clients)]
    for client, shard in enumerate(shards):
        if len(shard) == 0:
            raise ConfigError(
                f"writer {client} has {(owners == client).sum()} samples, but none of them for training: "
                "choose another data.split_seed, or fewer federation.num_clients"
            )
    return shards


def class_counts(alpha: float, size: int, num_classes: int, rng: np.random.Generator) -> np.ndarray:
    """Number of samples of each class for one client: int64 (num_classes,), the sum is `size`.

    Proportions ~ Dirichlet(alpha); counts are the rounded shares. What is missing is added to one random class, and a
    surplus is taken from the largest (authors' settings).
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
    """Deals `items` in shuffled order. If too few are left, all are shuffled again, so two hands may overlap."""

    def __init__(self, items: np.ndarray, rng: np.random.Generator) -> None:
        self.items, self.rng = items, rng
        self.deck = rng.permutation(items)

    def deal(self, count: int) -> np.ndarray:
        """The next `count` items, all different; `count` must not exceed the number of items."""
        if count > len(self.deck):
            self.deck = self.rng.permutation(self.items)
        hand, self.deck = self.deck[:count], self.deck[count:]
        return hand


def dirichlet_shards(
    labels: np.ndarray, candidates: np.ndarray, num_clients: int, size: int, alpha: float, rng: np.random.Generator
) -> list[np.ndarray]:
    """One array of `size` sample numbers per client, class proportions ~ Dirichlet(alpha).

    `labels` (n,) are the labels of all samples; only `candidates` (sample numbers) are dealt. Raises ConfigError if a
    client needs more samples of a class than there are.
    """
    num_classes = int(labels.max()) + 1
    dealers = [Dealer(candidates[labels[candidates] == y], rng) for y in range(num_classes)]
    shards = []
    for client in range(num_clients):
        counts = class_counts(alpha, size, num_classes, rng)
        for y in np.flatnonzero(counts > [len(dealer.items) for dealer in dealers]):
            raise ConfigError(
                f"data.samples_per_client = {size} with data.alpha = {alpha}: client {client} needs {counts[y]} "
                f"samples of class {y}, which has only {len(dealers[y].items)}: lower samples_per_client or raise alpha"
            )
        shards.append(rng.permutation(np.concatenate([d.deal(n) for d, n in zip(dealers, counts, strict=True)])))
    return shards


def order_for_speed(class_counts: np.ndarray, skew: float, rng: np.random.Generator) -> np.ndarray:
    """Numbers of the shards (N,), the first for the fastest client and the last for the slowest.

    The classes get a random order, and a shard's place is the mean place of its samples; class_counts: int (N, C).
    Shards are sorted by skew * a + sqrt(1 - skew^2) * b, where a is standard normal and in the order of places, and b
    is standard normal and independent. So 0 gives a random order, and 1 gives the last classes to the slowest clients.
    """
    number, num_classes = class_counts.shape
    places = class_counts @ rng.permutation(num_classes) / class_counts.sum(axis=1)
    by_class = np.empty(number)
    by_class[places.argsort(kind="stable")] = np.sort(rng.standard_normal(number))
    return (skew * by_class + np.sqrt(1 - skew**2) * rng.standard_normal(number)).argsort(kind="stable")


def iid_shards(candidates: np.ndarray, num_clients: int, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """One array of `size` sample numbers per client, of any class. Raises ConfigError if `size` is too large."""
    if size > len(candidates):
        raise ConfigError(f"data.samples_per_client = {size} must be at most the {len(candidates)} samples for clients")
    dealer = Dealer(candidates, rng)
    return [dealer.deal(size) for _ in range(num_clients)]


def portions(numbers: np.ndarray, fractions: tuple[float, ...], rng: np.random.Generator) -> list[np.ndarray]:
    """Split `numbers` at random into parts of the given `fractions` (summing to 1), sizes rounded cumulatively."""
    ends = np.rint(np.cumsum(fractions)[:-1] * len(numbers)).astype(int)
    return np.split(rng.permutation(numbers), ends)
