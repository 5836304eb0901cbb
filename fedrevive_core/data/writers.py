"""Synthetic writers: heterogeneity without a download. Every client writes with another slant, stroke and contrast.

What differs between clients is how a class looks, not which classes they have, as with the writers of FEMNIST.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedrevive_core.data.samples import Images

LARGEST_SLANT = 0.6  # columns of shift per row; 0.6 is 31 degrees
STROKES = (-1, 0, 1)  # grey erosion, none, grey dilation, in pixels
SMALLEST_CONTRAST = 0.5


@dataclass(frozen=True)
class Writer:
    """A client's hand: `slant` in columns per row, `stroke` in pixels (positive is thicker), `contrast` in (0, 1]."""

    slant: float
    stroke: int
    contrast: float


def draw_writers(count: int, rng: np.random.Generator) -> list[Writer]:
    """`count` independent writers."""
    return [
        Writer(
            slant=float(rng.uniform(-LARGEST_SLANT, LARGEST_SLANT)),
            stroke=int(rng.choice(STROKES)),
            contrast=float(rng.uniform(SMALLEST_CONTRAST, 1)),
        )
        for _ in range(count)
    ]


def write_as(images: Tensor, writer: Writer) -> Tensor:
    """`images` (n, C, S, S) in [0, 1], bright on dark, as `writer` would write them: a new tensor in [0, 1].

    Slant is a horizontal shear about the middle row (bilinear, zeros are shifted in). Stroke is a grey dilation or
    erosion: the largest or smallest of each pixel and its four neighbours.
    """
    shear = torch.tensor([[1.0, writer.slant, 0.0], [0.0, 1.0, 0.0]], device=images.device).expand(len(images), 2, 3)
    grid = F.affine_grid(shear, list(images.shape), align_corners=False)
    drawn = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    if writer.stroke:
        sign = float(np.sign(writer.stroke))
        for _ in range(abs(writer.stroke)):
            drawn = sign * _largest_of_cross(sign * drawn)
    return (writer.contrast * drawn).clamp(0, 1)


def _largest_of_cross(images: Tensor) -> Tensor:
    upright = F.max_pool2d(images, (3, 1), stride=1, padding=(1, 0))
    return torch.maximum(upright, F.max_pool2d(images, (1, 3), stride=1, padding=(0, 1)))


def rewritten(part: Images, groups: Sequence[np.ndarray], writers: Sequence[Writer]) -> Images:
    """The images of each group (sample numbers) as its writer would write them, in that order; a group may be empty."""
    pairs = zip(groups, writers, strict=True)
    images = [write_as(part.images[group], writer) for group, writer in pairs if len(group)]
    return Images(torch.cat(images), part.labels[np.concatenate(groups)])
