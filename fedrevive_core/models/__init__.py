"""Models: the statistic probe, and the architectures that contain it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from fedrevive_core.models.convnets import ConvNet, LabNet
from fedrevive_core.models.probes import StatisticProbe, observe
from fedrevive_core.models.resnet import ResNet18
from fedrevive_core.validation import ConfigError

ARCHITECTURES: dict[str, Callable[[int, int, int], nn.Module]] = {
    "labnet": LabNet,
    "convnet": ConvNet,
    "resnet18": ResNet18,
}


def build_model(name: str, in_channels: int, image_size: int, num_classes: int) -> nn.Module:
    """One of ARCHITECTURES for images (in_channels, image_size, image_size), with PyTorch's default initialisation.

    Raises ConfigError if the images are too small for the architecture.
    """
    try:
        return ARCHITECTURES[name](in_channels, image_size, num_classes)
    except ValueError as error:
        raise ConfigError(f"model = '{name}' does not take images of side {image_size}: {error}") from None


def check_model(model: nn.Module, image_shape: tuple[int, ...], num_classes: int) -> None:
    """Feed `model` two blank images (C, H, W). Raises ConfigError unless it returns shape (2, num_classes)."""
    try:
        with torch.no_grad():
            logits = copy.deepcopy(model).cpu().eval()(torch.zeros(2, *image_shape))
    except RuntimeError as error:
        raise ConfigError(f"model does not take images of shape {image_shape}: {error}") from None
    if not isinstance(logits, torch.Tensor):
        raise ConfigError(f"model returns a {type(logits).__name__}, not a tensor of logits (2, {num_classes})")
    if tuple(logits.shape) != (2, num_classes):
        raise ConfigError(
            f"model returns shape {tuple(logits.shape)} for 2 images, not (2, {num_classes}): one logit per class"
        )


__all__ = ["ARCHITECTURES", "ConvNet", "LabNet", "ResNet18", "StatisticProbe", "build_model", "check_model", "observe"]
