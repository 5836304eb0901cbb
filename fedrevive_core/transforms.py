"""Transforms of samples before a model: random changes of each image, then normalisation; all differentiable."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedrevive_core.config import DataConfig


class Preparation:
    """Augments and normalises batches of images on their device.

    Args:
        data: crop padding, flip, rotation, mean and std.
        synthetic: False for real images (padding with zeros, every image rotated); True for synthesised ones (padding
            by reflection, rotation with probability 1/2).

    A crop with a flip selects rows and columns, so it is two matrix products, R x C, with 0/1 matrices: exact, batched
    with one draw per image, and its gradient is a matrix product too. Rotation is bilinear.
    Departs from the authors: their rotation of real images uses the nearest pixel.
    """

    largest_batch = 2000  # samples in one batch of a pass without gradients

    def __init__(self, data: DataConfig, device: torch.device, *, synthetic: bool = False) -> None:
        self.options = data.augmentation
        self.synthetic = synthetic
        self.mean = torch.tensor(data.mean, device=device).view(-1, 1, 1)
        self.std = torch.tensor(data.std, device=device).view(-1, 1, 1)
        self.active = self.options.crop_padding > 0 or self.options.flip or self.options.rotation > 0

    def draw(self, rng: np.random.Generator, *shape: int) -> np.ndarray:
        """Random changes for a batch of `shape`: float32 (*shape, 4) of vertical and horizontal shift, flip, angle."""
        padding = self.options.crop_padding
        shift = rng.integers(-padding, padding + 1, size=(*shape, 2))
        flip = rng.random((*shape, 1)) < (0.5 if self.options.flip else 0)
        angle = np.deg2rad(rng.uniform(-self.options.rotation, self.options.rotation, size=(*shape, 1)))
        if self.synthetic:
            angle *= rng.random((*shape, 1)) < 0.5
        return np.concatenate([shift, flip, angle], axis=-1).astype(np.float32)

    def __call__(self, images: Tensor, draws: Tensor | None = None) -> Tensor:
        """Augment `images` (B, C, S, S) in [0, 1] by `draws` (B, 4), if given, and normalise them.

        Returns a new tensor with channels last in memory, which makes small convolutions and pooling twice as fast.
        """
        if draws is not None and self.active:
            images = self._crop_and_flip(images, draws)
            if self.options.rotation > 0:
                images = self._rotate(images, draws[:, 3])
        return channels_last((images - self.mean) / self.std)

    def _crop_and_flip(self, images: Tensor, draws: Tensor) -> Tensor:
        side = images.shape[-1]
        index = torch.arange(side, device=images.device)
        rows = index + draws[:, 0:1]  # (B, S): source row of each row
        columns = torch.where(draws[:, 2:3] > 0, side - 1 - index, index) + draws[:, 1:2]
        if self.synthetic:
            # Reflection that does not repeat the border: -1 -> 1, side -> side - 2.
            rows, columns = ((side - 1) - ((side - 1) - source.abs()).abs() for source in (rows, columns))
        # A source outside the image matches no index, so its row or column is zero.
        # (B, S, S): take_rows[b, i, r] is 1 where r is the source of row i.
        take_rows = (rows.unsqueeze(-1) == index).to(images.dtype)
        take_columns = (columns.unsqueeze(-1) == index).to(images.dtype)
        return take_rows.unsqueeze(1) @ images @ take_columns.unsqueeze(1).transpose(-1, -2)

    def _rotate(self, images: Tensor, angle: Tensor) -> Tensor:
        cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
        matrix = torch.stack([torch.stack([cos, -sin, zero], -1), torch.stack([sin, cos, zero], -1)], -2)  # (B, 2, 3)
        grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
        padding = "reflection" if self.synthetic else "zeros"
        return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False)


class TextPreparation(Preparation):
    """Returns texts unchanged; `length` is the largest number of tokens of a text."""

    def __init__(self, length: int) -> None:
        self.largest_batch = max(1, 65_536 // length)

    def draw(self, rng: np.random.Generator, *shape: int) -> np.ndarray:
        """No random changes: float32 (*shape, 0)."""
        return np.zeros((*shape, 0), dtype=np.float32)

    def __call__(self, texts: Tensor, draws: Tensor | None = None) -> Tensor:
        """Return `texts`, token numbers (B, L) or soft texts (B, L, d + 1)."""
        return texts


def channels_last(images: Tensor) -> Tensor:
    """`images` (B, C, H, W) with channels last in memory, copied if needed; other tensors unchanged."""
    if images.dim() != 4:
        return images
    if images.shape[1] > 1:
        return images.contiguous(memory_format=torch.channels_last)
    # One channel has the same order in memory in both formats. PyTorch tells them apart by the strides and keeps them.
    _, channels, height, width = images.shape
    return images.contiguous().as_strided(images.shape, (height * width, channels, width, channels))
