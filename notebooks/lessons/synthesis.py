"""For 03_synthesis: the generator's images, losses and teachers, what they may reveal, and checks of the exercises."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from IPython.display import Markdown
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from fedrevive_core import Simulation, StatisticProbe
from fedrevive_core.config import RunConfig
from fedrevive_core.models import channel_statistics
from fedrevive_core.plots import STYLE, TITLE_COLOURS, Plot, newest_of_each_class, show_mosaic
from fedrevive_core.records import Switches, Trace
from fedrevive_core.revival import kl_divergence, teacher_weights
from fedrevive_core.simulation import Progress, SynthesisStart, capture, num_threads, trace_synthesis
from fedrevive_notebooks.lessons.exercise import (
    Verdict,
    a_function,
    check,
    diagnose,
    elsewhere,
    explained,
    one_number,
    with_gradient,
    wrong,
)
from reproduce.evidence.privacy import attack_table, committed, label_table
from reproduce.reports.text import markdown

ABLATIONS: dict[str, Switches] = {
    "all three": (True, True, True),
    "without $L_\\mathrm{feat}$": (False, True, True),
    "without $L_\\mathrm{hot}$": (True, False, True),
    "without $L_\\mathrm{adv}$": (True, True, False),
}
COPIED = 0.25  # share of copied images in the pool on which the privacy test is tried


@dataclass(frozen=True)
class Watched:
    """A run, and what a synthesis would start from at some of its versions.

    pool: the newest (images, labels) at each of these versions. initial: the last start, with the untrained generator.
    """

    simulation: Simulation
    starts: list[SynthesisStart]
    pool: list[tuple[Tensor, np.ndarray]]
    initial: SynthesisStart


def watch(config: RunConfig, versions: Sequence[int]) -> Watched:
    """Run until the last of `versions` (ascending) and keep a start of synthesis at each of them."""
    starts, pool, number = [], [], 0
    simulation = Simulation(config)
    untrained = copy.deepcopy(simulation.reviver.synthesizer.generator)
    with Progress("a run of FedRevive", versions[-1]) as bar:
        for version in versions:
            while simulation.server.version < version:
                simulation.process(number)
                number += 1
                bar.advance(simulation.server.version, f"time {simulation.now:.1f}")
            starts.append(capture(simulation))
            pool.append(simulation.reviver.pool.newest(64))
    return Watched(simulation, starts, pool, replace(starts[-1], generator=untrained))


def _pixels(images: Tensor) -> np.ndarray:
    """Images with values in [0, 1] as uint8."""
    return images.mul(255).round().byte().numpy()


@mpl.rc_context(STYLE)
def plot_pool(watched: Watched) -> Figure:
    """Plot the newest synthetic image of each class at each version, below a real image of the class."""
    data = watched.simulation.data
    classes = np.arange(data.num_classes)
    rows = [("a real digit", data.clients.images, data.clients.labels.numpy())]
    rows += [(f"version {m.version}", *pool) for m, pool in zip(watched.starts, watched.pool, strict=True)]
    shown = [newest_of_each_class(_pixels(images), labels, classes) for _, images, labels in rows]
    figure = Plot(figsize=(10, 1.0 * len(rows) + 0.9), layout="constrained")
    axes = figure.subplots()
    x, y = show_mosaic(axes, np.stack(shown))
    axes.set_xticks(x, data.class_names)
    axes.set_yticks(y, [name for name, _, _ in rows])
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False)
    figure.suptitle("What entered the pool: newest image of each class", x=0.01, ha="left", fontsize=13)
    return figure


def recognised(trace: Trace) -> np.ndarray:
    """Return the teachers' probability (steps, n) of the wanted class, weighted by w_m(y)."""
    weights = teacher_weights(trace.proportions)[:, trace.labels]  # (M, n)
    picked = np.take_along_axis(trace.votes[:, :-1], trace.labels[None, None, :, None], axis=3)[..., 0]
    return (weights * picked).sum(axis=1)


def wanted_probability(trace: Trace) -> np.ndarray:
    """Return `recognised` (steps,), the mean over images."""
    return recognised(trace).mean(axis=1)


def most_names(trace: Trace) -> int:
    """Return the image to which teachers give the most different names after the last step; of equals, the surest.

    Only images that are `recognised` with more than 0.5 are eligible; if there is none, it is the surest one.
    """
    sure = recognised(trace)[-1]
    named = trace.votes[-1, :-1].argmax(axis=2)  # (M, n)
    names = np.array([len(set(column)) for column in named.T])
    return int(np.lexsort((sure, np.where(sure > 0.5, names, 0)))[-1])


