"""What 03_synthesis says of its figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from claims import Claims
from fedrevive_core.records import Trace
from fedrevive_notebooks.lessons import synthesis as lesson
from reproduce.evidence.privacy import committed

ALL, WITHOUT_FEAT, WITHOUT_HOT, WITHOUT_ADV = lesson.ABLATIONS.values()


def curve(n: Any, on: tuple[bool, bool, bool], measure: Callable[[Trace], np.ndarray]) -> np.ndarray:
    """A bold curve of the figure: mean over versions of `measure`, for each step."""
    return np.mean([measure(trace) for (_, losses), trace in n.grid.items() if losses == on], axis=0)


def sure(n: Any, on: tuple[bool, bool, bool]) -> np.ndarray:
    return curve(n, on, lesson.wanted_probability)


def off(n: Any, on: tuple[bool, bool, bool]) -> np.ndarray:
    return curve(n, on, lambda trace: trace.losses[:, 0])


def made(n: Any) -> list[tuple[float, float, float, float]]:
    """Contrast, diversity, sureness, distance of statistics: of the meta-learned generator, the new one, and later."""
    return [
        (
            float((trace.images[step] / 255).std(axis=(1, 2, 3)).mean()),
            lesson.diversity(trace.images[step], trace.labels),
            float(lesson.wanted_probability(trace)[step]),
            float(trace.losses[step, 0]),
        )
        for trace, step in n.generators.values()
    ]


def real_diversity(n: Any) -> float:
    clients = n.watched.simulation.data.clients
    return lesson.diversity(clients.images[:500].mul(255).byte().numpy(), clients.labels[:500].numpy())


def nearer_than_a_guess(n: Any) -> float:
    """The share of clients whose estimated class proportions are nearer to the truth than equal ones."""
    estimated, true = lesson.estimates(n.watched.simulation)
    guess = np.full_like(true, 1 / true.shape[1])
    return float((lesson.total_variation(estimated, true) < 0.7 * lesson.total_variation(guess, true)).mean())


def found(protection: str, key: str) -> float:
    """The mean over seeds of what `privacy` measured."""
    return float(np.mean(committed()["protections"][protection][key]))


CLAIMS: Claims = {
    "the plain attack hardly beats a guess, the one with shadow jobs does clearly": lambda n: (
        found("nothing", "updates, certainty") < 0.55 and found("nothing", "updates, shadows") > 0.7
    ),
    "Neither attack on the pool finds anything": lambda n: all(
        abs(found(name, f"pool, {attack}") - 0.5) < 0.02
        for name in committed()["protections"]
        for attack in ("nearness", "shadows")
    ),
    "Clipping alone helps against nothing": lambda n: (
        all(found("clipping", key) > found("nothing", key) - 0.02 for key in ("updates, shadows", "updates, gradient"))
        and found("clipping", "labels tv, two uploads") < found("nothing", "labels tv, two uploads") + 0.02
    ),
    "the larger noise takes most of the members away": lambda n: (
        found("clipping, noise 0.05", "updates, shadows") < 0.6
        and found("clipping, noise 0.05", "updates, found") < found("nothing", "updates, found") / 3
    ),
    "what the server believes about classes stays much nearer to the truth than a guess": lambda n: (
        found("clipping, noise 0.05", "labels tv, two uploads") < 0.5 * found("nothing", "labels tv, equal shares")
    ),
    "how sure the teachers are of the wanted class stays where it began": lambda n: (
        np.abs(sure(n, WITHOUT_HOT) - sure(n, WITHOUT_HOT)[0]).max() < 0.05 < np.ptp(sure(n, ALL))
    ),
    "the teachers recognise the class as fast, but the statistics inside the networks are farther off": lambda n: (
        np.abs(sure(n, WITHOUT_FEAT) - sure(n, ALL)).max() < 0.05 and (off(n, WITHOUT_FEAT) > off(n, ALL))[1:].all()
    ),
    "almost nothing changes in the first two panels (at most 3 points or 3%)": lambda n: (
        np.abs(sure(n, WITHOUT_ADV) - sure(n, ALL)).max() < 0.03
        and np.allclose(off(n, WITHOUT_ADV), off(n, ALL), rtol=0.03)
    ),
    "After the dotted line, where the run stops, the teachers become much surer still.": lambda n: (
        sure(n, ALL)[-1] > sure(n, ALL)[n.config.synthesis.steps] + 0.05
    ),
    "for nearly all clients": lambda n: nearer_than_a_guess(n) > 0.95,
    "images with full contrast and much more variety, and its statistics are nearer to the teachers';": lambda n: (
        made(n)[0][0] > 1.3 * made(n)[1][0] and made(n)[0][1] > 1.5 * made(n)[1][1] and made(n)[0][3] < made(n)[1][3]
    ),
    "teachers recognise them *no less*": lambda n: made(n)[1][2] > made(n)[0][2] - 0.02,
    "With many more steps it overtakes on every measure except diversity": lambda n: (
        made(n)[2][0] > made(n)[0][0] - 0.02
        and made(n)[2][1] < made(n)[0][1]
        and made(n)[2][2] > made(n)[0][2]
        and made(n)[2][3] < made(n)[0][3]
    ),
    "the meta-learned images vary more than real digits do": lambda n: made(n)[0][1] > real_diversity(n),
}
