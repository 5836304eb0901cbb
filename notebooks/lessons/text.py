"""For 07_text: what the texts are, what can be read in a synthetic text, checks of the exercises."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from sklearn.naive_bayes import MultinomialNB
from torch import Tensor

from fedrevive_core import Simulation
from fedrevive_core.plots import STYLE, TITLE_COLOURS, Plot
from fedrevive_core.revival import Synthesizer, nearest_tokens, teacher_weights
from fedrevive_core.seeding import stream
from fedrevive_notebooks.lessons.exercise import (
    Verdict,
    a_function,
    check,
    diagnose,
    elsewhere,
    one_number,
    with_gradient,
    wrong,
)

# ------------------------------------------------------------------------------------------------------------ the data


def examples(simulation: Simulation) -> pd.DataFrame:
    """Tabulate the first test text of each class as the model gets it, and how many test texts the class has."""
    data, rows = simulation.data, {}
    words = np.array(data.tokenizer.vocabulary)
    labels = data.test.labels.numpy()
    for label, name in enumerate(data.class_names):
        numbers = data.test.tokens[int(np.argmax(labels == label))].numpy()
        text = " ".join(words[numbers[numbers != data.tokenizer.pad]])
        rows[name] = {"test texts": int((labels == label).sum()), "a text": text}
    return pd.DataFrame(rows).T


@mpl.rc_context(STYLE)
def plot_clients(simulation: Simulation, num_clients: int = 20) -> Figure:
    """Plot the class proportions of the first `num_clients` clients, stacked."""
    data = simulation.data
    proportions = data.class_proportions[:num_clients]
    figure = Plot(figsize=(9, 3), layout="constrained")
    axes, bottom = figure.subplots(), np.zeros(len(proportions))
    for name, share, colour in zip(data.class_names, proportions.T, TITLE_COLOURS, strict=False):
        axes.bar(range(len(share)), share, bottom=bottom, label=name, color=colour)
        bottom += share
    axes.set(xlabel="client", ylabel="share of its texts", title="What each client has", xticks=range(len(proportions)))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    axes.grid(visible=False)
    return figure


def bag_of_words(simulation: Simulation) -> float:
    """Return the test accuracy of naive Bayes on token counts, trained on the texts of all clients together."""
    data, size = simulation.data, len(simulation.data.tokenizer.vocabulary)

    def counts(tokens: Tensor) -> np.ndarray:
        table = torch.zeros(len(tokens), size).scatter_add_(1, tokens, torch.ones(tokens.shape)).numpy()
        table[:, data.tokenizer.pad] = 0
        return table

    known = data.clients.take(np.unique(np.concatenate(data.shards)))
    model = MultinomialNB().fit(counts(known.tokens), known.labels.numpy())
    return float(model.score(counts(data.test.tokens), data.test.labels.numpy()))


# ---------------------------------------------------------------------------------------------- what one can read of it


def reading(simulation: Simulation, rates: Sequence[float], steps: int) -> pd.DataFrame:
    """Synthesise with the run's last teachers from the same seeds, and measure what is left after reading.

    One row per rate of the embeddings (`synthesis.noise_lr`), 0 for the seeds themselves. `embeddings`, `tokens`: mean
    probability that the teachers, weighted for the wanted class, give it on the synthetic text and on its nearest
    tokens; `changed`: share of trained positions whose nearest token is not the seed's; `moved`: mean distance of
    these positions from the seed.
    """
    reviver, server = simulation.reviver, simulation.server
    states = [teacher.state for teacher in reviver.buffer]
    shares = np.stack([reviver.proportions.of(teacher.client) for teacher in reviver.buffer])
    weights = torch.from_numpy(teacher_weights(shares)).to(server.state)
    table, rows = simulation.modality.embedding, {}
    for rate in (0.0, *rates):
        config = simulation.config.synthesis.model_copy(update={"steps": steps, "noise_lr": rate})
        generator = copy.deepcopy(reviver.synthesizer.generator)  # a copy: Reptile moves it
        maker = Synthesizer(simulation.layout, simulation.modality.prepare_synthetic, generator, config, guard=False)
        draws = maker.draw(stream(simulation.config.seed, "synthesis", 0), shares)
        labels = torch.from_numpy(draws.labels)
        seeds = texts = generator.make(draws.latents, labels).detach()
        if rate:
            texts = maker.synthesise(draws, states, weights, server.state, adversarial=True).samples
        read, start = nearest_tokens(texts, table), nearest_tokens(seeds, table)
        trained = start >= 0
        trained[:, : config.prompt_tokens] = False
        tokens = torch.cat([table[torch.from_numpy(read).long().clamp(min=0)], texts[..., -1:]], dim=-1)
        distance = torch.linalg.vector_norm((texts - seeds)[..., :-1], dim=-1).numpy()
        rows[rate] = {
            "embeddings": _wanted(simulation, states, weights, texts, labels),
            "tokens": _wanted(simulation, states, weights, tokens, labels),
            "changed": float((read != start)[trained].mean()),
            "moved": float(distance[trained].mean()),
        }
    return pd.DataFrame(rows).T.rename_axis("rate")


def unmoved(simulation: Simulation) -> float:
    """Return the share of the pool's texts that no step has moved: all trained positions are still exactly tokens."""
    samples, _ = simulation.reviver.pool.newest(len(simulation.reviver.pool))
    table = simulation.modality.embedding
    trained = samples[:, simulation.config.synthesis.prompt_tokens :]
    tokens = table[torch.from_numpy(nearest_tokens(trained, table)).long().clamp(min=0)]
    gap = (trained[..., :-1] - tokens).abs().amax(dim=-1) * trained[..., -1]
    return float((gap.amax(dim=1) < 1e-6).float().mean())