def votes_in_words(trace: Trace, image: int, class_names: Sequence[str]) -> str:
    """Return in words what the teacher with the largest weight says of `image`, and how many others differ."""
    label = trace.labels[image]
    weights, votes = teacher_weights(trace.proportions)[:, label], trace.votes[-1, :-1, image]
    heaviest = int(weights.argmax())
    others = np.delete(votes.argmax(axis=1), heaviest)
    return (
        f"Client {trace.clients[heaviest]} has the largest weight for class {class_names[label]}, "
        f"{weights[heaviest]:.2f}, and gives it {votes[heaviest, label]:.0%}. {np.sum(others != label)} of the "
        f"{len(others)} other teachers name another class."
    )


@mpl.rc_context(STYLE)
def plot_ablation(grid: dict[tuple[int, Switches], Trace], steps: int) -> Figure:
    """Plot what each loss does: three measures over the steps, with all losses and with one switched off.

    Bold: mean over versions; thin: each version. steps: K_synth, the number of steps in a run; the figure marks it.
    """
    measures: dict[str, Callable[[Trace], np.ndarray]] = {
        "sure of the wanted class (probability)": wanted_probability,
        "distance of the statistics ($L_\\mathrm{feat}$)": lambda trace: trace.losses[:, 0],
        "disagreement with the student ($-L_\\mathrm{adv}$)": lambda trace: -trace.losses[:, 2],
    }
    versions = sorted({version for version, _ in grid})
    figure = Plot(figsize=(12, 4.2), layout="constrained")
    for axes, (title, measure) in zip(figure.subplots(1, 3), measures.items(), strict=True):
        for (name, on), colour in zip(ABLATIONS.items(), ("#000000", *TITLE_COLOURS), strict=False):
            curves = np.array([measure(grid[version, on]) for version in versions])
            axes.plot(curves.T, color=colour, lw=0.7, alpha=0.35)
            axes.plot(curves.mean(axis=0), "--" if name == "all three" else "-", color=colour, label=name, zorder=3)
        axes.axvline(steps, color="#888888", lw=1, ls=":")
        axes.set(title=title, xlabel="steps")
        axes.title.set_fontsize(11)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def estimates(simulation: Simulation) -> tuple[np.ndarray, np.ndarray]:
    """Return class proportions (n, C) of all clients that sent a model: the server's estimate and the truth."""
    proportions = simulation.reviver.proportions
    clients = sorted(proportions.estimates)
    return np.stack([proportions.of(client) for client in clients]), simulation.data.class_proportions[clients]


