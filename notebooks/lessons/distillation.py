"""For 04_distillation: students and teachers of a run, distillation on any samples, checks of the exercises."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor, nn
from torch.nn import functional as F

from fedrevive_core import RunConfig, Simulation, StatisticProbe
from fedrevive_core.evaluation import evaluate
from fedrevive_core.plots import STYLE, TITLE_COLOURS, Plot
from fedrevive_core.records import confidence_interval
from fedrevive_core.revival import Distiller, SamplePool, kl_divergence, teacher_weights
from fedrevive_core.seeding import stream
from fedrevive_core.simulation import Progress, num_threads
from fedrevive_notebooks.lessons.exercise import (
    Verdict,
    a_function,
    a_whole_number,
    check,
    diagnose,
    elsewhere,
    one_number,
    right,
    with_gradient,
    wrong,
)

BEFORE, AFTER = "#b8b8b8", "#D55E00"


@dataclass(frozen=True)
class Scene:
    """One version of a run: the global model `student` (size,), the newest returned models and their clients, newest
    first, and their class proportions (M, C), as the server estimates them (`shares`) and in truth (`true_shares`)."""

    version: int
    student: Tensor
    teachers: list[Tensor]
    clients: list[int]
    shares: np.ndarray
    true_shares: np.ndarray


def scenes(config: RunConfig, every: int) -> tuple[Simulation, list[Scene]]:
    """Run `config` to its end and keep a scene of every `every`-th version, from the middle of the run on."""
    simulation, seen = Simulation(config), []
    with Progress("a run without distillation", simulation.timeline.num_versions) as bar:
        for _ in simulation.steps():
            version = simulation.server.version
            bar.advance(version, f"time {simulation.now:.1f}")
            if version % every == 0 and version >= simulation.timeline.num_versions // 2:
                seen.append(scene(simulation))
    return simulation, seen


def scene(simulation: Simulation) -> Scene:
    """Return the scene at the present version of `simulation`."""
    reviver = simulation.reviver
    clients = [teacher.client for teacher in reviver.buffer]
    return Scene(
        version=simulation.server.version,
        student=simulation.server.state,
        teachers=[teacher.state for teacher in reviver.buffer],
        clients=clients,
        shares=np.stack([reviver.proportions.of(client) for client in clients]),
        true_shares=simulation.data.class_proportions[clients],
    )


def pools(simulation: Simulation) -> dict[str, SamplePool]:
    """Return three pools to distil on: synthetic images, real images kept aside, and uniform noise."""
    data, rng = simulation.data, np.random.default_rng(0)
    shape, classes = data.sample_shape, data.num_classes
    real = SamplePool(len(data.held_back.labels), shape, classes, simulation.device)
    real.add(data.held_back.images, data.held_back.labels.cpu().numpy())
    noise = SamplePool(1000, shape, classes, simulation.device)
    noise.add(torch.from_numpy(rng.random((1000, *shape), dtype=np.float32)), rng.integers(classes, size=1000))
    return {"synthetic": simulation.reviver.pool, "real, held back": real, "noise": noise}


def distil(simulation: Simulation, scene: Scene, pool: SamplePool, *, num_teachers: int = 8, **settings: Any) -> Tensor:
    """Return the student (size,) distilled from the newest `num_teachers`; `settings` replace those of the run."""
    config = simulation.config.distillation.model_copy(update=settings)
    prepare = simulation.reviver.distiller.prepare
    distiller = Distiller(simulation.layout, prepare, config, simulation.device, guard=False)
    rng = stream(simulation.config.seed, "distillation", scene.version)
    shares = scene.shares[:num_teachers]
    slots = np.stack([pool.sample(share, config.steps * config.batch_size, rng) for share in shares])
    samples = pool.samples[torch.from_numpy(slots)].unflatten(1, (config.steps, config.batch_size))
    augmentation = torch.from_numpy(prepare.draw(rng, len(shares), config.steps, config.batch_size))
    with num_threads(simulation.config.num_threads):
        made = distiller.distil(scene.student, scene.teachers[:num_teachers], samples, augmentation)
    return scene.student + made.update


def accuracies(simulation: Simulation, state: Tensor) -> tuple[float, np.ndarray]:
    """Return the test accuracy of `state`, overall and of each class (C,)."""
    test = simulation.data.test
    overall, _, by_class = evaluate(
        simulation.layout, state, simulation.modality.prepare, test.images, test.labels, simulation.data.num_classes
    )
    return overall, np.array(by_class)


@mpl.rc_context(STYLE)
def plot_shares(scene: Scene) -> Figure:
    """Plot the teachers' class proportions q_m, true and estimated, and the teacher weights that follow."""
    figure = Plot(figsize=(10, 3.6), layout="constrained")
    panels = {
        "true class proportions": scene.true_shares,
        "the server's estimate: $q_m(y)$": scene.shares,
        "teacher weights: $w_m(y)$": teacher_weights(scene.shares),
    }
    for axes, (title, values) in zip(figure.subplots(1, 3, sharey=True), panels.items(), strict=True):
        image = axes.imshow(values, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        axes.set(xlabel="class", xticks=range(values.shape[1]))
        axes.set_title(title, fontsize=11)
        axes.grid(visible=False)
    figure.axes[0].set_yticks(range(len(scene.clients)), [str(client) for client in scene.clients])
    figure.axes[0].set_ylabel("teacher: its client, newest on top")
    figure.colorbar(image, ax=figure.axes, label="0 to 1", pad=0.01)
    return figure


def answers(simulation: Simulation, scene: Scene, temperature: float = 1.0, among: int = 100) -> np.ndarray:
    """Return the teachers' probabilities (M, n, C) for the first `among` test images."""
    inputs, layout = simulation.modality.prepare(simulation.data.test.images[:among]), simulation.layout
    with torch.no_grad():
        logits = torch.stack([layout.call(layout.views(teacher), inputs) for teacher in scene.teachers])
    return (logits / temperature).softmax(dim=2).numpy()


def disputed(simulation: Simulation, scene: Scene) -> int:
    """Return the index of the test image, among those of `answers`, with the most different answers."""
    named = answers(simulation, scene).argmax(axis=2)
    return int(np.argmax([len(set(said)) for said in named.T.tolist()]))


def softened_in_words(simulation: Simulation, scene: Scene) -> str:
    """Return in words how far answers move from T = 1 to T = 5, and how often they are right: by who has the class."""
    first, soft = answers(simulation, scene), answers(simulation, scene, 5.0)
    moved = np.abs(first - soft).sum(axis=2) / 2  # (M, n)
    labels = simulation.data.test.labels[: moved.shape[1]].numpy()
    share = scene.true_shares[:, labels]
    right = first.argmax(axis=2) == labels
    know, others = share > 0.1, share == 0
    return (
        f"Over {len(labels)} test images: {moved[know].mean():.0%} of the probability moves from T = 1 to T = 5 in the "
        f"answers of teachers with the class (a tenth of their data or more), {moved[others].mean():.0%} without "
        f"it. {right[know].mean():.0%} of the former are right, and {right[others].mean():.0%} of the latter."
    )


@mpl.rc_context(STYLE)
def plot_votes(simulation: Simulation, scene: Scene, image: int, temperature: float) -> Figure:
    """Plot what each teacher says about one real test image at a softmax temperature."""
    test, prepare = simulation.data.test, simulation.modality.prepare
    picture = test.images[image : image + 1]
    with torch.no_grad():
        logits = [simulation.layout.call(simulation.layout.views(t), prepare(picture))[0] for t in scene.teachers]
    probs = (torch.stack(logits) / temperature).softmax(dim=1).numpy()
    figure = Plot(figsize=(10, 3.4))
    left = figure.add_axes((0.02, 0.15, 0.22, 0.65))
    left.imshow(picture[0, 0], cmap="gray", vmin=0, vmax=1)
    left.set_title(f"a {simulation.data.class_names[int(test.labels[image])]} from the test set", fontsize=11)
    left.set_axis_off()
    axes = figure.add_axes((0.35, 0.15, 0.55, 0.65))
    shown = axes.imshow(probs, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    axes.set(xlabel="class", ylabel="teacher: its client", xticks=range(probs.shape[1]))
    axes.set_yticks(range(len(scene.clients)), [str(client) for client in scene.clients])
    axes.grid(visible=False)
    axes.set_title(f"what the teachers answer at T = {temperature:g}", fontsize=11)
    figure.colorbar(shown, cax=figure.add_axes((0.92, 0.15, 0.015, 0.65)), label="probability")
    return figure


@mpl.rc_context(STYLE)
def plot_before_and_after(scene: Scene, before: np.ndarray, after: Mapping[str, np.ndarray]) -> Figure:
    """Plot the accuracy of each class before and after distillation, and how much of it the teachers have."""
    figure = Plot(figsize=(10, 5.2), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    classes, width = np.arange(len(before)), 0.8 / (1 + len(after))
    top.bar(classes - 0.4 + width / 2, before, width, color=BEFORE, label="before")
    for number, (title, values) in enumerate(after.items(), start=1):
        colour = TITLE_COLOURS[number % len(TITLE_COLOURS)]
        top.bar(classes - 0.4 + width * (number + 0.5), values, width, color=colour, label=title)
    top.set(ylabel="test accuracy of the class", ylim=(0, 1))
    top.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    top.set_title(f"The student of version {scene.version}: before and after one distillation")
    top.legend(loc="upper center", ncols=4, bbox_to_anchor=(0.5, -0.02), fontsize=10)
    bottom.bar(classes, coverage(scene), 0.8, color="#009E73", alpha=0.7)
    bottom.set(xlabel="class", ylabel=r"$\sum_m q_m(y)$", xticks=classes)
    bottom.set_title("How much of it the teachers have together", fontsize=11)
    return figure


def coverage(scene: Scene) -> np.ndarray:
    """Return the sum (C,) of the teachers' class proportions: how many teachers, in effect, know the class."""
    return scene.shares.sum(axis=0)


def by_coverage(scene: Scene, num_classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return the `num_classes` classes of which the teachers together have least, and those of which they have most."""
    order = coverage(scene).argsort()
    return order[:num_classes], order[-num_classes:]


def coverage_in_words(scene: Scene, before: np.ndarray, after: np.ndarray) -> str:
    """Return in words the mean accuracy of the classes that the teachers know least and most, before and after."""
    said = []
    for word, classes in zip(("least", "most"), by_coverage(scene), strict=True):
        names = ", ".join(map(str, sorted(classes)))
        said.append(f"of which the teachers have {word} ({names}): {before[classes].mean():.0%} before, ")
        said[-1] += f"**{after[classes].mean():.0%}** after"
    return f"Mean accuracy of the three classes {said[0]}; of the three {said[1]}, on synthetic images."


def gains(simulation: Simulation, seen: Sequence[Scene], settings: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Tabulate the gain in accuracy of one distillation, a row per scene and title of `settings` for `distil`."""
    rows = []
    for one in seen:
        before, _ = accuracies(simulation, one.student)
        for title, values in settings.items():
            after, _ = accuracies(simulation, distil(simulation, one, **values))
            rows.append({"version": one.version, "title": title, "before": before, "gain": after - before})
    return pd.DataFrame(rows)


@mpl.rc_context(STYLE)
def plot_gains(table: pd.DataFrame, xlabel: str, title: str) -> Figure:
    """Plot the gain in accuracy of each title: a dot per scene, mean and 95% interval over the scenes."""
    figure = Plot(figsize=(10, 3.6), layout="constrained")
    axes = figure.subplots()
    for column, (_, part) in enumerate(table.groupby("title", sort=False)):
        values = part["gain"].to_numpy()
        mean, half = confidence_interval(values)
        spread = np.linspace(-0.12, 0.12, len(values))
        axes.plot(column + spread, values, "o", color=BEFORE, ms=5)
        axes.errorbar(column, mean, half, fmt="D", color=AFTER, capsize=5, ms=7)
        axes.text(column + 0.16, mean, f"{100 * mean:+.0f}", va="center", color=AFTER, fontsize=11)
    names = list(table["title"].unique())
    axes.axhline(0, color="black", lw=1)
    axes.set_xticks(range(len(names)), names)
    axes.set(xlabel=xlabel, ylabel="gain in test accuracy", xlim=(-0.5, len(names) - 0.5))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_title(f"{title}: each dot a student, mean and 95% interval")
    return figure


def differences_in_words(table: pd.DataFrame, reference: str) -> str:
    """Return in words the mean difference in gain between each title and `reference`, on the same students."""
    gain = table.pivot_table(index="version", columns="title", values="gain", sort=False)
    said = []
    for title in gain.columns.drop(reference):
        mean, half = confidence_interval(100 * (gain[title] - gain[reference]).to_numpy())
        clear = "clear" if abs(mean) > half else "not clear"
        said.append(f"{title} {mean:+.0f} ± {half:.0f} ({clear})")
    return f"Against *{reference}*, in points, on the same {len(gain)} students: {'; '.join(said)}."


@check(a_function)
def check_weights(answer: Callable[[np.ndarray], Any]) -> Verdict:
    """Judge `answer(q)`: teacher weights (M, C) of class proportions (M, C)."""
    q = np.array([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5]])
    given = q.copy()
    result = answer(q)
    if not np.array_equal(q, given):
        return wrong("Your function changes q, which is needed later: make a new array.")
    mistakes = {
        "You divided by the sum over classes, which is 1 already. Divide by the sum over teachers (axis 0).": (
            q / q.sum(axis=1, keepdims=True)
        ),
        "You divided by the sum over everything; divide each class by its sum over teachers.": q / q.sum(),
        "This gives every teacher the same vote, also on classes that it has never seen.": np.full_like(q, 0.5),
        "This is a softmax over teachers: a teacher without the class would still get a vote.": (
            np.exp(q) / np.exp(q).sum(axis=0)
        ),
        "This is a softmax over classes; the weights of a class are shares among the teachers.": (
            np.exp(q) / np.exp(q).sum(axis=1, keepdims=True)
        ),
        "You divided by the largest of the teachers; divide by their sum.": q / q.max(axis=0),
        "You divided by the mean of the teachers; divide by their sum.": q / q.mean(axis=0),
        "It is upside down: you divided the sum by q.": q.sum(axis=0) / q,
        "The teacher who knows most gets the whole vote; the weights are shares.": (q == q.max(axis=0)).astype(float),
    }
    praise = "Each column sums to 1: for every class the teachers share one vote."
    otherwise = "For class 0 the two teachers have 0.6 and 0.2, so the first should get 0.75."
    verdict = diagnose(result, teacher_weights(q), mistakes, praise, otherwise=otherwise)
    three = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]])
    return elsewhere(verdict, answer, teacher_weights, {"three teachers and two classes": (three,)})


