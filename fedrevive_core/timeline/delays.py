"""Random sources of a timeline: how long jobs last and which faults they have, drawn in blocks."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from itertools import chain, repeat
from typing import Any

import numpy as np

from fedrevive_core.config import FAULTS, Delay, FaultsConfig, FederationConfig
from fedrevive_core.seeding import stream

# Draws are made in blocks of this size: a random stream per arrival would cost more than the simulation.
BLOCK = 8192


def delay_draws(federation: FederationConfig, seed: int) -> tuple[np.ndarray, Callable[[int], float]]:
    """Expected job duration of each client (N,), and a function that draws the duration of a client's next job."""
    draws = stream(seed, "clients")
    parts = (federation.schedule.training, federation.schedule.download, federation.schedule.upload)
    means = [draws.choice(delay.means, size=federation.num_clients, p=delay.odds) for delay in parts]
    of_client = [array("d", mean.tobytes()) for mean in means]
    factors = [_factor(delay, stream(seed, "delays", part)) for part, delay in enumerate(parts)]
    (train, download, upload), (train_mean, download_mean, upload_mean) = factors, of_client

    def duration(client: int) -> float:
        return train(train_mean[client]) + download(download_mean[client]) + upload(upload_mean[client])

    return np.sum(means, axis=0), duration


def fault_draws(faults: FaultsConfig, seed: int) -> tuple[Callable[[], int], Callable[[], float]]:
    """Functions that draw the code of the next job's fault, and the share of a job that is done at a crash."""
    codes, shares = stream(seed, "faults", 0), stream(seed, "faults", 1)
    return blocks(lambda size: fault_codes(faults, codes.random(size))), blocks(shares.random)


def _factor(delay: Delay, draws: np.random.Generator) -> Callable[[float], float]:
    """A function that draws one duration, given a client's mean."""
    if delay.kind == "constant":
        return lambda mean: mean
    if delay.kind == "uniform":
        offset = blocks(lambda size: draws.uniform(-delay.half_width, delay.half_width, size))
        return lambda mean: mean + offset()
    if delay.kind == "exponential":
        factor = blocks(draws.standard_exponential)
    elif delay.kind == "lognormal":
        sigma = delay.sigma
        factor = blocks(lambda size: np.exp(sigma * draws.standard_normal(size) - sigma**2 / 2))
    else:  # the shortest is (shape - 1) / shape of the mean; NumPy draws how much longer than the shortest
        shape = delay.shape
        factor = blocks(lambda size: (shape - 1) / shape * (1 + draws.pareto(shape, size)))
    return lambda mean: mean * factor()


def blocks(draw: Callable[[int], np.ndarray]) -> Callable[[], Any]:
    """A function that returns the next value of an endless sequence, drawn in blocks by `draw(size)`."""
    return chain.from_iterable(draw(BLOCK).tolist() for _ in repeat(None)).__next__


def fault_codes(faults: FaultsConfig, uniform: np.ndarray) -> np.ndarray:
    """Codes of faults (indices into FAULTS), one for each number of `uniform` in [0, 1); same shape."""
    reached = np.searchsorted(np.cumsum(faults.probabilities), uniform, side="right")
    return (reached + 1) % len(FAULTS)
