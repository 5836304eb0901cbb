"""The pool of samples to distil on, and the guard that leaves exploding losses out."""

from __future__ import annotations

import math
from collections import Counter, deque

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrevive_core.revival.losses import LossGuard
from fedrevive_core.revival.pool import SamplePool, occurrence

CPU = torch.device("cpu")


def filled(labels: list[int], capacity: int | None = None, num_classes: int = 4) -> SamplePool:
    """A pool in which sample n, the n-th added, has the single value n."""
    pool = SamplePool(capacity or len(labels), (1,), num_classes, CPU)
    for number, label in enumerate(labels):
        pool.add(torch.tensor([[float(number)]]), np.array([label]))
    return pool


# -------------------------------------------------------------------------------------------------------- the pool


def test_the_oldest_leave_a_full_pool() -> None:
    """Capacity 5; batches of 2: 0 1, 2 3, 4 5 (0 leaves), 6 7 (1 and 2 leave)."""
    pool = SamplePool(5, (2, 1, 1), 10, CPU)
    assert len(pool) == 0
    held = []
    for first in (0, 2, 4, 6):
        numbers = torch.tensor([first, first + 1.0])
        pool.add(numbers.view(2, 1, 1, 1).expand(2, 2, 1, 1), np.array([first, first + 1]))
        held.append(sorted(pool.newest(99)[1].tolist()))
    assert held == [[0, 1], [0, 1, 2, 3], [1, 2, 3, 4, 5], [3, 4, 5, 6, 7]]
    assert len(pool) == 5
    assert pool.samples.shape == (5, 2, 1, 1)
    assert pool.samples[:, 1, 0, 0].tolist() == pool.labels.tolist() == [5, 6, 7, 3, 4]


def test_a_batch_as_large_as_the_pool_replaces_everything() -> None:
    pool = filled([0, 1, 2])
    pool.add(torch.tensor([[10.0], [11], [12]]), np.array([3, 3, 3]))
    samples, labels = pool.newest(3)
    assert samples[:, 0].tolist() == [12, 11, 10]
    assert labels.tolist() == [3, 3, 3]


def test_newest_come_newest_first_and_are_copies() -> None:
    pool = filled([0, 1, 2, 3, 0, 1, 2], capacity=4)
    samples, labels = pool.newest(3)
    assert samples[:, 0].tolist() == [6, 5, 4]
    assert labels.tolist() == [2, 1, 0]
    assert pool.newest(9)[0][:, 0].tolist() == [6, 5, 4, 3]
    samples.zero_()
    assert pool.newest(3)[0][:, 0].tolist() == [6, 5, 4]


def test_what_is_added_is_copied_and_not_modified() -> None:
    pool, samples, labels = SamplePool(3, (1,), 2, CPU), torch.tensor([[1.0], [2.0]]), np.array([0, 1])
    pool.add(samples, labels)
    samples.zero_()
    labels[:] = 0
    assert pool.newest(2)[0][:, 0].tolist() == [2, 1]
    assert pool.newest(2)[1].tolist() == [1, 0]


def test_drawn_labels_follow_the_proportions() -> None:
    """Chi-square of 8,000 draws over four classes: 16.3 is exceeded once in a thousand times."""
    pool = filled([0] * 70 + [1] * 20 + [2] * 5 + [3] * 5)
    proportions = np.array([0.1, 0.2, 0.3, 0.4])
    slots = pool.sample(proportions, 8000, np.random.default_rng(0))
    observed = np.bincount(pool.labels[slots], minlength=4)
    assert ((observed - 8000 * proportions) ** 2 / (8000 * proportions)).sum() < 16.3


def test_within_a_class_everybody_is_equally_likely_and_the_order_is_random() -> None:
    pool, rng = filled([0] * 10 + [1] * 10), np.random.default_rng(0)
    draws = np.stack([pool.sample(np.array([0.5, 0.5, 0, 0]), 8, rng) for _ in range(2000)])
    assert np.abs(np.bincount(draws.flatten(), minlength=20) / 800 - 1).max() < 0.2
    # Each place holds either class equally often: labels do not come in blocks.
    assert np.abs(pool.labels[draws].mean(axis=0) - 0.5).max() < 0.05


