"""From the host to a device without waiting."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def to_device(array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """`array` as a tensor on `device`; on a CPU it shares memory with the array.

    To a GPU it is copied through pinned memory, behind the work that is already queued: from other memory the host
    would wait until all of that is done.
    """
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
