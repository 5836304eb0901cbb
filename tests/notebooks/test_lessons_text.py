"""The checks of 07_text: the right answer, and each usual mistake by its name; what can be read of synthetic texts."""

from __future__ import annotations

import pytest
import torch
from helpers import small_text, tiny_texts
from torch.nn import functional as F

from fedrevive_core import Simulation
from lessons import text as lesson


@pytest.mark.parametrize("check", [lesson.check_attention, lesson.check_nearest, lesson.check_feature_loss])
def test_open(check):
    assert check(None).kind == "open"


def judged(verdict, said):
    assert verdict.kind == ("right" if said is None else "wrong"), verdict
    assert said is None or said in verdict.message


def low(scores, mask, value=-1e9):
    return scores.masked_fill(mask[:, None] < 0.5, value)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda s, m: low(s, m).softmax(-1), None),
        (lambda s, m: s.exp() * m[:, None] / (s.exp() * m[:, None]).sum(-1, keepdim=True), None),
        (lambda s, m: s.softmax(-1), "mask is not used"),
        (lambda s, m: s.softmax(-1) * m[:, None], "after the softmax"),
        (lambda s, m: low(s, m, 0.0).softmax(-1), "score of 0"),
        (lambda s, m: low(s, 1 - m).softmax(-1), "upside down"),
        (lambda s, m: low(s, m).softmax(1), "over the queries"),
        (low, "softmax is missing"),
        (lambda s, m: (m / m.sum(1, keepdim=True))[:, None].expand_as(s), "whatever their scores"),
        (lambda s, m: (s + (1 - m[:, None]) * -torch.inf).softmax(-1), "NaNs"),
        (lambda s, m: s.softmax(-1)[0], "has shape (2, 4)"),
        (lambda s, m: s.view(7), "RuntimeError"),
    ],
)
def test_attention(answer, said):
    judged(lesson.check_attention(answer), said)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda x, e: torch.cdist(x, e).argmin(1), None),
        (lambda x, e: (e.square().sum(1) - 2 * x @ e.T).argmin(1), None),
        (lambda x, e: (F.normalize(x) @ F.normalize(e).T).argmax(1), "cosine"),
        (lambda x, e: (x @ e.T).argmax(1), "largest dot product"),
        (lambda x, e: torch.cdist(x, e).argmax(1), "farthest"),
        (lambda x, e: (e.square().sum(1) - x @ e.T).argmin(1), "counts twice"),
        (lambda x, e: (x @ e.T).argmin(1), "smallest dot product"),
        (lambda x, e: torch.cdist(x, e).argmin(0), "over tokens"),
        (lambda x, e: torch.cdist(x, e), "has shape (4, 6)"),
    ],
)
def test_nearest(answer, said):
    judged(lesson.check_nearest(answer), said)


def norm(gap, **axes):
    return torch.linalg.vector_norm(gap, **axes)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda h, m: norm(h - m, dim=1).mean(), None),
        (lambda h, m: norm(h.mean(0) - m), "batch mean's gap"),
        (lambda h, m: (h - m).square().sum(1).mean(), "Squared norms"),
        (lambda h, m: F.mse_loss(h, m.expand_as(h)), "F.mse_loss"),
        (lambda h, m: norm(h - m, dim=1).sum(), "grow with the batch"),
        (lambda h, m: norm(h - m), "One norm over the whole batch"),
        (lambda h, m: norm(h - m, dim=0).mean(), "dim=1"),
        (lambda h, m: (h - m).abs().mean(), "single numbers"),
        (lambda h, m: (h - m).abs().sum(1).mean(), "1-norm"),
        (lambda h, m: norm(h, dim=1).mean(), "not subtracted"),
        (lambda h, m: norm(h - m, dim=1), "return their mean"),
        (lambda h, m: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_feature_loss(answer, said):
    judged(lesson.check_feature_loss(answer), said)


@pytest.fixture
def simulation(monkeypatch):
    torch.set_num_threads(1)
    tiny_texts(monkeypatch)
    simulation = Simulation(small_text("fedrevive", training__steps=20, synthesis__noise_lr=0.1))
    for number in range(4):
        simulation.process(number)
    return simulation


def test_reading_starts_from_the_seeds_and_leaves_the_run_as_it_was(simulation):
    prompts = simulation.reviver.synthesizer.generator.prompts.detach().clone()
    table = lesson.reading(simulation, [0.1], 12)
    assert table.index.tolist() == [0, 0.1]
    seeds, texts = table.loc[0], table.loc[0.1]
    assert seeds["changed"] == seeds["moved"] == 0
    assert texts["moved"] > 0.3
    assert texts["embeddings"] > seeds["embeddings"]
    assert 0 <= lesson.unmoved(simulation) <= 1
    simulation.reviver.pool.samples[..., :-1] = simulation.modality.embedding[3]
    simulation.reviver.pool.samples[..., -1] = 1
    assert lesson.unmoved(simulation) == 1
    simulation.reviver.pool.samples[:, 5, 0] += 0.1
    assert lesson.unmoved(simulation) == 0
    assert torch.equal(prompts, simulation.reviver.synthesizer.generator.prompts)
    assert len(lesson.plot_reading(table, 3).axes) == 2


def test_words_of_their_own_tell_the_classes_apart(simulation):
    assert lesson.bag_of_words(simulation) == 1.0
    table = lesson.examples(simulation)
    assert all(name in text for name, text in table["a text"].items())
    assert len(lesson.plot_clients(simulation, 3).axes) == 1
    assert lesson.token_gap(simulation, 5) > 0
