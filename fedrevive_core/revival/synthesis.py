"""Data-free synthesis: a meta-learned generator makes samples that the teachers recognise.

One call: a fast copy of the persistent generator, and fresh latents that it makes samples of, are optimised for a few
steps on three losses that need nothing but the teachers and the student. The best step's samples go to the pool, and
the persistent generator takes one Reptile step towards the fast copy (arXiv 1803.02999).

One core serves images and texts. They differ in the generator alone: `ImageGenerator` makes images from noise vectors
and class embeddings, `TextGenerator` makes texts from prompts and sequences.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedrevive_core.config import SynthesisConfig
from fedrevive_core.models import StateLayout, to_device
from fedrevive_core.revival.generator import SampleGenerator
from fedrevive_core.revival.losses import LossGuard, step_unless, synthesis_losses
from fedrevive_core.transforms import Preparation

BETAS = (0.5, 0.999)  # of both Adams (authors' code)


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
    the smallest total loss; num_rejected: terms left out by the guard; usable: 0-d bool, false if no step was finite;
    fast and latents as the last step left them. All stay on the device.
    """

    samples: Tensor
    losses: Tensor
    num_rejected: Tensor
    usable: Tensor
    fast: SampleGenerator
    latents: tuple[Tensor, ...]


class Synthesizer:
    """Holds what persists between calls: generator, meta optimiser and guards."""

    def __init__(
        self,
        layout: StateLayout,
        prepare: Preparation,
        generator: SampleGenerator,
        config: SynthesisConfig,
        *,
        guard: bool,
    ) -> None:
        self.layout, self.prepare, self.generator, self.config = layout, prepare, generator, config
        device = next(generator.parameters()).device
        weights = [config.feature_weight, config.label_weight, config.adversarial_weight]
        self.term_weights = torch.tensor(weights, device=device)
        self.guard = LossGuard(3, device, enabled=guard)
        self.num_calls = 0  # of `synthesise`
        # An eps of 0 divides 0 by 0 for a parameter that has never moved; 1e-30 keeps that one still and is lost beside
        # any other number, so 0 is honoured wherever it is defined.
        eps = max(config.meta_eps, 1e-30)
        # Where Reptile sees the last step only, its rate makes up for the others (authors' code).
        meta_lr = config.generator_lr * (config.steps if generator.restarts else 1)
        self.meta_optimiser = torch.optim.Adam(generator.parameters(), lr=meta_lr, betas=BETAS, eps=eps, fused=True)

    def state_dict(self) -> dict[str, Any]:
        """The generator, the moments of the meta optimiser, and guards; shared, and changed in place by later calls."""
        moments = {str(number): values for number, values in self.meta_optimiser.state_dict()["state"].items()}
        return {
            "generator": self.generator.state_dict(),
            "meta_optimiser": moments,
            "guard": self.guard.state_dict(),
            "num_calls": self.num_calls,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave, copied. Raises RuntimeError or ValueError if shapes differ."""
        self.generator.load_state_dict(state["generator"])
        moments = copy.deepcopy({int(number): values for number, values in state["meta_optimiser"].items()})
        groups = self.meta_optimiser.state_dict()["param_groups"]
        self.meta_optimiser.load_state_dict({"state": moments, "param_groups": groups})
        self.guard.load_state_dict(state["guard"])
        self.num_calls = int(state.get("num_calls", 0))  # older checkpoints have none

    def draw(self, rng: np.random.Generator, proportions: np.ndarray) -> Draws:
        """Random numbers for one call; `proportions` (M, C) are the teachers' class proportions."""
        config, device = self.config, next(self.generator.parameters()).device
        target = proportions.mean(axis=0) if config.labels == "teachers" else None
        labels, latents = self.generator.draw(rng, config.batch_size, proportions.shape[1], target)
        augmentation = self.prepare.draw(rng, config.steps, config.batch_size)
        return Draws(labels, latents, to_device(augmentation, device))

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
        self.num_calls += 1
        latents = tuple(latent.clone().requires_grad_() for latent in draws.latents)
        device = latents[0].device
        labels = to_device(draws.labels, device)
        views = self.layout.views(torch.stack(list(teachers)))
        student_views = self.layout.views(student)
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
            total = (self.term_weights[: len(terms)] * torch.where(accepted, terms, 0)).sum()
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
        return Synthesis(samples, losses, num_rejected, best.isfinite(), fast, left)

    def _fast_copy(self, latents: tuple[Tensor, ...]) -> tuple[SampleGenerator, torch.optim.Adam]:
        """A copy of the generator, and an optimiser of it and of `latents`."""
        fast = copy.deepcopy(self.generator).train()
        groups = [
            {"params": list(fast.parameters()), "lr": self.config.generator_lr},
            {"params": list(latents), "lr": self.config.noise_lr},
        ]
        return fast, torch.optim.Adam(groups, betas=BETAS, fused=True)
