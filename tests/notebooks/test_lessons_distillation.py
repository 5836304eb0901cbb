"""The checks of 04_distillation: the right answer, and each usual mistake by its name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lessons import distillation as lesson


@pytest.mark.parametrize("check", [lesson.check_weights, lesson.check_kd_loss, lesson.check_teacher])
def test_open(check):
    assert check(None).kind == "open"


def kd(teacher, student, T):
    teacher, student = (teacher / T).log_softmax(-1), (student / T).log_softmax(-1)
    return T**2 * (teacher.exp() * (teacher - student)).sum(-1).mean()


def torch_kl(first, second, **options):
    return F.kl_div(first.log_softmax(-1), second.softmax(-1), **options)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (kd, None),
        (lambda t, s, T: T**2 * torch_kl(s / T, t / T, reduction="sum") / (len(t) * t.shape[1]), None),
        (lambda t, s, T: kd(s, t, T), "KL(student || teacher)"),
        (lambda t, s, T: T**2 * kd(t, s, 1), "Did you divide the logits by T"),
        (lambda t, s, T: kd(t, s, 1), "no temperature"),
        (lambda t, s, T: kd(t, s, T) / T**2, "factor T^2 is missing"),
        (lambda t, s, T: kd(t, s, T) / T, "T instead of T^2"),
        (lambda t, s, T: T**2 * kd(t / T, s, 1), "Only the teacher's logits"),
        (lambda t, s, T: T**2 * kd(t, s / T, 1), "Only the student's logits"),
        (lambda t, s, T: kd(t, s, T) * t.shape[0] * t.shape[1], "divide by their number"),
        (lambda t, s, T: kd(t, s, T) * t.shape[0], "number of samples alone"),
        (lambda t, s, T: T**2 * torch_kl(s / T, t / T, reduction="batchmean"), "number of teachers alone"),
        (lambda t, s, T: T**2 * torch_kl(s / T, t / T, reduction="mean"), "also divides by the number of classes"),
        (lambda t, s, T: T**2 * -((t / T).softmax(-1) * (s / T).log_softmax(-1)).sum(-1).mean(), "cross-entropy"),
        (lambda t, s, T: -kd(t, s, T), "never negative"),
        (lambda t, s, T: 17.0, "must be 0"),
        (lambda t, s, T: 1 / 0, "ZeroDivisionError"),
    ],
)
@pytest.mark.filterwarnings("ignore:reduction")  # PyTorch warns of that mistake, too
def test_kd_loss(answer, said):
    verdict = lesson.check_kd_loss(answer)
    assert verdict.kind == ("right" if said is None else "wrong")
    assert said is None or said in verdict.message


def in_place(q):
    q /= q.sum(axis=0)
    return q


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda q: q / q.sum(axis=0), None),
        (lambda q: q / q.sum(axis=1, keepdims=True), "sum over classes"),
        (lambda q: q / q.sum(), "sum over everything"),
        (lambda q: np.full_like(q, 1 / len(q)), "same vote"),
        (lambda q: np.exp(q) / np.exp(q).sum(axis=0), "softmax"),
        (lambda q: q.mean(axis=0), "have shape (3,)"),
        (in_place, "changes q"),
        (lambda q: q * 2, "0.75"),
    ],
)
def test_weights(answer, said):
    verdict = lesson.check_weights(answer)
    assert verdict.kind == ("right" if said is None else "wrong")
    assert said is None or said in verdict.message


def asked(teacher, x):
    with torch.no_grad():
        return teacher.eval()(x)


def dropout_only(teacher, x):
    teacher.probe.eval()
    with torch.no_grad():
        return teacher(x)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (asked, None),
        (lambda teacher, x: teacher(x), "statistics have moved"),
        (dropout_only, "dropout makes its answers random"),
        (lambda teacher, x: teacher.eval()(x), "torch.no_grad()"),
        (lambda teacher, x: asked(teacher, x).softmax(dim=1), "probabilities"),
        (lambda teacher, x: asked(teacher, x).argmax(dim=1), "Return the logits"),
    ],
)
def test_teacher(answer, said):
    verdict = lesson.check_teacher(answer)
    assert verdict.kind == ("right" if said is None else "wrong")
    assert said is None or said in verdict.message


def test_weakest_class():
    shares = np.array([[0.5, 0.4, 0.1], [0.5, 0.3, 0.2]])
    scene = lesson.Scene(3, torch.zeros(1), [], [1, 2], shares, shares)
    before, after = np.array([0.9, 0.0, 0.5]), np.array([0.9, 0.4, 0.1])
    assert lesson.check_weakest(2, scene, after, before).kind == "right"
    assert "know best" in lesson.check_weakest(0, scene, after, before).message
    assert "where the student is weak now" in lesson.check_weakest(1, scene, after, before).message