@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    weights=st.tuples(*[st.integers(0, 5)] * 4).filter(any),
    count=st.integers(1, 80),
    seed=st.integers(0, 999),
)
@settings(max_examples=100, deadline=None)
def test_properties_of_draws(labels: list[int], weights: tuple[int, ...], count: int, seed: int) -> None:
    """Nothing repeats while a class has enough, and repeats are even; only absent classes are replaced by others."""
    pool = filled(labels, capacity=max(1, len(labels) - 5))
    held = Counter(pool.newest(len(pool))[1].tolist())
    proportions = np.array(weights) / sum(weights)
    slots, again = (pool.sample(proportions, count, np.random.default_rng(seed)) for _ in range(2))
    assert np.array_equal(slots, again)
    assert slots.shape == (count,)
    assert ((slots >= 0) & (slots < len(pool))).all()
    if all(held[y] for y in range(4) if weights[y]):
        drawn = Counter(pool.labels[slots].tolist())
        assert all(weights[y] for y in drawn)
        times = Counter(slots.tolist())
        for y, number in drawn.items():
            of_class = [times[slot] for slot in range(len(pool)) if pool.labels[slot] == y]
            assert max(of_class) - min(of_class) <= 1
            assert max(of_class) == math.ceil(number / held[y])


def test_a_class_that_is_not_there_is_replaced_by_any_sample() -> None:
    pool = filled([0] * 30 + [1] * 10)
    slots = pool.sample(np.array([0, 0, 0, 1.0]), 4000, np.random.default_rng(0))
    assert (pool.labels[slots] == 0).mean() == pytest.approx(0.75, abs=0.03)
    assert len(set(slots.tolist())) == 40
    mixed = pool.sample(np.array([0, 0.5, 0, 0.5]), 4000, np.random.default_rng(0))
    assert (pool.labels[mixed] == 1).mean() == pytest.approx(0.5 + 0.5 * 0.25, abs=0.03)


def test_only_the_filled_part_of_the_pool_is_drawn() -> None:
    """Empty slots carry label 0 in memory; they must not pass for samples of class 0."""
    pool = filled([1, 2, 1], capacity=50)
    slots = pool.sample(np.array([0.9, 0.1, 0, 0]), 500, np.random.default_rng(0))
    assert set(slots.tolist()) == {0, 1, 2}


def test_an_empty_pool_has_nothing_to_draw() -> None:
    pool = SamplePool(5, (1,), 2, CPU)
    with pytest.raises(ValueError, match="the pool is empty"):
        pool.sample(np.array([0.5, 0.5]), 3, np.random.default_rng(0))
    assert pool.newest(4)[0].shape == (0, 1)


@given(values=st.lists(st.integers(0, 5)))
def test_occurrence_counts_equal_values_before(values: list[int]) -> None:
    expected = [values[:place].count(value) for place, value in enumerate(values)]
    assert occurrence(np.array(values, dtype=np.int64)).tolist() == expected


def test_occurrence_by_hand() -> None:
    assert occurrence(np.array([3, 5, 3, 3])).tolist() == [0, 0, 1, 2]


# ------------------------------------------------------------------------------------------------------- the guard


class SlowGuard:
    """One loss term: the last 20 accepted values in a list."""

    def __init__(self) -> None:
        self.window: deque[float] = deque(maxlen=20)

    def accept(self, value: float) -> bool:
        if math.isnan(value) or math.isinf(value):
            return False
        if len(self.window) >= 10:
            mean = sum(self.window) / len(self.window)
            if mean > 0 and value > 3 * mean:
                return False
        self.window.append(value)
        return True


def verdicts(guard: LossGuard, values: list[float]) -> list[bool]:
    """What a guard of one term says about `values`, one after the other."""
    return [bool(guard.accept(torch.tensor([value]))[0]) for value in values]