@torch.no_grad()
def _wanted(simulation: Simulation, states: list[Tensor], weights: Tensor, texts: Tensor, labels: Tensor) -> float:
    views = [simulation.layout.views(state) for state in states]
    answers = torch.stack([simulation.layout.call(view, texts).softmax(dim=1) for view in views])  # (M, n, C)
    given = answers[:, torch.arange(len(labels)), labels]
    return float((weights[:, labels] * given).sum(dim=0).mean())


def token_gap(simulation: Simulation, count: int = 300) -> float:
    """Return the mean distance from a token to the nearest other token, over the first `count` usual tokens."""
    table = simulation.modality.embedding[torch.from_numpy(simulation.data.tokenizer.usual)]
    distances = torch.cdist(table[:count], table)
    return float(distances.fill_diagonal_(torch.inf).min(dim=1).values.mean())


def what_the_rates_say(reading: pd.DataFrame, gap: float, rate: float) -> str:
    """Say in Markdown what the `rate` of the run does, and what the largest rate does. gap: to the next word."""
    seeds, own, most = reading.loc[0.0], reading.loc[rate], reading.loc[reading.index.max()]
    return (
        f"At the rate {own.name:g} of the run, the teachers' probability goes from {seeds.embeddings:.0%} to "
        f"{own.embeddings:.0%}; for the words alone it is {own.tokens:.0%}, and {own.changed:.0%} of the positions "
        f"changed word: a position moved by {own.moved:.1f} on average, and the next word is {gap:.1f} away. At the "
        f"rate {most.name:g}, {most.changed:.0%} of them changed word, and the words alone reach {most.tokens:.0%}."
    )


