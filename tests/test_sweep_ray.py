"""A sweep on a real Ray cluster of three nodes on this machine, one of which is killed: the same tables.

Not part of the usual tests: `python -m pytest -m cluster`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_sweep import SHORT, Inline, assert_same, children, is_alive, until, write_experiment

from fedrevive_core.record import load_many
from reproduce.experiments import load_experiment
from reproduce.sweep import carry_out, opened, plan

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(shutil.which("ray", path=Path(sys.executable).parent) is None, reason="Ray is not installed"),
]
ADDRESS = "127.0.0.1:6399"


def ray(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("ray")), *arguments]


def start_node(*arguments: str) -> subprocess.Popen:
    memory = f"--object-store-memory={100 * 2**20}"
    command = ray("start", "--block", "--num-cpus=1", "--num-gpus=0", memory, *arguments)
    # Ray gives its own parts a short time to start, too short on a busy machine.
    patient = {"RAY_agent_register_timeout_ms": "300000", "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | patient)


def below(pid: int) -> set[int]:
    """`pid` and all processes that it started, directly or not."""
    found = {pid}
    for child in children(pid) if is_alive(pid) else ():
        found |= below(child)
    return found


def num_nodes() -> int:
    listed = subprocess.run(ray("status", f"--address={ADDRESS}"), capture_output=True, text=True, check=False)
    return listed.stdout.count(" node_")


@pytest.fixture
def cluster() -> Iterator[list[subprocess.Popen]]:
    """A head and two workers, each with one CPU, as one would start them in three terminals."""
    nodes = [start_node("--head", f"--port={ADDRESS.split(':')[1]}", "--include-dashboard=false")]
    try:
        until(lambda: num_nodes() == 1)
        nodes += [start_node(f"--address={ADDRESS}") for _ in range(2)]
        until(lambda: num_nodes() == 3)
        yield nodes
    finally:
        for node in reversed(nodes):
            for pid in below(node.pid):
                os.kill(pid, signal.SIGKILL)
            node.wait()


def test_a_cluster_that_loses_a_node_gives_the_same_tables(cluster, tmp_path):
    scale = {"preset": "lab-digits", "seeds": [0, 1, 2], "checkpoint_every": 10}
    scale["settings"] = SHORT | {"federation.max_versions": 60}
    path = write_experiment(tmp_path, scales={"lab": scale})
    local, out = tmp_path / "local" / "out", tmp_path / "ray" / "out"
    sweep = plan(load_experiment(path), "lab", "cpu")
    with opened(sweep, local):
        carry_out(sweep.runs, Inline(local), lambda _: None)

    arguments = [str(path), "--no-report", "--out", str(out), "--engine", "ray", "--address", ADDRESS]
    driver = subprocess.Popen(
        [sys.executable, "-m", "reproduce", "sweep", *arguments], stderr=subprocess.PIPE, text=True
    )
    # All three nodes have a run in the middle.
    until(lambda: len({checkpoint.parent for checkpoint in (out / "runs").glob("*.partial/0*")}) == 3)
    lost = below(cluster[2].pid)
    for pid in lost:
        os.kill(pid, signal.SIGKILL)
    _, error = driver.communicate(timeout=500)
    assert driver.returncode == 0, error
    assert_same(local, out)
    resumed = sum('"num_resumed": 1' in header.read_text() for header in (out / "runs").glob("*/run.json"))
    assert resumed >= 1, "a run of the lost node went on from its checkpoint"
    assert len(load_many(out).runs) == 6
