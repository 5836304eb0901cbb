"""Lesson on synthesis: what it computes, and that its checks name the mistake."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import small
from torch.nn import functional as F

from fedrevive_core.records.synthesis_trace import Trace
from fedrevive_core.revival.losses import kl_divergence
from fedrevive_core.simulation.synthesis_trace import trace_grid
from lessons import synthesis as lesson


@pytest.fixture(scope="module")
def watched() -> lesson.Watched:
    """With enough clients to hold more images than were held out."""
    return lesson.watch(small("fedrevive", federation__num_clients=120), [6, 12])


def test_a_watched_run_keeps_the_starts_of_synthesis(watched: lesson.Watched) -> None:
    assert [start.version for start in watched.starts] == [6, 12]
    assert watched.initial.version == 12
    first, last = (next(m.generator.parameters()) for m in (watched.initial, watched.starts[-1]))
    assert not torch.equal(first, last)


def test_wanted_probability_weighs_teachers() -> None:
    """Two teachers, one image of class 1: 0.25 * 0.8 + 0.75 * 0.4 = 0.5; the student has no say."""
    votes = np.array([[0.2, 0.8], [0.6, 0.4], [0.0, 1.0]])[None, :, None]
    proportions = np.array([[0.9, 0.1], [0.7, 0.3]])
    trace = Trace(0, np.array([1]), np.zeros((1, 1, 1, 4, 4)), np.zeros((1, 3)), votes, (4, 5), proportions)
    assert lesson.wanted_probability(trace) == pytest.approx([0.5])


def test_measures_by_hand() -> None:
    p, q = np.array([[0.5, 0.5, 0.0]]), np.array([[0.2, 0.5, 0.3]])
    assert lesson.total_variation(p, q) == pytest.approx([0.3])
    images = np.zeros((4, 1, 2, 2), dtype=np.uint8)
    images[1] = 255  # one from the other in class 0; nothing in class 1
    assert lesson.diversity(images, np.array([0, 0, 1, 1])) == pytest.approx(0.5)


def test_the_privacy_test_sees_copies(watched: lesson.Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """An honest pool is one split among others; a pool of training images is not."""
    monkeypatch.setattr(lesson, "COPIED", 1.0)
    found = lesson.neighbours(watched, num_images=64, shown=3, num_splits=60)
    assert found.p_copied == pytest.approx(1 / 61)
    assert 1 / 61 < found.p_value <= 1
    assert found.to_train.shape == found.to_held_out.shape == (64,)
    assert found.images.shape == found.matches.shape == (3, 8, 8)
    assert "copies of training images" in lesson.privacy_in_words(found)


def test_figures_are_made(watched: lesson.Watched) -> None:
    grid = trace_grid(watched.simulation, watched.starts, steps=3, images_per_class=2)
    (pool,) = lesson.plot_pool(watched).axes
    assert [len(pool.get_yticks()), len(pool.get_xticks())] == [3, 10]
    assert pool.images[0].get_array().shape == (3 * 9 - 1, 10 * 9 - 1, 3)
    assert len(lesson.plot_ablation(grid, 2).axes) == 3
    assert "correlation" in lesson.plot_proportions(watched.simulation).axes[0].get_title(loc="left")
    generators = lesson.compare_generators(watched, 2, 3)
    assert list(generators) == ["meta-learned, 2 steps", "new each time, 2 steps", "new each time, 3 steps"]
    assert len(lesson.plot_generators(watched, generators).axes) == 4
    assert lesson.plot_neighbours(lesson.neighbours(watched, 64, 4, 5)).axes


def label_loss(
    weigh: Callable = lambda q: q / q.sum(dim=0), scale: float = 1, squash: bool = False
) -> Callable[..., torch.Tensor]:
    def answer(logits: torch.Tensor, labels: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        logits = logits.softmax(dim=2) if squash else logits
        each = torch.stack([F.cross_entropy(one, labels, reduction="none") for one in logits])
        return scale * (weigh(q)[:, labels] * each).sum() / len(labels)

    return answer


LABEL = {
    "has no influence": label_loss(),
    "counts equally": label_loss(lambda q: torch.ones_like(q) / len(q)),
    "counts fully": label_loss(torch.ones_like),
    "q_m(y) itself": label_loss(lambda q: q),
    "sum over samples": label_loss(scale=5),
    "number of teachers too": label_loss(scale=1 / 3),
    "gave it probabilities": label_loss(squash=True),
}


def norm(vector: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(vector)


def statistics(x: torch.Tensor, correction: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), correction=correction)


FEATURE = {
    "Two norms per probe": lambda x, m, v: norm(statistics(x)[0] - m) + norm(statistics(x)[1] - v),
    "yours is unbiased": lambda x, m, v: norm(statistics(x)[0] - m) + norm(statistics(x, 1)[1] - v),
    "squared norms": lambda x, m, v: norm(statistics(x)[0] - m) ** 2 + norm(statistics(x)[1] - v) ** 2,
    "mean squared error": lambda x, m, v: F.mse_loss(statistics(x)[0], m) + F.mse_loss(statistics(x)[1], v),
    "absolute differences": lambda x, m, v: (
        F.l1_loss(statistics(x)[0], m, reduction="sum") + F.l1_loss(statistics(x)[1], v, reduction="sum")
    ),
    "standard deviations": lambda x, m, v: norm(statistics(x)[0] - m) + norm(statistics(x)[1].sqrt() - v.sqrt()),
    "variance's term is missing": lambda x, m, v: norm(statistics(x)[0] - m),
    "to which the probes are reset": lambda x, m, v: norm(statistics(x)[0]) + norm(statistics(x)[1] - 1),
    "could not be used": lambda x, m, v: norm(x.mean(dim=0) - m),
}


def agree(t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    return t.argmax(dim=1) == s.argmax(dim=1)


ADVERSARIAL = {
    "sure in a way the student is not": lambda t, s, w: -(w * agree(t, s) * kl_divergence(t, s)).mean(),
    "has the wrong direction": lambda t, s, w: -(w * agree(t, s) * kl_divergence(s, t)).mean(),
    "so there is a minus": lambda t, s, w: (w * agree(t, s) * kl_divergence(t, s)).mean(),
    "Two mistakes": lambda t, s, w: (w * agree(t, s) * kl_divergence(s, t)).mean(),
    "forgot the condition": lambda t, s, w: -(w * kl_divergence(t, s)).mean(),
    "condition is reversed": lambda t, s, w: -(w * ~agree(t, s) * kl_divergence(t, s)).mean(),
    "forgot the teacher weights": lambda t, s, w: -(agree(t, s) * kl_divergence(t, s)).mean(),
    "on which they agree; the loss": lambda t, s, w: -(w * agree(t, s) * kl_divergence(t, s)).sum() / agree(t, s).sum(),
    "sum over samples": lambda t, s, w: -(w * agree(t, s) * kl_divergence(t, s)).sum(),
    "averaged over classes": lambda t, s, w: -(w * agree(t, s) * kl_divergence(t, s)).mean() / 3,
}
PROPORTIONS = {
    "No data were needed": lambda m, x, T: (m.eval()(x) / T).softmax(dim=1).mean(dim=0),
    "was in training mode": lambda m, x, T: (m(x) / T).softmax(dim=1).mean(dim=0),
    "forgot to divide the logits by T": lambda m, x, T: m.eval()(x).softmax(dim=1).mean(dim=0),
    "multiplied the logits by T": lambda m, x, T: (m.eval()(x) * T).softmax(dim=1).mean(dim=0),
    "averaged the logits first": lambda m, x, T: (m.eval()(x).mean(dim=0) / T).softmax(dim=0),
    "hard votes": lambda m, x, T: torch.bincount(m.eval()(x).argmax(dim=1), minlength=3) / len(x),
    "divided the probabilities": lambda m, x, T: m.eval()(x).softmax(dim=1).mean(dim=0) / T,
    "runs over inputs": lambda m, x, T: (m.eval()(x) / T).softmax(dim=0).mean(dim=0),
    "shape (64, 3), not (3,)": lambda m, x, T: (m.eval()(x) / T).softmax(dim=1),
}
CHECKS = {
    lesson.check_label_loss: LABEL,
    lesson.check_feature_loss: FEATURE,
    lesson.check_adversarial_loss: ADVERSARIAL,
    lesson.check_proportions: PROPORTIONS,
}


@pytest.mark.parametrize(("check", "words"), [(check, words) for check, answers in CHECKS.items() for words in answers])
def test_checks_name_the_mistake(check: Callable, words: str) -> None:
    verdict = check(CHECKS[check][words])
    assert words in verdict.message, verdict
    assert verdict.kind == ("right" if words == next(iter(CHECKS[check])) else "wrong")


@pytest.mark.parametrize("check", CHECKS)
def test_an_exercise_without_an_answer_is_open(check: Callable) -> None:
    assert check(None).kind == "open"
