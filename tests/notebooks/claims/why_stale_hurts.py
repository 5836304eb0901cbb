"""What 02_why_stale_hurts says of its figures."""

from __future__ import annotations

from typing import Any

import numpy as np

from claims import Claims
from fedrevive_notebooks.lessons import stale_updates as lesson
from fedrevive_notebooks.lessons import valley


def same(n: Any) -> np.ndarray:
    """The blue curve of the left panel: cosine with the client's fresh update."""
    return lesson.cosines(n.measured).mean(axis=0)


def others(n: Any, buffer_size: int = 1, start: str = "downloaded") -> np.ndarray:
    """A curve of the right panel: cosine with what the other clients want."""
    return lesson.agreement(n.measured, buffer_size, measured_from=start).mean(axis=0)


def old(n: Any) -> np.ndarray:
    """Which staleness is about the usual one, or more."""
    return n.measured.staleness >= 80


def by_averaging(n: Any) -> np.ndarray:
    return others(n, 4) - others(n)


def far(n: Any, weight: float) -> float:
    """How far a path along the valley gets in 60 versions: its last parameter 1."""
    return float(valley.descend(n.valley_staleness, n.valley_lr, weight=weight)[-1, 0])


CLAIMS: Claims = {
    "On the straight part, old and new updates point the same way": lambda n: (
        valley.angles(valley.descend(8, n.valley_lr), 8)[:25].max() < 60
    ),
    'In the bend the old updates still say "down!"': lambda n: (
        valley.angles(valley.descend(8, n.valley_lr), 8)[30:60].max() > 90
    ),
    "the swings grow": lambda n: (
        valley.global_loss(valley.descend(8, n.valley_lr))[-10:].mean()
        > 5 * valley.global_loss(valley.descend(4, n.valley_lr))[-10:].mean()
    ),
    "in the same 60 versions the model gets less far": lambda n: far(n, 0.25) < far(n, 0.5),
    "One of the three steps there is too large.": lambda n: (
        [lesson.delayed_descent(step, 8)[-20:].max() > 1 for step in (0.05, 0.1, 0.4)] == [False, False, True]
    ),
    "Its stale update stays more similar to its fresh one than two random directions would be": lambda n: (
        same(n).min() > 0.2
    ),
    "Most of the loss in similarity comes within the first 40 to 80 versions.": lambda n: (
        1 - same(n)[n.measured.staleness == 80][0] > (1 - same(n).min()) / 2
    ),
    "The agreement with them is small already when an update is fresh, and little of it is left.": lambda n: (
        others(n)[0] < 0.5 and others(n)[old(n)].mean() < others(n)[0] / 2
    ),
    "Measured from the current model, the step turns *against* what the others want": lambda n: (
        others(n, start="current")[old(n)].max() < 0
    ),
    "averaging helps fresh updates much more than very stale ones": lambda n: (
        by_averaging(n)[0] > 2 * by_averaging(n)[old(n)].mean()
    ),
    "Fresh updates lower the loss at every version measured; stale ones raise it at some of them.": lambda n: (
        (n.measured.loss_change[:, 0] < 0).all() and (n.measured.loss_change[:, old(n)] > 0).any()
    ),
    "the mean staleness is close to $s_\\mathrm{max} = 75$": lambda n: np.isclose(
        n.timeline.summary()["mean_staleness"], n.config.staleness.s_max, rtol=0.05
    ),
    "the fast third loses least": lambda n: n.lost["fast"] < min(n.lost["medium"], n.lost["slow"]),
}
