"""States of the model that wait for their use: versions that jobs start from, and returned models."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedrevive_core.models import StateLayout


class StateStore(dict[int, Tensor]):
    """States by version or job until they are used: on the device, or with `offload` in host memory, pinned for a GPU.

    With `offload` what is put in is copied, and the copy has been made when the assignment is done.
    """

    def __init__(self, layout: StateLayout, *, offload: bool) -> None:
        super().__init__()
        self.layout, self.offload = layout, offload

    def __setitem__(self, number: int, state: Tensor) -> None:
        if self.offload:
            pinned = self.layout.device.type == "cuda"
            state = torch.empty(state.shape, dtype=state.dtype, pin_memory=pinned).copy_(state)
        super().__setitem__(number, state)

    def fetch(self, number: int) -> Tensor:
        """The state `number` on the device."""
        return self[number].to(self.layout.device, non_blocking=True)

    def state_dict(self) -> dict[str, Tensor]:
        """The states by number; shared, and never changed."""
        return {str(number): state for number, state in self.items()}

    def load_state_dict(self, states: Mapping[str, Tensor]) -> None:
        """Hold `states` and nothing else. Raises ValueError if one is not of this model."""
        self.clear()
        for number, state in states.items():
            self[int(number)] = self.layout.checked(state)
