"""The loss guard: models without normalisation can produce losses that explode, and one of them can end a run."""

from __future__ import annotations

import torch
from torch import Tensor

WINDOW = 20  # accepted values that are remembered
SMALLEST_WINDOW = 10  # before that many, only non-finite values are rejected
FACTOR = 3.0  # a value above this multiple of the window's mean is rejected


class LossGuard:
    """Decides for each value of each loss term whether it takes part, from the term's last accepted values.

    A value is rejected if it is not finite, or if a window of at least 10 has a positive mean and the value exceeds 3
    times that mean (so a negative loss is never too large). Source: the authors' code. Everything stays on the device:
    deciding does not make the host wait.

    Args:
        num_terms: loss terms with a window each. enabled: False accepts everything.
    """

    def __init__(self, num_terms: int, device: torch.device, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self.window = torch.zeros(num_terms, WINDOW, device=device)
        self.num_accepted = torch.zeros(num_terms, dtype=torch.int64, device=device)

    def accept(self, values: Tensor) -> Tensor:
        """Which of `values` (k,), of the first k terms, take part: (k,) bool. Accepted ones enter their window."""
        values = values.detach()
        if not self.enabled:
            return torch.ones_like(values, dtype=torch.bool)
        window, num_accepted = self.window[: len(values)], self.num_accepted[: len(values)]
        mean = window.sum(dim=1) / num_accepted.clamp(1, WINDOW)
        too_large = (num_accepted >= SMALLEST_WINDOW) & (mean > 0) & (values > FACTOR * mean)
        accepted = values.isfinite() & ~too_large
        slot = (num_accepted % WINDOW).unsqueeze(1)
        kept = torch.where(accepted.unsqueeze(1), values.unsqueeze(1), window.gather(1, slot))
        window.scatter_(1, slot, kept)
        num_accepted += accepted
        return accepted

    def state(self) -> dict[str, Tensor]:
        """The windows, by name; `load` puts them back."""
        return {"window": self.window, "num_accepted": self.num_accepted}

    def load(self, state: dict[str, Tensor]) -> None:
        """Put back what `state` gave, copied."""
        self.window, self.num_accepted = state["window"].clone(), state["num_accepted"].clone()
