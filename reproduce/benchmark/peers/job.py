"""The job that every peer does, and how it is measured. Runs in the peers' environments: plain PyTorch and NumPy.

150 clients have 60 handwritten digits each (scikit-learn's, 8x8 pixels). A client's job is 16 steps of Adam on
cross-entropy with batches of 32: eight passes through its shard (32, 28, 32, 28, ...). Asynchronous peers keep 80 jobs
in flight and make a new version of 10 updates, each divided by the root of 1 + its staleness (FedBuff); synchronous
peers train 80 clients a round (FedAvg).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from importlib.metadata import version
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn

CLIENTS, SHARD, STEPS, BATCH, LR = 150, 60, 16, 32, 3e-3
CONCURRENCY, BUFFER = 80, 10
MARK = "PEER-RESULT "


def new_model() -> nn.Module:
    """LabNet without its probes, which no peer needs: images (B, 1, 8, 8) to logits (B, 10); 13,706 parameters."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images (n, 1, 8, 8) in [0, 1] and labels (n,) to train on, and 400 of each to test on."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = torch.from_numpy(data.images[order] / 16).float().unsqueeze(1)
    labels = torch.from_numpy(data.target[order])
    return images[400:], labels[400:], images[:400], labels[:400]


def shards(labels: Tensor) -> list[list[int]]:
    """For each client, the numbers of its samples, drawn uniformly."""
    rng = np.random.default_rng(1)
    return [rng.choice(len(labels), size=SHARD, replace=False).tolist() for _ in range(CLIENTS)]


def durations() -> np.ndarray:
    """Seconds that a client takes for a job, (150,); for peers whose clients have a fixed pace."""
    return np.random.default_rng(2).exponential(1.3, size=CLIENTS) + 0.3


class Meter:
    """Measures a driver: from its process's start to `begin`, where training begins, and from there to `end`."""

    def __init__(self, package: str, mode: str) -> None:
        self.result: dict[str, Any] = {
            "package": package, "version": version(package), "mode": mode,
            "torch": torch.__version__, "python": platform.python_version(),
        }  # fmt: skip
        torch.set_num_threads(1)

    def begin(self) -> None:
        """Everything is set up; the first job comes next.

        The first step of an optimiser imports a part of PyTorch, for 4 seconds: for every package that is start-up.
        """
        parameter = torch.zeros(1, requires_grad=True)
        parameter.sum().backward()
        torch.optim.Adam([parameter]).step()
        self.result["startup_seconds"] = time.time() - psutil.Process().create_time()
        self.result["startup_cpu_seconds"] = tree_cpu_seconds()
        self.cpu, self.wall = self.result["startup_cpu_seconds"], time.perf_counter()

    def end(self, jobs: int) -> None:
        """`jobs` were trained since `begin`."""
        self.result |= {
            "jobs": jobs,
            "wall_seconds": time.perf_counter() - self.wall,
            "cpu_seconds": tree_cpu_seconds() - self.cpu,
        }

    def report(self, model: nn.Module | None) -> None:
        """Print the result with the test accuracy of `model`, and leave: what a peer left running is of no interest."""
        if model is not None:
            self.result["accuracy"] = accuracy(model)
        print("\n" + MARK + json.dumps(self.result), flush=True)
        sys.stderr.flush()
        os._exit(0)


def tree_cpu_seconds() -> float:
    """CPU time of this process, and of all its descendants, those that have ended included."""
    total = 0.0
    for process in (me := psutil.Process(), *me.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:  # it has just ended
            continue
        total += times.user + times.system + getattr(times, "children_user", 0) + getattr(times, "children_system", 0)
    return total


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """Share of the 400 test images that `model` gets right."""
    _, _, images, labels = digits()
    return float((model.eval()(images).argmax(dim=1) == labels).float().mean())


def asked() -> tuple[str, int]:
    """`async` or `sync`, and the number of versions or rounds, from the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=("async", "sync"))
    parser.add_argument("versions", type=int)
    given = parser.parse_args()
    return given.mode, given.versions
