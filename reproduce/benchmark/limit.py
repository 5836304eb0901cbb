"""How fast can this device compute at all? What training is held against."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

SECONDS = 0.3  # that a timing lasts at least, in CALLS or more
CALLS = 3


@contextmanager
def tf32(*, allowed: bool = True) -> Iterator[None]:
    """Products and convolutions on a GPU in TF32 inside, or in float32; PyTorch's choice for convolutions is TF32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=allowed):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


float32 = partial(tf32, allowed=False)


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Median seconds of a call, on a CPU of processor time; the first call is not counted."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    times: list[float] = []
    for number in range(1000):
        _wait(device)
        started = clock()
        call()
        _wait(device)
        if number > 0:
            times.append(clock() - started)
        if len(times) >= CALLS and sum(times) >= SECONDS:
            break
    return statistics.median(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def flops_of(call: Callable[[], object]) -> float:
    """Counted floating-point operations of convolutions and matrix products in `call`."""
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def arithmetic_rates(device: torch.device, *, tiny: bool = False) -> dict[str, float]:
    """Measured FLOP/s in float32 of a matrix product and of a 3x3 convolution of 64 channels; the larger is the limit.

    On a CPU the two come from different libraries, and one may use wider instructions than the other.
    """
    size = 256 if tiny else 8192 if device.type == "cuda" else 2048
    a = torch.rand(size, size, device=device)
    images = torch.rand(size // 64, 64, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    weight = torch.rand(64, 64, 3, 3, device=device)
    calls = {"matrix product": lambda: a @ a, "convolution": lambda: F.conv2d(images, weight, padding=1)}
    with float32(), torch.no_grad():
        return {name: flops_of(call) / seconds(call, device) for name, call in calls.items()}
