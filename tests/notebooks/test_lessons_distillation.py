"""The checks of 04_distillation: the right answer, and each usual mistake by its name."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F
from verdicts import Answers, cases, judge

from fedrevive_core.revival import teacher_weights
from fedrevive_notebooks.lessons import distillation as lesson


def kd(teacher, student, T, dim=-1):
    teacher, student = (teacher / T).log_softmax(dim), (student / T).log_softmax(dim)
    return T**2 * (teacher.exp() * (teacher - student)).sum(-1).mean()


def torch_kl(first, second, **options):
    return F.kl_div(first.log_softmax(-1), second.softmax(-1), **options)


def log_kl(first, second, T):
    return T**2 * F.kl_div(second, first.expand(3, 4, 2), reduction="sum", log_target=True) / 12


def jointly(logits, T):
    return (logits / T).softmax(-1).mean(0).log()


def first_teacher(teacher, student, T):
    for one, other in zip(teacher, student, strict=True):
        return kd(one, other, T)


KD = Answers(
    lesson.check_kd_loss,
    "zero exactly where",
    [
        kd,
        lambda t, s, T: T**2 * torch_kl(s / T, t / T, reduction="sum") / (len(t) * t.shape[1]),
        lambda t, s, T: sum(kd(one.detach(), other, T) for one, other in zip(t, s, strict=True)) / len(t),
    ],
    {
        "but not for one teacher": lambda t, s, T: 9 * kd(t, s, T) / T**2,
        "KL(student || teacher)": lambda t, s, T: kd(s, t, T),
        "T is only a factor": lambda t, s, T: T**2 * kd(t, s, 1),
        "no temperature": lambda t, s, T: kd(t, s, 1),
        "multiplied the logits": lambda t, s, T: T**4 * kd(t, s, 1 / T),
        "before the softmax": lambda t, s, T: (
            T**2 * (t.softmax(-1) / T * (t.log_softmax(-1) - s.log_softmax(-1))).sum(-1).mean()
        ),
        "factor T^2 is missing": lambda t, s, T: kd(t, s, T) / T**2,
        "T instead of T^2": lambda t, s, T: kd(t, s, T) / T,
        "divided by T^2": lambda t, s, T: kd(t, s, T) / T**4,
        "Only the teacher's logits": lambda t, s, T: T**2 * kd(t / T, s, 1),
        "Only the student's logits": lambda t, s, T: T**2 * kd(t, s / T, 1),
        "divide by their number": lambda t, s, T: kd(t, s, T) * t.shape[0] * t.shape[1],
        "number of samples alone": lambda t, s, T: kd(t, s, T) * t.shape[0],
        "number of teachers alone": lambda t, s, T: T**2 * torch_kl(s / T, t / T, reduction="batchmean"),
        "also divides by the number of classes": lambda t, s, T: T**2 * torch_kl(s / T, t / T, reduction="mean"),
        "cross-entropy": lambda t, s, T: T**2 * -((t / T).softmax(-1) * (s / T).log_softmax(-1)).sum(-1).mean(),
        "averaged the teachers' logits": lambda t, s, T: log_kl((t.mean(0) / T).log_softmax(-1), at(s, T), T),
        "logits of teachers and of student": lambda t, s, T: kd(t.mean(0), s.mean(0), T),
        "averaged the teachers' probabilities": lambda t, s, T: log_kl(jointly(t, T), at(s, T), T),
        "probabilities of teachers and of student": lambda t, s, T: (
            T**2 * (jointly(t, T).exp() * (jointly(t, T) - jointly(s, T))).sum(-1).mean()
        ),
        "softmax runs over samples": lambda t, s, T: kd(t, s, T, dim=1),
        "softmax runs over teachers": lambda t, s, T: kd(t, s, T, dim=0),
        "never negative": lambda t, s, T: -kd(t, s, T),
        "student's *log*": lambda t, s, T: (
            T**2 * F.kl_div((s / T).softmax(-1), (t / T).softmax(-1), reduction="sum") / 12
        ),
        "no power": lambda t, s, T: T ^ 2 * kd(t, s, T),
        "mean square": F.mse_loss,
        "must be 0, yours is 17": lambda t, s, T: s.sum() * 0 + 17.0,
        "must be 0, and so it is": lambda t, s, T: 5 * kd(t, s, T),
        "it is a float": lambda t, s, T: kd(t, s, T).item(),
        "no gradient (it is a Tensor)": lambda t, s, T: kd(t, s, T).detach(),
        "gradient by student_logits": lambda t, s, T: kd(t, s, T).detach() + 0 * s.sum(),
        "never raw logits": lambda t, s, T: F.kl_div(s / T, t / T, reduction="sum") * T**2 / 12,
        "NumPy cannot follow": lambda t, s, T: np.log(s),
        "shape (3, 4) instead of one number": lambda t, s, T: (t - s).sum(-1),
        "ZeroDivisionError": lambda t, s, T: 1 / 0,
        "is called with 3 arguments": lambda t, s: 0,
    },
)


def at(logits, T):
    return (logits / T).log_softmax(-1)


def in_place(q):
    q /= q.sum(axis=0)
    return q


WEIGHTS = Answers(
    lesson.check_weights,
    "share one vote",
    [
        lambda q: q / q.sum(axis=0),
        lambda q: np.array([[row[c] / sum(r[c] for r in q) for c in range(len(row))] for row in q]),
        lambda q: (q.T / q.T.sum(axis=1, keepdims=True)).T,
    ],
    {
        "but not for three teachers": lambda q: q / (q[0] + q[1]),
        "sum over classes": lambda q: q / q.sum(axis=1, keepdims=True),
        "sum over everything": lambda q: q / q.sum(),
        "same vote": lambda q: np.full_like(q, 1 / len(q)),
        "softmax over teachers": lambda q: np.exp(q) / np.exp(q).sum(axis=0),
        "softmax over classes": lambda q: np.exp(q) / np.exp(q).sum(axis=1, keepdims=True),
        "largest of the teachers": lambda q: q / q.max(axis=0),
        "mean of the teachers": lambda q: q / q.mean(axis=0),
        "upside down": lambda q: q.sum(axis=0) / q,
        "the whole vote": lambda q: q == q.max(axis=0),
        "has shape (3,), not (2, 3)": lambda q: q.mean(axis=0),
        "changes q": in_place,
        "0.75": lambda q: q * 2,
        "Two shapes do not fit": lambda q: q / q.sum(axis=1),
        "no such dimension": lambda q: q / q.sum(axis=2),
        "tensors: convert by": lambda q: torch.softmax(q, dim=0),
    },
)


def asked(teacher, x):
    with torch.no_grad():
        return teacher.eval()(x)


def dropout_only(teacher, x):
    teacher.probe.eval()
    with torch.no_grad():
        return teacher(x)


def too_late(teacher, x):
    with torch.no_grad():
        logits = teacher(x)
        teacher.eval()
        return logits


def frozen(teacher, x):
    return teacher.eval().requires_grad_(False)(x)


def trained(teacher, x):
    with torch.no_grad():
        logits = teacher.eval()(x)
        teacher.head.weight.zero_()
        return logits


def shifted(teacher, x):
    x -= 3
    return asked(teacher, x)


def inference(teacher, x):
    teacher.train(False)
    with torch.inference_mode():
        return teacher(x)


TEACHER = Answers(
    lesson.check_teacher,
    "A teacher only answers",
    [asked, inference, lambda teacher, x: asked(copy.deepcopy(teacher), x)],
    {
        "statistics have moved": lambda teacher, x: teacher(x),
        "its probe's statistics": too_late,
        "dropout makes its answers random": dropout_only,
        "torch.no_grad()": lambda teacher, x: teacher.eval()(x),
        "stay frozen": frozen,
        "changes the teacher's parameters": trained,
        "changes the batch": shifted,
        "These are probabilities": lambda teacher, x: asked(teacher, x).softmax(dim=1),
        "These are log-probabilities": lambda teacher, x: asked(teacher, x).log_softmax(dim=1),
        "Return the logits": lambda teacher, x: asked(teacher, x).argmax(dim=1),
        "a tensor of shape (16, 3)": lambda teacher, x: asked(teacher, x).numpy(),
        "not the teacher's logits on x": lambda teacher, x: asked(teacher, 2 * x),
        "has no": lambda teacher, x: teacher.logits(x),
        "is called with 2 arguments": lambda teacher: 0,
    },
)
SHARES = np.array([[0.5, 0.4, 0.1, 0.3], [0.5, 0.3, 0.2, 0.4]])
SCENE = lesson.Scene(3, torch.zeros(1), [], [1, 2], SHARES, SHARES)
BEFORE, AFTER = np.array([0.9, 0.0, 0.5, 0.7]), np.array([0.9, 0.4, 0.1, 0.7])
WEAKEST = Answers(
    lesson.check_weakest,
    "have 0.30 of class 2, the least of all. Its accuracy went from 50% to 10%",
    [2, 2.0, torch.tensor(2), SHARES.sum(axis=0).argmin()],
    {
        "know best": 0,
        "where the student is weak now": 1,
        "have 0.70 of that class, and less of another": 3,
        "a class, 0 to 3": 4,
        "number of a class": -1,
        "whole number": 1.5,
        "These are 4 values": SHARES.sum(axis=0),
        "parentheses of a call": SHARES.sum(axis=0).argmin,
        "quotation marks": "2",
        "finite": float("nan"),
    },
    lambda: (SCENE, AFTER, BEFORE),
)

pytestmark = pytest.mark.filterwarnings("ignore:reduction")  # PyTorch warns of that mistake, too


@pytest.mark.parametrize(("table", "answer", "kind", "words"), cases(WEIGHTS, KD, TEACHER, WEAKEST))
def test_verdicts(table: Answers, answer: object, kind: str, words: str) -> None:
    judge(table, answer, kind, words)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_is_praised_is_true(seed):
    """KL is 0 where both agree; the gradient keeps its size at any T; weights share a vote; the package agrees."""
    rng = torch.Generator().manual_seed(seed)
    teacher, student = torch.randn(2, 3, 5, 2, generator=rng)
    student.requires_grad_()
    size = {}
    for answer in KD.right:
        assert float(answer(teacher, teacher, 4.0)) == pytest.approx(0, abs=1e-6)
        for T in (10.0, 40.0):
            size[T] = torch.autograd.grad(answer(teacher, student, T), student)[0].norm()
        assert size[40.0] / size[10.0] == pytest.approx(1, abs=0.1)
    q = np.random.default_rng(seed).dirichlet(np.ones(3), size=4)
    for answer in WEIGHTS.right:
        np.testing.assert_allclose(answer(q), teacher_weights(q))
        np.testing.assert_allclose(answer(q).sum(axis=0), 1)


def test_what_the_teachers_know_in_words() -> None:
    """Two teachers have 0.5, 0.1, 0.3, 0.1, 0.5, 0.5 of six classes: least of 1, 3 and 2."""
    shares = np.array([[0.3, 0.1, 0.1, 0.1, 0.2, 0.2], [0.2, 0.0, 0.2, 0.0, 0.3, 0.3]])
    scene = lesson.Scene(7, torch.zeros(1), [], [], shares, shares)
    before, after = np.array([0.5, 0.3, 0.3, 0.3, 0.5, 0.5]), np.array([0.9, 0.1, 0.2, 0.3, 0.8, 1.0])
    said = lesson.coverage_in_words(scene, before, after)
    assert "least (1, 2, 3): 30% before, **20%** after" in said
    assert "most (0, 4, 5): 50% before, **90%** after" in said


def test_differences_are_between_the_same_students() -> None:
    """b is 10 points below a on every student, though both vary by 20; c differs by 20, 0 and -20: 0 +- 4.3 * 11.5."""
    gains = {"a": (0.1, 0.2, 0.3), "b": (0.0, 0.1, 0.2), "c": (0.3, 0.2, 0.1)}
    rows = [(version, title, gain) for title, of in gains.items() for version, gain in enumerate(of)]
    said = lesson.differences_in_words(pd.DataFrame(rows, columns=["version", "title", "gain"]), "a")
    assert said.startswith("Against *a*, in points, on the same 3 students: b -10 \u00b1 0 (clear); c ")
    assert said.endswith("0 \u00b1 50 (not clear).")
