"""A model, data and a staleness rule of your own: what is refused, what is recorded, what a checkpoint protects."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import compared, run_until, small
from torch import nn

from fedrevive_core import federate
from fedrevive_core.data.images import load_images
from fedrevive_core.data.samples import ImageData, Images
from fedrevive_core.errors import ConfigError
from fedrevive_core.plots.runs import plot_accuracy
from fedrevive_core.simulation import checkpoint
from fedrevive_core.simulation.simulation import Simulation, run
from fedrevive_core.staleness import beta, tabulate

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = small("fedrevive", federation__max_versions=8)


def shapes(count: int = 400, side: int = 8, **changes) -> ImageData:
    """Three classes that a mean tells apart: dark, grey and bright noise."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=count)
    images = (labels[:, None, None, None] + rng.random((count, 1, side, side))) / 3
    part = Images(torch.from_numpy(images).float(), torch.from_numpy(labels))
    return ImageData(**{"train": part, "test": None, "class_names": ("dark", "grey", "bright")} | changes)


def own_data(**changes):
    return federate(shapes(**changes), CONFIG.data, CONFIG.federation.num_clients)


def test_own_data_is_dealt_as_named_data_is_and_learned():
    data = own_data()
    assert [len(shard) for shard in data.shards] == [CONFIG.data.samples_per_client] * CONFIG.federation.num_clients
    assert data.class_proportions.shape == (14, 3)
    record = run(small("fedbuff", server__lr=1.0, federation__max_versions=20), data=data, progress=False)
    assert set(record.summary["class_accuracy"]) == {"dark", "grey", "bright"}
    assert record.summary["best_accuracy"] > 0.5
    assert record.provenance["own"] == {"data": data.fingerprint}


def test_the_same_images_give_the_same_run_as_by_name():
    data = federate(load_images("digits"), CONFIG.data, CONFIG.federation.num_clients)
    assert compared(run(CONFIG, data=data, progress=False)) == compared(run(CONFIG, progress=False))


def broken(**changes) -> ImageData:
    good = shapes().train
    values = {"inputs": good.images, "labels": good.labels} | changes
    return shapes(train=Images(**values))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: broken(inputs=shapes().train.images.double()), "train images must be float32 of shape"),
        (lambda: broken(inputs=shapes().train.images[:, 0]), r"and not torch.float32 \(400, 8, 8\)"),
        (lambda: broken(inputs=shapes().train.images * 255), r"must lie in \[0, 1\], and not in \[.*, 25"),
        (lambda: broken(labels=torch.zeros(3, dtype=torch.int64)), r"int64 of shape \(400,\), one per image"),
        (lambda: shapes(class_names=("a", "b")), r"must lie in 0 \.\. 1, a number for each of the 2 class names"),
        (lambda: shapes(test=shapes(side=12).train), "the same in training and test part"),
    ],
)
def test_what_own_data_must_be_is_said(data, message):
    with pytest.raises(ConfigError, match=message):
        federate(data(), CONFIG.data, 14)


def test_a_shard_for_each_client():
    with pytest.raises(ConfigError, match=r"num_clients = 14, but your data has 3 shards"):
        run(CONFIG, data=federate(shapes(), CONFIG.data, 3), progress=False)


def test_an_own_rule_that_repeats_a_named_one_changes_nothing_but_its_name():
    record = run(CONFIG, beta=lambda tau: beta(tau, CONFIG.staleness, CONFIG.federation), progress=False)
    named = run(CONFIG, progress=False)
    assert record.arrivals.equals(named.arrivals)
    assert record.summary["state_sha256"] == named.summary["state_sha256"]
    assert list(record.provenance["own"]) == ["beta"]


def test_an_own_rule_is_what_the_server_uses():
    record = run(CONFIG, beta=lambda tau: min(1, tau / 5), progress=False)
    assert record.arrivals["beta"].tolist() == [min(1, tau / 5) for tau in record.arrivals["staleness"]]


@pytest.mark.parametrize("value", [1.5, -0.1, float("nan"), None, "half"])
def test_a_rule_out_of_range_is_refused_before_anything_runs(value):
    with pytest.raises(ConfigError, match=r"beta\(2\) = .*: a rule of your own must give a number from 0 to 1"):
        tabulate(lambda tau: value if tau == 2 else 0, 5)


def model(width: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


@pytest.mark.parametrize(
    ("first", "then", "message"),
    [
        ({"beta": lambda tau: 0.5}, {}, "differs in beta of your own"),
        ({"beta": lambda tau: 0.5}, {"beta": lambda tau: 0.25}, "differs in beta of your own"),
        ({}, {"model": model(8)}, "differs in model of your own"),
        ({"model": model(8)}, {"model": model(9)}, "differs in model of your own"),
        ({}, {"data": own_data()}, "differs in the data itself"),
    ],
)
def test_a_checkpoint_is_not_gone_on_from_with_something_else_of_your_own(tmp_path, first, then, message):
    checkpoint.write(run_until(Simulation(CONFIG, **first), 3), tmp_path)
    with pytest.raises(ConfigError, match=message):
        run(CONFIG, checkpoints=tmp_path, progress=False, **then)


def test_a_checkpoint_goes_on_with_the_same_rule_data_and_architecture(tmp_path):
    given = {"beta": lambda tau: 0.5, "data": own_data(), "model": nn.Sequential(nn.Flatten(), nn.Linear(64, 3))}
    checkpoint.write(run_until(Simulation(CONFIG, **given), 3), tmp_path)
    whole = run(CONFIG, progress=False, **given)
    fresh = {**given, "model": nn.Sequential(nn.Flatten(), nn.Linear(64, 3))}  # other first weights, which are restored
    again = run(CONFIG, checkpoints=tmp_path, progress=False, **fresh)
    assert again.summary["state_sha256"] == whole.summary["state_sha256"]


def test_a_branch_keeps_own_data_and_model_and_takes_the_rule_it_is_given():
    given = {"data": own_data(), "model": nn.Sequential(nn.Flatten(), nn.Linear(64, 3))}
    original = run_until(Simulation(CONFIG, **given), 4)
    branch = original.branched(CONFIG, beta=lambda tau: 1.0)
    record = branch.run(progress=False)
    assert record.arrivals["beta"][4:].eq(1).all()
    assert not record.arrivals["beta"][:4].eq(1).all()
    assert record.provenance["own"].keys() == {"data", "model", "beta"}
    assert record.provenance["branches"][0]["changed"] == ["beta of your own"]
    assert original.branched(CONFIG).run(progress=False).provenance["own"] == original.custom


def test_runs_with_different_rules_are_not_averaged():
    by_rule = [
        run(small("fedrevive", federation__max_versions=3, seed=seed), beta=rule, progress=False)
        for seed, rule in enumerate((lambda tau: 0.5, lambda tau: 0.25))
    ]
    with pytest.raises(ValueError, match="differ in more than seeds"):
        plot_accuracy(by_rule)
