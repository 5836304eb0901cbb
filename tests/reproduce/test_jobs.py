"""How many runs at a time, where nobody says, and in which order they begin."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from reproduce.runs import comparison as comparing
from reproduce.sweeps import executors, sweep


def test_one_run_for_each_core_that_may_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Four cores of two threads each; three of the eight may be used, and then one."""
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 8 if logical else 4)
    monkeypatch.setattr(executors.LocalExecutor, "device", "cpu")
    for allowed, expected in ((range(8), 4), (range(3), 3), ((5,), 1)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, allowed=allowed: set(allowed), raising=False)
        assert executors.LocalExecutor(tmp_path).slots == expected
    assert executors.LocalExecutor(tmp_path, 7).slots == 7
    monkeypatch.setattr(executors.LocalExecutor, "device", "cuda")
    assert executors.LocalExecutor(tmp_path).slots == 1


def test_the_longest_run_of_a_comparison_begins_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    begun: list[str] = []

    def stopped(planned: object, runs: list[sweep.CellRun], *_: object) -> list[object]:
        begun.extend(run.cell.config.method for run in runs)
        return [None]  # a run has failed: nothing is read afterwards

    monkeypatch.setattr(sweep, "run_sweep", stopped)
    experiment = comparing.comparison("lab-digits", ["fedbuff", "afl-dw", "fedrevive"], [0], "default", {})
    with pytest.raises(SystemExit):
        comparing.run_comparison(experiment, tmp_path / "out", None)
    assert begun[0] == "fedrevive"
    assert len(begun) == 3
