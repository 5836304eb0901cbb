"""Data of a federation: loading, splitting into shards, preparing batches."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fedrevive_core.config import DataConfig
from fedrevive_core.data.augmentation import Preparation
from fedrevive_core.data.images import ImageData, Images, check_images, data_directory, load_images
from fedrevive_core.data.splits import dirichlet_shards, iid_shards, portions
from fedrevive_core.seeding import stream
from fedrevive_core.validation import ConfigError

# Shares of clients, validation, held back (and test, where there is no official one).
OFFICIAL_TEST = (0.75, 0.15, 0.10)  # authors' settings
NO_OFFICIAL_TEST = (0.60, 0.15, 0.05, 0.20)  # ours, for digits; by class


@dataclass(frozen=True)
class FederatedData:
    """Everything a run needs, on its device.

    clients: all samples that shards point into. shards: one array of sample numbers per client. held_back: the
    server's own real data (for the data-dependent baseline alone). validation, test: for evaluation.
    class_proportions: (N, C) float64, the true histogram of each client, rows sum to 1.
    """

    clients: Images
    shards: list[np.ndarray]
    held_back: Images
    validation: Images
    test: Images
    class_names: tuple[str, ...]
    class_proportions: np.ndarray

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""
        return len(self.class_names)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all samples and of who holds which."""
        digest = hashlib.sha256()
        for part in (self.clients, self.held_back, self.validation, self.test):
            digest.update(part.images.cpu().numpy().tobytes() + part.labels.cpu().numpy().tobytes())
        for shard in self.shards:
            digest.update(shard.tobytes())
        return digest.hexdigest()

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, S, S) of one image."""
        return tuple(self.clients.images.shape[1:])

    def to(self, device: torch.device) -> FederatedData:
        """The same data on `device`."""
        clients, held_back, validation, test = (
            Images(part.images.to(device), part.labels.to(device))
            for part in (self.clients, self.held_back, self.validation, self.test)
        )
        return replace(self, clients=clients, held_back=held_back, validation=validation, test=test)


def load_federated(config: DataConfig, num_clients: int, device: torch.device) -> FederatedData:
    """Data set `config.name`, dealt by `federate`, on `device`. Raises ConfigError also if the data is absent."""
    return federate(load_images(config.name, config.image_size), config, num_clients).to(device)


def federate(data: ImageData, config: DataConfig, num_clients: int) -> FederatedData:
    """Deal labelled images, your own for example, to `num_clients` clients and to the server as `config` says.

    The split is the same for every run with this configuration; `config.name` and `config.image_size` play no part.
    Raises ConfigError if images or labels are not as `Images` wants them, or a shard cannot be filled.
    """
    check_images(data)
    _, channels, side, _ = data.train.images.shape
    if config.augmentation.crop_padding >= side:
        raise ConfigError(f"data.augmentation.crop_padding = {config.augmentation.crop_padding} must be below {side}")
    for field, values in (("mean", config.mean), ("std", config.std)):
        if len(values) not in (1, channels):
            raise ConfigError(f"data.{field} = {values} must hold 1 value or {channels}, one per channel of the images")
    rng = stream(config.split_seed, "split")
    labels = data.train.labels.numpy()
    if data.test is None:
        parts = [portions(np.flatnonzero(labels == y), NO_OFFICIAL_TEST, rng) for y in range(len(data.class_names))]
        candidates, validation, held_back, test = (np.concatenate(part) for part in zip(*parts, strict=True))
        test_part = _take(data.train, test)
    else:
        candidates, validation, held_back = portions(np.arange(len(labels)), OFFICIAL_TEST, rng)
        test_part = data.test
    if config.split == "iid":
        shards = iid_shards(candidates, num_clients, config.samples_per_client, rng)
    else:
        shards = dirichlet_shards(labels, candidates, num_clients, config.samples_per_client, config.alpha, rng)
    histograms = np.stack([np.bincount(labels[shard], minlength=len(data.class_names)) for shard in shards])
    return FederatedData(
        clients=data.train,
        shards=shards,
        held_back=_take(data.train, held_back),
        validation=_take(data.train, validation),
        test=test_part,
        class_names=data.class_names,
        class_proportions=histograms / histograms.sum(axis=1, keepdims=True),
    )


def _take(part: Images, numbers: np.ndarray) -> Images:
    chosen: Tensor = torch.from_numpy(numbers)
    return Images(part.images[chosen], part.labels[chosen])


__all__ = [
    "FederatedData",
    "ImageData",
    "Images",
    "Preparation",
    "data_directory",
    "federate",
    "load_federated",
    "load_images",
]
