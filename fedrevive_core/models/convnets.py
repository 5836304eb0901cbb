"""Small convolutional networks: the paper's ConvNet for FEMNIST, and LabNet for laptops.

Where ReLU meets max-pooling, pooling comes first: the two commute exactly, and ReLU then has a quarter of the work.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fedrevive_core.models.probes import StatisticProbe


class ConvNet(nn.Module):
    """Three 3x3 convolutions of 64 channels without padding, then 200 and 100 hidden units (authors' FEMNIST model).

    Every convolution is followed by a probe and ReLU, the last two by 2x2 max-pooling. 28x28 images give 1,600
    features. Raises ValueError if nothing is left of a smaller image.
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
        x = F.relu(F.max_pool2d(self.probe2(self.conv2(x)), 2))
        x = F.relu(F.max_pool2d(self.probe3(self.conv3(x)), 2))
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
        x = F.relu(F.max_pool2d(self.probe1(self.conv1(x)), 2))
        x = F.relu(F.max_pool2d(self.probe2(self.conv2(x)), 2))
        return self.head(F.relu(self.hidden(x.flatten(1))))


def _conv_probe(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, StatisticProbe(out_channels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the shortcut is a 1x1 convolution where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.first = _conv_probe(in_channels, out_channels, 3, stride)
        self.second = _conv_probe(out_channels, out_channels, 3, 1)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else _conv_probe(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, S, S) to (B, out_channels, S / stride, S / stride)."""
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 (arXiv 1512.03385) with a 3x3 stem, no max-pooling, probes instead of BatchNorm, and a bias-free head.

    The authors' CIFAR model: 11.2 million parameters. Initialisation is PyTorch's default (ours; the paper names none).
    """

    def __init__(self, in_channels: int, image_size: int, num_classes: int) -> None:
        super().__init__()
        if image_size < 8:
            raise ValueError("the side must be at least 8")
        self.stem = _conv_probe(in_channels, 64, 3, 1)
        blocks: list[nn.Module] = []
        width = 64
        for stage_width, stage_stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            for stride in (stage_stride, 1):
                blocks.append(BasicBlock(width, stage_width, stride))
                width = stage_width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(512, num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, S, S), normalised, to logits (B, num_classes)."""
        x = self.blocks(F.relu(self.stem(x)))
        return self.head(x.mean(dim=(2, 3)))
