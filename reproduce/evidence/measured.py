"""What docs/RESULTS.md says that is measured rather than read from records."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import numpy as np

from fedrevive_core.config import build
from fedrevive_core.models import Executor
from fedrevive_core.simulation import Simulation, num_threads
from fedrevive_core.training import Job
from reproduce.benchmark.bench import flops_of
from reproduce.evidence.images import STEPS, train_judge
from reproduce.sweeps.experiment import load_experiment

PLUS = "fedrevive-plus"


def measure() -> dict[str, dict[str, float]]:
    """Compute and class proportions of three methods on lab-digits, seed 0.

    flops: operations of convolutions and matrix products of a client's job, and what the server of FedRevive and of
    FedRevive-plus adds to an arrival (mean of arrivals 100 to 200, beside AFL-DW's on the same timeline). proxy: see
    `proxy_quality`, of the clients seen until then. together: test accuracy of the same network after `steps` steps on
    all clients' images together.
    """
    plus = load_experiment(PLUS).arms_at("lab")[PLUS].settings
    window, simulations = {}, {}
    with num_threads(1):
        for name, method, overrides in (
            ("afl-dw", "afl-dw", {}), ("fedrevive", "fedrevive", {}), (PLUS, "fedrevive", plus),
        ):  # fmt: skip
            simulation = simulations[name] = Simulation(build("lab-digits", method, overrides=overrides))
            simulation.trainer.executor = Executor("single")  # the counter does not see through vmap's operators
            steps = simulation.steps()
            _advance(steps, 100)
            window[name] = flops_of(functools.partial(_advance, steps, 100))
        trainer, state = simulations["afl-dw"].trainer, simulations["afl-dw"].server.state
        job = flops_of(functools.partial(trainer.train, [Job(0, 0, state)]))
    added = {name: (window[name] - window["afl-dw"]) / 100 for name in ("fedrevive", PLUS)}
    revived = simulations["fedrevive"]
    assert revived.reviver is not None
    clients = sorted(revived.reviver.proportions.estimates)
    estimates = np.stack([revived.reviver.proportions.of(client) for client in clients])
    return {
        "flops": {"client_job": job, **added},
        "proxy": proxy_quality(estimates, revived.data.class_proportions[clients]),
        "together": {"steps": STEPS, "accuracy": train_judge(revived.config).accuracy},
    }


def proxy_quality(estimates: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """How near estimated class proportions (M, C) are to the `true` ones of the same clients (M, C).

    distance: mean total variation, 0 (equal) to 1; to_others: of an estimate from all other clients' true ones;
    of_uniform: of equal shares from the true ones; largest: share of clients whose largest class is guessed right.
    """

    def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.abs(a - b).sum(axis=-1) / 2

    every = distance(estimates[:, None], true[None])  # (M, M)
    others = every[~np.eye(len(true), dtype=bool)]
    return {
        "clients": len(true),
        "distance": float(every.diagonal().mean()),
        "to_others": float(others.mean()),
        "of_uniform": float(distance(np.full_like(true, 1 / true.shape[1]), true).mean()),
        "largest": float((estimates.argmax(axis=1) == true.argmax(axis=1)).mean()),
    }


def _advance(steps: Iterator[bool], count: int) -> None:
    for _ in itertools.islice(steps, count):
        pass