@mpl.rc_context(STYLE)
def plot_reading(table: pd.DataFrame, num_classes: int) -> Figure:
    """Plot what teachers say about embeddings and nearest tokens (left), and the share of changed tokens (right)."""
    figure = Plot(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    columns = np.arange(len(table))
    left.bar(columns - 0.2, table["embeddings"], 0.4, color=TITLE_COLOURS[1], label="the embeddings")
    left.bar(columns + 0.2, table["tokens"], 0.4, color=TITLE_COLOURS[0], label="their nearest tokens")
    left.axhline(1 / num_classes, color="black", linestyle=":", linewidth=1.5, label=f"chance: {1 / num_classes:.0%}")
    left.set(
        ylim=(0, 1.2),
        yticks=np.linspace(0, 1, 6),
        xlabel="rate (0: the seeds)",
        ylabel="probability of the wanted class",
    )
    left.set_title("What the teachers think of ...", fontsize=12)
    left.legend(ncols=3, loc="upper left", fontsize=9, columnspacing=1)
    right.bar(columns, table["changed"], 0.5, color=TITLE_COLOURS[2])
    right.set(ylim=(0, 1), xlabel="rate (0: the seeds)", ylabel="share of the trained positions")
    right.set_title("Positions that changed their word", fontsize=12)
    for axes in (left, right):
        axes.set_xticks(columns, [f"{rate:g}" for rate in table.index])
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    return figure


# ----------------------------------------------------------------------------------------------------------- exercises


@check(a_function)
def check_attention(answer: Callable[[Tensor, Tensor], Any]) -> Verdict:
    """Judge `answer(scores, mask)`: attention weights (B, Q, T) from scores (B, Q, T) and mask (B, T), 1 at tokens."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 2, 4, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]], dtype=torch.float64)
    hidden, tiny = mask[:, None] < 0.5, -1e9
    result = answer(scores.clone(), mask.clone())
    expected = scores.masked_fill(hidden, tiny).softmax(dim=-1)
    mistakes = {
        "The mask is not used: tokens look at padding, so the amount of padding changes what a text means.": (
            scores.softmax(dim=-1)
        ),
        "You masked after the softmax: the weights no longer sum to 1, because padding took its part of the sum.": (
            scores.softmax(dim=-1) * mask[:, None]
        ),
        "A score of 0 is not 'do not look': exp(0) = 1. Padding needs a score of minus infinity.": (
            (scores * mask[:, None]).softmax(dim=-1)
        ),
        "The mask is upside down: these weights look only at padding. The mask is 1 where there is a token.": (
            scores.masked_fill(~hidden, tiny).softmax(dim=-1)
        ),
        "The softmax runs over queries or texts. The weights of each query sum to 1 over the tokens: dim=-1.": [
            scores.masked_fill(hidden, tiny).softmax(dim=dim) for dim in (1, 0)
        ],
        "The mask of a text must hide the same positions from all its queries: give it a dimension, mask[:, None].": [
            scores.masked_fill(mask < 0.5, tiny).softmax(dim=-1),
            (scores * mask).softmax(dim=-1),
            scores.softmax(dim=-1) * mask,
        ],
        "These are the masked scores; the softmax is missing.": scores.masked_fill(hidden, tiny),
        "This is a mean over all tokens, whatever their scores.": (mask / mask.sum(dim=1, keepdim=True))[
            :, None
        ].expand(2, 2, 4),
        "The scores of padding are lower, but not low enough: its exponential must be zero.": [
            (scores - (1 - mask[:, None]) * much).softmax(dim=-1) for much in (1, 10)
        ]
        + [scores.masked_fill(hidden, -1.0).softmax(dim=-1)],
        "These are the exponentials; divide by their sum over the tokens.": scores.exp() * mask[:, None],
        "These are logarithms of the weights: take softmax, not log_softmax.": scores.masked_fill(
            hidden, tiny
        ).log_softmax(dim=-1),
    }
    verdict = diagnose(result, expected, mistakes, "What the mask hides has no influence at all.")

    def correct(scores: Tensor, mask: Tensor) -> Tensor:
        return scores.masked_fill(mask[:, None] < 0.5, -torch.inf).softmax(dim=-1)

    other = torch.randn(3, 5, 3, generator=generator, dtype=torch.float64)
    whole, cut = (torch.ones(3, 3, dtype=torch.float64), torch.tensor([[1.0, 0, 0]] * 3, dtype=torch.float64))
    cases = {"texts without padding": (other, whole), "texts of one token": (100 * other, cut)}
    return elsewhere(verdict, answer, correct, cases)


@check(a_function)
def check_nearest(answer: Callable[[Tensor, Tensor], Any]) -> Verdict:
    """Judge `answer(x, table)`: the index (n,) of the token in `table` (V, d) nearest to each row of `x` (n, d)."""
    generator = torch.Generator().manual_seed(0)
    # So many that every other distance has another nearest token somewhere.
    x = torch.randn(24, 3, generator=generator, dtype=torch.float64)
    table = 1.5 * torch.randn(16, 3, generator=generator, dtype=torch.float64)
    gap, length = torch.cdist(x, table), table.square().sum(dim=1)
    unit = torch.nn.functional.normalize
    similar = unit(x, dim=1) @ unit(table, dim=1).T
    mistakes = {
        "This is the token with the most similar direction (cosine); take the smallest distance.": similar.argmax(
            dim=1
        ),
        "This is the largest dot product, which favours long embeddings. Subtract half of |e|^2.": (
            (x @ table.T).argmax(dim=1)
        ),
        "This is the farthest token: use argmin, or check a sign.": gap.argmax(dim=1),
        "This is |e|^2 - x.e, but the dot product counts twice in |x - e|^2.": (length - x @ table.T).argmin(dim=1),
        "This is the smallest dot product. The distance is |x - e|^2 = |x|^2 - 2 x.e + |e|^2.": (
            (x @ table.T).argmin(dim=1)
        ),
        "This is the sum of absolute differences (the 1-norm, p=1); the distance here is Euclidean.": torch.cdist(
            x, table, p=1
        ).argmin(dim=1),
        "This is the largest absolute difference; the distance here is Euclidean.": torch.cdist(
            x, table, p=torch.inf
        ).argmin(dim=1),
        "The sign of the dot product is wrong: |x - e|^2 = |x|^2 - 2 x.e + |e|^2.": (length + 2 * x @ table.T).argmin(
            dim=1
        ),
        "This compares the lengths of the vectors, not their places.": (
            (x.norm(dim=1)[:, None] - table.norm(dim=1)).abs().argmin(dim=1)
        ),
        "You add up the differences with their signs, so that they cancel: square them first.": [
            (x[:, None] - table).sum(dim=2).abs().argmin(dim=1),
            (x[:, None] - table).sum(dim=2).argmin(dim=1),
        ],
    }
    result = answer(x.clone(), table.clone())
    if np.shape(result) == (len(table),):
        return wrong("This gives one index for each token, its nearest row of x. Take the argmin over tokens.")
    praise = "Its gradient is zero or undefined: nobody can train through an argmin."
    return elsewhere(
        diagnose(result, gap.argmin(dim=1), mistakes, praise),
        answer,
        lambda x, table: torch.cdist(x, table).argmin(dim=1),
        {"one row and five dimensions": (torch.ones(1, 5), torch.arange(20.0).view(4, 5) - 3)},
    )


@check(a_function)
def check_feature_loss(answer: Callable[[Tensor, Tensor], Any]) -> Verdict:
    """Judge `answer(h, running_mean)`: the feature term of one layer from states (n, d) and a mean (d,)."""
    generator = torch.Generator().manual_seed(1)
    h = torch.randn(5, 3, generator=generator, dtype=torch.float64).requires_grad_()
    mean = torch.randn(3, generator=generator, dtype=torch.float64)
    gap = h - mean
    norms = torch.linalg.vector_norm(gap, dim=1)
    mistakes = {
        "This is the norm of the batch mean's gap, as for images. Texts far apart on both sides of the mean would "
        "cost nothing: take the norm of each text first, then the mean.": torch.linalg.vector_norm(gap.mean(dim=0)),
        "Squared norms: take the norms themselves.": norms.square().mean(),
        "This is the mean square over all numbers, as in F.mse_loss.": gap.square().mean(),
        "This is the sum over texts: it would grow with the batch. Take the mean.": norms.sum(),
        "One norm over the whole batch: it mixes texts.": torch.linalg.vector_norm(gap),
        "You took norms over texts for each dimension. Take them over the d numbers of one text: dim=1.": (
            torch.linalg.vector_norm(gap, dim=0).mean()
        ),
        "This is the mean absolute gap of single numbers.": gap.abs().mean(),
        "This is the sum of absolute gaps (the 1-norm); the norm here is Euclidean.": gap.abs().sum(dim=1).mean(),
        "This is the mean of the states' norms: the running mean is not subtracted.": torch.linalg.vector_norm(
            h, dim=1
        ).mean(),
        "You divide by the dimensions, too: a norm has no mean in it.": [norms.mean() / 3, norms.mean() / 3**0.5],
        "This is the mean gap with its sign: gaps on both sides would cancel.": gap.mean(),
        "The sign is wrong: the loss is to become small.": -norms.mean(),
    }
    answered = answer(h.clone(), mean.clone())
    if np.shape(answered) == (len(h),) and torch.allclose(torch.as_tensor(answered), norms):
        return wrong("These are the norms of the texts, which is right so far. Now return their mean, one number.")
    praise = "The loss pulls every text towards what the teacher usually sees, so the texts also become similar."
    verdict = diagnose(one_number(answered), norms.mean(), mistakes, praise)
    verdict = with_gradient(verdict, answered, norms.mean(), {"h": h})
    return elsewhere(
        verdict,
        answer,
        lambda h, mean: torch.linalg.vector_norm(h - mean, dim=1).mean(),
        {"two texts of four dimensions": (torch.eye(4)[:2], torch.ones(4))},
    )
