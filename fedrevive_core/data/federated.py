"""Data of a federation: load it and partition it among clients and server."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from fedrevive_core.config import TEXT_DATA, DataConfig
from fedrevive_core.data.docstrings import load_docstrings
from fedrevive_core.data.femnist import load_femnist
from fedrevive_core.data.images import load_images
from fedrevive_core.data.newsgroups import load_newsgroups
from fedrevive_core.data.partition import Partition, order_for_speed, partition_samples
from fedrevive_core.data.samples import ImageData, LabelledTexts, Samples, Texts
from fedrevive_core.data.tokenizers import Tokenizer, build_tokenizer, encode
from fedrevive_core.data.writers import draw_writers, rewritten
from fedrevive_core.errors import ConfigError
from fedrevive_core.seeding import stream

KEPT_PARTS = ("held_back", "validation", "test")


@dataclass(frozen=True)
class FederatedData:
    """Everything a run needs, on its device.

    clients: all samples, Images or Texts; shards: for each client the numbers of its samples among them.
    held_back: real data that the server keeps (used by the data-dependent baseline only). validation, test: for
    evaluation. class_proportions: (N, C) float64, the true histogram of each client; rows sum to 1. tokenizer: for
    texts, else None. shard_of: (N,) which shard of the partition each client holds, if `match_to_speed` moved them.
    """

    clients: Any
    shards: list[np.ndarray]
    held_back: Any
    validation: Any
    test: Any
    class_names: tuple[str, ...]
    class_proportions: np.ndarray
    tokenizer: Tokenizer | None = None
    shard_of: np.ndarray | None = None

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""
        return len(self.class_names)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all samples and of the shards; which client holds a shard does not matter."""
        digest = hashlib.sha256()
        for part in (self.clients, self.held_back, self.validation, self.test):
            digest.update(part.inputs.cpu().numpy().tobytes() + part.labels.cpu().numpy().tobytes())
        for client in range(len(self.shards)) if self.shard_of is None else np.argsort(self.shard_of):
            digest.update(self.shards[client].tobytes())
        return digest.hexdigest()

    @cached_property
    def class_counts(self) -> np.ndarray:
        """(N, C) int64, number of samples of each class that a client holds."""
        sizes = np.array([len(shard) for shard in self.shards])
        return np.rint(self.class_proportions * sizes[:, None]).astype(np.int64)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """(C, S, S) of one image, or (L,) of one text."""
        return tuple(self.clients.inputs.shape[1:])

    def to(self, device: torch.device) -> FederatedData:
        """The same data on `device`."""
        parts = {name: getattr(self, name).to(device) for name in ("clients", *KEPT_PARTS)}
        return replace(self, **parts)


def load_federated(config: DataConfig, num_clients: int, device: torch.device) -> FederatedData:
    """Load, split by `config.split_seed`, and move to `device`.

    The split is the same for every run with this configuration. Raises ConfigError if the data is absent or there are
    too few samples for a shard.
    """
    load = _load_texts if config.name in TEXT_DATA else _load_images
    return load(config, num_clients, stream(config.split_seed, "split")).to(device)


def federate(data: ImageData, config: DataConfig, num_clients: int) -> FederatedData:
    """Partition labelled images, for example from your data, among `num_clients` clients and the server.

    The split is the same for every run with this configuration; `config.name` and `config.image_size` are ignored.
    Raises ConfigError if images or labels do not have the form of `Images`, or there are too few samples for a shard.
    """
    return _federate(data, config, num_clients, stream(config.split_seed, "split"))


def _load_images(config: DataConfig, num_clients: int, rng: np.random.Generator) -> FederatedData:
    natural = config.name == "femnist"
    source = load_femnist(num_clients, rng) if natural else load_images(config.name, config.image_size)
    return _federate(source, config, num_clients, rng)


