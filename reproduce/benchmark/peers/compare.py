"""Set up one environment for each peer, run the job in each in turn, and collect what the drivers print."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from fedrevive_core.records import provenance
from reproduce.benchmark.peers import job

ROOT = Path(__file__).parents[3]
VERSIONS = {"async": 30, "sync": 4}  # of the global model in a run: 300 jobs, and 4 rounds of 80
LIMIT_SECONDS = 300  # of one run
OURS = "ours"


@dataclass(frozen=True)
class Peer:
    """A package on PyPI. modes: what it can do. note: what a reader of its figures must know."""

    title: str
    requirement: str
    modes: tuple[str, ...]
    note: str = ""


PEERS: dict[str, Peer] = {
    OURS: Peer("this package", "", ("async", "sync")),
    "flgo": Peer(
        "FLGo", "flgo==0.4.4", ("async", "sync"),
        "as released it fails with today's PyTorch; our driver adds the one method that it needs (`__getitems__`)",
    ),
    "appfl": Peer(
        "APPFL", "appfl==1.12.0", ("async", "sync"),
        "its virtual-time drivers, with `optimize_memory` off, which makes it many times faster; its FedBuff takes the "
        "difference from the current model, not from the one that the client began with, and learns less here",
    ),
    "pfl": Peer("pfl-research", "pfl==0.6.0", ("sync",), "it does not shuffle data that it holds in memory"),
    "fluke": Peer("fluke", "fluke-fl==0.8.1", ("sync",)),
    # Without a driver: as released, they fail before one could run. Set-up says how.
    "blazefl": Peer("BlazeFL", "blazefl==3.0.0", ()),
    "fedml": Peer("FedML", "fedml==0.9.6", ()),
    "flwr": Peer(
        "Flower", "flwr[simulation]==1.42.0", ("sync",),
        "Ray backend with one CPU: one client at a time; on a busy machine Ray may not start",
    ),
}  # fmt: skip


def compare(folder: Path, names: Sequence[str], repeats: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Every run of every peer in `names`, as JSON-able values; environments are in `folder`, and are kept.

    Peers run in turn, `repeats` times. `failed` names those that do not install or import (by name) or run (name and
    mode), with the error; they are not tried again.
    """
    failed: dict[str, str] = {}
    for name in names:
        say(f"{name}: setting up")
        try:
            set_up(folder, name)
        except subprocess.CalledProcessError as error:
            failed[name] = last_lines(error.stderr, folder)
    runs: list[dict[str, Any]] = []
    for repeat in range(repeats):
        for mode, versions in VERSIONS.items():
            for name in names:
                if mode not in PEERS[name].modes or {name, f"{name} {mode}"} & failed.keys():
                    continue
                say(f"{name}: {mode}, run {repeat + 1} of {repeats}")
                load = psutil.getloadavg()[0]  # of the machine, before
                try:
                    runs.append({"peer": name, "load": load} | run_driver(folder, name, mode, versions))
                except RuntimeError as error:
                    failed[f"{name} {mode}"] = str(error)
    settings = {name.lower(): getattr(job, name) for name in ("CLIENTS", "SHARD", "STEPS", "BATCH", "LR")}
    settings |= {"concurrency": job.CONCURRENCY, "buffer": job.BUFFER, "versions": VERSIONS}
    return {
        "job": settings,
        "runs": runs,
        "failed": failed,
        "cores": psutil.cpu_count(),
        "provenance": provenance("cpu", 1),
    }


def command_of(folder: Path, name: str, mode: str, versions: int) -> list[str]:
    """A run of a peer's driver by the interpreter of its environment; ours is this one."""
    python = sys.executable if name == OURS else str(folder / name / "bin" / "python")
    return [python, "-m", f"reproduce.benchmark.peers.drivers.{name}", mode, str(versions)]


