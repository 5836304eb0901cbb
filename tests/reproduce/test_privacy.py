"""Attacks find what is there and nothing else; clipping and noise at the client."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import SMALL, small

from fedrevive_core.data.federated import FederatedData
from fedrevive_core.simulation.simulation import Simulation
from fedrevive_core.training import Job, LocalTrainer
from reproduce.evidence import privacy as evidence
from reproduce.runs import attacks, privacy

pytestmark = pytest.mark.usefixtures("one_thread")
LABELS = np.repeat([0, 1, 2], [10, 6, 4])


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return Simulation(small("fedrevive", federation__num_clients=40, training__steps=15))


def attacked(simulation: Simulation, shard: np.ndarray, claimed: np.ndarray, number: int, **training: Any) -> float:
    """Area of the attack with shadows on a job that trained on `shard`, when `claimed` (2, n) are the candidates."""
    attack = attacks.UpdateAttack(simulation, num_shadows=12)
    attack.config = simulation.config.training.model_copy(update=training)
    data = replace(simulation.data, shards=[shard])
    trainer = LocalTrainer(simulation.layout, data, attack.prepare, attack.config, 7 + number)
    start = simulation.server.state
    scores = attack.scores(attacks.Target(0, start, trainer.train([Job(number, 0, start)])[0]), claimed, number)
    return attacks.area(*scores["shadows"])


def halves(data: FederatedData, number: int) -> np.ndarray:
    """Numbers (3, n) of different samples; each column has one class."""
    rng, labels = np.random.default_rng(number), data.clients.labels.numpy()
    parts = [rng.permutation(np.flatnonzero(labels == label))[:24].reshape(3, 8) for label in range(5)]
    return np.concatenate(parts, axis=1)


def test_who_did_not_train_on_them_reveals_nothing(simulation: Simulation) -> None:
    """The job trains on a third set: the area is 0.5 within three standard errors (40 + 40 samples, 6 jobs: 0.03)."""
    areas = []
    for number in range(6):
        one, other, third = halves(simulation.data, number)
        areas.append(attacked(simulation, third, np.stack([one, other]), number))
    assert abs(np.mean(areas) - 0.5) < 3 * np.std(areas, ddof=1) / len(areas) ** 0.5
    assert np.std(areas, ddof=1) / len(areas) ** 0.5 < 0.04


def test_a_grossly_overfitted_model_reveals_its_samples(simulation: Simulation) -> None:
    """Labels drawn at random can only be learned by heart."""
    clients = simulation.data.clients
    drawn = torch.from_numpy(np.random.default_rng(0).integers(10, size=len(clients.labels)))
    by_heart = copy.copy(simulation)
    by_heart.data = replace(simulation.data, clients=type(clients)(clients.inputs, drawn))
    one, other, _ = halves(by_heart.data, 0)
    assert attacked(by_heart, one, np.stack([one, other]), 0, steps=150) > 0.95
    assert attacked(by_heart, other, np.stack([one, other]), 0, steps=150) < 0.05


def test_candidates_have_the_same_classes() -> None:
    """3 + 9 of class 0, 6 + 0 of class 1, 2 + 2 of class 2: three and two pairs."""
    members, others = np.r_[0:3, 10:16, 16:18], np.r_[3:10, 18:20]
    pairs = attacks.balanced(members, others, LABELS, np.random.default_rng(0))
    assert pairs.shape == (2, 5)
    assert LABELS[pairs].tolist() == [[0, 0, 0, 2, 2]] * 2
    assert set(pairs[0]) <= set(members)
    assert set(pairs[1]) <= set(others)


def test_areas_and_shares_by_hand() -> None:
    """Of 6 pairs the member is ahead in 4 and equal in 1: (4 + 1/2) / 6."""
    members, others = np.array([3.0, 1.0]), np.array([0.0, 1.0, 2.0])
    assert attacks.area(members, others) == pytest.approx(4.5 / 6)
    assert attacks.found_at(np.array([5.0, 9.5, 20.0]), np.arange(11.0), 0.1) == pytest.approx(2 / 3)


def test_calibration_by_hand() -> None:
    """Jobs with the sample show 3 and 5, others 0 and 2: middle 2.5, deviation 1, apart 3; 4 is 1.5 above.

    The four remainders are -1, 1, -1, 1, with variance 4/3: 1.5 * 3 / (4/3).
    """
    shadows, trained = np.array([[3.0], [5.0], [0.0], [2.0]])[..., None], np.array([[True], [True], [False], [False]])
    assert attacks.calibrated(np.array([[4.0]]), shadows, trained) == pytest.approx([1.5 * 3 / (4 / 3)])


def test_a_pool_of_copies_is_seen_and_a_pool_of_noise_is_not() -> None:
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(10), 60)
    images = torch.from_numpy(rng.random((600, 1, 8, 8), dtype=np.float32))
    units = []
    for _ in range(3):
        held = rng.permutation(600) < 400
        pools = images[held][:200], torch.from_numpy(rng.random((200, 1, 8, 8), dtype=np.float32))
        found = [attacks.nearest(images, pool).tolist() for pool in pools]
        units.append([{"pool": {"distance": d, "label": labels.tolist(), "held": held.tolist()}} for d in found])
    copied, noise = (privacy.pool_attack(list(of_kind)) for of_kind in zip(*units, strict=True))
    assert np.allclose(copied["pool, nearness"], 0.75, atol=0.12)  # half of the members are copied
    assert np.mean(copied["pool, shadows"]) > 0.65
    assert abs(np.mean([*noise["pool, nearness"], *noise["pool, shadows"]]) - 0.5) < 0.04
    assert "pool, shadows" not in privacy.pool_attack([units[0][0]])


def test_distances_of_beliefs_by_hand() -> None:
    true, belief = np.array([[0.5, 0.5, 0.0]]), np.array([[0.25, 0.25, 0.5]])
    assert privacy.total_variation(true, belief) == pytest.approx([0.5])
    assert privacy.divergence(true, belief) == pytest.approx([np.log(2)])
    assert np.isfinite(privacy.divergence(true, np.array([[1.0, 0.0, 0.0]]))).all()


def test_an_attacked_run_is_the_run_itself() -> None:
    """Looking at uploads changes nothing: the same evaluations as without."""
    plain, watched = Simulation(small("fedrevive")), Simulation(small("fedrevive"))
    plain.run(progress=False)
    assert len(list(privacy.targets(watched))) == privacy.NUM_TARGETS
    assert watched.recorder.evaluations == plain.recorder.evaluations


def test_what_is_measured_is_kept_and_resumed(call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privacy, "PROTECTIONS", dict(list(privacy.PROTECTIONS.items())[::2]))
    monkeypatch.setattr(privacy, "NUM_TARGETS", 2)
    settings = [word for name, value in SMALL.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    command = "privacy", "--out", tmp_path / "out", "--seeds", "0,1", *settings
    assert call(*command)[0] == 0
    found = json.loads((tmp_path / "out" / "privacy.json").read_text(encoding="utf-8"))
    assert list(found["protections"]) == ["nothing", "clipping, noise 0.01"]
    assert all(len(values) == 2 for key, values in found["protections"]["nothing"].items() if key != "settings")
    monkeypatch.setattr(privacy, "measure_unit", None)  # nothing is measured twice
    code, out, _ = call(*command)
    assert code == 0
    assert "on an update: gradients, shadow jobs" in out
    unit = next((tmp_path / "out" / "units").iterdir())
    unit.write_text("{", encoding="utf-8")
    assert "remove it, and it is measured again" in call(*command)[2]


def test_the_committed_figures_are_whole() -> None:
    """Every table has its rows and a column for each protection; the figure has three panels with every line."""
    measured = evidence.committed()
    protections = list(privacy.PROTECTIONS)
    assert list(measured["protections"]) == protections
    assert measured["command"] == evidence.COMMAND
    for table, rows in (
        (evidence.attack_table, [*evidence.ATTACKS.values(), "members found at 5% false alarms"]),
        (evidence.label_table, list(evidence.BELIEFS.values())),
        (evidence.accuracy_table, None),
    ):
        made = table(measured)
        assert all(list(row)[1:] == protections for row in made)
        assert rows is None or [next(iter(row.values())) for row in made] == rows
    lines = [len(axes.get_legend_handles_labels()[0]) for axes in evidence.plot_privacy(measured).axes]
    assert lines == [5, 4, 2]
