"""Runs at tiny size, and random data of the shape that a preset has: enough for checks and timing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fedrevive_core.config import PRESETS, TEXT_DATA, RunConfig, build
from fedrevive_core.data import FederatedData, ImageData, Images, federate

# channels, side, classes
SHAPES = {
    "digits": (1, 8, 10),
    "fashion_mnist": (1, 28, 10),
    "cifar10": (3, 32, 10),
    "cifar100": (3, 32, 100),
    "femnist": (1, 28, 62),
}
# Every part of the pipeline within four uploads, whatever the method; the smallest images that every model takes.
TINY: dict[str, Any] = {
    "federation.num_clients": 6,
    "federation.concurrency": 4,
    "federation.max_sim_time": None,
    "federation.max_versions": 4,
    "training.steps": 3,
    "training.batch_size": 4,
    "revival.num_teachers": 2,
    "revival.warmup": 1,
    "synthesis.every": 1,
    "synthesis.batch_size": 4,
    "synthesis.noise_dim": 8,
    "synthesis.width": 4,
    "distillation.steps": 2,
    "distillation.batch_size": 4,
    "num_threads": 1,
}
TINY_IMAGES = {"data.samples_per_client": 10, "data.image_size": 12, "data.alpha": 1.0, "data.styles": False}


def preset_names() -> list[str]:
    """Presets that can be tried anywhere: without those whose encoder must be downloaded."""
    return [name for name in PRESETS if build(name, "fedrevive").model != "encoder"]


def tiny(preset: str, method: str, **overrides: Any) -> RunConfig:
    """`method` on `preset` at tiny size; `overrides` such as device="cuda"."""
    images = {} if build(preset, method).data.name in TEXT_DATA else TINY_IMAGES | {"data.split": "dirichlet"}
    return build(preset, method, overrides=TINY | images | overrides)


def random_data(config: RunConfig, count: int | None = None) -> FederatedData | None:
    """`count` random images (60 of a class if unset) as `config` wants them; None for texts, which are always there."""
    if config.data.name in TEXT_DATA:
        return None
    channels, side, classes = SHAPES[config.data.name]
    side = config.data.image_size or side
    count = count or 60 * classes
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.random((count, channels, side, side), dtype=np.float32))
    labels = torch.from_numpy(rng.permutation(np.arange(count) % classes))
    named = tuple(map(str, range(classes)))
    return federate(ImageData(Images(images, labels), None, named), config.data, config.federation.num_clients)
