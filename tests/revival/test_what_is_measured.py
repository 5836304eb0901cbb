"""Weights that follow what the server sees at an arrival, and a store of one teacher for each client."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import small

from fedrevive_core.errors import ConfigError
from fedrevive_core.models.state import StateLayout
from fedrevive_core.revival import Teacher
from fedrevive_core.revival.teachers import TeacherBuffer, class_coverage
from fedrevive_core.server import METRICS, Upload
from fedrevive_core.simulation.simulation import Simulation

HALF = 0.4


def expected(rule: str, simulation: Simulation, upload: Upload, metrics: dict[str, float]) -> float:
    """x / (x + HALF), x in NumPy, with norms and cosine as the record has them where it has them."""
    parameters = simulation.layout.parameters
    update = (parameters(upload.returned) - parameters(upload.downloaded)).double().numpy()
    if rule == "distance":
        moved = (parameters(simulation.server.state) - parameters(upload.downloaded)).double().numpy()
        value = np.sqrt((moved**2).sum() / (update**2).sum())
    elif rule == "length":
        value = np.sqrt((update**2).sum()) / metrics["distilled_norm"]
    elif rule == "disagreement":
        value = 1 - metrics["cosine"]
    else:
        reviver = simulation.reviver
        mean = np.mean([reviver.proportions.of(teacher.client) for teacher in reviver.buffer], axis=0)
        value = np.prod(mean**-mean) / len(mean)
    return float(value / (value + HALF))


@pytest.mark.parametrize("rule", ["distance", "length", "disagreement", "coverage"])
def test_an_arrival_gets_the_weight_of_what_is_measured(rule: str, one_thread: None) -> None:
    simulation = Simulation(small("fedrevive", staleness__rule=rule, staleness__half=HALF))
    received = simulation.server.receive
    seen = []

    def receive(upload: Upload) -> object:
        before, layout = simulation.server.state.clone(), simulation.layout
        receipt = received(upload)
        after, simulation.server.state = simulation.server.state, before
        metrics = dict(zip(METRICS, receipt.metrics.tolist(), strict=True))
        if receipt.revived:
            assert receipt.beta == pytest.approx(expected(rule, simulation, upload, metrics), rel=1e-4)
            # The new version is w + lr * blend; its part along the client's update is what the weight left of it.
            client = layout.parameters(upload.returned - upload.downloaded).double()
            step = layout.parameters(after - before).double() / simulation.config.server.lr
            rest = (step - (1 - receipt.beta) * client).norm() / max(receipt.beta, 1e-9)
            assert float(rest) == pytest.approx(metrics["distilled_norm"], rel=1e-2)
            seen.append(receipt.beta)
        elif rule in ("length", "disagreement"):
            assert receipt.beta == 0
        simulation.server.state = after
        return receipt

    simulation.server.receive = receive
    simulation.run(progress=False)
    assert len(seen) > 5
    assert len(set(seen)) > 3


def test_down_weighting_by_the_distance(one_thread: None) -> None:
    """A fresh arrival counts whole; a stale one less, the further the model has moved."""
    arrivals = Simulation(small("asyncfeded")).run(progress=False).arrivals
    fresh = arrivals["staleness"] == 0
    assert fresh.any()
    assert not arrivals["beta"][fresh].any()
    assert (arrivals["beta"][~fresh] > 0).all()


def test_what_a_rule_needs() -> None:
    with pytest.raises(ConfigError, match=r"rule = 'coverage' looks at the distilled update or its teachers"):
        small("afl-dw", staleness__rule="coverage")


def test_a_store_of_one_teacher_for_each_client() -> None:
    layout = StateLayout(torch.nn.Linear(1, 1, bias=False))
    store = TeacherBuffer(3, one_per_client=True)
    for client, number in ((0, 1), (1, 2), (0, 3), (2, 4), (3, 5), (1, 6)):
        store.add(Teacher(client, torch.full((layout.size,), float(number))))
    assert [(teacher.client, teacher.state[0].item()) for teacher in store] == [(1, 6), (3, 5), (2, 4)]
    again = TeacherBuffer(3, one_per_client=True)
    again.load_state_dict(store.state_dict(), layout)
    again.add(Teacher(3, torch.zeros(layout.size)))
    assert [teacher.client for teacher in again] == [3, 1, 2]


def test_class_coverage() -> None:
    """All of four classes: 1. Half of them alike: 1/2. One: 1/4."""
    assert class_coverage(np.array([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])) == pytest.approx(1)
    assert class_coverage(np.array([[1.0, 0, 0, 0], [0, 1.0, 0, 0]])) == pytest.approx(0.5)
    assert class_coverage(np.array([[0, 0, 1.0, 0]])) == pytest.approx(0.25)
