"""Lesson on stale updates: what it computes, and that its checks name the mistake."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import small
from torch.nn import functional as F
from verdicts import Answers, cases, judge

from fedrevive_core import build, simulate_timeline
from fedrevive_core.config.run import StalenessConfig
from fedrevive_core.timeline.timeline import Timeline
from fedrevive_notebooks.lessons import stale_updates as lesson
from fedrevive_notebooks.lessons import valley


@pytest.fixture(scope="module")
def measured() -> lesson.Measured:
    torch.set_num_threads(1)
    simulation, snapshots = lesson.run_with_snapshots(small("afl-dw", federation__max_versions=10))
    assert len(snapshots) == 11
    return lesson.measure(simulation, snapshots, [8, 10], [0, 4, 8], 6)


@pytest.fixture(scope="module")
def timeline() -> Timeline:
    return simulate_timeline(build("lab-digits", "afl-dw").federation, 0)


RULE = StalenessConfig(rule="cosine")


def test_fresh_jobs_are_their_own_reference(measured: lesson.Measured) -> None:
    for start in ("downloaded", "current"):
        cosine = lesson.cosines(measured, measured_from=start)
        assert cosine.shape == (2 * 6, 3)
        np.testing.assert_allclose(cosine[:, 0], 1, atol=1e-5)
    assert (measured.behind[:, 0] == 0).all()
    assert (lesson.cosines(measured)[:, 2] < 1 - 1e-4).all()
    assert (lesson.ceiling(measured) < 1).all()
    assert "staleness 8" in lesson.directions_in_words(measured, 7)


def test_returned_minus_current_is_progress_plus_the_way_back(measured: lesson.Measured) -> None:
    back = measured.updates[1, 2, 3] + measured.behind[1, 2]
    fresh = measured.updates[1, 0, 3]
    expected = torch.cosine_similarity(back, fresh, dim=0)
    assert lesson.cosines(measured, measured_from="current")[6 + 3, 2] == pytest.approx(float(expected), abs=1e-6)


def test_agreement_leaves_the_own_clients_out(measured: lesson.Measured) -> None:
    """With buffers of two, the first is compared with the mean fresh update of clients 2 to 5."""
    found = lesson.agreement(measured, 2)
    assert found.shape == (2 * 3, 3)
    stale = measured.updates[0, 1, :2].mean(dim=0)
    expected = torch.cosine_similarity(stale, measured.updates[0, 0, 2:].mean(dim=0), dim=0)
    assert found[0, 1] == pytest.approx(float(expected), abs=1e-5)


def test_measuring_refuses_what_is_not_there(measured: lesson.Measured) -> None:
    simulation, snapshots = lesson.run_with_snapshots(small("afl-dw", federation__max_versions=4))
    for at, staleness in (([4], [0, 5]), ([5], [0]), ([4], [1, 2])):
        with pytest.raises(ValueError, match="must start with 0"):
            lesson.measure(simulation, snapshots, at, staleness, 2)


def test_in_the_valley_staleness_turns_updates_round() -> None:
    fresh, stale, very_stale = (valley.descend(tau, 0.3) for tau in (0, 4, 8))
    assert valley.angles(fresh, 0).max() < 1e-3
    assert valley.angles(stale, 4).max() < 90 < valley.angles(very_stale, 8).max()
    assert valley.global_loss(very_stale[-1]) > 5 * valley.global_loss(fresh[-1])
    # Smaller steps are stable and slow.
    assert valley.global_loss(fresh[-1]) < valley.global_loss(valley.descend(8, 0.3, weight=0.5)[-1]) < 1
    assert valley.local_update(np.array(valley.START), 0) == pytest.approx(
        fresh[1] / 0.3 - np.array(valley.START) / 0.3
    )


def test_figures_are_made(measured: lesson.Measured, timeline: Timeline) -> None:
    assert len(valley.plot_paths((0, 8), 0.3).axes) == 2
    assert "129" in valley.plot_arrival(8, 39, 0.3).axes[1].get_title(loc="left")
    assert len(lesson.plot_directions(measured).axes) == 2
    assert len(lesson.plot_buffer_and_loss(measured, (1, 2)).axes) == 2
    assert len(lesson.plot_kept("lab-digits", ("fedbuff", "afl-dw"), timeline).axes[0].lines) == 2
    assert "42%" in lesson.plot_thrown_away(timeline, RULE).axes[0].get_title(loc="left")
    assert len(lesson.plot_delayed([0.1], 8).axes[0].lines) == 1


def test_what_is_thrown_away_is_the_mean_of_beta(timeline: Timeline) -> None:
    whole = StalenessConfig(rule="constant", constant=0.25)
    assert list(lesson.thrown_away(timeline, whole).values()) == pytest.approx([0.25] * 4)
    assert lesson.thrown_away(timeline, RULE)["fast"] < lesson.thrown_away(timeline, RULE)["slow"]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def unfinished(r, d, c, f):
    if len(r) > 100:
        return cosine(r - d, f)


ALIGNMENT = Answers(
    lesson.check_alignment,
    "directions only",
    [
        lambda r, d, c, f: cosine(r - d, f),
        lambda r, d, c, f: F.cosine_similarity(r - d, f, dim=0),
        lambda r, d, c, f: np.corrcoef([np.r_[r - d, d - r], np.r_[f, -f]])[0, 1],
        lambda r, d, c, f: torch.dot(r - d, f) / (torch.norm(r - d) * torch.norm(f)),
    ],
    {
        "but not for vectors of two numbers": lambda r, d, c, f: cosine(r[:6] - d, f) if len(f) == 6 else 0.0,
        "sign is wrong": lambda r, d, c, f: cosine(d - r, f),
        "from the current model": lambda r, d, c, f: cosine(r - c, f),
        "returned model itself": lambda r, d, c, f: cosine(r, f),
        "inner product": lambda r, d, c, f: (r - d) @ f,
        "the update's is missing": lambda r, d, c, f: (r - d) @ f / np.linalg.norm(f),
        "the fresh update's is missing": lambda r, d, c, f: (r - d) @ f / np.linalg.norm(r - d),
        "Put b * c in parentheses": lambda r, d, c, f: (r - d) @ f / np.linalg.norm(r - d) * np.linalg.norm(f),
        "square root": lambda r, d, c, f: (r - d) @ f / (((r - d) @ (r - d)) * (f @ f)),
        "1 minus the cosine": lambda r, d, c, f: 1 - cosine(r - d, f),
        "angle itself": lambda r, d, c, f: np.arccos(cosine(r - d, f)),
        "two models": lambda r, d, c, f: cosine(r, d),
        "an update already": lambda r, d, c, f: cosine(r - d, f - d),
        "does not know this mistake": lambda r, d, c, f: 0.5,
        "Two shapes do not fit": lambda r, d, c, f: (r - d) @ f[:2],
        "shape (6,) instead of one number": lambda r, d, c, f: (r - d) * f,
        "no such dimension": lambda r, d, c, f: np.sum((r - d) * f, axis=1),
        "ended without it": unfinished,
        "Your result is nan": lambda r, d, c, f: np.log(cosine(d - r, f) * 0 - 1),
    },
)
STEP = Answers(
    lesson.check_largest_step,
    "twice as stale, half the step",
    [0.18, 0.1845, 2 * np.sin(np.pi / 34)],
    {
        "limit for fresh gradients": 2,
        "positive": 0,
        "is positive; with": -0.1,
        "exceeds a million": 0.4,
        "exceeds": 100,
        "and growing": 0.186,
        "a larger step does too": 0.1,
        "0.125 converges": 1 / 8,
        "after": 2 / 9,
        "quotation marks": "0.18",
        "These are 3 values": [0.05, 0.1, 0.18],
    },
    lambda: (8,),
)
TIMELINE = simulate_timeline(build("lab-digits", "afl-dw").federation, 0)
TAU = TIMELINE.staleness[TIMELINE.arrivals]


def swing(values: np.ndarray, s_max: float) -> np.ndarray:
    return (1 - np.cos(np.pi * values / s_max)) / 2


SHARE = np.where(TAU >= 150, 1, swing(TAU, 150)).mean()
LOST = Answers(
    lesson.check_share_lost,
    "the server did not use",
    [SHARE, np.mean([1 if tau >= 150 else np.sin(np.pi * tau / 300) ** 2 for tau in TAU]), round(float(SHARE), 2)],
    {
        "the share that is kept": 1 - SHARE,
        "between 0 and 1": 100 * SHARE,
        "beta of the mean staleness": swing(TAU.mean(), 150),
        "turns back too early": swing(TAU, 75).mean(),
        "comes back down": swing(TAU, 150).mean(),
        "at s_max already": np.where(TAU >= 75, 1, swing(TAU, 75)).mean(),
        "straight line tau": np.minimum(1, TAU / 150).mean(),
        "lose something": (TAU > 0).mean(),
        "lose everything": (TAU >= 150).mean(),
        "median": np.median(np.where(TAU >= 150, 1, swing(TAU, 150))),
        "take timeline.arrivals": np.where(TIMELINE.staleness >= 150, 1, swing(TIMELINE.staleness, 150)).mean(),
        "too small": 0.05,
        "too large": 0.8,
        "no number of versions": TAU.mean(),
    },
    lambda: (TIMELINE, RULE),
)


@pytest.mark.parametrize(("table", "answer", "kind", "words"), cases(ALIGNMENT, STEP, LOST))
def test_verdicts(table: Answers, answer: object, kind: str, words: str) -> None:
    judge(table, answer, kind, words)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_share_that_is_praised_is_the_share_lost(seed: int) -> None:
    made = simulate_timeline(build("lab-digits", "afl-dw").federation, seed)
    lost = sum(1 if tau >= 150 else (1 - math.cos(math.pi * tau / 150)) / 2 for tau in made.staleness[made.arrivals])
    assert (
        f"{lost / len(made.arrivals):.1%} of" in lesson.check_share_lost(lost / len(made.arrivals), made, RULE).message
    )


@pytest.mark.parametrize("staleness", [0, 1, 8, 30])
def test_the_largest_step_is_where_swings_neither_grow_nor_die(staleness: int) -> None:
    limit = 2 * np.sin(np.pi / (4 * staleness + 2))
    assert lesson.delayed_descent(0.97 * limit, staleness, 6000)[-50:].max() < 0.1
    assert lesson.delayed_descent(1.03 * limit, staleness, 6000)[-50:].max() > 10
