"""`from_scratch.py` makes the versions that the package makes, to rounding, though it shares no line with it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedrevive_core.config.presets import build
from fedrevive_core.data.federated import load_federated
from fedrevive_core.simulation.simulation import Simulation

FILE = Path(__file__).parents[2] / "notebooks" / "from_scratch.py"


@pytest.fixture
def scratch() -> Any:
    """The file as a module of its own, whose settings a test may change."""
    spec = importlib.util.spec_from_file_location("from_scratch", FILE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def distances(scratch: Any, num_versions: int, seed: int = 0, **settings: Any) -> list[float]:
    """How far both are apart at every version, as a share of the way from the first model."""
    chosen = {"federation.max_versions": num_versions, "federation.max_sim_time": None, **settings}
    simulation = Simulation(build("lab-digits", "fedrevive", seed=seed, overrides=chosen))
    first, theirs, ours = simulation.server.state, [], []
    for is_new in simulation.steps():
        if is_new:
            theirs.append(simulation.server.state)
    names = [name for name, _ in scratch.new_model(0).named_parameters()]
    with torch.random.fork_rng():
        scratch.run(
            num_versions, seed, lambda _, state, __: ours.append(torch.cat([state[n].flatten() for n in names]))
        )
    size = len(ours[0])
    return [
        float((one - other[:size]).norm() / (other - first)[:size].norm())
        for one, other in zip(ours, theirs, strict=True)
    ]


def test_it_fits_on_a_few_pages_and_needs_nothing_of_the_package() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    assert "fedrevive_core" not in text


def test_every_part_does_what_the_package_does(scratch: Any) -> None:
    """The same method with early synthesis and large weights, so that a mistake in any part shows."""
    scratch.WARMUP, scratch.EVERY, scratch.S_MAX, scratch.SERVER_LR = 2, 2, 2, 1.0
    settings = {"revival.warmup": 2, "synthesis.every": 2, "staleness.s_max": 2.0, "server.lr": 1.0}
    # Rounding gives 8e-4; deliberate mistakes (betas of Adam, biased variance, a sign, ...) gave 7e-3 to 1.
    assert max(distances(scratch, 7, **settings)) < 3e-3


def test_shards_and_arrivals_are_those_of_the_package(scratch: Any) -> None:
    config = build("lab-digits", "fedrevive", seed=2, overrides={"federation.max_versions": 400})
    data = load_federated(config.data, config.federation.num_clients, torch.device("cpu"))
    images, labels, shards, test = scratch.federated_digits()
    for ours, theirs in zip(shards, data.shards, strict=True):
        assert np.array_equal(labels[ours], data.clients.labels[theirs])
        assert torch.equal(images[ours], data.clients.inputs[theirs])
    assert torch.equal(images[test], data.test.inputs)
    timeline = Simulation(config).timeline
    jobs = timeline.arrivals
    theirs = zip(jobs.tolist(), timeline.client[jobs].tolist(), timeline.base_version[jobs].tolist(), strict=True)
    assert scratch.timeline(len(jobs), 2) == list(theirs)


@pytest.mark.notebooks
def test_fifty_versions_of_the_preset(scratch: Any) -> None:
    apart = distances(scratch, 50)
    assert apart[0] < 1e-5
    assert max(apart) < 1e-2  # rounding grows: 2e-4 where this was written