def test_the_guard_waits_for_ten_values() -> None:
    assert verdicts(LossGuard(1, CPU), [1.0] * 9 + [1000.0]) == [True] * 10
    assert verdicts(LossGuard(1, CPU), [1.0] * 10 + [1000.0]) == [True] * 10 + [False]


def test_three_times_the_mean_is_the_limit() -> None:
    assert verdicts(LossGuard(1, CPU), [1.0] * 10 + [3.001, 3.0]) == [True] * 10 + [False, True]


def test_a_rejected_value_does_not_enter_the_window() -> None:
    """Ten ones, then 3.5 again and again: were it remembered, the mean would rise and it would pass."""
    assert verdicts(LossGuard(1, CPU), [1.0] * 10 + [3.5] * 30) == [True] * 10 + [False] * 30


def test_only_the_last_twenty_count() -> None:
    """Twenty tens and twenty ones: the tens are forgotten, so 4 is too much; one earlier it is not."""
    assert verdicts(LossGuard(1, CPU), [10.0] * 20 + [1.0] * 20 + [4.0])[-1] is False
    assert verdicts(LossGuard(1, CPU), [10.0] * 20 + [1.0] * 19 + [4.0])[-1] is True


def test_values_that_are_not_finite_are_rejected_from_the_start() -> None:
    values = [math.nan, math.inf, -math.inf, 1.0]
    assert verdicts(LossGuard(1, CPU), values) == [False, False, False, True]
    # They do not count towards the ten either, nor spoil the mean.
    assert verdicts(LossGuard(1, CPU), [math.nan] * 10 + [1.0] * 9 + [50.0])[-1] is True
    assert verdicts(LossGuard(1, CPU), [1.0] * 10 + [math.nan, math.inf, 2.0, 50.0]) == [True] * 10 + [
        False,
        False,
        True,
        False,
    ]


def test_a_negative_loss_is_never_too_large() -> None:
    assert all(verdicts(LossGuard(1, CPU), [-1.0] * 15 + [-0.001, 5.0, -1e9]))
    assert all(verdicts(LossGuard(1, CPU), [0.0] * 15 + [7.0]))


@given(seed=st.integers(0, 9999), num_terms=st.integers(1, 4), wild=st.floats(0, 0.5))
@settings(max_examples=40, deadline=None)
def test_the_guard_agrees_with_a_slow_one(seed: int, num_terms: int, wild: float) -> None:
    """Log-normal losses of either sign, now and then not finite or a hundred times larger; sometimes fewer terms."""
    rng = np.random.default_rng(seed)
    guard, slow = LossGuard(num_terms, CPU), [SlowGuard() for _ in range(num_terms)]
    signs = rng.choice([1, 1, -1], num_terms)
    for _ in range(90):
        values = (signs * rng.lognormal(0, 0.8, num_terms)).astype(np.float32)
        odd = rng.random(num_terms) < wild
        values[odd] = rng.choice([math.nan, math.inf, -math.inf, 100, -100, 0, 1e30], odd.sum())
        values = values[: rng.integers(1, num_terms + 1)]
        found = guard.accept(torch.from_numpy(values))
        assert found.dtype == torch.bool
        assert found.tolist() == [one.accept(float(value)) for one, value in zip(slow, values, strict=False)]


def test_terms_have_windows_of_their_own() -> None:
    guard = LossGuard(2, CPU)
    for _ in range(10):
        guard.accept(torch.tensor([1.0, 100.0]))
    assert guard.accept(torch.tensor([50.0, 50.0])).tolist() == [False, True]
    assert guard.accept(torch.tensor([50.0])).tolist() == [False]


def test_a_guard_that_is_switched_off_lets_everything_pass() -> None:
    guard = LossGuard(1, CPU, enabled=False)
    assert all(verdicts(guard, [1.0] * 15 + [1e9, math.nan, math.inf]))


def test_the_guard_keeps_neither_graph_nor_input() -> None:
    guard, value = LossGuard(1, CPU), torch.tensor([2.0], requires_grad=True)
    verdict = guard.accept(value * 1)
    assert not verdict.requires_grad
    assert not guard.window.requires_grad
    assert value.item() == 2
