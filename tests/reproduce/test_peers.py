"""The comparison with other packages: what it reads, what it shows, and that the tables of docs/SPEED.md are true."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from reproduce.benchmark.peers import compare, job
from reproduce.benchmark.peers.drivers import ours
from reproduce.benchmark.peers.show import plot_peers, table

RUN = {
    "package": "flgo", "version": "0.4.4", "mode": "async", "jobs": 100, "cpu_seconds": 4.0, "wall_seconds": 5.0,
    "startup_seconds": 9.0, "startup_cpu_seconds": 3.0, "accuracy": 0.9, "peak_mib": 600.0,
}  # fmt: skip


def found() -> dict:
    """Ours does 50 jobs a CPU second; FLGo 20, 25 and 40; APPFL failed."""
    runs = [{"peer": "flgo", **RUN, "cpu_seconds": seconds} for seconds in (5.0, 4.0, 2.5)]
    runs += [{"peer": "ours", **RUN, "version": "0.1.0", "cpu_seconds": 2.0}]
    return {"runs": runs, "failed": {"appfl": "No solution", "pfl sync": "ImportError: nothing"}}


def test_the_job_is_small_and_the_same_every_time() -> None:
    images, labels, test_images, test_labels = job.digits()
    assert len(images) + len(test_images) == 1797
    assert len(test_labels) == 400
    shards = job.shards(labels)
    assert [len(set(shard)) for shard in shards] == [60] * 150
    assert shards == job.shards(labels)
    first, second = (torch.cat([p.flatten() for p in job.new_model().parameters()]) for _ in range(2))
    assert first.equal(second)
    assert len(first) == 13_706


@pytest.mark.parametrize(("mode", "jobs"), [("async", 20), ("sync", 80)])
@pytest.mark.usefixtures("one_thread")
def test_this_package_does_the_job(mode: str, jobs: int) -> None:
    versions = 2 if mode == "async" else 1
    simulation = ours.prepare(mode, versions)
    before = simulation.server.state
    simulation.run(progress=False)
    assert (simulation.version, simulation.num_processed) == (versions, jobs)
    timeline = simulation.timeline
    assert np.count_nonzero(timeline.base_version == 0) >= 80  # in flight at the start
    # Each client's job is 16 steps of Adam, whose first has the length of the rate in every parameter that moves.
    assert 0 < (simulation.server.state - before).abs().max() < 2 * 16 * job.LR
    assert simulation.layout.num_parameters == 13_706


def test_a_driver_is_run_and_what_it_started_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver here starts a process that would sleep, then prints a result between other lines."""
    code = (
        "import subprocess, sys, json, time; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        f"print('hello'); print({job.MARK!r} + json.dumps({{'jobs': 3, 'child': child.pid}})); time.sleep(0.5)"
    )
    monkeypatch.setattr(compare, "command_of", lambda *_: [sys.executable, "-c", code])
    result = compare.run_driver(Path("nowhere"), "flgo", "async", 3)
    assert result["jobs"] == 3
    assert result["peak_mib"] > 5
    if psutil.pid_exists(result["child"]):  # a container may have nobody who collects what has ended
        assert psutil.Process(result["child"]).status() == psutil.STATUS_ZOMBIE


def test_a_driver_that_fails_is_named_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "command_of", lambda *_: [sys.executable, "-c", "raise ImportError('no such thing')"])
    with tempfile.TemporaryDirectory() as folder:
        measured = compare.compare(Path(folder), ["ours"], 1, lambda _: None)
    assert measured["runs"] == []
    assert measured["failed"].keys() == {"ours async", "ours sync"}
    assert measured["failed"]["ours sync"].endswith("ImportError: no such thing")
    assert json.loads(json.dumps(measured)) == measured


def test_a_peer_that_does_not_install_is_named_with_its_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*command: str) -> None:
        raise compare.subprocess.CalledProcessError(
            1,
            command,
            stderr=f'looking ...\n\nFile "{tmp_path}/flgo/lib/x.py"\n\x1b[91merror\x1b[0m: No solution found\n',
        )

    monkeypatch.setattr(compare, "_quietly", refuse)
    measured = compare.compare(tmp_path, ["flgo"], 1, lambda _: None)
    assert measured["failed"] == {"flgo": 'looking ... | File "flgo/lib/x.py" | error: No solution found'}


def test_the_table() -> None:
    lines = table(found()).splitlines()
    assert lines[2].startswith("| asynchronous (FedBuff) | this package | 50.0 (50.0 to 50.0) |  | 20.0 | 0.90 | 3.0 |")
    assert lines[3].startswith("| asynchronous (FedBuff) | FLGo 0.4.4 | 25.0 (20.0 to 40.0) | 2.00x | 20.0 |")
    assert any(line.startswith("- FLGo: as released") for line in lines)
    assert lines[-2:] == [
        "- APPFL did not install or import: `No solution`",
        "- pfl-research did not run, synchronous (FedAvg): `ImportError: nothing`",
    ]


def test_the_figure_has_a_bar_for_every_peer_that_ran() -> None:
    (axes,) = plot_peers(found()).axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["FLGo", "this package"]
    assert [bar.get_width() for bar in axes.patches] == [25.0, 50.0]
