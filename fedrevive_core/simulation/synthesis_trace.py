"""Watch synthesis step by step, from any version of a run, without changing the run."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fedrevive_core.records import Switches, Trace
from fedrevive_core.revival import SampleGenerator, Synthesizer, teacher_weights
from fedrevive_core.seeding import stream
from fedrevive_core.simulation.build import num_threads

if TYPE_CHECKING:
    from fedrevive_core.simulation.simulation import Simulation

WEIGHTS = ("feature_weight", "label_weight", "adversarial_weight")  # of L_feat, L_hot, L_adv, in the order of a Trace


@dataclass(frozen=True)
class SynthesisStart:
    """What synthesis starts from at one version of a run; the run may continue without changing it.

    student (size,): the global model. teachers: M states (size,), newest first, and the `clients` they came from.
    proportions (M, C): class proportions of these clients, as the server believes. generator: the persistent one.
    """

    version: int
    student: Tensor
    teachers: tuple[Tensor, ...]
    clients: tuple[int, ...]
    proportions: np.ndarray
    generator: SampleGenerator


def capture(simulation: Simulation) -> SynthesisStart:
    """What synthesis would start from now. Raises ValueError if the run does not synthesise, or nothing has arrived."""
    reviver = simulation.reviver
    if reviver is None or reviver.synthesizer is None:
        raise ValueError(f"method '{simulation.config.method}' synthesises nothing: use revival.source = 'synthetic'")
    teachers = list(reviver.buffer)
    if not teachers:
        raise ValueError("there is no teacher yet: process an arrival first")
    return SynthesisStart(
        version=simulation.server.version,
        student=simulation.server.state,
        teachers=tuple(teacher.state for teacher in teachers),
        clients=tuple(teacher.client for teacher in teachers),
        proportions=np.stack([reviver.proportions.of(teacher.client) for teacher in teachers]),
        generator=copy.deepcopy(reviver.synthesizer.generator),
    )


def trace_synthesis(
    simulation: Simulation,
    start: SynthesisStart,
    *,
    steps: int = 10,
    images_per_class: int = 8,
    weights: tuple[float, float, float] | None = None,
    draw: int = 0,
) -> Trace:
    """Synthesise from `start` as the run would, for `steps` steps and equally many images of each class.

    Args:
        weights: a_feat, a_hot, a_adv; those of the run if unset, and 0 switches a loss off (it is still measured).
        draw: names the noise; equal numbers give equal noise whatever the weights and the start.

    L_adv takes part at any version and the guard is off, so that only the losses act. Neither the run
    nor `start` is modified.
    """
    run = simulation.reviver.synthesizer if simulation.reviver is not None else None
    if run is None:
        raise ValueError(f"method '{simulation.config.method}' synthesises nothing: use revival.source = 'synthetic'")
    labels = np.repeat(np.arange(simulation.data.num_classes), images_per_class)
    config = run.config.model_copy(update={"steps": steps, "batch_size": len(labels)})
    if weights is not None:
        config = config.model_copy(update=dict(zip(WEIGHTS, weights, strict=True)))
    synthesizer = Synthesizer(run.layout, run.prepare, copy.deepcopy(start.generator), config, guard=False)
    rng = stream(simulation.config.seed, "synthesis", draw)
    draws = replace(synthesizer.draw(rng, start.proportions), labels=labels)
    models = [run.layout.views(state) for state in (*start.teachers, start.student)]
    images, losses, votes = [], [], []

    @torch.no_grad()
    def watch(seen: Tensor, terms: Tensor) -> None:
        images.append(seen)
        losses.append(terms)
        prepared = run.prepare(seen)
        votes.append(torch.stack([run.layout.call(model, prepared).softmax(dim=1) for model in models]))

    teacher_share = torch.from_numpy(teacher_weights(start.proportions)).to(start.student)
    with num_threads(simulation.config.num_threads):
        synthesizer.synthesise(draws, start.teachers, teacher_share, start.student, adversarial=True, watch=watch)
    return Trace(
        version=start.version,
        labels=labels,
        images=torch.stack(images).mul(255).round().byte().cpu().numpy(),
        losses=torch.stack(losses).cpu().numpy(),
        votes=torch.stack(votes).cpu().numpy(),
        clients=start.clients,
        proportions=start.proportions,
    )


def trace_grid(
    simulation: Simulation, starts: Iterable[SynthesisStart], *, steps: int = 10, images_per_class: int = 6
) -> dict[tuple[int, Switches], Trace]:
    """`trace_synthesis` from every start with every choice of losses (but none), by version and switches.

    The same noise everywhere, and a loss that is switched on has the run's weight.
    """
    weights = [getattr(simulation.config.synthesis, name) for name in WEIGHTS]
    choices: list[Switches] = [on for on in product((True, False), (True, False), (True, False)) if any(on)]
    return {
        (start.version, on): trace_synthesis(
            simulation,
            start,
            steps=steps,
            images_per_class=images_per_class,
            weights=(weights[0] * on[0], weights[1] * on[1], weights[2] * on[2]),
        )
        for start in starts
        for on in choices
    }
