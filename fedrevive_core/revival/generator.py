"""Generators of samples: what images and texts have in common, and the generator of images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedrevive_core.models import channel_statistics, to_device

EMBEDDING_WEIGHT = 0.2  # of the class embedding in the generator's input (authors' code)


class SampleGenerator(nn.Module):
    """What every generator of samples has in common; its parameters are what Reptile learns.

    restarts: whether each step begins with a fresh copy and a fresh optimiser, so that Reptile sees the last step only.
    """

    restarts = False

    def draw(
        self, rng: np.random.Generator, size: int, num_classes: int, target: np.ndarray | None
    ) -> tuple[np.ndarray, tuple[Tensor, ...]]:
        """Labels (size,) that follow `target` (C,), uniform if None, and the latents to begin with."""
        raise NotImplementedError

    def make(self, latents: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """Samples (n, ...) of the latents, differentiable in both."""
        raise NotImplementedError

    def measure(self, h: Tensor) -> Any:
        """What the feature loss looks at, of what passes a probe."""
        raise NotImplementedError

    def distances(self, seen: dict[str, Any], teacher: dict[str, Tensor]) -> Iterator[Tensor]:
        """Terms of the feature loss, from what was measured at each probe and a teacher's named tensors."""
        raise NotImplementedError


class ImageGenerator(SampleGenerator):
    """Noise to images: a linear layer, then twice upsampling, convolution, BatchNorm and LeakyReLU (authors' code).

    Args:
        noise_dim: n_z. width: n_gf. channels, side: of the images; side is a multiple of 4.

    It always normalises with the statistics of its batch.
    """

    measure = staticmethod(channel_statistics)  # type: ignore[assignment]

    def __init__(self, noise_dim: int, width: int, channels: int, side: int) -> None:
        super().__init__()
        # Sides that are no multiple of 4 are generated larger and cropped.
        self.side, self.start = side, -(-side // 4)
        self.project = nn.Linear(noise_dim, 2 * width * self.start**2)
        self.blocks = nn.Sequential(
            nn.BatchNorm2d(2 * width),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, channels, 3, padding=1),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Inputs (B, n_z) to images (B, channels, side, side) in [0, 1]."""
        x = self.blocks(self.project(z).view(len(z), -1, self.start, self.start))
        return x[..., : self.side, : self.side].sigmoid()

    def draw(
        self, rng: np.random.Generator, size: int, num_classes: int, target: np.ndarray | None
    ) -> tuple[np.ndarray, tuple[Tensor, ...]]:
        """Labels; noise (size, n_z) and class embeddings (num_classes, n_z), all standard normal."""
        weight = self.project.weight
        latents = [rng.standard_normal((n, weight.shape[1]), dtype=np.float32) for n in (size, num_classes)]
        noise, embeddings = (to_device(latent, weight.device) for latent in latents)
        return rng.choice(num_classes, size=size, p=target), (noise, embeddings)

    def make(self, latents: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """Images (n, C, S, S) of noise and class embeddings."""
        noise, embeddings = latents
        return self(noise + EMBEDDING_WEIGHT * embeddings[labels])

    def distances(self, seen: dict[str, Any], teacher: dict[str, Tensor]) -> Iterator[Tensor]:
        """For each probe, |mean(x) - running_mean|_2 + |var(x) - running_var|_2 (norms, not squared)."""
        for probe, (mean, var) in seen.items():
            distance = torch.linalg.vector_norm(mean - teacher[f"{probe}.running_mean"])
            yield distance + torch.linalg.vector_norm(var - teacher[f"{probe}.running_var"])
