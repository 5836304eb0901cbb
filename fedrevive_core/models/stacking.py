"""Several models of one architecture as one: their tensors are stacked, and one vectorised pass computes all answers.

On a CPU the order in memory decides the speed. With the models' channels side by side and last, the grouped convolution
of a first layer takes a third to a thirtieth of the time that it takes with the models one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional as F

_stacked = 0  # calls of `call_stacked` that are open


def call_stacked(call: Callable[..., Any], tensors: Mapping[str, Tensor], inputs: Tensor | None = None) -> Any:
    """`call(tensors, x)` of J models at once: named tensors (J, *shape), inputs (J, b, ...); results (J, ...).

    Without `inputs`, `call(tensors)`.
    """
    global _stacked
    _stacked += 1
    try:
        given = () if inputs is None else (side_by_side(inputs),)
        return vmap(call, randomness="different")(dict(tensors), *given)
    finally:
        _stacked -= 1


def side_by_side(inputs: Tensor) -> Tensor:
    """Images (J, b, C, H, W) in memory as (b, H, W, J, C), copied if needed; other tensors unchanged."""
    if inputs.dim() != 5:
        return inputs
    return inputs.permute(1, 3, 4, 0, 2).contiguous().permute(3, 0, 4, 1, 2)


def max_pool(
    x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Tensor:
    """Max-pooling of images (B, C, H, W), as `F.max_pool2d`; of stacked models it keeps the order in memory.

    PyTorch's own, when vectorised, would copy the models apart and then take ten times as long.
    """
    if not _stacked:
        return F.max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode)
    sizes = kernel_size, stride or kernel_size, padding, dilation
    pairs = [[size] * 2 if isinstance(size, int) else list(size) for size in sizes]
    return _MaxPool.apply(x, *pairs, ceil_mode)[0]


class _OrderedMaxPool2d(nn.MaxPool2d):
    """`nn.MaxPool2d` by `max_pool`."""

    def forward(self, input: Tensor) -> Tensor:
        return max_pool(input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)


def order_pools_(model: nn.Module) -> None:
    """Let the max-pooling layers of `model`, which is modified, use `max_pool`; the results are the same."""
    for module in model.modules():
        if type(module) is nn.MaxPool2d and not module.return_indices:
            module.__class__ = _OrderedMaxPool2d


class _MaxPool(torch.autograd.Function):
    """Under vmap the models' channels count as channels of one model."""

    @staticmethod
    def forward(x: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
        return torch.ops.aten.max_pool2d_with_indices(x, *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.set_materialize_grads(False)  # of the indices
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(inputs[0], output[1])
        ctx.options = inputs[1:]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: None) -> tuple[Any, ...]:
        x, indices = ctx.saved_tensors
        found = torch.ops.aten.max_pool2d_with_indices_backward(gradient, x, *ctx.options, indices)
        return (found, *[None] * len(ctx.options))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, *options: Any) -> Any:
        x = x.movedim(in_dims[0], 1)  # (b, J, C, H, W)
        outputs = _MaxPool.apply(x.flatten(1, 2), *options)
        return tuple(output.unflatten(1, x.shape[1:3]) for output in outputs), (1, 1)
