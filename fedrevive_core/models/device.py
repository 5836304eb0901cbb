"""What a GPU asks for: copies that do not wait, steps that are recorded once and replayed, and a way to name both.

An executor says how the jobs of a group are trained. `single`: one after the other. `stacked`: all as one model, or
`stacked-16` at a time. `streams-4`: one after the other on 4 streams of a GPU. `captured`, `captured-16`: one
job, or a stack of 16, with its steps recorded as CUDA graphs; the student of a distillation is then recorded too.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

WARM_UPS = 3  # calls before a recording, in which libraries choose their kernels and allocate
AGREEMENT = 0.01  # largest distance of two results to rounding, relative to how far both have moved


def to_device(array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """`array` as a tensor on `device`; on a CPU it shares memory with the array.

    To a GPU it is copied through pinned memory, behind the work that is already queued: from other memory the host
    would wait until all of that is done.
    """
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


@dataclass(frozen=True)
class Executor:
    """How jobs are trained: `kind` (see above), and `width` jobs at once; 0: all of a group, or one if `captured`."""

    kind: str
    width: int = 0

    @classmethod
    def parse(cls, name: str) -> Executor:
        """The executor of this name. Raises ValueError if there is none."""
        found = re.fullmatch(r"(single)|(stacked|captured)(?:-([1-9]\d{0,3}))?|(streams)-([1-9]\d{0,3})", name)
        if found is None:
            raise ValueError(f"'{name}' must be single, stacked, stacked-N, streams-N, captured or captured-N")
        kind = found[1] or found[2] or found[4]
        return cls(kind, int(found[3] or found[5] or 0))

    def __str__(self) -> str:
        return f"{self.kind}-{self.width}" if self.width else self.kind

    @property
    def stacks(self) -> bool:
        """Whether several jobs become one model."""
        return self.kind == "stacked" or (self.kind == "captured" and self.width > 1)


class Captured:
    """`work` as one call: on a GPU a CUDA graph of it, recorded now; on a CPU `work` itself.

    It must read from and write to tensors that stay where they are, and neither wait for the device nor copy from the
    host. It is called a few times before: what it changed must then be set again. All recordings share the memory that
    they need inside, so what one of them has made is read before another is called.
    """

    def __init__(self, work: Callable[[], None], device: torch.device) -> None:
        self.work, self.graph = work, None
        if device.type != "cuda":
            work()
            return
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                work()
        torch.cuda.current_stream(device).wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=_memory()):
            work()

    def __call__(self) -> None:
        """Do `work` once."""
        if self.graph is None:
            self.work()
        else:
            self.graph.replay()


@functools.cache
def _memory() -> Any:
    return torch.cuda.graph_pool_handle()


class Checked:
    """A recorded way beside the plain one: the first call with each key does both, and the recording must agree.

    Where it does not, or cannot be made, the plain way is used from then on, with a warning that names `what`.
    """

    def __init__(self, what: str) -> None:
        self.what, self.works = what, True
        self.agreed: set[Hashable] = set()

    def __call__(
        self, key: Hashable, recorded: Callable[[], Tensor], plain: Callable[[], Tensor], start: Tensor
    ) -> Tensor:
        """Result (..., size) of one of both, which began at `start` (..., size)."""
        if self.works and key in self.agreed:
            return recorded()
        expected = plain()
        if not self.works:
            return expected
        try:
            apart, moved = (torch.linalg.vector_norm(expected - other) for other in (recorded(), start))
            problem = "" if bool(apart <= AGREEMENT * moved) else f"it is {float(apart / moved):.1%} away"
        except RuntimeError as error:
            problem = next(iter(str(error).splitlines()), type(error).__name__)
        self.works = not problem
        if problem:
            warnings.warn(f"the recorded {self.what} is not used, but the plain one: {problem}", stacklevel=2)
        self.agreed.add(key)
        return expected


def reset(optimiser: torch.optim.Optimizer) -> None:
    """Set all that `optimiser` remembers to zero, in place."""
    for kept in optimiser.state.values():
        for tensor in kept.values():
            tensor.zero_()
