"""Build a model by its name, and check a model that somebody else built."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from fedrevive_core.errors import ConfigError
from fedrevive_core.models.convnets import ConvNet, LabNet, resnet18
from fedrevive_core.models.encoder import EncoderText, load_encoder
from fedrevive_core.models.text import LabText

ARCHITECTURES: dict[str, Callable[[int, int, int], nn.Module]] = {
    "labnet": LabNet,
    "convnet": ConvNet,
    "resnet18": resnet18,
}


def build_model(name: str, in_channels: int, image_size: int, num_classes: int) -> nn.Module:
    """One of ARCHITECTURES for images (in_channels, image_size, image_size), with PyTorch's default initialisation.

    Raises ConfigError if the images are too small for the architecture.
    """
    try:
        return ARCHITECTURES[name](in_channels, image_size, num_classes)
    except ValueError as error:
        raise ConfigError(f"model = '{name}' does not take images of side {image_size}: {error}") from None


def build_text_model(
    name: str, vocabulary_size: int, length: int, pad: int, prefix: int | None, num_classes: int, path: str
) -> nn.Module:
    """`labtext`, or the `encoder` at `path` with a head, for texts of at most `length` tokens.

    Raises ConfigError if there is no such encoder, or if it does not accept embeddings.
    """
    if name == "labtext":
        return LabText(vocabulary_size, length, pad, num_classes)
    try:
        return EncoderText(load_encoder(path), pad, prefix or 0, num_classes)
    except (ImportError, OSError, ValueError) as error:
        raise ConfigError(f"data.tokenizer = '{path}' gives no encoder: {error}") from None


def check_model(model: nn.Module, shape: tuple[int, ...], num_classes: int, dtype: torch.dtype = torch.float32) -> None:
    """Feed `model` two blank samples of `shape`. Raises ConfigError unless it returns shape (2, num_classes)."""
    kind = "images" if dtype.is_floating_point else "texts"
    try:
        with torch.no_grad():
            logits = copy.deepcopy(model).cpu().eval()(torch.zeros(2, *shape, dtype=dtype))
    except RuntimeError as error:
        raise ConfigError(f"model does not take {kind} of shape {shape}: {error}") from None
    if not isinstance(logits, torch.Tensor):
        raise ConfigError(f"model returns a {type(logits).__name__}, not a tensor of logits (2, {num_classes})")
    if tuple(logits.shape) != (2, num_classes):
        raise ConfigError(
            f"model returns shape {tuple(logits.shape)} for 2 {kind}, not (2, {num_classes}): one logit per class"
        )