def set_up(folder: Path, name: str) -> None:
    """Make the peer's environment unless it is there, and import the peer. A `.pth` file leads to this one's PyTorch.

    Raises CalledProcessError, with what pip, uv or Python said.
    """
    requirement, place = PEERS[name].requirement, folder / name
    stamp = place / "ready"
    if not requirement or (stamp.exists() and stamp.read_text(encoding="utf-8") == requirement):
        return
    uv = folder / "uv" / "bin" / "uv"
    if not uv.exists():
        _quietly(sys.executable, "-m", "venv", str(folder / "uv"))
        _quietly(str(folder / "uv" / "bin" / "python"), "-m", "pip", "install", "--quiet", "uv")
    _quietly(str(uv), "venv", "--clear", "--python", sys.executable, str(place))
    paths = sysconfig.get_paths(vars={"base": str(place), "platbase": str(place)})
    (Path(paths["purelib"]) / "shared-torch.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    # A requirement that no machine meets takes PyTorch out of what uv resolves.
    left_out = folder / "left-out.txt"
    torches = ("torch", "torchvision", "torchaudio")
    left_out.write_text("".join(f"{torch} ; sys_platform == 'none'\n" for torch in torches), encoding="utf-8")
    _quietly(str(uv), "pip", "install", "--python", str(place), "--override", str(left_out), requirement)
    _quietly(str(place / "bin" / "python"), "-c", f"import {name}")
    stamp.write_text(requirement, encoding="utf-8")


def _quietly(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8")


def run_driver(folder: Path, name: str, mode: str, versions: int) -> dict[str, Any]:
    """One run in a process of its own: what its driver measured, and the largest memory of its processes in MiB.

    Raises RuntimeError with the end of its output if it fails or takes longer than LIMIT_SECONDS.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    # Ray gives up after half a minute otherwise, which a busy machine needs.
    environment = os.environ | threads | {"PYTHONPATH": str(ROOT), "RAY_raylet_start_wait_time_s": "300"}
    with tempfile.TemporaryDirectory() as work, tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        started = time.monotonic()
        process = psutil.Popen(
            command_of(folder, name, mode, versions),
            cwd=work,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        peak, family = 0.0, {process.pid: process}
        while process.poll() is None and time.monotonic() < started + LIMIT_SECONDS:
            family |= {child.pid: child for child in children(process)}
            peak = max(peak, sum(map(resident, family.values())))
            time.sleep(0.1)
        stuck = process.poll() is None
        for member in family.values():  # what the peer started and left running
            if member.is_running():
                member.kill()
        psutil.wait_procs(family.values(), timeout=10)
        output.seek(0)
        said = output.read()
    if stuck:
        raise RuntimeError(f"stopped after {LIMIT_SECONDS} seconds: {last_lines(said, folder)}")
    return result_of(said, folder) | {"peak_mib": peak / 2**20}


def children(process: psutil.Process) -> list[psutil.Process]:
    """The processes below `process`; none once it has ended."""
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def resident(process: psutil.Process) -> int:
    """Bytes in memory; 0 for a process that has ended."""
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0


def result_of(said: str, folder: Path) -> dict[str, Any]:
    """What the driver printed. Raises RuntimeError with the end of `said` if it printed no result."""
    for line in reversed(said.splitlines()):
        if line.startswith(job.MARK):
            return json.loads(line.removeprefix(job.MARK))
    raise RuntimeError(last_lines(said, folder))


def last_lines(said: str, folder: Path, count: int = 3) -> str:
    """The last lines that say something, as one, without colours and the places of the project and of `folder`."""
    said = re.sub(r"\x1b\[[0-9;]*m", "", said)
    for place in (folder, ROOT):
        said = said.replace(f"{place.resolve()}/", "")
    return " | ".join([line.strip() for line in said.splitlines() if line.strip()][-count:])


def summary(found: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each mode and peer: medians over its runs, and the range of jobs per CPU second; fastest first."""
    rows = []
    for mode in VERSIONS:
        for name in PEERS:
            runs = [run for run in found["runs"] if (run["peer"], run["mode"]) == (name, mode)]
            if not runs:
                continue
            rates = [run["jobs"] / run["cpu_seconds"] for run in runs]
            row = {key: statistics.median(run[key] for run in runs) for key in ("startup_cpu_seconds", "peak_mib")}
            row |= {"mode": mode, "peer": name, "version": runs[0]["version"], "num_runs": len(runs)}
            row |= {"accuracy": statistics.median(run["accuracy"] for run in runs)}
            row |= {"rate": statistics.median(rates), "least": min(rates), "most": max(rates)}
            row["wall_rate"] = statistics.median(run["jobs"] / run["wall_seconds"] for run in runs)
            rows.append(row)
    return sorted(rows, key=lambda row: (row["mode"], -row["rate"]))
