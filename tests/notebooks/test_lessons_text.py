"""The checks of 07_text: the right answer, and each usual mistake by its name; what can be read of synthetic texts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import small_text, tiny_texts
from torch.nn import functional as F
from verdicts import Answers, cases, judge

from fedrevive_core import Simulation
from fedrevive_core.revival import nearest_tokens
from fedrevive_notebooks.lessons import text as lesson


def low(scores, mask, value=-1e9):
    return scores.masked_fill(mask[:, None] < 0.5, value)


ATTENTION = Answers(
    lesson.check_attention,
    "no influence at all",
    [
        lambda s, m: low(s, m).softmax(-1),
        lambda s, m: s.exp() * m[:, None] / (s.exp() * m[:, None]).sum(-1, keepdim=True),
        lambda s, m: (s + m[:, None].log()).softmax(-1),
    ],
    {
        "but not for texts of one token": lambda s, m: (s - 50 * (1 - m[:, None])).softmax(-1),
        "mask is not used": lambda s, m: s.softmax(-1),
        "after the softmax": lambda s, m: s.softmax(-1) * m[:, None],
        "score of 0": lambda s, m: low(s, m, 0.0).softmax(-1),
        "upside down": lambda s, m: low(s, 1 - m).softmax(-1),
        "over queries or texts": lambda s, m: low(s, m).softmax(1),
        "give it a dimension": lambda s, m: s.masked_fill(m == 0, -torch.inf).softmax(-1),
        "softmax is missing": low,
        "whatever their scores": lambda s, m: (m / m.sum(1, keepdim=True))[:, None].expand_as(s),
        "not low enough": lambda s, m: low(s, m, -1.0).softmax(-1),
        "lower, but not": lambda s, m: (s - (1 - m[:, None])).softmax(-1),
        "These are the exponentials": lambda s, m: s.exp() * m[:, None],
        "not log_softmax": lambda s, m: low(s, m).log_softmax(-1),
        "NaNs": lambda s, m: (s + (1 - m[:, None]) * -torch.inf).softmax(-1),
        "has shape (2, 4)": lambda s, m: s.softmax(-1)[0],
        "RuntimeError": lambda s, m: s.view(7),
        "look at one value": lambda s, m: s.softmax(-1) if m else s,
        "in parentheses": lambda s, m: s[:, 0] > 0 & m > 0,
        "no such dimension": lambda s, m: low(s, m).softmax(3),
    },
)
NEAREST = Answers(
    lesson.check_nearest,
    "nobody can train through an argmin",
    [
        lambda x, e: torch.cdist(x, e).argmin(1),
        lambda x, e: (e.square().sum(1) - 2 * x @ e.T).argmin(1),
        lambda x, e: torch.stack([((e - one) ** 2).sum(1).argmin() for one in x]),
    ],
    {
        "but not for one row": lambda x, e: torch.cdist(x[:, :3], e[:, :3]).argmin(1),
        "cosine": lambda x, e: (F.normalize(x) @ F.normalize(e).T).argmax(1),
        "largest dot product": lambda x, e: (x @ e.T).argmax(1),
        "farthest": lambda x, e: torch.cdist(x, e).argmax(1),
        "counts twice": lambda x, e: (e.square().sum(1) - x @ e.T).argmin(1),
        "smallest dot product": lambda x, e: (x @ e.T).argmin(1),
        "1-norm": lambda x, e: (x[:, None] - e).abs().sum(2).argmin(1),
        "largest absolute difference": lambda x, e: (x[:, None] - e).abs().amax(2).argmin(1),
        "sign of the dot product": lambda x, e: (e.square().sum(1) + 2 * x @ e.T).argmin(1),
        "compares the lengths": lambda x, e: (x.norm(dim=1)[:, None] - e.norm(dim=1)).abs().argmin(1),
        "so that they cancel": lambda x, e: (x[:, None] - e).sum(2).abs().argmin(1),
        "over tokens": lambda x, e: torch.cdist(x, e).argmin(0),
        "has shape (24, 16)": lambda x, e: torch.cdist(x, e),
        "has shape ()": lambda x, e: torch.cdist(x, e).argmin(),
        "does not know this mistake": lambda x, e: torch.zeros(len(x)),
        "Two shapes do not fit": lambda x, e: (x - e).norm(dim=1).argmin(),
        "without end": lambda x, e: itself(x, e),
    },
)


def itself(x, e):
    return itself(x, e)


def norm(gap, **axes):
    return torch.linalg.vector_norm(gap, **axes)


FEATURE = Answers(
    lesson.check_feature_loss,
    "pulls every text",
    [
        lambda h, m: norm(h - m, dim=1).mean(),
        lambda h, m: ((h - m) ** 2).sum(1).sqrt().sum() / len(h),
        lambda h, m: torch.cdist(h, m[None]).mean(),
    ],
    {
        "but not for two texts": lambda h, m: norm(h - m, dim=1).sum() / 5,
        "batch mean's gap": lambda h, m: norm(h.mean(0) - m),
        "Squared norms": lambda h, m: (h - m).square().sum(1).mean(),
        "F.mse_loss": lambda h, m: F.mse_loss(h, m.expand_as(h)),
        "grow with the batch": lambda h, m: norm(h - m, dim=1).sum(),
        "One norm over the whole batch": lambda h, m: norm(h - m),
        "dim=1": lambda h, m: norm(h - m, dim=0).mean(),
        "single numbers": lambda h, m: (h - m).abs().mean(),
        "1-norm": lambda h, m: (h - m).abs().sum(1).mean(),
        "not subtracted": lambda h, m: norm(h, dim=1).mean(),
        "return their mean": lambda h, m: norm(h - m, dim=1),
        "no mean in it": lambda h, m: (h - m).square().mean(1).sqrt().mean(),
        "would cancel": lambda h, m: (h - m).mean(),
        "is to become small": lambda h, m: -norm(h - m, dim=1).mean(),
        "it is a float": lambda h, m: norm(h - m, dim=1).mean().item(),
        "it is a Tensor": lambda h, m: torch.tensor(norm(h - m, dim=1).mean().item()),
        "NumPy cannot follow": lambda h, m: np.linalg.norm(h - m, axis=1).mean(),
        "ZeroDivisionError": lambda h, m: 1 / 0,
    },
)


@pytest.mark.parametrize(("table", "answer", "kind", "words"), cases(ATTENTION, NEAREST, FEATURE))
def test_verdicts(table: Answers, answer: object, kind: str, words: str) -> None:
    judge(table, answer, kind, words)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_is_praised_is_true(seed):
    """The package's own nearest tokens; hidden positions have no weight; the loss makes texts similar."""
    rng = torch.Generator().manual_seed(seed)
    scores, table, x = (torch.randn(size, generator=rng) for size in ((2, 3, 4), (9, 5), (7, 5)))
    mask = torch.tensor([[1.0, 1, 0, 0], [1, 1, 1, 1]])
    texts = torch.cat([x, torch.ones(7, 1)], dim=1)[None]
    for answer in NEAREST.right:
        assert answer(x, table).tolist() == nearest_tokens(texts, table)[0].tolist()
    for answer in ATTENTION.right:
        assert (answer(scores, mask)[0, :, 2:] == 0).all()
    for answer in FEATURE.right:
        h, mean = x.clone().requires_grad_(), torch.zeros(5)
        moved = h - 0.5 * torch.autograd.grad(answer(h, mean), h)[0]
        assert torch.pdist(moved).mean() < torch.pdist(x).mean()


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
