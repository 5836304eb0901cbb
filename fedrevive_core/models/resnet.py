"""ResNet-18 for small images, without normalisation layers."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fedrevive_core.models.probes import StatisticProbe


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
