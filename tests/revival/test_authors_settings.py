"""Two settings of the authors' first code: when L_adv joins, and what a rejected distillation loss does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import small
from torch import Tensor

from fedrevive_core.config.presets import build
from fedrevive_core.config.run import DistillationConfig
from fedrevive_core.revival.distillation import Distiller
from fedrevive_core.simulation.simulation import Simulation

# Every upload is revived, and every version from the first on synthesises: the n-th synthesis is at version n.
EACH = {
    "staleness__rule": "constant", "staleness__constant": 0.5, "federation__max_versions": 8,
    "revival__freeze": 1, "revival__warmup": 3, "synthesis__every": 1,
}  # fmt: skip


def adversarial_versions(**settings: Any) -> list[int]:
    """The versions at which L_adv took part."""
    simulation = Simulation(small("fedrevive", **EACH | settings))
    record = simulation.run(progress=False)
    return record.arrivals.index[record.arrivals["adversarial_loss"].notna()].tolist()


def test_the_adversary_joins_at_a_version_or_at_a_synthesis() -> None:
    """freeze 2, every 2, warm-up 3: syntheses at versions 2, 4, 6, which are number 1, 2, 3."""
    settings = {"revival__freeze": 2, "synthesis__every": 2}
    assert adversarial_versions(**settings) == [4, 6]
    assert adversarial_versions(**settings, revival__adversary_counts="syntheses") == [6]


def test_where_versions_and_syntheses_have_the_same_number_the_runs_are_identical() -> None:
    states = [
        Simulation(small("fedrevive", **EACH, revival__adversary_counts=counts)).run(progress=False).summary
        for counts in ("versions", "syntheses")
    ]
    assert states[0]["state_sha256"] == states[1]["state_sha256"]


def test_the_number_of_syntheses_survives_a_checkpoint() -> None:
    simulation, other = (Simulation(small("fedrevive", **EACH)) for _ in range(2))
    for number in range(5):
        simulation.process(number)
    other.load_state_dict(simulation.state_dict())
    assert other.reviver.synthesizer.num_calls == simulation.reviver.synthesizer.num_calls == 4


def distilled(rejected: str, *, broken: bool) -> tuple[Tensor, Tensor]:
    """Parameters before, and the update after one step with weight decay 0.1 whose teacher is `broken`."""
    simulation = Simulation(small("fedrevive"))
    config = DistillationConfig(steps=1, lr=1e-3, weight_decay=0.1, rejected_loss=rejected)
    layout, state = simulation.layout, simulation.server.state
    distiller = Distiller(layout, simulation.modality.prepare_synthetic, config, state.device, guard=True)
    teacher = torch.full_like(state, torch.nan) if broken else state + 0.01
    samples = torch.rand(1, 1, 4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    made = distiller.distil(state, [teacher], samples, torch.zeros(1, 1, 4, 4))
    assert int(made.num_rejected) == broken
    return layout.parameters(state), layout.parameters(made.update)


def test_a_rejected_loss_leaves_the_step_out_or_makes_it_with_a_gradient_of_zero() -> None:
    """Then the weight decay alone acts: Adam's first step is lr * g / (|g| + 1e-8) with g = 0.1 * parameter."""
    _, update = distilled("skips", broken=True)
    assert not update.any()
    parameters, update = distilled("zero_gradient", broken=True)
    decay = 0.1 * parameters
    torch.testing.assert_close(update, -1e-3 * decay / (decay.abs() + 1e-8), rtol=0, atol=1e-7)


def test_where_nothing_is_rejected_both_make_the_same_bits() -> None:
    assert torch.equal(distilled("skips", broken=False)[1], distilled("zero_gradient", broken=False)[1])


@pytest.mark.parametrize(("preset", "expected"), [("cifar10", ("versions", "skips")),
                                                  ("cifar10-authors", ("syntheses", "zero_gradient"))])  # fmt: skip
def test_the_preset_of_the_authors_has_both(preset: str, expected: tuple[str, str]) -> None:
    config = build(preset, "fedrevive")
    assert (config.revival.adversary_counts, config.distillation.rejected_loss) == expected
