"""The guard on teachers: what each rule refuses, what it lets pass, and what is recorded, saved and resumed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import compared, run_until, small

from fedrevive_core.config import RevivalConfig
from fedrevive_core.errors import ConfigError
from fedrevive_core.models import StateLayout
from fedrevive_core.records import Record
from fedrevive_core.records.hash_chain import broken_link
from fedrevive_core.revival import SamplePool
from fedrevive_core.revival.teacher_guard import SMALLEST_WINDOW, TeacherGuard
from fedrevive_core.simulation import checkpoint
from fedrevive_core.simulation.simulation import Simulation

CLASSES = 3
CPU = torch.device("cpu")
BOTH = {"revival__teacher_norm_factor": 10.0, "revival__teacher_agreement": 0.1}
# The first ten uploads are honest for the most part, the last one is not.
LIARS = {"federation__faults__scaled": 0.25, "federation__max_versions": 24, "server__clip_norm": 1.0}


def guard_of(**settings: float) -> TeacherGuard:
    """A guard for a model that is one (classes, 1) matrix: the largest entry times the input names the class."""
    layout = StateLayout(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1, CLASSES, bias=False)), CPU)
    return TeacherGuard(layout, lambda samples: samples, RevivalConfig(**settings))  # type: ignore[arg-type]


def pool_of(labels: list[int]) -> SamplePool:
    pool = SamplePool(16, (1, 1, 1), CLASSES, CPU)
    pool.add(torch.ones(len(labels), 1, 1, 1), np.array(labels))
    return pool


def refused(guard: TeacherGuard, length: float, model=(1.0, 0.0, 0.0), share=(1.0, 0.0, 0.0), labels=(0,)) -> str:
    update = torch.tensor([length, 0.0, 0.0])
    return guard.refusal(torch.tensor(model), update, np.array(share), pool_of(list(labels)))


def chained(record: Record) -> bool:
    return broken_link(record.evaluations, record.arrivals, record.summary) is None


@pytest.mark.parametrize(
    ("length", "reason"), [(4.0, ""), (1.0, ""), (4.1, "length"), (0.9, "length"), (1e18, "length"), (0.0, "length")]
)
def test_a_length_is_held_against_the_median_of_the_last_ones(length, reason):
    """Median 2, factor 2: from 1 to 4 may teach, even after four updates of 1,000 times that."""
    guard = guard_of(teacher_norm_factor=2.0)
    for honest in [2.0] * 6 + [2000.0] * 4:
        assert refused(guard, honest) == ""  # nothing is known yet
    assert len(guard.norms) == SMALLEST_WINDOW
    assert refused(guard, length) == reason
    assert guard.norms[-1] == pytest.approx(length)


@pytest.mark.parametrize(
    ("share", "model", "reason"),
    [
        ((1, 0, 0), (1.0, 0.0, 0.0), ""),  # knows its only class, and no other
        ((0, 1, 0), (1.0, 0.0, 0.0), "agreement"),  # never says the only class that its client has
        ((0.6, 0.4, 0), (1.0, 0.0, 0.0), ""),  # 0.6 of the weight
        ((0.4, 0.6, 0), (1.0, 0.0, 0.0), "agreement"),  # 0.4
        ((1, 0, 0), (math.inf, 0.0, 0.0), "agreement"),  # overflows on every sample
        ((0, 0, 1), (1.0, 0.0, 0.0), ""),  # the pool has nothing of its class: nothing speaks against it
    ],
)
def test_agreement_counts_the_classes_that_the_client_has(share, model, reason):
    guard = guard_of(teacher_agreement=0.5)
    assert refused(guard, 1.0, model, share, labels=(0, 1)) == reason
    assert refused(guard, 1.0, model, share, labels=()) == ""  # an empty pool judges nobody
    assert guard.refusal(torch.tensor(model), torch.ones(3), None, pool_of([0, 1])) == ""  # nor does an unknown client


@pytest.mark.parametrize("value", [0.9, math.inf, "2"])
def test_a_factor_that_is_none(value):
    with pytest.raises(ConfigError, match=r"revival.teacher_norm_factor = "):
        small("fedrevive", revival__teacher_norm_factor=value)


def test_a_refused_upload_is_aggregated_but_neither_teaches_nor_counts_for_its_client(monkeypatch):
    simulation = Simulation(small("fedrevive", **BOTH))
    monkeypatch.setattr(TeacherGuard, "refusal", lambda *_: "length")
    before = simulation.server.state
    for number in range(6):
        simulation.process(number)
    assert not torch.equal(simulation.server.state, before)
    assert len(simulation.reviver.buffer) == 0
    assert simulation.reviver.proportions.estimates == {}
    assert {receipt.rejected for receipt in simulation.recorder.receipts} == {""}
    assert {receipt.not_teaching for receipt in simulation.recorder.receipts} == {"length"}


def test_off_and_never_refusing_change_no_bit():
    """The certificate covers every column, so there is none for a guard that refused nothing."""
    off = Simulation(small("fedrevive")).run(progress=False)
    idle = Simulation(small("fedrevive", revival__teacher_norm_factor=1e6, revival__teacher_agreement=0.0))
    on = idle.run(progress=False)
    assert list(on.arrivals.columns) == list(off.arrivals.columns)
    assert on.summary["certificate"] == off.summary["certificate"]


def test_what_it_did_is_recorded_saved_resumed_and_branched(tmp_path):
    config = small("fedrevive", **BOTH, **LIARS)
    whole = Simulation(config).run(progress=False)
    noted = whole.arrivals["not_teaching"]
    assert {"length"} <= set(noted[noted != ""]) <= {"length", "agreement"}
    assert set(whole.arrivals.loc[noted == "length", "fault"]) == {"scaled"}
    whole.save(tmp_path / "run")
    assert chained(Record.load(tmp_path / "run"))

    original = run_until(Simulation(config), 13)
    checkpoint.write(original, tmp_path / "partial")
    resumed = Simulation(config)
    assert checkpoint.restore(resumed, tmp_path / "partial")
    assert compared(resumed.run(progress=False)) == compared(whole)

    branch = original.branched(config)
    assert branch.reviver.guard.norms == original.reviver.guard.norms
    without = original.branched(small("fedrevive", **LIARS))
    assert without.reviver.guard is None
    assert chained(without.run(progress=False))  # refusals before the branch, none after it
    fresh = without.branched(config).reviver.guard
    assert len(fresh.norms) == 0
