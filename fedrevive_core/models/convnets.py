"""Convolutional networks: LabNet for laptops, and the paper's ConvNet for FEMNIST and ResNet-18 for CIFAR.

Max-pooling comes before ReLU: the order does not change the result, and ReLU has a quarter of the work.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrevive_core.models.probes import StatisticProbe
from fedrevive_core.models.stacking import max_pool


class ConvNet(nn.Module):
    """Three 3x3 convolutions of 64 channels without padding, then 200 and 100 hidden units (authors' FEMNIST model).

    Every convolution is followed by a probe and ReLU, the last two by 2x2 max-pooling. 28x28 images give 1,600
    features. Raises ValueError for images under 12x12.
    """

    def __init__(self, in_channels: int, image_size: int, num_classes: int) -> None:
        super().__init__()
        side = ((image_size - 4) // 2 - 2) // 2
        if side < 1:
            raise ValueError("the side must be at least 12")
        self.conv1, self.probe1 = nn.Conv2d(in_channels, 64, 3), StatisticProbe(64)
        self.conv2, self.probe2 = nn.Conv2d(64, 64, 3), StatisticProbe(64)
        self.conv3, self.probe3 = nn.Conv2d(64, 64, 3), StatisticProbe(64)
        self.hidden1 = nn.Linear(64 * side**2, 200)
        self.hidden2 = nn.Linear(200, 100)
        self.head = nn.Linear(100, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, S, S), normalised, to logits (B, num_classes)."""
        x = F.relu(self.probe1(self.conv1(x)))
        x = F.relu(max_pool(self.probe2(self.conv2(x)), 2))
        x = F.relu(max_pool(self.probe3(self.conv3(x)), 2))
        x = F.relu(self.hidden1(x.flatten(1)))
        return self.head(F.relu(self.hidden2(x)))


class LabNet(nn.Module):
    """Two padded 3x3 convolutions of 16 and 32 channels, each with probe, ReLU, 2x2 max-pooling; 64 hidden units.

    Ours: it trains on 8x8 digits in seconds on a laptop. Raises ValueError for images under 4x4.
    """

    def __init__(self, in_channels: int, image_size: int, num_classes: int) -> None:
        super().__init__()
        if image_size < 4:
            raise ValueError("the side must be at least 4")
        self.conv1, self.probe1 = nn.Conv2d(in_channels, 16, 3, padding=1), StatisticProbe(16)
        self.conv2, self.probe2 = nn.Conv2d(16, 32, 3, padding=1), StatisticProbe(32)
        self.hidden = nn.Linear(32 * (image_size // 4) ** 2, 64)
        self.head = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, S, S), normalised, to logits (B, num_classes)."""
        x = F.relu(max_pool(self.probe1(self.conv1(x)), 2))
        x = F.relu(max_pool(self.probe2(self.conv2(x)), 2))
        return self.head(F.relu(self.hidden(x.flatten(1))))


def resnet18(in_channels: int, image_size: int, num_classes: int) -> nn.Module:
    """ResNet-18 (arXiv 1512.03385) with a 3x3 stem, no max-pooling, probes instead of BatchNorm, and a bias-free head.

    The authors' CIFAR model: 11.2 million parameters. Initialisation is PyTorch's default (ours; the paper names none).
    Raises ValueError for images under 8x8.
    """
    from torchvision import models  # here, because importing torchvision takes seconds

    if image_size < 8:
        raise ValueError("the side must be at least 8")
    with torch.random.fork_rng(devices=[]):  # torchvision's initialisation is replaced below, and draws nothing here
        model = models.resnet18(norm_layer=StatisticProbe)
        model.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
        model.fc = nn.Linear(512, num_classes, bias=False)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()
    return model