def total_variation(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return half the sum of absolute differences of distributions (n, C): the share that must move."""
    return np.abs(p - q).sum(axis=1) / 2


@mpl.rc_context(STYLE)
def plot_proportions(simulation: Simulation) -> Figure:
    """Plot estimated against true class proportions, a dot per client and class, and the error of each client."""
    estimated, true = estimates(simulation)
    correlation = np.corrcoef(estimated.ravel(), true.ravel())[0, 1]
    figure = Plot(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="#888888", lw=1, ls="--")
    left.scatter(true, estimated, 14, color=TITLE_COLOURS[0], alpha=0.35, lw=0)
    left.set(xlabel="true share of the class", ylabel="estimated from noise", aspect="equal", xlim=(-0.02, 1.02))
    left.set_title(f"{len(true)} clients x {true.shape[1]} classes: correlation {correlation:.2f}")
    off = {
        "estimated from noise": total_variation(estimated, true),
        "guess: all classes equal": total_variation(np.full_like(true, 1 / true.shape[1]), true),
    }
    for (name, distance), colour in zip(off.items(), (TITLE_COLOURS[0], "#999999"), strict=True):
        label = f"{name}: mean {distance.mean():.2f}"
        right.hist(distance, np.linspace(0, 1, 26), color=colour, alpha=0.6, label=label)
    right.set(xlabel="total variation distance from the truth", ylabel="clients (count)")
    right.set_title("How far off: 0 is exact, 1 is disjoint")
    right.legend()
    return figure


def diversity(images: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean distance (root mean square of grey levels in 0 to 1) of two images of the same class."""
    flat = torch.from_numpy(images.reshape(len(images), -1) / 255.0)
    within = [torch.pdist(flat[labels == label]).mean() for label in np.unique(labels)]
    return float(torch.stack(within).mean()) / math.sqrt(flat.shape[1])


def compare_generators(watched: Watched, steps: int, patience: int) -> dict[str, tuple[Trace, int]]:
    """Return traces with the step to show: meta-learned generator, new generator, new one after `patience` steps."""
    with num_threads(watched.simulation.config.num_threads or 1):
        learned = trace_synthesis(watched.simulation, watched.starts[-1], steps=steps + 1)
        fresh = trace_synthesis(watched.simulation, watched.initial, steps=patience + 1)
    return {
        f"meta-learned, {steps} steps": (learned, steps),
        f"new each time, {steps} steps": (fresh, steps),
        f"new each time, {patience} steps": (fresh, patience),
    }


@mpl.rc_context(STYLE)
def plot_generators(watched: Watched, generators: dict[str, tuple[Trace, int]], per_class: int = 2) -> Figure:
    """Plot images of real digits and of each generator, `per_class` of each class, with the numbers to compare."""
    data = watched.simulation.data
    trace = next(iter(generators.values()))[0]
    count = int((trace.labels == 0).sum())
    chosen = np.concatenate([np.flatnonzero(trace.labels == label)[:per_class] for label in range(data.num_classes)])
    labels = data.clients.labels.numpy()
    some = np.concatenate([np.flatnonzero(labels == label)[:count] for label in range(data.num_classes)])
    real = data.clients.images[some].mul(255).byte().numpy()
    rows = [("real digits", real[chosen], f"diversity {diversity(real, trace.labels):.2f}")]
    for name, (made, step) in generators.items():
        numbers = (
            f"diversity {diversity(made.images[step], made.labels):.2f}\n"
            f"sure of the class {wanted_probability(made)[step]:.2f}\nstatistics off by {made.losses[step, 0]:.1f}"
        )
        rows.append((name, made.images[step][chosen], numbers))
    figure = Plot(figsize=(11, 1.25 * len(rows)))
    for axes, (name, images, numbers) in zip(figure.subplots(len(rows), 1), rows, strict=True):
        show_mosaic(axes, images.reshape(-1, per_class, *images.shape[1:]).swapaxes(0, 1))
        axes.text(-0.01, 0.5, name, ha="right", va="center", transform=axes.transAxes)
        axes.text(1.01, 0.5, numbers, ha="left", va="center", transform=axes.transAxes, fontsize=10)
    figure.subplots_adjust(left=0.2, right=0.8, top=0.98, bottom=0.02)
    return figure


@dataclass(frozen=True)
class Neighbours:
    """Distances (root mean squares of grey levels) from synthetic images to the nearest real image of a set.

    to_held_out (n,): the set holds images that no client held. to_train (n,): an equal number of training images, mean
    over random sets. yardstick: from real held-out images to training images. p_value: share of random splits of all
    these real images whose chosen part is at least as far from the synthetic images as the held-out part. p_copied: the
    p_value if a share COPIED of the synthetic images were copies of training images. images, matches (k, S, S): some
    synthetic images, and the nearest training image to each.
    """

    to_train: np.ndarray
    to_held_out: np.ndarray
    yardstick: np.ndarray
    p_value: float
    p_copied: float
    images: np.ndarray
    matches: np.ndarray


def neighbours(watched: Watched, num_images: int = 512, shown: int = 8, num_splits: int = 500) -> Neighbours:
    """Test whether the pool's newest images are nearer to training images than to held-out images.

    More candidates give a smaller nearest distance, so the sets have equal size and the same number of each class. If
    the images do not depend on who was held out, the held-out set is one random split among others.
    """
    simulation = watched.simulation
    data, rng = simulation.data, np.random.default_rng(simulation.config.seed)
    synthetic, _ = simulation.reviver.pool.newest(num_images)
    held = np.unique(np.concatenate(data.shards))
    real = torch.cat([data.clients.images[held], data.test.images])
    labels = np.concatenate([data.clients.labels.numpy()[held], data.test.labels.numpy()])
    of_test = np.arange(len(real)) >= len(held)
    distance = _distances(synthetic, real)
    copied = distance.copy()
    for row in range(0, len(synthetic), round(1 / COPIED)):
        copied[row] = _distances(real[[rng.integers(len(held))]], real)[0]
    splits = [_split(of_test, labels, rng) for _ in range(num_splits)]
    subsets = [_split(of_test, labels, rng, among=~of_test) for _ in range(20)]
    match = distance[:shown, ~of_test].argmin(axis=1)
    return Neighbours(
        to_train=np.mean([distance[:, subset].min(axis=1) for subset in subsets], axis=0),
        to_held_out=distance[:, of_test].min(axis=1),
        yardstick=np.mean([_distances(real[of_test], real[subset]).min(axis=1) for subset in subsets], axis=0),
        p_value=_p_value(distance, of_test, splits),
        p_copied=_p_value(copied, of_test, splits),
        images=synthetic[:shown, 0].numpy(),
        matches=real[: len(held)][match][:, 0].numpy(),
    )


def _distances(images: Tensor, references: Tensor) -> np.ndarray:
    return (torch.cdist(images.flatten(1), references.flatten(1)) / math.sqrt(images[0].numel())).numpy()


def _split(chosen: np.ndarray, labels: np.ndarray, rng: np.random.Generator, among: Any = True) -> np.ndarray:
    """Draw a random set where `among` is true, with as many samples of each class as `chosen` (n,); return indices."""
    return np.concatenate(
        [
            rng.choice(np.flatnonzero(among & (labels == label)), (chosen & (labels == label)).sum(), replace=False)
            for label in np.unique(labels)
        ]
    )


def _p_value(distance: np.ndarray, chosen: np.ndarray, splits: Sequence[np.ndarray]) -> float:
    """Return the share of the splits, with `chosen` among them, whose mean distance is at least that of `chosen`."""
    observed = distance[:, chosen].min(axis=1).mean()
    return (1 + sum(distance[:, split].min(axis=1).mean() >= observed for split in splits)) / (1 + len(splits))


@mpl.rc_context(STYLE)
def plot_neighbours(near: Neighbours) -> Figure:
    """Plot synthetic images above their nearest training image, and distances to training and held-out images."""
    figure = Plot(figsize=(11, 4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.2, 1))
    pairs = torch.from_numpy(np.stack([near.images, near.matches]))  # (2, n, S, S)
    show_mosaic(left.subplots(), _pixels(pairs)[:, :, None])
    left.suptitle("Newest synthetic images; below, the nearest training image", fontsize=12)
    axes = right.subplots()
    edges = np.linspace(0, 1.05 * max(near.to_train.max(), near.to_held_out.max()), 40)
    kinds = (
        (near.yardstick, "#999999", "real held-out to training"),
        (near.to_train, TITLE_COLOURS[1], "synthetic to training"),
        (near.to_held_out, TITLE_COLOURS[0], "synthetic to held-out"),
    )
    for distance, colour, name in kinds:
        axes.hist(distance, edges, density=True, histtype="step", lw=2, color=colour, label=name)
    axes.set(xlabel="distance to the nearest (rms of grey levels)", ylabel="density", title="Nearest real image")
    axes.legend(fontsize=9)
    return figure


def privacy_in_words(near: Neighbours) -> str:
    """Say the mean near, how likely chance explains them, whether the test would notice copies, the yardstick."""
    verdict = "chance can explain the difference" if near.p_value >= 0.05 else "chance hardly explains the difference"
    return (
        f"Mean distance to the nearest image, among equal numbers: training {near.to_train.mean():.3f}, held-out "
        f"{near.to_held_out.mean():.3f}. A random split puts the chosen part at least as far away in "
        f"{near.p_value:.1%} of the cases: {verdict}. If {COPIED:.0%} of the images were copies of training images, "
        f"this would be {near.p_copied:.1%}. Real held-out images are {near.yardstick.mean():.3f} from their nearest "
        f"training image; synthetic images are {near.to_train.mean() / near.yardstick.mean():.1f} times as far."
    )


def measured_privacy() -> Markdown:
    """Return what `python -m reproduce privacy` found: attacks, and the server's belief about class proportions."""
    measured = committed()
    seeds = f"mean and 95% interval over {len(measured['seeds'])} seeds"
    return Markdown(
        f"Area under the ROC curve, {seeds}:\n\n{markdown(attack_table(measured))}\n"
        f"Distance of believed class proportions from the true ones (total variation; KL divergence):\n\n"
        f"{markdown(label_table(measured))}"
    )


@check(a_function)
def check_label_loss(answer: Callable[..., Tensor]) -> Verdict:
    """Judge a function of logits (M, n, C), labels (n,) and q (M, C) that returns L_hot."""
    rng = torch.Generator().manual_seed(0)
    logits, labels = 3 * torch.randn(3, 5, 4, generator=rng), torch.tensor([0, 1, 2, 3, 1])
    q = torch.rand(3, 4, generator=rng)
    q = q / q.sum(dim=1, keepdim=True)
    trained = {"logits": logits.requires_grad_()}

    def each(scores: Tensor) -> Tensor:
        return torch.stack([F.cross_entropy(one, labels, reduction="none") for one in scores])  # (M, n)

    def loss(weights: Tensor, scores: Tensor = logits) -> Tensor:
        return (weights[:, labels] * each(scores)).sum() / len(labels)

    weights, ones = q / q.sum(dim=0), torch.ones_like(q)
    means = each(logits).mean(dim=1, keepdim=True)  # what F.cross_entropy returns for each teacher
    mistakes = {
        "Every teacher counts equally: you forgot the teacher weights w_m(y_b).": loss(ones / 3),
        "Every teacher counts fully: you forgot the teacher weights w_m(y_b).": loss(ones),
        "You weighted by q_m(y) itself: divide by its sum over teachers (over classes it is 1 already), so that the "
        "weights of a class sum to 1.": loss(q),
        "This is the sum over samples: divide by n.": loss(weights) * 5,
        "You divide by the number of teachers too: the weights already sum to 1 over them.": loss(weights) / 3,
        "You divide by the number of classes, not by the number of samples.": loss(weights) * 5 / 4,
        "Cross-entropy takes logits: you gave it probabilities, so the softmax is applied twice.": loss(
            weights, logits.softmax(dim=2)
        ),
        "F.cross_entropy returned the mean over the samples, before the weights could count each of them: "
        'pass reduction="none".': [
            (weights[:, labels] * means).sum() / 5,
            (weights[:, labels] * means).sum(),
            (weights * means).sum() / 4,
        ],
        "The sign is wrong: the cross-entropy is minus the logarithm of the probability.": -loss(weights),
        "This is only the last teacher's part: is the sum started anew in the loop?": (
            (weights[:, labels] * each(logits))[-1].sum() / 5
        ),
        "This is only the first teacher's part: is the `return` inside the loop?": (
            (weights[:, labels] * each(logits))[0].sum() / 5
        ),
        "These are probabilities; the loss takes their logarithms.": [
            sign * (weights[:, labels] * (-each(logits)).exp()).sum() / 5 for sign in (1, -1)
        ],
    }
    try:
        answered = answer(logits.clone(), labels.clone(), q.clone())
    except (RuntimeError, IndexError) as error:
        told = explained(error)
        if "shapes" in told:
            told += ' Without reduction="none", F.cross_entropy returns one number for all samples of a teacher.'
        return wrong(f"Your answer could not be used. {told}")
    praise = "A teacher that never saw a class has no influence on what it should look like."
    verdict = diagnose(one_number(answered), loss(weights), mistakes, praise)
    verdict = with_gradient(verdict, answered, loss(weights), trained)

    def correct(scores: Tensor, labels: Tensor, q: Tensor) -> Tensor:
        parts = [F.cross_entropy(one, labels, reduction="none") for one in scores]
        return ((q / q.sum(dim=0))[:, labels] * torch.stack(parts)).sum() / len(labels)

    other = torch.randn(2, 7, 3, generator=rng), torch.tensor([2, 2, 0, 1, 2, 0, 0]), torch.rand(2, 3, generator=rng)
    return elsewhere(verdict, answer, correct, {"two teachers, seven samples and three classes": other})


@check(a_function)
def check_feature_loss(answer: Callable[..., Tensor]) -> Verdict:
    """Judge a function of features (B, C, H, W), mean and variance (C,) that returns one probe's term of L_feat."""
    rng = torch.Generator().manual_seed(1)
    x = (torch.randn(3, 4, 2, 2, generator=rng) + 0.5).requires_grad_()
    mean, var = torch.randn(4, generator=rng), torch.rand(4, generator=rng) + 0.5
    axes = (0, 2, 3)

    def norm(vector: Tensor) -> Tensor:
        return torch.linalg.vector_norm(vector)

    m, v = channel_statistics(x)
    unbiased = x.var(dim=axes)
    mistakes = {
        "The probes keep the biased variance (divided by the number of values); yours is unbiased (divided by it "
        "minus 1): pass correction=0.": norm(m - mean) + norm(unbiased - var),
        "These are squared norms; the loss takes the norms themselves.": norm(m - mean) ** 2 + norm(v - var) ** 2,
        "This is the mean squared error; the loss takes Euclidean norms.": F.mse_loss(m, mean) + F.mse_loss(v, var),
        "You took sums of absolute differences; the loss takes Euclidean norms.": (m - mean).abs().sum()
        + (v - var).abs().sum(),
        "You took standard deviations; the probes keep variances.": [
            norm(m - mean) + norm(spread.sqrt() - kept) for spread in (v, unbiased) for kept in (var, var.sqrt())
        ],
        "Only the mean is matched: the variance's term is missing.": norm(m - mean),
        "You compared with mean 0 and variance 1, to which the probes are reset in every new global version. Compare "
        "with the teacher's statistics, which come with its model.": norm(m) + norm(v - 1),
        "Only the variance is matched: the mean's term is missing.": norm(v - var),
        "This is one norm of both differences together; the loss adds two norms.": norm(torch.cat([m - mean, v - var])),
        "You averaged over the batch alone: average over height and width, too, all dimensions but the channels.": (
            norm(x.mean(dim=0) - mean[:, None, None]) + norm(x.var(dim=0, correction=0) - var[:, None, None])
        ),
        "The two norms are averaged; the loss adds them.": (norm(m - mean) + norm(v - var)) / 2,
        "The sign is wrong: the loss is to become small, so it is a sum of norms.": -norm(m - mean) - norm(v - var),
        "You subtract the two norms; add them.": norm(m - mean) - norm(v - var),
    }
    answered, expected = answer(x.clone(), mean.clone(), var.clone()), norm(m - mean) + norm(v - var)
    praise = (
        "Two norms per probe: the loss is 0 only if every channel has the mean and the spread the teacher remembers."
    )
    verdict = diagnose(one_number(answered), expected, mistakes, praise)
    verdict = with_gradient(verdict, answered, expected, {"x": x})

    def correct(x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        found, spread = channel_statistics(x)
        return norm(found - mean) + norm(spread - var)

    other = torch.rand(5, 2, 3, 4, generator=rng), torch.rand(2, generator=rng), torch.rand(2, generator=rng)
    return elsewhere(verdict, answer, correct, {"features of another shape": other})


@check(a_function)
def check_adversarial_loss(answer: Callable[..., Tensor]) -> Verdict:
    """Judge a function of teacher and student logits (n, C) and weights (n,): one teacher's part of L_adv."""
    rng = torch.Generator().manual_seed(3)
    teacher = 2 * torch.randn(8, 3, generator=rng)
    student, w = teacher + 2 * torch.randn(8, 3, generator=rng), torch.rand(8, generator=rng)
    trained = {"teacher": teacher.requires_grad_(), "student": student.requires_grad_()}
    agree = teacher.argmax(dim=1) == student.argmax(dim=1)
    kl, reverse = kl_divergence(teacher, student), kl_divergence(student, teacher)
    mistakes = {
        "The KL divergence has the wrong direction: it is KL(teacher || student); the teacher's probabilities weight "
        "the logarithms. (F.kl_div takes the *student's* log-probabilities first.)": -(w * agree * reverse).mean(),
        "The sign is wrong: the generator minimises its loss and wants more disagreement, so there is a minus.": (
            w * agree * kl
        ).mean(),
        "Two mistakes: the sign, and the direction of the KL divergence.": (w * agree * reverse).mean(),
        "You forgot the condition that student and teacher agree: without it, the generator gets a "
        "reward for images that mean nothing.": -(w * kl).mean(),
        "The condition is reversed: only samples on which both name the *same* class count.": -(w * ~agree * kl).mean(),
        "You forgot the teacher weights w_m(y_b).": -(agree * kl).mean(),
        "You forgot two things: the teacher weights, and the condition that both agree.": -kl.mean(),
        "You divide by the number of samples on which they agree; the loss divides by n.": -(w * agree * kl).sum()
        / agree.sum(),
        "This is the sum over samples: divide by n.": -(w * agree * kl).sum(),
        "You averaged over classes too: sum over classes, then take the mean over samples.": -(w * agree * kl).mean()
        / 3,
        "This is the share of the teachers' weight on which both agree: the divergence is missing.": [
            sign * (w * agree).mean() for sign in (1, -1)
        ],
        "This is the teacher's entropy or the cross-entropy; the divergence is their difference.": [
            sign * (w * agree * -(teacher.softmax(1) * logs.log_softmax(1)).sum(1)).mean()
            for logs in (teacher, student)
            for sign in (1, -1)
        ],
        "F.kl_div takes the student's *log*-probabilities first, not its probabilities.": -(
            w * agree * F.kl_div(student.softmax(1), teacher.softmax(1), reduction="none").sum(1)
        ).mean(),
        "You divide by the sum of the weights; the loss divides by n.": -(w * agree * kl).sum() / w.sum(),
    }
    answered, expected = answer(teacher.clone(), student.clone(), w.clone()), -(w * agree * kl).mean()
    praise = (
        "It looks for images that both assign to the same class, where the teacher is sure in a way the student is not."
    )
    verdict = diagnose(one_number(answered), expected, mistakes, praise)
    verdict = with_gradient(verdict, answered, expected, trained)

    def correct(teacher: Tensor, student: Tensor, w: Tensor) -> Tensor:
        agree = teacher.argmax(dim=1) == student.argmax(dim=1)
        return -(w * agree * kl_divergence(teacher, student)).mean()

    first, second, w = torch.eye(5), torch.eye(5).roll(1, 0), torch.rand(5, generator=rng)
    cases = {
        "five classes": (first, first + 0.3 * second, w),
        "samples on which the two never agree": (first, second, w),
    }
    return elsewhere(verdict, answer, correct, cases)


@check(a_function)
def check_proportions(answer: Callable[..., Tensor]) -> Verdict:
    """Judge a function of a model, noise (n, 1, 4, 4) and T_probe that returns estimated class proportions (C,)."""
    rng = torch.Generator().manual_seed(4)
    head, probe = nn.Linear(16, 3), StatisticProbe(1)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))
    model = nn.Sequential(probe, nn.Flatten(), head).train()  # as it comes from the client: in training mode
    noise, temperature = torch.randn(64, 1, 4, 4, generator=rng), 0.8
    result = answer(model, noise.clone(), temperature)
    if not torch.equal(probe.running_mean, torch.zeros(1)):
        return wrong(
            "The model was in training mode: your noise went into its probes' running statistics, which L_feat needs "
            "as the client left them. Call model.eval() first."
        )
    with torch.no_grad():
        logits = head(noise.flatten(1))
    mistakes = {
        "You forgot to divide the logits by T_probe.": logits.softmax(dim=1).mean(dim=0),
        "You multiplied the logits by T_probe: divide, so that a T below 1 makes the votes sharper.": (
            logits * temperature
        )
        .softmax(dim=1)
        .mean(dim=0),
        "You averaged before the softmax: take the softmax of each input's logits, then average the probabilities.": (
            logits.mean(dim=0) / temperature
        ).softmax(dim=0),
        "You counted hard votes (argmax); the proxy averages probabilities.": torch.bincount(
            logits.argmax(dim=1), minlength=3
        )
        / len(logits),
        "This is the sum over inputs: take the mean.": (logits / temperature).softmax(dim=1).sum(dim=0),
        "You divided the probabilities by T_probe, not the logits.": logits.softmax(dim=1).mean(dim=0) / temperature,
        "The softmax runs over inputs; it must run over classes (dim=1).": (logits / temperature)
        .softmax(dim=0)
        .mean(dim=0),
        "These are averaged logits: the softmax is missing.": [logits.mean(dim=0), (logits / temperature).mean(dim=0)],
        "These are logarithms of probabilities: take the softmax itself.": (
            (logits / temperature).log_softmax(dim=1).mean(dim=0)
        ),
        "Every class gets the same share, whatever the model answers.": torch.full((3,), 1 / 3),
    }
    praise = "No data were needed: a network that was trained on few classes answers these classes even to noise."
    verdict = diagnose(result, (logits / temperature).softmax(dim=1).mean(dim=0), mistakes, praise)
    bare = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))

    def correct(model: nn.Module, noise: Tensor, temperature: float) -> Tensor:
        return (model(noise).detach() / temperature).softmax(dim=1).mean(dim=0)

    return elsewhere(verdict, answer, correct, {"five classes and T_probe = 2": (bare, noise[:10], 2.0)})
