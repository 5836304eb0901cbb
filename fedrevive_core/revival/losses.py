"""The loss guard: models without normalisation can produce losses that explode, and one of them can end a run."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from fedrevive_core.models import StateLayout, call_stacked, observe
from fedrevive_core.revival.generator import SampleGenerator

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

    def state_dict(self) -> dict[str, Tensor]:
        """The windows and how many values each has accepted; shared, and changed in place by `accept`."""
        return {"window": self.window, "num_accepted": self.num_accepted}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` gave, copied. Raises RuntimeError if shapes differ."""
        self.window.copy_(state["window"])
        self.num_accepted.copy_(state["num_accepted"])


def synthesis_losses(
    layout: StateLayout,
    x: Tensor,
    labels: Tensor,
    teachers: dict[str, Tensor],
    weights: Tensor,
    student: dict[str, Tensor] | None,
    generator: SampleGenerator,
) -> Tensor:
    """L_feat, L_hot and, if a `student` is given, L_adv, stacked, of prepared samples `x` (n, ...).

    Args:
        labels: (n,) wanted classes. teachers: named tensors (M, *shape). weights: (M, C) w_m(y).
        student: named tensors.
        generator: says what the feature loss compares.

    With w_m(y_b) the weight of teacher m for sample b, sums over teachers m and samples b, divided by n:
    L_feat: w * sum of `generator.distances` between what passes the probes and what teacher m remembers.
    L_hot: w * cross-entropy(teacher_m(x_b), y_b).
    L_adv: -w * [student and teacher_m agree on x_b] * KL(teacher_m(x_b) || student(x_b)).
    A model without probes has L_feat = 0.
    """
    sample_weights = weights[:, labels]  # (M, n)

    def judged(teacher: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        with observe(layout.template, generator.measure) as seen:
            logits = layout.call(teacher, x)
        return logits, sum(generator.distances(seen, teacher), x.new_zeros(()))

    if layout.stacks and len(sample_weights) > 1:
        logits, distances = call_stacked(judged, teachers)  # (M, n, C), (M,)
    else:
        each = [judged({name: tensor[m] for name, tensor in teachers.items()}) for m in range(len(sample_weights))]
        logits, distances = (torch.stack(part) for part in zip(*each, strict=True))
    flat = logits.flatten(0, 1)  # (M * n, C)
    cross_entropy = F.cross_entropy(flat, labels.repeat(len(logits)), reduction="none").view(sample_weights.shape)
    terms = [(sample_weights.sum(dim=1) * distances).sum(), (sample_weights * cross_entropy).sum()]
    if student is not None:
        opinion = layout.call(student, x)
        agree = logits.argmax(dim=2) == opinion.argmax(dim=1)
        # Both sides from log-probabilities: the gradient also flows through the teacher's, and where a sure
        # teacher's probability underflows to 0 its logarithm would be -inf and that gradient NaN.
        kl = kl_divergence(flat, opinion.repeat(len(logits), 1)).view(sample_weights.shape)
        terms.append(-(sample_weights * agree * kl).sum())
    return torch.stack(terms) / len(x)


def kl_divergence(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """KL(teacher || student) per sample, (n,), from logits (n, C); differentiable in both."""
    teacher, student = teacher_logits.log_softmax(dim=1), student_logits.log_softmax(dim=1)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)


def step_unless(optimiser: torch.optim.Adam, skip: Tensor) -> None:
    """One step of a fused optimiser, undone on the device where `skip` (0-d bool) is true: the host need not wait."""
    # The mechanism of torch.amp.GradScaler: fused optimisers skip a step whose `found_inf` is 1.
    optimiser.found_inf = skip.float()  # type: ignore[attr-defined]
    optimiser.step()
