"""Short versions of `make torture`, which see that it would notice."""

from __future__ import annotations

import json

import pytest
import torture
from safetensors.torch import load_file

from fedrevive_core.simulation import checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")
torture.ARRIVALS = 16


def test_kill(tmp_path):
    found = torture.kill(tmp_path, 2)
    assert (found["kills"], found["identical"]) == (2, 2)


def test_corrupt(tmp_path):
    found = torture.corrupt(tmp_path, 6)
    assert (found["found"], found["older_used"] + found["refused"]) == (6, 6)
    assert (found["wrong_results"], found["tracebacks"]) == (0, 0)


def test_corruption_would_be_noticed_without_hashes(tmp_path, monkeypatch):
    def trusting(path):
        return json.loads((path / checkpoint.MANIFEST).read_text()), load_file(path / checkpoint.TENSORS)

    monkeypatch.setattr(checkpoint, "_read", trusting)
    found = torture.corrupt(tmp_path, 10)
    assert found["found"] < 10
    assert found["wrong_results"] > 0


def test_malformed(tmp_path):
    found = torture.malformed(tmp_path, 150)
    assert found["malformed"] == 150
    assert found["wrong"] == 0, found["examples_of_wrong"]


def test_disk(tmp_path):
    found = torture.disk(tmp_path, steps=("tensors",), real=False)
    assert found["injected"] == {"tensors": True}


@pytest.mark.processes
def test_soak():
    found = torture.soak("fedbuff", 30, 10)
    assert found["arrivals"] == 30
    assert 0 < found["early_mb"] < found["end_mb"] * 1.1


def test_paper_scale_is_that_of_the_preset():
    """The state's size is written out in torture.cost, which would otherwise need CIFAR-10."""
    from fedrevive_core.models.build import build_model
    from fedrevive_core.models.state import StateLayout

    assert StateLayout(build_model("resnet18", 3, 32, 10)).size == torture.PAPER_STATE