def _federate(source: ImageData, config: DataConfig, num_clients: int, rng: np.random.Generator) -> FederatedData:
    source.check_fits(config)
    labels, official = source.train.labels.numpy(), source.test is not None
    num_classes = len(source.class_names)
    parts = partition_samples(
        config, labels, num_classes, num_clients, rng, official_test=official, owners=source.owners
    )
    data = _federated(source.train, source.test, parts, source.class_names)
    return by_writers(data, rng) if config.styles else data


def _load_texts(config: DataConfig, num_clients: int, rng: np.random.Generator) -> FederatedData:
    source = load_docstrings() if config.name == "docstrings" else load_newsgroups()
    parts = partition_samples(
        config, source.train.labels, len(source.class_names), num_clients, rng, official_test=source.test is not None
    )
    # Words are counted in the clients' texts only. The vocabulary is the one thing that clients share.
    counted = [source.train.texts[number] for number in parts.clients]
    tokenizer = build_tokenizer(config.tokenizer, counted, config.vocabulary_size, config.prefix_token)

    def tokenised(part: LabelledTexts) -> Texts:
        tokens = encode(tokenizer, part.texts, config.max_tokens)
        return Texts(torch.from_numpy(tokens), torch.from_numpy(part.labels))

    test = None if source.test is None else tokenised(source.test)
    return replace(_federated(tokenised(source.train), test, parts, source.class_names), tokenizer=tokenizer)


def _federated(train: Samples, test: Samples | None, parts: Partition, class_names: tuple[str, ...]) -> FederatedData:
    labels = train.labels.numpy()
    histograms = np.stack([np.bincount(labels[shard], minlength=len(class_names)) for shard in parts.shards])
    return FederatedData(
        clients=train,
        shards=parts.shards,
        held_back=train.take(parts.held_back),
        validation=train.take(parts.validation),
        test=test or train.take(parts.test),
        class_names=class_names,
        class_proportions=histograms / histograms.sum(axis=1, keepdims=True),
    )


def by_writers(data: FederatedData, rng: np.random.Generator) -> FederatedData:
    """`data` with each client as a synthetic writer; every image of the server is written by a random one of them.

    Clients that shared an image get a copy each, so the new shards are consecutive numbers.
    """
    writers = draw_writers(len(data.shards), rng)
    ends = np.cumsum([len(shard) for shard in data.shards])
    shards = np.split(np.arange(ends[-1]), ends[:-1])
    parts: dict[str, Any] = {}
    for name in KEPT_PARTS:
        part = getattr(data, name)
        chosen = rng.integers(len(writers), size=len(part.labels))
        parts[name] = rewritten(part, [np.flatnonzero(chosen == number) for number in range(len(writers))], writers)
    return replace(data, clients=rewritten(data.clients, data.shards, writers), shards=shards, **parts)


def match_to_speed(data: FederatedData, config: DataConfig, mean_duration: np.ndarray) -> FederatedData:
    """`data` with its shards given to other clients, as `config.speed_skew` says; 0 leaves it as it is.

    mean_duration: (N,) expected duration of each client's jobs; ties go by client number. The shards and the order of
    classes depend on `config.split_seed` only, so runs differ in who is slow, not in what the slow ones hold. Raises
    ConfigError if all clients are equally fast.
    """
    if config.speed_skew == 0:
        return data
    if np.ptp(mean_duration) == 0:
        raise ConfigError(
            f"data.speed_skew = {config.speed_skew} needs clients of different speed, and all have the same expected "
            "duration: give several values in federation.schedule.training.means"
        )
    order = order_for_speed(data.class_counts, config.speed_skew, stream(config.split_seed, "speed skew"))
    shard_of = np.empty_like(order)
    shard_of[np.argsort(mean_duration, kind="stable")] = order
    shards, proportions = [data.shards[number] for number in shard_of], data.class_proportions[shard_of]
    return replace(data, shards=shards, class_proportions=proportions, shard_of=shard_of)
