"""Going on under another configuration: the same bits where nothing changes, and no trace in the original."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import compared, run_until, small

from fedrevive_core.config.methods import METHODS
from fedrevive_core.errors import ConfigError
from fedrevive_core.simulation import checkpoint
from fedrevive_core.simulation.simulation import Simulation, run

pytestmark = pytest.mark.usefixtures("one_thread")

AT = 12  # arrivals; by then FedRevive has synthesised and distilled


def started(method: str = "fedrevive", **overrides) -> Simulation:
    return run_until(Simulation(small(method, **overrides)), AT)


@pytest.mark.parametrize("method", METHODS)
def test_a_branch_with_the_same_settings_goes_on_as_if_nothing_had_happened(method):
    """And so does the original, although the branch has run to its end before."""
    config = small(method, **({"federation__max_versions": 3} if method == "fedavg" else {}))
    whole = run(config, progress=False)
    original = run_until(Simulation(config), 9)
    branch = original.branched(config).run(progress=False)
    assert compared(branch) == compared(whole)
    assert compared(original.run(progress=False)) == compared(whole)


@pytest.mark.parametrize("method", ["fedbuff", "afl-dw", "dd-fedrevive", "fedasync-poly"])
def test_a_branch_to_another_method_shares_the_past_and_leaves_the_original_alone(method):
    """From FedRevive to others and back again."""
    there, back = small("fedrevive"), small(method, federation__buffer_size=1)
    for here, other in ((there, back), (back, there)):
        original = run_until(Simulation(here), AT)
        record = original.branched(other).run(progress=False)
        whole = original.run(progress=False)
        assert compared(whole) == compared(run(here, progress=False))
        assert record.config == other
        columns = ["job", "client", "staleness", "beta", "revived"]
        assert record.arrivals[columns][:AT].equals(whole.arrivals[columns][:AT])
        assert record.arrivals[["job", "client", "staleness"]].equals(whole.arrivals[["job", "client", "staleness"]])
        assert record.summary["state_sha256"] != whole.summary["state_sha256"]


def test_a_branch_says_where_it_comes_from():
    original = started()
    branch = original.branched(small("fedrevive", server__lr=0.3))
    second = run_until(branch, 14).branched(small("fedrevive", server__lr=0.4))
    first, then = second.run(progress=False).provenance["branches"]
    assert (first["version"], first["num_arrivals"], first["changed"]) == (12, 12, ["server.lr: 0.1 / 0.3"])
    assert (then["version"], then["changed"]) == (14, ["server.lr: 0.3 / 0.4"])
    assert original.branches == []


def test_what_must_not_differ_is_refused_by_name():
    other = small("fedbuff", training__lr=0.1, seed=4, data__alpha=0.2, evaluation__split="validation")
    words = r"seed: 0 / 4, federation.buffer_size: 1 / 2, data.alpha: 0.1 / 0.2, training.lr: .*, evaluation.split: "
    with pytest.raises(ConfigError, match="a branch cannot differ in " + words):
        started().branched(other)


def test_processing_by_hand_and_then_branching():
    """As a lesson does. The first evaluation comes with the run, and at the moment it is made."""
    simulation = Simulation(small("fedbuff", federation__buffer_size=1))
    for number in range(AT):
        simulation.process(number)
    evaluations = simulation.branched(small("afl-dw")).run(progress=False).evaluations
    assert evaluations["version"].tolist() == [AT, 16]
    last = simulation.timeline.arrivals[AT - 1]
    assert evaluations["sim_time"][0] == simulation.timeline.arrival_time[last]


def test_teachers_and_what_is_known_of_their_classes_come_along():
    original = started()
    fewer = original.branched(small("fedrevive", revival__num_teachers=3)).reviver
    assert [teacher.client for teacher in fewer.buffer] == [teacher.client for teacher in original.reviver.buffer][:3]
    true = original.branched(small("fedrevive", revival__proportions="true")).reviver
    assert len(true.buffer) == 8
    back = run_until(original.branched(small("fedrevive", revival__proportions="true")), 13)
    assert len(back.branched(small("fedrevive")).reviver.buffer) == 0  # true histograms leave no estimates behind
    assert back.branched(small("fedrevive")).run(progress=False).summary["num_versions"] == 16


@pytest.mark.parametrize("size", [100, 4000, 5000])
def test_the_pool_comes_along_as_far_as_it_fits(size):
    original = started().reviver.pool
    branch = started().branched(small("fedrevive", synthesis__pool_size=size))
    pool = branch.reviver.pool
    kept = min(size, len(original))
    for here, there in zip(pool.newest(kept), original.newest(kept), strict=True):
        assert np.array_equal(here, there)
    assert branch.run(progress=False).summary["num_versions"] == 16


def test_a_generator_of_another_shape_and_guards_of_other_losses_start_fresh():
    original = started()
    fresh = Simulation(small("fedrevive", synthesis__width=6, distillation__temperature=3.0))
    branch = original.branched(fresh.config)
    assert torch.equal(
        branch.reviver.synthesizer.generator.project.weight, fresh.reviver.synthesizer.generator.project.weight
    )
    assert branch.reviver.synthesizer.meta_optimiser.state_dict()["state"] == {}
    for guard in (branch.reviver.synthesizer.guard, branch.reviver.distiller.guard):
        assert not guard.num_accepted.any()
    branch = original.branched(small("fedrevive", synthesis__steps=3))
    guard, same = original.reviver.synthesizer.guard, branch.reviver.synthesizer
    before = guard.num_accepted.clone()
    assert torch.equal(same.guard.num_accepted, before)
    assert same.meta_optimiser.state_dict()["state"] != {}
    branch.run(progress=False)
    assert torch.equal(guard.num_accepted, before)


def test_a_model_of_your_own_comes_along():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    simulation = run_until(Simulation(small("fedrevive"), model), AT)
    record = simulation.branched(small("afl-dw")).run(progress=False)
    assert record.summary["model"] == "Sequential"
    assert record.summary["num_parameters"] == 650


def test_a_checkpoint_of_a_branch_is_not_one_of_another_branch(tmp_path):
    config = small("fedrevive", server__lr=0.3)
    branch = run_until(started().branched(config), 14)
    checkpoint.write(branch, tmp_path)
    again = started().branched(config)
    assert checkpoint.restore(again, tmp_path)
    assert compared(again.run(progress=False)) == compared(branch.run(progress=False))
    for other in (Simulation(config), run_until(Simulation(small("fedrevive")), 10).branched(config)):
        with pytest.raises(ConfigError, match="differs in the arrival after which it was branched"):
            checkpoint.restore(other, tmp_path)
