"""Executors: names, the choice, and that all of them make the same run to rounding."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from helpers import small, small_text, tiny_texts

from fedrevive_core.errors import ConfigError
from fedrevive_core.models.convnets import LabNet
from fedrevive_core.models.device import Captured, Checked, Executor
from fedrevive_core.models.state import StateLayout
from fedrevive_core.simulation.executors import TABLE, choose_executor
from fedrevive_core.simulation.simulation import Simulation

pytestmark = pytest.mark.usefixtures("one_thread")
COUNT = 10  # uploads


@pytest.mark.parametrize("name", ["single", "stacked", "stacked-16", "streams-4", "captured", "captured-64"])
def test_a_name_names_one_executor(name: str) -> None:
    assert str(Executor.parse(name)) == name


@pytest.mark.parametrize("name", ["", "stack", "single-2", "streams", "stacked-0", "captured-x", "captured-99999"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must be single, stacked, stacked-N"):
        Executor.parse(name)


def processed(executor: str) -> Simulation:
    simulation = Simulation(small("fedrevive", executor=executor))
    for number in range(COUNT):
        simulation.process(number)
    simulation.evaluate()
    return simulation


def test_recorded_steps_make_the_same_run() -> None:
    """On a CPU nothing is recorded, but everything around it is done: tensors stay in place and are set again."""
    plain = processed("auto")
    moved = plain.server.state - plain.snapshots[0] if 0 in plain.snapshots else plain.server.state
    for name in ("captured", "captured-4", "stacked-3", "single"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # such as one that a recording is not used
            other = processed(name)
        assert other.record().provenance["executor"] == name
        apart = torch.linalg.vector_norm(other.server.state - plain.server.state)
        assert apart <= 1e-3 * torch.linalg.vector_norm(moved)
        if "captured" in name:
            assert other.reviver is not None
            assert other.trainer.captured is not None
            assert other.reviver.distiller.students
            guards = [s.reviver.distiller.guard.num_accepted for s in (plain, other) if s.reviver is not None]
            assert torch.equal(*guards)


def test_a_recording_that_does_not_agree_is_not_used() -> None:
    checked = Checked("training of clients")
    start, right = torch.zeros(4), torch.ones(4)
    with pytest.warns(
        UserWarning, match="recorded training of clients is not used, but the plain one: it is 50.0% away"
    ):
        assert torch.equal(checked(1, lambda: 0.5 * right, lambda: right, start), right)
    assert torch.equal(checked(1, lambda: 0.5 * right, lambda: right, start), right)


def test_a_recording_that_cannot_be_made_is_not_used() -> None:
    def fails() -> torch.Tensor:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    checked = Checked("distillation")
    with pytest.warns(UserWarning, match="distillation is not used, but the plain one: CUDA error: operation not perm"):
        assert torch.equal(checked(1, fails, lambda: torch.ones(1), torch.zeros(1)), torch.ones(1))
    assert not checked.works


def test_one_that_agrees_is_used_from_the_second_call_on() -> None:
    checked, right = Checked("distillation"), torch.ones(4)
    assert checked(1, lambda: 1.001 * right, lambda: right, torch.zeros(4)) is right
    assert torch.equal(checked(1, lambda: 1.001 * right, lambda: right, torch.zeros(4)), 1.001 * right)


def test_captured_work_is_done_at_every_call() -> None:
    counter = torch.zeros(())
    call = Captured(lambda: counter.add_(1) and None, counter.device)
    before = int(counter)
    call()
    call()
    assert int(counter) - before == 2


def gpu_layout(monkeypatch: pytest.MonkeyPatch) -> StateLayout:
    layout = StateLayout(LabNet(1, 8, 10))
    layout.device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a card")
    return layout


def test_auto_takes_what_was_fastest_on_this_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table = tmp_path / "executors.json"
    table.write_text(json.dumps({"a card": {"labnet": "captured-32"}, "another": {"labnet": "single"}}))
    layout = gpu_layout(monkeypatch)
    assert str(choose_executor("auto", "labnet", layout)) == "stacked"
    monkeypatch.setenv(TABLE, str(table))
    assert str(choose_executor("auto", "labnet", layout)) == "captured-32"
    assert str(choose_executor("auto", "convnet", layout)) == "stacked"
    assert str(choose_executor("streams-4", "labnet", layout)) == "streams-4"  # a configuration pins it
    assert str(choose_executor("auto", "labnet", StateLayout(LabNet(1, 8, 10)))) == "stacked"  # a CPU has no table


def test_a_table_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    layout, table = gpu_layout(monkeypatch), tmp_path / "executors.json"
    monkeypatch.setenv(TABLE, str(table))
    with pytest.raises(ConfigError, match=r"cannot be read .*unset it"):
        choose_executor("auto", "labnet", layout)
    table.write_text(json.dumps({"a card": {"labnet": "fast"}}))
    with pytest.raises(ConfigError, match="labnet = 'fast': 'fast' must be single"):
        choose_executor("auto", "labnet", layout)


def test_executors_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="executor = 'fast': 'fast' must be single, stacked"):
        Simulation(small("fedbuff", executor="fast"))
    with pytest.raises(ConfigError, match="executor = 'streams-4': a CPU has no streams"):
        Simulation(small("fedbuff", executor="streams-4"))
    layout = StateLayout(torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(2, 2)))
    with pytest.raises(ConfigError, match="a model with dropout is trained one job after the other"):
        choose_executor("captured", "own", layout)


def test_texts_are_recorded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_texts(monkeypatch)
    simulation = Simulation(small_text("fedrevive", executor="captured-2"))
    for number in range(4):
        simulation.process(number)
    assert simulation.trainer.checked.works
