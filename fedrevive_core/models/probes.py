"""The statistic probe: it takes the position of a normalisation layer, changes nothing, and tracks statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class StatisticProbe(nn.Module):
    """Returns its input unchanged and, in training mode, tracks the running mean and biased variance per channel.

    A client returns the statistics with its model, and the feature loss of synthesis matches them. The models have no
    normalisation layers, so that only these statistics depend on the batch. Source: the authors' settings.

    Args:
        num_channels: size of dimension 1 of the inputs.
        momentum: weight of the newest batch.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_channels: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_var", torch.ones(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` (B, C, ...) unchanged."""
        if self.training:
            with torch.no_grad():
                mean, var = channel_statistics(x)
                # mul_ and add_, because vmap runs lerp_ one model at a time.
                self.running_mean.mul_(1 - self.momentum).add_(mean, alpha=self.momentum)
                self.running_var.mul_(1 - self.momentum).add_(var, alpha=self.momentum)
        return x


def channel_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (C,) of `x` (B, C, ...) over all dimensions except the channels."""
    axes = [axis for axis in range(x.dim()) if axis != 1]
    mean = x.mean(axes, keepdim=True)
    # Two means, because torch.var_mean takes three to seven times as long on a CPU.
    deviation = x - mean
    # In place where no gradient is asked for; mul_, because vmap runs square_ one model at a time.
    square = deviation.square() if torch.is_grad_enabled() else deviation.mul_(deviation)
    return mean.flatten(), square.mean(axes)


@contextmanager
def observe(model: nn.Module, measure: Callable[[Tensor], Any] = channel_statistics) -> Iterator[dict[str, Any]]:
    """While open, collect `measure` (default: mean and variance) of every probe's input, by its name, differentiably.

    Where layers work in place, as in `resnet18`, `measure` must not return its input itself: it would be overwritten.
    """
    seen: dict[str, Any] = {}

    def collector(name: str) -> Callable[..., None]:
        def collect(_module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
            seen[name] = measure(inputs[0])

        return collect

    hooks = [
        module.register_forward_hook(collector(name))
        for name, module in model.named_modules()
        if isinstance(module, StatisticProbe)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
