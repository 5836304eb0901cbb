"""States of the model that wait for their use."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class StateStore(dict[int, Tensor]):
    """States by version or job until they are used: on `device`, or with `offload` in host memory, pinned for a GPU.

    With `offload` what is put in is copied, and the copy has been made when the assignment is done.
    """

    def __init__(self, device: torch.device, *, offload: bool) -> None:
        super().__init__()
        self.device, self.offload = device, offload

    def __setitem__(self, number: int, state: Tensor) -> None:
        if self.offload:
            pinned = self.device.type == "cuda"
            state = torch.empty(state.shape, dtype=state.dtype, pin_memory=pinned).copy_(state)
        super().__setitem__(number, state)

    def fetch(self, number: int) -> Tensor:
        """The state `number` on the device."""
        return self[number].to(self.device, non_blocking=True)

    def replace(self, states: Mapping[int, Tensor]) -> None:
        """Hold `states` and nothing else."""
        self.clear()
        for number, state in states.items():
            self[number] = state
