"""Several models as one: what the order in memory must not change, and what it must be."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from helpers import run_python
from torch import Tensor, nn
from torch.nn import functional as F

from fedrevive_core.models import StateLayout
from fedrevive_core.models.stacking import call_stacked, max_pool, order_pools_, side_by_side


def ordered(pool: nn.Module) -> nn.Module:
    order_pools_(pool)
    return pool


@pytest.mark.parametrize("side", [4, 7])
@pytest.mark.parametrize(
    "pool",
    [
        lambda x: max_pool(x, 2),
        ordered(nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)),
        ordered(nn.MaxPool2d((2, 1), dilation=(1, 2))),
        nn.MaxPool2d(2),
    ],
)
def test_pooling_in_a_stack_is_pooling_alone(pool: Callable[..., Tensor], side: int) -> None:
    """Rounded images have ties in most windows: the gradient goes to the same one of them, so all is equal exactly."""
    x = torch.randn(3, 5, 2, side, side, generator=torch.Generator().manual_seed(0)).round()
    weight = torch.ones(3, 4, 2, 3, 3).requires_grad_()
    together = call_stacked(lambda tensors, x: pool(F.conv2d(x, tensors["weight"], padding=1)), {"weight": weight}, x)
    alone = torch.stack([pool(F.conv2d(x[j], weight[j], padding=1)) for j in range(3)])
    assert torch.equal(together, alone)
    slope = torch.arange(float(together.numel())).view(together.shape)
    ours, theirs = (torch.autograd.grad((part * slope).sum(), weight)[0] for part in (together, alone))
    assert torch.equal(ours, theirs)


def test_channels_of_all_models_are_side_by_side() -> None:
    x = torch.arange(2.0 * 3 * 4 * 5 * 5).view(2, 3, 4, 5, 5)
    ordered = side_by_side(x)
    assert torch.equal(ordered, x)
    assert ordered.permute(1, 3, 4, 0, 2).is_contiguous()
    tokens = torch.zeros(2, 3, 7, dtype=torch.int64)
    assert side_by_side(tokens) is tokens


def test_pooling_keeps_the_order_in_memory() -> None:
    """What makes it fast: the result is in memory as (b, H, W, J, C)."""
    layout = StateLayout(nn.Sequential(nn.Conv2d(2, 2, 1), nn.MaxPool2d(2)))  # as of a user's model
    for pool in (lambda _, x: max_pool(x, 2), lambda _, x: layout.template[1](x)):
        found = call_stacked(pool, {"weight": torch.zeros(3)}, torch.zeros(3, 5, 2, 4, 4))
        assert found.permute(1, 3, 4, 0, 2).is_contiguous()


def test_an_error_in_a_stack_leaves_pooling_as_it_was() -> None:
    def broken(_: dict[str, Tensor]) -> Tensor:
        raise ValueError("of the model")

    with pytest.raises(ValueError, match="of the model"):
        call_stacked(broken, {"weight": torch.zeros(2)})
    assert "MaxPool2D" in type(max_pool(torch.zeros(1, 1, 2, 2, requires_grad=True), 2).grad_fn).__name__


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc has this setting")
def test_freed_memory_is_used_again() -> None:
    """Without it, the larger of two tensors that are freed in turn is given back and paged in again every time."""
    faults = run_python("""
import resource, torch
from fedrevive_core.models.memory import reuse_freed_memory
reuse_freed_memory()
def work():
    for number in (300_000, 1_000_000, 2_000_000):
        tensors = [torch.ones(number) for _ in range(3)]
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20): work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
""")
    assert int(faults) < 2_000
