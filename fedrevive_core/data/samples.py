"""What all labelled samples share, images or texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from fedrevive_core.config import DataConfig
from fedrevive_core.errors import ConfigError


@dataclass(frozen=True)
class Samples:
    """Labelled samples: `inputs` (n, ...), what a model is fed before preparation; `labels` (n,) int64."""

    inputs: Tensor
    labels: Tensor

    def take(self, numbers: np.ndarray) -> Self:
        """The samples of these numbers, in this order."""
        chosen = torch.from_numpy(numbers)
        return type(self)(self.inputs[chosen], self.labels[chosen])

    def to(self, device: torch.device) -> Self:
        """The same samples on `device`."""
        return type(self)(self.inputs.to(device), self.labels.to(device))


class Images(Samples):
    """Images (n, C, S, S) float32 in [0, 1]."""

    @property
    def images(self) -> Tensor:
        """The inputs, by their own name."""
        return self.inputs


class Texts(Samples):
    """Texts as rows of token numbers (n, L) int64, padded at the end."""

    @property
    def tokens(self) -> Tensor:
        """The inputs, by their own name."""
        return self.inputs


@dataclass(frozen=True)
class ImageData:
    """A data set: official training and test part (`test` is None where there is no official one).

    Where samples have a natural owner, `owners` (n,) numbers it for each of `train` and `writers` names it.
    """

    train: Images
    test: Images | None
    class_names: tuple[str, ...]
    owners: np.ndarray | None = None
    writers: tuple[str, ...] = ()

    def check_fits(self, config: DataConfig) -> None:
        """Raise ConfigError unless both parts are as `Images` says, with one shape that suits `config`."""
        for name, part in (("train", self.train), ("test", self.test)):
            if part is None:
                continue
            images, labels = part.images, part.labels
            square = images.dim() == 4 and images.shape[2] == images.shape[3] and len(images) > 0
            if not square or images.dtype != torch.float32 or images.shape[1:] != self.train.images.shape[1:]:
                raise ConfigError(
                    f"{name} images must be float32 of shape (n, C, S, S), with C and S the same in training and test "
                    f"part, and not {images.dtype} {tuple(images.shape)}"
                )
            lowest, highest = images.aminmax()
            if not 0 <= float(lowest) <= float(highest) <= 1:
                raise ConfigError(
                    f"{name} images must lie in [0, 1], and not in [{float(lowest):g}, {float(highest):g}]"
                )
            if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
                raise ConfigError(
                    f"{name} labels must be int64 of shape ({len(images)},), one per image, and not {labels.dtype} "
                    f"{tuple(labels.shape)}"
                )
            first, last = labels.aminmax()
            if not 0 <= int(first) <= int(last) < len(self.class_names):
                raise ConfigError(
                    f"{name} labels must lie in 0 .. {len(self.class_names) - 1}, a number for each of the "
                    f"{len(self.class_names)} class names, and not in {int(first)} .. {int(last)}"
                )
        _, channels, side, _ = self.train.images.shape
        padding = config.augmentation.crop_padding
        if padding >= side:
            raise ConfigError(f"data.augmentation.crop_padding = {padding} must be below {side}")
        for field, values in (("mean", config.mean), ("std", config.std)):
            if len(values) not in (1, channels):
                raise ConfigError(
                    f"data.{field} = {values} must hold 1 value or {channels}, one per channel of the images"
                )


@dataclass(frozen=True)
class LabelledTexts:
    """`texts` as they were written, `labels` (n,) int64."""

    texts: list[str]
    labels: np.ndarray


@dataclass(frozen=True)
class TextData:
    """A data set of texts: official training and test part (None where there is no official test set)."""

    train: LabelledTexts
    test: LabelledTexts | None
    class_names: tuple[str, ...]
