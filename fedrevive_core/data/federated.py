"""Data of a federation: loading, splitting into shards, preparing batches."""

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
from fedrevive_core.data.partition import Partition, divide
from fedrevive_core.data.samples import ImageData, LabelledTexts, Samples, Texts
from fedrevive_core.data.tokenizers import Tokenizer, build_tokenizer, encode
from fedrevive_core.data.writers import draw_styles, restyled
from fedrevive_core.seeding import stream

KEPT_PARTS = ("held_back", "validation", "test")


@dataclass(frozen=True)
class FederatedData:
    """Everything a run needs, on its device.

    clients: all samples, Images or Texts, that shards point into. shards: one array of sample numbers per client.
    held_back: the server's own real data (for the data-dependent baseline alone). validation, test: for evaluation.
    class_proportions: (N, C) float64, the true histogram of each client, rows sum to 1. tokenizer: of texts.
    """

    clients: Any
    shards: list[np.ndarray]
    held_back: Any
    validation: Any
    test: Any
    class_names: tuple[str, ...]
    class_proportions: np.ndarray
    tokenizer: Tokenizer | None = None

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""
        return len(self.class_names)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all samples and of who holds which."""
        digest = hashlib.sha256()
        for part in (self.clients, self.held_back, self.validation, self.test):
            digest.update(part.inputs.cpu().numpy().tobytes() + part.labels.cpu().numpy().tobytes())
        for shard in self.shards:
            digest.update(shard.tobytes())
        return digest.hexdigest()

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

    The split is the same for every run with this configuration. Raises ConfigError if the data is absent or a shard
    cannot be filled.
    """
    load = _load_texts if config.name in TEXT_DATA else _load_images
    return load(config, num_clients, stream(config.split_seed, "split")).to(device)


def federate(data: ImageData, config: DataConfig, num_clients: int) -> FederatedData:
    """Deal labelled images, your own for example, to `num_clients` clients and to the server as `config` says.

    The split is the same for every run with this configuration; `config.name` and `config.image_size` play no part.
    Raises ConfigError if images or labels are not as `Images` wants them, or a shard cannot be filled.
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
    division = divide(config, labels, num_classes, num_clients, rng, official_test=official, owners=source.owners)
    data = _dealt(source.train, source.test, division, source.class_names)
    return in_styles(data, rng) if config.styles else data


def _load_texts(config: DataConfig, num_clients: int, rng: np.random.Generator) -> FederatedData:
    source = load_docstrings() if config.name == "docstrings" else load_newsgroups()
    division = divide(
        config, source.train.labels, len(source.class_names), num_clients, rng, official_test=source.test is not None
    )
    # Words are counted in the clients' part alone; that the vocabulary is known to all is the one thing shared.
    counted = [source.train.texts[number] for number in division.clients]
    tokenizer = build_tokenizer(config.tokenizer, counted, config.vocabulary_size, config.prefix_token)

    def tokenised(part: LabelledTexts) -> Texts:
        tokens = encode(tokenizer, part.texts, config.max_tokens)
        return Texts(torch.from_numpy(tokens), torch.from_numpy(part.labels))

    test = None if source.test is None else tokenised(source.test)
    return replace(_dealt(tokenised(source.train), test, division, source.class_names), tokenizer=tokenizer)


def _dealt(train: Samples, test: Samples | None, division: Partition, class_names: tuple[str, ...]) -> FederatedData:
    labels = train.labels.numpy()
    histograms = np.stack([np.bincount(labels[shard], minlength=len(class_names)) for shard in division.shards])
    return FederatedData(
        clients=train,
        shards=division.shards,
        held_back=train.take(division.held_back),
        validation=train.take(division.validation),
        test=test or train.take(division.test),
        class_names=class_names,
        class_proportions=histograms / histograms.sum(axis=1, keepdims=True),
    )


def in_styles(data: FederatedData, rng: np.random.Generator) -> FederatedData:
    """`data` with every client's images in a style of its own, and each of all others in some client's.

    Clients that shared an image have it twice, so the new shards count through the new images.
    """
    styles = draw_styles(len(data.shards), rng)
    ends = np.cumsum([len(shard) for shard in data.shards])
    shards = np.split(np.arange(ends[-1]), ends[:-1])
    parts: dict[str, Any] = {}
    for name in KEPT_PARTS:
        part = getattr(data, name)
        hands = rng.integers(len(styles), size=len(part.labels))
        parts[name] = restyled(part, [np.flatnonzero(hands == hand) for hand in range(len(styles))], styles)
    return replace(data, clients=restyled(data.clients, data.shards, styles), shards=shards, **parts)
