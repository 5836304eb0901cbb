"""Lesson on synthesis: what it computes, and that its checks name the mistake."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import small
from torch.nn import functional as F
from verdicts import Answers, cases, judge

from fedrevive_core.models import channel_statistics
from fedrevive_core.records.synthesis_trace import Trace
from fedrevive_core.revival.losses import kl_divergence
from fedrevive_core.simulation.synthesis_trace import trace_grid
from fedrevive_notebooks.lessons import synthesis as lesson


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


def test_the_image_to_vote_on() -> None:
    """Class 1 is wanted. Teacher 4 has w = 1/4, teacher 5 has 3/4, and the student has no say.

    Image 0: both name it. Image 1 gets two names, and 0.25 * 0.1 + 0.75 * 0.8 = 0.625. Image 2 gets two names as well,
    but 0.25 * 0.9 + 0.75 * 0.1 = 0.3 is too little.
    """
    wanted = np.array([[0.9, 0.1, 0.9], [0.9, 0.8, 0.1], [1.0, 1.0, 1.0]])
    votes = np.stack([1 - wanted, wanted], axis=-1)[None]
    proportions = np.array([[0.9, 0.1], [0.7, 0.3]])
    trace = Trace(0, np.array([1, 1, 1]), np.zeros((1, 3, 1, 4, 4)), np.zeros((1, 3)), votes, (4, 5), proportions)
    assert lesson.most_names(trace) == 1
    said = lesson.votes_in_words(trace, 1, "ab")
    assert said.startswith("Client 5 has the largest weight for class b, 0.75, and gives it 80%. 1 of the 1 other")
    assert lesson.most_names(replace(trace, labels=trace.labels[1:], votes=votes[:, :, [0, 2]])) == 0
    nobody_is_sure = replace(trace, votes=np.stack([0.6 + 0.4 * (1 - wanted), 0.4 * wanted], axis=-1)[None])
    assert lesson.most_names(nobody_is_sure) == 0


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


def by_hand(logits: torch.Tensor, labels: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    total = 0
    for m in range(len(logits)):
        for b, y in enumerate(labels):
            total = total - q[m, y] / q[:, y].sum() * logits[m, b].log_softmax(dim=0)[y]
    return total / len(labels)


def without_none(logits: torch.Tensor, labels: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    w = (q / q.sum(dim=0))[:, labels]
    return sum((w[m] * F.cross_entropy(logits[m], labels)).sum() for m in range(len(logits))) / len(labels)


def without_none_stacked(logits: torch.Tensor, labels: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    each = torch.stack([F.cross_entropy(one, labels) for one in logits])
    return ((q / q.sum(dim=0))[:, labels] * each).sum() / len(labels)


def one_teacher(last: bool) -> Callable[..., torch.Tensor]:
    def answer(logits: torch.Tensor, labels: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        for m in range(len(logits)):
            w = (q / q.sum(dim=0))[m, labels]
            total = (w * F.cross_entropy(logits[m], labels, reduction="none")).sum() / len(labels)
            if not last:
                return total
        return total

    return answer


def likely(logits: torch.Tensor, labels: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    probs = logits.softmax(dim=2)[:, torch.arange(len(labels)), labels]
    return -((q / q.sum(dim=0))[:, labels] * probs).sum() / len(labels)


LABEL = Answers(
    lesson.check_label_loss,
    "has no influence",
    [label_loss(), by_hand, label_loss(lambda q: q / q.sum(dim=0, keepdim=True))],
    {
        "but not for two teachers": lambda z, y, q: 5 / len(y) * label_loss()(z, y, q),
        "counts equally": label_loss(lambda q: torch.ones_like(q) / len(q)),
        "counts fully": label_loss(torch.ones_like),
        "q_m(y) itself": label_loss(lambda q: q),
        "sum over samples": label_loss(scale=5),
        "number of teachers too": label_loss(scale=1 / 3),
        "number of classes, not": label_loss(scale=5 / 4),
        "gave it probabilities": label_loss(squash=True),
        'pass reduction="none"': without_none,
        "one number for all samples of a teacher": without_none_stacked,
        "sign is wrong": label_loss(scale=-1),
        "last teacher's part": one_teacher(last=True),
        "`return` inside the loop": one_teacher(last=False),
        "takes their logarithms": likely,
        "it is a float": lambda *given: label_loss()(*given).item(),
        "gradient by logits": lambda x, y, q: label_loss()(x.detach(), y, q) + 0 * x.sum(),
        "shape (3, 5) instead of one number": lambda x, y, q: q[:, y] * x.mean(dim=2),
        "does not know this mistake": lambda x, y, q: x.sum(),
        "axis and keepdims": lambda x, y, q: np.sum(x),
        "which imports it": eval("lambda logits, labels, q: nn.sum(logits)"),
    },
)


def norm(vector: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(vector)


def statistics(x: torch.Tensor, correction: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), correction=correction)


FEATURE = Answers(
    lesson.check_feature_loss,
    "Two norms per probe",
    [
        lambda x, m, v: norm(statistics(x)[0] - m) + norm(statistics(x)[1] - v),
        lambda x, m, v: sum(
            ((a - b) ** 2).sum().sqrt()
            for a, b in zip(statistics(x.transpose(0, 1).flatten(1)[None, :, :, None]), (m, v), strict=True)
        ),
    ],
    {
        "but not for features of another shape": lambda x, m, v: (
            norm(x.sum(dim=(0, 2, 3)) / 12 - m) + norm(statistics(x)[1] - v)
        ),
        "yours is unbiased": lambda x, m, v: norm(statistics(x)[0] - m) + norm(statistics(x, 1)[1] - v),
        "squared norms": lambda x, m, v: norm(statistics(x)[0] - m) ** 2 + norm(statistics(x)[1] - v) ** 2,
        "mean squared error": lambda x, m, v: F.mse_loss(statistics(x)[0], m) + F.mse_loss(statistics(x)[1], v),
        "absolute differences": lambda x, m, v: (
            F.l1_loss(statistics(x)[0], m, reduction="sum") + F.l1_loss(statistics(x)[1], v, reduction="sum")
        ),
        "standard deviations": lambda x, m, v: norm(statistics(x)[0] - m) + norm(statistics(x)[1].sqrt() - v.sqrt()),
        "You took standard": lambda x, m, v: norm(statistics(x)[0] - m) + norm(x.std(dim=(0, 2, 3)) - v),
        "variance's term is missing": lambda x, m, v: norm(statistics(x)[0] - m),
        "mean's term is missing": lambda x, m, v: norm(statistics(x)[1] - v),
        "to which the probes are reset": lambda x, m, v: norm(statistics(x)[0]) + norm(statistics(x)[1] - 1),
        "one norm of both": lambda x, m, v: norm(torch.cat([statistics(x)[0] - m, statistics(x)[1] - v])),
        "over the batch alone": lambda x, m, v: (
            norm(x.mean(0) - m.view(4, 1, 1)) + norm(x.var(0, correction=0) - v.view(4, 1, 1))
        ),
        "norms are averaged": lambda x, m, v: (norm(statistics(x)[0] - m) + norm(statistics(x)[1] - v)) / 2,
        "sum of norms": lambda x, m, v: -norm(statistics(x)[0] - m) - norm(statistics(x)[1] - v),
        "add them": lambda x, m, v: norm(statistics(x)[0] - m) - norm(statistics(x)[1] - v),
        "Two shapes do not fit": lambda x, m, v: norm(x.mean(dim=0) - m),
        "no such dimension": lambda x, m, v: norm(x.mean(dim=(0, 2, 4)) - m),
        "it is a float": lambda x, m, v: float(norm(statistics(x)[0] - m) + norm(statistics(x)[1] - v)),
        "gradient by x": lambda x, m, v: norm(statistics(x)[0] - m) + norm(statistics(x)[1].detach() - v),
    },
)


def agree(t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    return t.argmax(dim=1) == s.argmax(dim=1)


def probabilities(t: torch.Tensor, s: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    total = sum(
        w[b] * (t[b].softmax(0) * (t[b].softmax(0) / s[b].softmax(0)).log()).sum()
        for b in range(len(w))
        if t[b].argmax() == s[b].argmax()
    )
    return -total / len(w)


ADVERSARIAL = Answers(
    lesson.check_adversarial_loss,
    "sure in a way the student is not",
    [lambda t, s, w: -(w * agree(t, s) * kl_divergence(t, s)).mean(), probabilities],
    {
        "but not for five classes": lambda t, s, w: -(w * agree(t, s) * kl_divergence(t, s)).sum() / 8,
        "has the wrong direction": lambda t, s, w: -(w * agree(t, s) * kl_divergence(s, t)).mean(),
        "so there is a minus": lambda t, s, w: (w * agree(t, s) * kl_divergence(t, s)).mean(),
        "Two mistakes": lambda t, s, w: (w * agree(t, s) * kl_divergence(s, t)).mean(),
        "forgot the condition": lambda t, s, w: -(w * kl_divergence(t, s)).mean(),
        "condition is reversed": lambda t, s, w: -(w * ~agree(t, s) * kl_divergence(t, s)).mean(),
        "forgot the teacher weights": lambda t, s, w: -(agree(t, s) * kl_divergence(t, s)).mean(),
        "forgot two things": lambda t, s, w: -kl_divergence(t, s).mean(),
        "on which they agree; the loss": lambda t, s, w: (
            -(w * agree(t, s) * kl_divergence(t, s)).sum() / agree(t, s).sum()
        ),
        "sum over samples": lambda t, s, w: -(w * agree(t, s) * kl_divergence(t, s)).sum(),
        "averaged over classes": lambda t, s, w: -(w * agree(t, s) * kl_divergence(t, s)).mean() / 3,
        "divergence is missing": lambda t, s, w: -(w * agree(t, s)).mean(),
        "their difference": lambda t, s, w: (w * agree(t, s) * -(t.softmax(1) * s.log_softmax(1)).sum(1)).mean(),
        "student's *log*": lambda t, s, w: (
            -(w * agree(t, s) * F.kl_div(s.softmax(1), t.softmax(1), reduction="none").sum(1)).mean()
        ),
        "sum of the weights": lambda t, s, w: -(w * agree(t, s) * kl_divergence(t, s)).sum() / w.sum(),
        "never raw logits": lambda t, s, w: -(w * agree(t, s) * F.kl_div(s, t, reduction="none").sum(1)).mean(),
        "it is a float": lambda t, s, w: -(w * agree(t, s) * kl_divergence(t, s)).mean().item(),
        "gradient by teacher": lambda t, s, w: -(w * agree(t, s) * kl_divergence(t.detach(), s)).mean() + 0 * t.sum(),
        "look at one value": lambda t, s, w: -kl_divergence(t, s).mean() if agree(t, s) else 0,
        "shape (8,) instead of one number": lambda t, s, w: -(w * agree(t, s) * kl_divergence(t, s)),
    },
)


def with_copy(model: torch.nn.Module, noise: torch.Tensor, T: float) -> torch.Tensor:
    with torch.no_grad():
        return sum((copy.deepcopy(model).eval()(one[None]) / T).softmax(dim=1)[0] for one in noise) / len(noise)


PROPORTIONS = Answers(
    lesson.check_proportions,
    "No data were needed",
    [lambda m, x, T: (m.eval()(x) / T).softmax(dim=1).mean(dim=0), with_copy],
    {
        "but not for five classes": lambda m, x, T: (m.eval()(x) / 0.8).softmax(dim=1).mean(dim=0),
        "was in training mode": lambda m, x, T: (m(x) / T).softmax(dim=1).mean(dim=0),
        "forgot to divide the logits by T": lambda m, x, T: m.eval()(x).softmax(dim=1).mean(dim=0),
        "multiplied the logits by T": lambda m, x, T: (m.eval()(x) * T).softmax(dim=1).mean(dim=0),
        "averaged before the softmax": lambda m, x, T: (m.eval()(x).mean(dim=0) / T).softmax(dim=0),
        "hard votes": lambda m, x, T: torch.bincount(m.eval()(x).argmax(dim=1), minlength=3) / len(x),
        "sum over inputs": lambda m, x, T: (m.eval()(x) / T).softmax(dim=1).sum(dim=0),
        "divided the probabilities": lambda m, x, T: m.eval()(x).softmax(dim=1).mean(dim=0) / T,
        "runs over inputs": lambda m, x, T: (m.eval()(x) / T).softmax(dim=0).mean(dim=0),
        "the softmax is missing": lambda m, x, T: m.eval()(x).mean(dim=0),
        "logarithms of probabilities": lambda m, x, T: (m.eval()(x) / T).log_softmax(dim=1).mean(dim=0),
        "the same share": lambda m, x, T: torch.ones(3) / 3,
        "average the probabilities": lambda m, x, T: (m.eval()(x.mean(0, keepdim=True)) / T).softmax(dim=1)[0],
        "shape (64, 3), not (3,)": lambda m, x, T: (m.eval()(x) / T).softmax(dim=1),
        "has shape (64,)": lambda m, x, T: (m.eval()(x) / T).softmax(dim=1).mean(dim=1),
        "is no function": lambda m, x, T: m.training(x),
    },
)


@pytest.mark.parametrize(("table", "answer", "kind", "words"), cases(LABEL, FEATURE, ADVERSARIAL, PROPORTIONS))
def test_verdicts(table: Answers, answer: object, kind: str, words: str) -> None:
    judge(table, answer, kind, words)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_is_praised_is_true(seed: int) -> None:
    """Who never saw a class has no influence; 0 where statistics or answers agree, and negative where one is surer."""
    rng = torch.Generator().manual_seed(seed)
    logits, labels = torch.randn(2, 6, 3, generator=rng), torch.tensor([0, 1, 2, 2, 1, 0])
    q = torch.rand(2, 3, generator=rng)
    q[0, 1] = 0
    changed = logits.clone()
    changed[0, labels == 1] += 5 * torch.randn(2, 3, generator=rng)  # of the teacher without class 1
    for answer in LABEL.right:
        assert float(answer(logits, labels, q)) == pytest.approx(float(answer(changed, labels, q)))
    x = torch.randn(4, 3, 2, 2, generator=rng)
    for answer in FEATURE.right:
        assert float(answer(x, *channel_statistics(x))) == pytest.approx(0, abs=1e-5)
    for answer in ADVERSARIAL.right:
        assert float(answer(logits[0], logits[0], torch.ones(6))) == pytest.approx(0, abs=1e-6)
        assert float(answer(logits[0], 0.5 * logits[0], torch.ones(6))) < 0
