"""Data of a federation: loading, splitting into shards, preparing batches."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fedrevive_core.config import DataConfig
from fedrevive_core.data.augmentation import Preparation
from fedrevive_core.data.cache import data_directory
from fedrevive_core.data.femnist import load_femnist
from fedrevive_core.data.images import ImageData, Images, load_images
from fedrevive_core.data.splits import divide
from fedrevive_core.data.styles import Style, apply_style, draw_styles
from fedrevive_core.seeding import stream
from fedrevive_core.validation import ConfigError


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


def load_federated(config: DataConfig, num_clients: int, device: torch.device) -> FederatedData:
    """Load, split by `config.split_seed`, and move to `device`.

    The split is the same for every run with this configuration. Raises ConfigError if the data is absent or a shard
    cannot be filled.
    """
    rng = stream(config.split_seed, "split")
    natural = config.name == "femnist"
    data = load_femnist(num_clients, rng) if natural else load_images(config.name, config.image_size)
    _check_images(config, data)
    labels = data.train.labels.numpy()
    num_classes = len(data.class_names)
    division = divide(
        config, labels, num_classes, num_clients, rng, official_test=data.test is not None, owners=data.owners
    )
    histograms = np.stack([np.bincount(labels[shard], minlength=num_classes) for shard in division.shards])
    parts = {
        "clients": data.train,
        "held_back": _take(data.train, division.held_back),
        "validation": _take(data.train, division.validation),
        "test": data.test or _take(data.train, division.test),
    }
    shards = division.shards
    if config.styles:
        parts, shards = _in_styles(parts, shards, rng)
    return FederatedData(
        shards=shards,
        class_names=data.class_names,
        class_proportions=histograms / histograms.sum(axis=1, keepdims=True),
        **{name: Images(part.images.to(device), part.labels.to(device)) for name, part in parts.items()},
    )


def _check_images(config: DataConfig, data: ImageData) -> None:
    _, channels, side, _ = data.train.images.shape
    if config.augmentation.crop_padding >= side:
        raise ConfigError(f"data.augmentation.crop_padding = {config.augmentation.crop_padding} must be below {side}")
    for field, values in (("mean", config.mean), ("std", config.std)):
        if len(values) not in (1, channels):
            raise ConfigError(
                f"data.{field} = {values} must hold 1 value or {channels}, one per channel of {config.name}"
            )


def _in_styles(
    parts: dict[str, Images], shards: list[np.ndarray], rng: np.random.Generator
) -> tuple[dict[str, Images], list[np.ndarray]]:
    """Clients' samples each in its client's style, so that none is shared; all others each in some client's style."""
    styles = draw_styles(len(shards), rng)
    drawn = {"clients": _redraw(parts["clients"], shards, styles)}
    for name in ("held_back", "validation", "test"):
        hands = rng.integers(len(styles), size=len(parts[name].labels))
        drawn[name] = _redraw(parts[name], [np.flatnonzero(hands == hand) for hand in range(len(styles))], styles)
    return drawn, np.split(np.arange(sum(map(len, shards))), np.cumsum([len(shard) for shard in shards])[:-1])


def _redraw(part: Images, shards: list[np.ndarray], styles: list[Style]) -> Images:
    """The samples of each shard in its style, one shard after the other."""
    images = [apply_style(part.images[shard], style) for shard, style in zip(shards, styles, strict=True)]
    return Images(torch.cat(images), part.labels[np.concatenate(shards)])


def _take(part: Images, numbers: np.ndarray) -> Images:
    chosen: Tensor = torch.from_numpy(numbers)
    return Images(part.images[chosen], part.labels[chosen])


__all__ = ["FederatedData", "Images", "Preparation", "data_directory", "load_federated", "load_images"]
