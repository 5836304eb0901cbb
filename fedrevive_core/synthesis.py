"""Data-free synthesis: a meta-learned generator makes samples that the teachers recognise.

One call: a fast copy of the persistent generator, and fresh latents that it makes samples of, are optimised for a few
steps on three losses that need nothing but the teachers and the student. The best step's samples go to the pool, and
the persistent generator takes one Reptile step towards the fast copy (arXiv 1803.02999).

One core serves images and texts. What differs is in the generator: `Generator` here makes images from noise vectors
and class embeddings, `text_synthesis.PromptedTexts` makes texts from prompts and sequences.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrevive_core.config import SynthesisConfig
from fedrevive_core.data.augmentation import Preparation
from fedrevive_core.guard import LossGuard
from fedrevive_core.models.probes import channel_statistics, observe
from fedrevive_core.state import StateLayout

EMBEDDING_WEIGHT = 0.2  # of the class embedding in the generator's input (authors' code)
BETAS = (0.5, 0.999)  # of both Adams (authors' code)


class Maker(nn.Module):
    """What every generator of samples has in common; its parameters are what Reptile learns.

    restarts: whether each step begins with a fresh copy and a fresh optimiser, so that Reptile sees the last step only.
    """

    restarts = False

    def draw(
        self, rng: np.random.Generator, size: int, num_classes: int, target: np.ndarray | None
    ) -> tuple[np.ndarray, tuple[Tensor, ...]]:
        """Labels (size,) that follow `target` (C,), uniform if None, and the latents to begin with."""
        raise NotImplementedError

    def make(self, latents: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """Samples (n, ...) of the latents, differentiable in both."""
        raise NotImplementedError

    def measure(self, h: Tensor) -> Any:
        """What the feature loss looks at, of what passes a probe."""
        raise NotImplementedError

    def distances(self, seen: dict[str, Any], teacher: dict[str, Tensor]) -> Iterator[Tensor]:
        """Terms of the feature loss, from what was measured at each probe and a teacher's named tensors."""
        raise NotImplementedError


