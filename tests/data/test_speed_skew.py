"""Speed that goes with data: what the slow clients hold, worked by hand and at the ends of the scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Here, constant, small, steady
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrevive_core.config.data import DataConfig
from fedrevive_core.config.federation import FederationConfig
from fedrevive_core.config.presets import build
from fedrevive_core.data.federated import FederatedData, load_federated, match_to_speed
from fedrevive_core.data.partition import order_for_speed
from fedrevive_core.errors import ConfigError
from fedrevive_core.records.record import Record
from fedrevive_core.simulation.simulation import Simulation, run
from fedrevive_core.timeline import simulate_timeline, speed_groups
from reproduce.live.run import LiveRun
from reproduce.live.settings import live_config

SPEEDS = {"training": {"kind": "exponential", "means": [0.4, 1.0, 4.0], "odds": [0.34, 0.33, 0.33]}}
SCHEDULE = {**SPEEDS, "download": constant(0.1), "upload": constant(0.2)}


def digits(skew: float, split_seed: int = 0) -> tuple[FederatedData, DataConfig]:
    config = build("lab-digits", "fedavg", overrides={"data.speed_skew": skew, "data.split_seed": split_seed}).data
    return load_federated(config, 150, torch.device("cpu")), config


def held_by(data: FederatedData, clients: np.ndarray) -> np.ndarray:
    """(C,) which share of each class's samples these clients hold."""
    return data.class_counts[clients].sum(axis=0) / data.class_counts.sum(axis=0)


def test_four_clients_by_hand() -> None:
    """Shards hold 6 samples of class 0, 1, 0, 1; clients take 4, 1, 3, 2. One class goes to clients 0 and 2."""
    counts = np.array([[6, 0], [0, 6], [6, 0], [0, 6]])
    order = order_for_speed(counts, 1.0, np.random.default_rng(0))
    assert sorted(order) == [0, 1, 2, 3]
    assert counts[order[:2]].argmax(axis=1).tolist() in ([0, 0], [1, 1])
    assert counts[order[:2]].argmax(axis=1).tolist() != counts[order[2:]].argmax(axis=1).tolist()


@settings(max_examples=20, deadline=None)
@given(skew=st.floats(0, 1), seed=st.integers(0, 10**6))
def test_skew_is_the_correlation_of_speed_and_classes(skew: float, seed: int) -> None:
    """2,000 shards of two classes in every mixture: ranks of speed and of content are correlated by nearly `skew`."""
    first = np.arange(2000)
    order = order_for_speed(np.stack([first, 2000 - first], axis=1), skew, np.random.default_rng(seed))
    correlation = abs(np.corrcoef(np.arange(2000), order)[0, 1])
    assert correlation == pytest.approx(6 / np.pi * np.arcsin(skew / 2), abs=0.09)


def test_slow_clients_own_classes_that_fast_ones_lack() -> None:
    """Over ten splits: with 1 the slowest third owns three or four of ten classes, with 0 by chance hardly any."""
    mean_duration = simulate_timeline(FederationConfig(
        num_clients=150, concurrency=80, schedule=SCHEDULE, max_versions=10), 0).mean_duration  # fmt: skip
    groups = speed_groups(mean_duration)
    owned, of_fast = {}, {}
    for skew in (0.0, 0.5, 1.0):
        slow, fast = [], []
        for split_seed in range(10):
            data = match_to_speed(*digits(skew, split_seed), mean_duration)
            slow.append(held_by(data, groups["slow"]))
            fast.append(held_by(data, groups["fast"])[slow[-1] > 0.5])
        owned[skew] = (np.array(slow) > 0.5).sum(axis=1).mean()
        of_fast[skew] = np.concatenate(fast).mean() if skew else np.nan
    assert owned[0.0] < 0.6 < owned[0.5] < 2.5 < owned[1.0]
    assert of_fast[1.0] < 0.12 < of_fast[0.5]


def test_shards_only_change_hands() -> None:
    data, config = digits(1.0)
    slowness = np.random.default_rng(0).permutation(150).astype(float)
    matched = match_to_speed(data, config, slowness)
    assert sorted(map(bytes, matched.shards)) == sorted(map(bytes, data.shards))
    assert matched.fingerprint == data.fingerprint
    for client in range(150):
        labels = data.clients.labels[matched.shards[client]].numpy()
        assert (np.bincount(labels, minlength=10) == matched.class_counts[client]).all()
    assert match_to_speed(*digits(0.0), slowness).shard_of is None


def test_only_speed_decides_who_holds_what() -> None:
    """The shards go by the order of speeds: the slowest client gets the same, whoever it is."""
    data, config = digits(0.5)
    slowness = np.arange(150.0)
    there, back = (match_to_speed(data, config, order) for order in (slowness, slowness[::-1].copy()))
    assert (there.class_counts == back.class_counts[::-1]).all()


def test_a_run_repeats_from_its_timeline(tmp_path: Path) -> None:
    config = small("fedrevive", data__speed_skew=1.0)
    record = run(config, progress=False)
    record.save(tmp_path / "run")
    again = run(small("fedrevive", data__speed_skew=1.0, federation__timeline=str(tmp_path / "run")), progress=False)
    assert again.summary["certificate"] == record.summary["certificate"]
    assert again.classes.equals(record.classes)
    assert Record.load(tmp_path / "run").classes.equals(record.classes)
    assert run(small("fedrevive"), progress=False).summary["certificate"] != record.summary["certificate"]


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.speed_skew = 0.5 needs clients of different speed.*training.means"):
        Simulation(small("fedrevive", data__speed_skew=0.5, federation__schedule=steady(1.0)))
    with pytest.raises(ConfigError, match=r"speed_skew = 0.5 with split = 'iid'.*choose split = 'dirichlet'"):
        small("fedrevive", data__speed_skew=0.5, data__split="iid")
    with pytest.raises(ConfigError, match=r"speed_skew = 2.0: input should be less than or equal to 1"):
        small("fedrevive", data__speed_skew=2.0)
    live = live_config("lab-digits", "fedavg", 0, 5, 10, tmp_path / "out", {"data.speed_skew": 0.5})
    with pytest.raises(ConfigError, match="nobody knows the speed of real clients beforehand"):
        LiveRun(live, 60)


def test_a_live_run_says_who_was_heard(tmp_path: Path) -> None:
    live = LiveRun(live_config("lab-digits", "afl-dw", 0, 5, 12, tmp_path / "out", {"training.steps": 2}), 60)
    record = live.serve(Here(live.config))
    assert sum(record.summary["speed_group_updates"].values()) > 0
    assert record.classes[["own", "distilled"]].to_numpy().sum() == pytest.approx(1)