@check(a_function)
def check_kd_loss(answer: Callable[[Tensor, Tensor, float], Any]) -> Verdict:
    """Judge `answer(teacher_logits, student_logits, T)` with logits (M, n, C): the loss of one step, a number."""
    generator = torch.Generator().manual_seed(0)
    teacher, student = (2 * torch.randn(3, 4, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    student.requires_grad_()
    T, count = 3.0, 12

    def log_kl(first: Tensor, second: Tensor) -> Tensor:
        """The sum of KL(first || second) over all samples, from log-probabilities."""
        return (first.exp() * (first - second)).expand(3, 4, 2).sum()

    def kl(first: Tensor, second: Tensor) -> Tensor:
        return log_kl(first.log_softmax(-1), second.log_softmax(-1))

    def jointly(logits: Tensor) -> Tensor:
        """Logarithms of the probabilities' mean over teachers."""
        return (logits / T).softmax(-1).mean(0).log()

    cold = kl(teacher / T, student / T)
    entropy = -((teacher / T).softmax(-1) * (teacher / T).log_softmax(-1)).sum()
    at_t = (student / T).log_softmax(-1)
    each = "each teacher has samples of its own, and the student answers each of them."
    mistakes = {
        "This is KL(student || teacher). The teacher's distribution comes first: it weighs the logarithms.": (
            T**2 * kl(student / T, teacher / T) / count
        ),
        "Divide the logits by T, before the softmax: in your loss T is only a factor.": [
            factor * kl(teacher, student) / count for factor in (T**2, T, 1 / T)
        ],
        "Your loss contains no temperature: it does not use T.": kl(teacher, student) / count,
        "You multiplied the logits by T: divide them.": T**2 * kl(teacher * T, student * T) / count,
        "The factor T^2 is missing: without it the gradients shrink as 1/T^2.": cold / count,
        "You used T instead of T^2: one T for each of the two logits that are divided.": T * cold / count,
        "You divided by T^2; multiply by it.": cold / count / T**2,
        "Only the teacher's logits are divided by T; divide the student's too.": (
            T**2 * kl(teacher / T, student) / count
        ),
        "Only the student's logits are divided by T.": T**2 * kl(teacher, student / T) / count,
        "This is the sum over teachers and samples: divide by their number, M n.": T**2 * cold,
        "You divided by the number of samples alone: the loss would grow with the number of teachers.": T**2 * cold / 4,
        "You divided by the number of teachers alone, as F.kl_div's 'batchmean' does here.": T**2 * cold / 3,
        "This also divides by the number of classes, as F.kl_div does with reduction='mean'.": T**2 * cold / count / 2,
        "This is the cross-entropy: it still contains the teacher's entropy.": T**2 * (cold + entropy) / count,
        f"You averaged the teachers' logits first: {each}": (
            T**2 * log_kl((teacher.mean(0) / T).log_softmax(-1), at_t) / count
        ),
        f"You averaged the logits of teachers and of student first: {each}": (
            T**2 * kl(teacher.mean(0) / T, student.mean(0) / T) / count
        ),
        f"You averaged the teachers' probabilities first: {each}": T**2 * log_kl(jointly(teacher), at_t) / count,
        f"You averaged the probabilities of teachers and of student first: {each}": (
            T**2 * log_kl(jointly(teacher), jointly(student)) / count
        ),
        "The softmax runs over samples; it must run over classes, dim=-1.": T**2
        * log_kl((teacher / T).log_softmax(1), (student / T).log_softmax(1))
        / count,
        "The softmax runs over teachers; it must run over classes, dim=-1.": T**2
        * log_kl((teacher / T).log_softmax(0), (student / T).log_softmax(0))
        / count,
        "The sign is wrong: a KL divergence is never negative.": -(T**2) * cold / count,
        "F.kl_div takes the student's *log*-probabilities first, not its probabilities.": T**2
        * F.kl_div((student / T).softmax(-1), (teacher / T).softmax(-1), reduction="sum")
        / count,
        "This compares logits by their mean square; the loss compares distributions.": [
            factor * (teacher - student).square().mean() for factor in (1, T**2, 1 / T**2)
        ],
    }
    answered, expected = answer(teacher.clone(), student.clone(), T), T**2 * cold / count
    praise = "It is zero exactly where student and teacher agree, and its gradient keeps its size when T changes."
    verdict = diagnose(one_number(answered), expected, mistakes, praise, otherwise="unknown")
    if verdict.message == "unknown":
        equal = one_number(answer(teacher.clone(), teacher.clone(), T))
        said = "and so it is" if abs(equal) < 1e-6 else f"yours is {equal:.4g}"
        return wrong(
            f"If the student answers exactly what the teacher answers, the loss must be 0, {said}. On the check's "
            f"logits yours is {one_number(answered):.4g}, not {float(expected):.4g}. Look at the mean and at T again."
        )
    verdict = with_gradient(verdict, answered, expected, {"student_logits": student})
    other = torch.randn(2, 1, 5, 2, generator=generator, dtype=torch.float64)
    return elsewhere(
        verdict,
        answer,
        lambda first, second, at: at**2 * kl_divergence((first / at)[0], (second / at)[0]).mean(),
        {"one teacher, five samples and T = 0.5": (*other, 0.5)},
    )


class Watched(nn.Module):
    """A small model with a probe and dropout, which behave differently in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.probe, self.drop, self.head = StatisticProbe(4), nn.Dropout(0.5), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.probe(x)))


@check(a_function)
def check_teacher(answer: Callable[[nn.Module, Tensor], Any]) -> Verdict:
    """Judge `answer(teacher, x)`: the logits of a frozen teacher."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher, x = Watched().train(), torch.randn(16, 4) + 3
        frozen = copy.deepcopy(teacher).eval()
        expected, before = frozen(x).detach(), copy.deepcopy(teacher.state_dict())
        given = x.clone()
        result = answer(teacher, x)
    if not isinstance(result, Tensor) or result.shape != expected.shape:
        return wrong(f"Return the logits, a tensor of shape {tuple(expected.shape)}.")
    if not torch.equal(x, given):
        return wrong("Your function changes the batch x. It is needed later: make a new tensor.")
    for squashed, name in (
        (expected.softmax(dim=1), "probabilities"),
        (expected.log_softmax(dim=1), "log-probabilities"),
    ):
        if torch.allclose(result, squashed, atol=1e-5):
            return wrong(f"These are {name}. The loss divides logits by T, so return the logits.")
    state = teacher.state_dict()
    if any(not torch.equal(before[name], state[name]) for name in before if "running" in name):
        return wrong("The teacher is in training mode: its probe's statistics have moved. Call teacher.eval() first.")
    if any(not torch.equal(before[name], value) for name, value in state.items()):
        return wrong("Your function changes the teacher's parameters: a teacher only answers.")
    if not torch.allclose(result, expected, atol=1e-5):
        if teacher.drop.training:
            return wrong(
                "The teacher is in training mode: dropout makes its answers random. Call teacher.eval() first."
            )
        return wrong("These are not the teacher's logits on x: return teacher(x), in evaluation mode.")
    if result.requires_grad:
        return wrong(
            "The answers are right, but they carry a gradient graph: use torch.no_grad() to save time and memory."
        )
    if not all(parameter.requires_grad for parameter in teacher.parameters()):
        return wrong("The answers are right, but the teacher's parameters stay frozen: use torch.no_grad() instead.")
    return right("A teacher only answers: evaluation mode, no gradient, the same parameters and statistics as before.")


@check(a_whole_number)
def check_weakest(answer: int, scene: Scene, after: np.ndarray, before: np.ndarray) -> Verdict:
    """Judge the class of which the teachers together have least."""
    known = coverage(scene)
    least = int(known.argmin())
    if not 0 <= answer < len(known):
        return wrong(f"Give the number of a class, 0 to {len(known) - 1}.")
    if answer == least:
        return right(
            f"The teachers together have {known[least]:.2f} of class {least}, the least of all. Its accuracy "
            f"went from {before[least]:.0%} to {after[least]:.0%} on synthetic images. One class of one student may be "
            "lucky: look at all of them in the figure below."
        )
    if answer == int(known.argmax()):
        return wrong("This is the class that the teachers know best; the question is which one they know least.")
    if before[answer] == np.nanmin(before):
        return wrong("This is where the student is weak now. What it can learn depends on the teachers.")
    return wrong(
        f"The teachers together have {known[answer]:.2f} of that class, and less of another. Sum over teachers."
    )