class Generator(Maker):
    """Noise to images: a linear layer, then twice upsampling, convolution, BatchNorm and LeakyReLU (authors' code).

    Args:
        noise_dim: n_z. width: n_gf. channels, side: of the images; side is a multiple of 4.

    It always normalises with the statistics of its batch.
    """

    measure = staticmethod(channel_statistics)  # type: ignore[assignment]

    def __init__(self, noise_dim: int, width: int, channels: int, side: int) -> None:
        super().__init__()
        # Sides that are no multiple of 4 are generated larger and cropped.
        self.side, self.start = side, -(-side // 4)
        self.project = nn.Linear(noise_dim, 2 * width * self.start**2)
        self.blocks = nn.Sequential(
            nn.BatchNorm2d(2 * width),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, channels, 3, padding=1),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Inputs (B, n_z) to images (B, channels, side, side) in [0, 1]."""
        x = self.blocks(self.project(z).view(len(z), -1, self.start, self.start))
        return x[..., : self.side, : self.side].sigmoid()

    def draw(
        self, rng: np.random.Generator, size: int, num_classes: int, target: np.ndarray | None
    ) -> tuple[np.ndarray, tuple[Tensor, ...]]:
        """Labels; noise (size, n_z) and class embeddings (num_classes, n_z), all standard normal."""
        weight = self.project.weight
        latents = [rng.standard_normal((n, weight.shape[1]), dtype=np.float32) for n in (size, num_classes)]
        noise, embeddings = (torch.from_numpy(latent).to(weight.device) for latent in latents)
        return rng.choice(num_classes, size=size, p=target), (noise, embeddings)

    def make(self, latents: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """Images (n, C, S, S) of noise and class embeddings."""
        noise, embeddings = latents
        return self(noise + EMBEDDING_WEIGHT * embeddings[labels])

    def distances(self, seen: dict[str, Any], teacher: dict[str, Tensor]) -> Iterator[Tensor]:
        """For each probe, |mean(x) - running_mean|_2 + |var(x) - running_var|_2 (norms, not squared)."""
        for probe, (mean, var) in seen.items():
            distance = torch.linalg.vector_norm(mean - teacher[f"{probe}.running_mean"])
            yield distance + torch.linalg.vector_norm(var - teacher[f"{probe}.running_var"])


@dataclass(frozen=True)
class Draws:
    """Every random number of one synthesis of n samples in k steps.

    labels (n,) int64; latents: what the generator makes samples of (images: noise (n, n_z) and class embeddings
    (num_classes, n_z); texts: sequences); augmentation (k, n, ...) from `Preparation.draw`.
    """

    labels: np.ndarray
    latents: tuple[Tensor, ...]
    augmentation: Tensor


@dataclass(frozen=True)
class Synthesis:
    """What one call made.

    samples (n, ...; images in [0, 1]) and losses (feature, label, adversarial; NaN where not computed) of the step with
    the smallest total loss; num_rejected: terms left out by the guard; usable: False if no step was finite. fast and
    latents as the last step left them. All but `usable` stay on the device.
    """

    samples: Tensor
    losses: Tensor
    num_rejected: Tensor
    usable: bool
    fast: Maker
    latents: tuple[Tensor, ...]


class Synthesizer:
    """Holds what persists between calls: generator, meta optimiser and guards."""

    def __init__(
        self, layout: StateLayout, prepare: Preparation, generator: Maker, config: SynthesisConfig, *, guard: bool
    ) -> None:
        self.layout, self.prepare, self.generator, self.config = layout, prepare, generator, config
        device = next(generator.parameters()).device
        self.guard = LossGuard(3, device, enabled=guard)
        # An eps of 0 divides 0 by 0 for a parameter that has never moved; 1e-30 keeps that one still and is lost beside
        # any other number, so 0 is honoured wherever it is defined.
        eps = max(config.meta_eps, 1e-30)
        # Where Reptile sees the last step only, its rate makes up for the others (authors' code).
        meta_lr = config.generator_lr * (config.steps if generator.restarts else 1)
        self.meta_optimiser = torch.optim.Adam(generator.parameters(), lr=meta_lr, betas=BETAS, eps=eps, fused=True)

    def draw(self, rng: np.random.Generator, proportions: np.ndarray) -> Draws:
        """Random numbers for one call; `proportions` (M, C) are the teachers' class proportions."""
        config, device = self.config, next(self.generator.parameters()).device
        target = proportions.mean(axis=0) if config.labels == "teachers" else None
        labels, latents = self.generator.draw(rng, config.batch_size, proportions.shape[1], target)
        augmentation = self.prepare.draw(rng, config.steps, config.batch_size)
        return Draws(labels, latents, torch.from_numpy(augmentation).to(device))

    def synthesise(
        self,
        draws: Draws,
        teachers: Sequence[Tensor],
        weights: Tensor,
        student: Tensor,
        *,
        adversarial: bool,
        watch: Callable[[Tensor, Tensor], None] | None = None,
    ) -> Synthesis:
        """Make samples that `teachers` (M states) recognise and take one Reptile step.

        Args:
            weights: (M, C) w_m(y), teacher weight per class. student: state of the global model.
            adversarial: whether L_adv takes part (from version `warmup` on). watch: called in every step with its
                images and loss terms, detached, as they are before the step's update.
        The states are not modified.
        """
        config = self.config
        latents = tuple(latent.clone().requires_grad_() for latent in draws.latents)
        device = latents[0].device
        labels = torch.from_numpy(draws.labels).to(device)
        views = [self.layout.views(teacher) for teacher in teachers]
        student_views = self.layout.views(student)
        term_weights = student.new_tensor([config.feature_weight, config.label_weight, config.adversarial_weight])
        best = torch.full((), torch.inf, device=device)
        samples, losses = best, torch.full((3,), torch.nan, device=device)  # until a step is better
        num_rejected = torch.zeros((), dtype=torch.int64, device=device)
        for step, augmentation in enumerate(draws.augmentation):
            if step == 0 or self.generator.restarts:
                fast, optimiser = self._fast_copy(latents)
            x = fast.make(latents, labels)
            prepared = self.prepare(x, augmentation)
            opponent = student_views if adversarial else None
            terms = synthesis_losses(self.layout, prepared, labels, views, weights, opponent, fast)
            if watch is not None:
                watch(x.detach(), terms.detach())
            accepted = self.guard.accept(terms)
            # `where` keeps a rejected value out of the sum; should a NaN still reach a gradient, no step is made.
            total = (term_weights[: len(terms)] * torch.where(accepted, terms, 0)).sum()
            learned = [*fast.parameters(), *latents]
            gradients = torch.autograd.grad(total, learned)
            finite = accepted.any() & torch.stack([gradient.isfinite().all() for gradient in gradients]).all()
            better = finite & (total < best)
            best = torch.where(better, total.detach(), best)
            samples = torch.where(better, x.detach(), samples)
            losses[: len(terms)] = torch.where(better, terms.detach(), losses[: len(terms)])
            num_rejected += (~accepted).sum()
            for tensor, gradient in zip(learned, gradients, strict=True):
                # On a CPU a fused Adam reads gradients as if contiguous; those of texts are slices (prompts, sequence).
                tensor.grad = gradient.contiguous()
            step_unless(optimiser, ~finite)
        for slow, quick in zip(self.generator.parameters(), fast.parameters(), strict=True):
            slow.grad = slow.detach() - quick.detach()
        step_unless(self.meta_optimiser, best.isinf())
        left = tuple(latent.detach() for latent in latents)
        return Synthesis(samples, losses, num_rejected, bool(best.isfinite()), fast, left)

    def _fast_copy(self, latents: tuple[Tensor, ...]) -> tuple[Maker, torch.optim.Adam]:
        """A copy of the generator, and an optimiser of it and of `latents`."""
        fast = copy.deepcopy(self.generator).train()
        groups = [
            {"params": list(fast.parameters()), "lr": self.config.generator_lr},
            {"params": list(latents), "lr": self.config.noise_lr},
        ]
        return fast, torch.optim.Adam(groups, betas=BETAS, fused=True)


def synthesis_losses(
    layout: StateLayout,
    x: Tensor,
    labels: Tensor,
    teachers: Sequence[dict[str, Tensor]],
    weights: Tensor,
    student: dict[str, Tensor] | None,
    generator: Maker,
) -> Tensor:
    """L_feat, L_hot and, if a `student` is given, L_adv, stacked, of prepared samples `x` (n, ...).

    Args:
        labels: (n,) wanted classes. teachers, student: named tensors from `layout.views`. weights: (M, C) w_m(y).
        generator: says what the feature loss compares.

    With w_m(y_b) the weight of teacher m for sample b, sums over teachers m and samples b, divided by n:
    L_feat: w * sum of `generator.distances` between what passes the probes and what teacher m remembers.
    L_hot: w * cross-entropy(teacher_m(x_b), y_b).
    L_adv: -w * [student and teacher_m agree on x_b] * KL(teacher_m(x_b) || student(x_b)).
    A model without probes has L_feat = 0.
    """
    sample_weights = weights[:, labels]  # (M, n)
    student_logits = None if student is None else layout.call(student, x)
    feature = hot = adversarial = x.new_zeros(())
    for w, teacher in zip(sample_weights, teachers, strict=True):
        with observe(layout.template, generator.measure) as seen:
            logits = layout.call(teacher, x)
        for distance in generator.distances(seen, teacher):
            feature = feature + w.sum() * distance
        hot = hot + (w * F.cross_entropy(logits, labels, reduction="none")).sum()
        if student_logits is not None:
            agree = logits.argmax(dim=1) == student_logits.argmax(dim=1)
            # Both sides from log-probabilities: the gradient also flows through the teacher's, and where a sure
            # teacher's probability underflows to 0 its logarithm would be -inf and that gradient NaN.
            kl = kl_divergence(logits, student_logits)
            adversarial = adversarial - (w * agree * kl).sum()
    terms = [feature, hot] if student is None else [feature, hot, adversarial]
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
