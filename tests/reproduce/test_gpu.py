"""The command `gpu`, tried on a CPU: what it checks, measures, keeps and shows. Only recording itself needs a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fedrevive_core.models.device import Captured
from reproduce.benchmark import limit
from reproduce.benchmark.gpu import checks, probe
from reproduce.benchmark.gpu.material import preset_names, random_data, tiny
from reproduce.benchmark.gpu.measure import EXECUTORS, RESULTS, Measurement
from reproduce.benchmark.gpu.page import write_gpu_page

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit, "SECONDS", 0.0)


def test_all_of_it(call: Any, tmp_path: Path) -> None:
    out = tmp_path / "gpu"
    code, printed, error = call("gpu", "--device", "cpu", "--tiny", "--minutes", "10", "--out", out)
    assert code == 0, error
    assert printed.strip() == f"Written: {out / 'index.html'}"
    found = json.loads((out / RESULTS).read_text())
    assert found["finished"]
    assert "failures" not in found
    assert "cut" not in found
    assert [row["problem"] for row in found["devices"]] == [""] * 4
    assert all(row["apart"] < 1e-3 for row in found["devices"] + found["executors"] + found["students"])
    assert {row["executor"] for row in found["executors"]} == {"single", "stacked-2", "captured", "captured-2"}
    assert all(row["rate"] > 0 and row["flops"] > 1e5 for row in found["executors"])
    assert {row["numbers"] for row in found["numbers"]} == {"float32", "TF32", "bfloat16"}
    (bfloat16,) = (row for row in found["numbers"] if row["numbers"] == "bfloat16")
    assert bfloat16["apart"] > 1e-4  # it was really computed so
    run = found["run"]
    assert (run["versions"], run["data"]) == (4, "random images of its shape")
    assert run["projected_minutes"] == pytest.approx(run["seconds_per_version"] * run["versions_of_the_paper"] / 60)
    winners = json.loads((out / EXECUTORS).read_text())["cpu"]
    fastest = max((r for r in found["executors"] if r["model"] == "labnet"), key=lambda row: row["rate"])
    assert winners["labnet"] == fastest["executor"]
    page = (out / "index.html").read_text()
    assert "nothing on this page says anything about a GPU" in page
    assert "captured-2" in page
    assert "<img" in page
    code, _, error = call("gpu", "--device", "cpu", "--tiny", "--out", out)
    assert (code, "is not empty" in error) == (2, True)


def test_without_a_gpu_it_says_so_in_a_sentence(call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, error = call("gpu", "--out", tmp_path / "gpu")
    assert code == 2
    assert error == (
        "error: PyTorch sees no CUDA GPU here, and gpu measures one: --device cpu --tiny tries the command\n"
    )
    assert not (tmp_path / "gpu").exists()


def test_what_was_found_is_kept_when_it_is_stopped(call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_arguments: Any, **_options: Any) -> Any:
        yield {"preset": "lab-digits", "method": "fedbuff", "executor": "auto", "apart": 0.5, "problem": "too far"}
        raise KeyboardInterrupt

    monkeypatch.setattr(checks, "compare_devices", stopped)
    code, _, _ = call("gpu", "--device", "cpu", "--tiny", "--out", tmp_path / "gpu")
    assert code == 130
    found = json.loads((tmp_path / "gpu" / RESULTS).read_text())
    assert not found["finished"]
    assert [row["problem"] for row in found["devices"]] == ["too far"]
    page = (tmp_path / "gpu" / "index.html").read_text()
    assert "stopped before the end" in page
    assert "fedbuff: too far" in page


def test_time_that_is_over_cuts_parts_short(tmp_path: Path) -> None:
    measurement = Measurement(CPU, 1e-9, tmp_path, few=True)
    measurement._probe(probe.Workload("labnet", CPU, tiny=True), 1.0)
    assert {row["problem"] for row in measurement.found["executors"]} == {"no time left"}
    assert measurement.winners() == {}
    measurement._fill("devices", iter([{"number": 1}, {"number": 2}]), 1)
    assert measurement.found["devices"] == [{"number": 1}]
    assert measurement.found["cut"][-1] == "devices"


def test_a_part_that_fails_does_not_end_the_others(tmp_path: Path) -> None:
    measurement = Measurement(CPU, 1, tmp_path, few=True)
    with measurement._part("probe"):
        raise torch.OutOfMemoryError("out of memory\nmore")
    measurement.found["finished"] = True
    page = write_gpu_page(measurement.found, {}, tmp_path / "index.html", "command").read_text()
    assert "The part &#39;probe&#39; failed: out of memory." in page


def test_a_wrong_executor_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is too far from the plain one, and one whose recording is refused."""
    monkeypatch.setattr(Captured, "__call__", lambda call: None)  # a recording that does nothing
    rows = {
        row["executor"]: row for row in probe.probe_model(probe.Workload("labnet", CPU, tiny=True), 1.0, lambda: True)
    }
    assert "rate" in rows["stacked-2"]
    assert "rate" not in rows["captured"]
    assert "recorded training of clients is not used" in rows["captured"]["problem"]


def test_a_device_that_computes_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Captured, "__call__", lambda call: None)
    assert not checks.recordings_repeat(CPU)
    rows = list(checks.compare_devices(CPU, few=True))
    assert [row["problem"][:13] for row in rows if row["executor"] == "captured"] == ["the recorded "] * 2
    assert [row["problem"] for row in rows if row["executor"] == "auto"] == [""] * 2


@pytest.mark.parametrize("preset", preset_names())
def test_random_data_has_the_shape_of_each_preset(preset: str) -> None:
    config = tiny(preset, "fedrevive")
    data = random_data(config)
    if preset == "lab-text":
        assert data is None
    else:
        assert data is not None
        assert data.sample_shape[1:] == (12, 12)
        assert len(data.shards) == config.federation.num_clients
