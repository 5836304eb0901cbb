"""For 02_why_stale_hurts: what staleness does to updates of a real model, what servers do about it, and the checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from fedrevive_core import Simulation, Timeline
from fedrevive_core.config import FederationConfig, RunConfig, StalenessConfig, build, method_title
from fedrevive_core.evaluation import evaluate
from fedrevive_core.plots import METHOD_COLOURS, STYLE, TITLE_COLOURS, Plot
from fedrevive_core.records import confidence_interval
from fedrevive_core.simulation import Progress, num_threads
from fedrevive_core.staleness import beta
from fedrevive_core.timeline import speed_groups
from fedrevive_core.training import Job
from fedrevive_notebooks.lessons.exercise import (
    Verdict,
    a_function,
    a_number,
    check,
    diagnose,
    elsewhere,
    one_number,
    right,
    wrong,
)
from fedrevive_notebooks.lessons.quick_tour import judge_lost

STEP = 0.5  # of the mean update whose effect on the loss is measured; ten updates at a server rate of 0.05 go as far
WORKED = 1_000_000  # number of the first job trained only for measuring; jobs of the run have smaller numbers


def run_with_snapshots(config: RunConfig) -> tuple[Simulation, list[Tensor]]:
    """Run `config` and return the simulation with all its versions (size,), from version 0 on."""
    simulation = Simulation(config)
    versions = [simulation.server.state]
    with Progress("training", simulation.timeline.num_versions) as bar:
        for number in range(len(simulation.timeline.arrivals)):
            simulation.process(number)
            if simulation.server.version == len(versions):
                versions.append(simulation.server.state)
                bar.advance(simulation.server.version, f"time {simulation.now:.1f}")
    return simulation, versions


@dataclass(frozen=True)
class Measured:
    """The same jobs done from older and older versions, at several versions t.

    staleness (S,), starting with 0. updates (V, S, n, P): returned minus downloaded, of n clients; parameters alone.
    behind (V, S, P): downloaded minus current. repeated (V, n, P): the fresh updates, on other batches. loss_change
    (V, S): what a step of STEP along the mean of the n updates does to the validation loss of the current version.
    """

    versions: list[int]
    staleness: np.ndarray
    updates: Tensor
    behind: Tensor
    repeated: Tensor
    loss_change: np.ndarray


def measure(
    simulation: Simulation, snapshots: Sequence[Tensor], at: Sequence[int], staleness: Sequence[int], num_clients: int
) -> Measured:
    """At each version of `at`, let `num_clients` clients train the same batches from the versions `staleness` ago."""
    if staleness[0] != 0 or max(staleness) > min(at) or max(at) >= len(snapshots):
        raise ValueError(
            f"staleness {list(staleness)} must start with 0 and reach back from {list(at)} to version 0 at most"
        )
    layout, rng = simulation.layout, np.random.default_rng(simulation.config.seed)
    updates, behind, repeated, loss_change = [], [], [], []
    for version in at:
        clients = rng.choice(simulation.config.federation.num_clients, num_clients, replace=False).tolist()
        current = snapshots[version]
        bases = [snapshots[version - tau] for tau in staleness]
        # Equal job numbers give equal random streams: a job sees the same batches whatever version it starts from.
        jobs = [Job(WORKED + index, client, base) for base in bases for index, client in enumerate(clients)]
        jobs += [Job(WORKED + num_clients + index, client, current) for index, client in enumerate(clients)]
        with num_threads(simulation.config.num_threads or 1):
            returned = torch.stack(simulation.trainer.train(jobs)).unflatten(0, (len(staleness) + 1, num_clients))
        made = layout.parameters(returned - torch.stack([*bases, current])[:, None])
        updates.append(made[:-1])
        repeated.append(made[-1])
        behind.append(layout.parameters(torch.stack(bases) - current))
        loss_change.append(_loss_changes(simulation, current, made[:-1].mean(dim=1)))
    return Measured(
        list(at),
        np.array(staleness),
        torch.stack(updates),
        torch.stack(behind),
        torch.stack(repeated),
        np.array(loss_change),
    )


def _loss_changes(simulation: Simulation, current: Tensor, updates: Tensor) -> list[float]:
    layout, part = simulation.layout, simulation.data.validation

    def loss(state: Tensor) -> float:
        return evaluate(
            layout, state, simulation.modality.prepare, part.images, part.labels, simulation.data.num_classes
        )[1]

    before, changes = loss(current), []
    for update in updates:
        moved = current.clone()
        layout.parameters(moved).add_(update, alpha=STEP)
        changes.append(loss(moved) - before)
    return changes


def cosines(measured: Measured, *, measured_from: str = "downloaded") -> np.ndarray:
    """Return the cosine (V * n, S) between the stale and the fresh update of the same client.

    measured_from: 'downloaded' compares returned minus downloaded, 'current' compares returned minus current.
    """
    fresh = measured.updates[:, :1]
    stale = measured.updates if measured_from == "downloaded" else measured.updates + measured.behind[:, :, None]
    return F.cosine_similarity(stale, fresh, dim=-1).transpose(1, 2).flatten(0, 1).numpy()


def ceiling(measured: Measured) -> np.ndarray:
    """Return the cosine (V * n,) between two fresh updates of one client on different batches: the effect of noise."""
    return F.cosine_similarity(measured.repeated, measured.updates[:, 0], dim=-1).flatten().numpy()


def agreement(measured: Measured, buffer_size: int, *, measured_from: str = "downloaded") -> np.ndarray:
    """Cosine (V * n / buffer_size, S) of the mean of `buffer_size` stale updates with the others' mean fresh update."""
    stale = measured.updates if measured_from == "downloaded" else measured.updates + measured.behind[:, :, None]
    num = stale.shape[2] // buffer_size * buffer_size
    buffers = stale[:, :, :num].unflatten(2, (-1, buffer_size)).mean(dim=3)
    fresh = measured.updates[:, :1]
    inside = fresh[:, :, :num].unflatten(2, (-1, buffer_size)).sum(dim=3)
    others = (fresh.sum(dim=2, keepdim=True) - inside) / (fresh.shape[2] - buffer_size)
    return F.cosine_similarity(buffers, others, dim=-1).transpose(1, 2).flatten(0, 1).numpy()


def _band(axes: Axes, staleness: np.ndarray, values: np.ndarray, colour: str, label: str, style: str = "o-") -> None:
    """Plot the mean over rows of `values` (rows, S) with its 95% interval."""
    mean, half = np.array([confidence_interval(column) for column in values.T]).T
    axes.fill_between(staleness, mean - half, mean + half, color=colour, alpha=0.18, lw=0)
    axes.plot(staleness, mean, style, color=colour, label=label)


@mpl.rc_context(STYLE)
def plot_directions(measured: Measured) -> Figure:
    """Plot the cosine of stale updates with the client's fresh update, and with what the other clients want now."""
    figure = Plot(figsize=(11, 4.4), layout="constrained")
    same, others = figure.subplots(1, 2, sharey=True)
    names = {"downloaded": "returned $-$ downloaded", "current": "returned $-$ current"}
    for (start, name), colour in zip(names.items(), ("#0072B2", "#D55E00"), strict=True):
        _band(same, measured.staleness, cosines(measured, measured_from=start), colour, name)
        _band(others, measured.staleness, agreement(measured, 1, measured_from=start), colour, name)
    same.axhline(ceiling(measured).mean(), color="#444444", ls=":", lw=1.6, label="fresh, repeated on other batches")
    same.set(title="... with the client's fresh update", ylabel="cosine (mean and 95% interval)")
    others.set_title("... with the mean fresh update of the others")
    for axes in (same, others):
        axes.axhline(0, color="black", lw=0.8)
        axes.set(xlabel=r"staleness $\tau$ (versions)", xlim=(0, None), ylim=(-0.6, 1.02))
    figure.legend(*same.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle("Does a stale update still point the right way? Its cosine ...", x=0.01, ha="left")
    return figure


@mpl.rc_context(STYLE)
def plot_buffer_and_loss(measured: Measured, buffer_sizes: Sequence[int] = (1, 2, 4)) -> Figure:
    """Plot what a buffer repairs (skew) and what not (staleness), and what stale steps do to the loss."""
    figure = Plot(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for size, colour in zip(buffer_sizes, TITLE_COLOURS[2:], strict=False):
        _band(left, measured.staleness, agreement(measured, size), colour, f"B = {size}")
    left.set(title="Mean of B stale updates, against the others", ylabel="cosine (mean and 95% interval)")
    left.legend()
    for version, change in zip(measured.versions, measured.loss_change, strict=True):
        right.plot(measured.staleness, change, "o-", lw=1, ms=3, color="#999999")
        right.annotate(
            f"version {version}", (measured.staleness[-1], change[-1]), (4, 0), textcoords="offset points", fontsize=8
        )
    right.plot(measured.staleness, measured.loss_change.mean(axis=0), "o-", color="black", label="mean over versions")
    right.axhline(0, color="black", lw=0.8)
    right.set(title="One step of all these updates: better or worse?", ylabel="change of validation loss")
    right.legend(loc="upper left")
    for axes in (left, right):
        axes.set(xlabel=r"staleness $\tau$ (versions)")
    return figure


def directions_in_words(measured: Measured, staleness: float) -> str:
    """Return in words the numbers of `plot_directions` when fresh and at the measured staleness next to `staleness`."""
    usual = int(np.abs(measured.staleness - staleness).argmin())
    same, others = {}, {}
    for start in ("downloaded", "current"):
        same[start] = cosines(measured, measured_from=start).mean(axis=0)
        others[start] = agreement(measured, 1, measured_from=start).mean(axis=0)
    return (
        f"At staleness {measured.staleness[usual]}, a client's progress has cosine **{same['downloaded'][usual]:.2f}** "
        f"with its fresh update, and **{others['downloaded'][usual]:.2f}** with what the others want now "
        f"({others['downloaded'][0]:.2f} when fresh); measured from the current model {same['current'][usual]:.2f} and "
        f"{others['current'][usual]:.2f}. Two fresh updates of one client on different batches have "
        f"{ceiling(measured).mean():.2f}: noise takes little away."
    )


def kept(staleness: np.ndarray, rule: StalenessConfig, federation: FederationConfig) -> np.ndarray:
    """Return 1 - beta(tau) at each `staleness`: what a server keeps of an update."""
    table = np.array([1 - beta(tau, rule, federation) for tau in range(int(staleness.max()) + 1)])
    return table[staleness]


@mpl.rc_context(STYLE)
def plot_kept(preset: str, methods: Sequence[str], timeline: Timeline) -> Figure:
    """Plot 1 - beta(tau) of several methods over the staleness that arrives in `timeline`."""
    staleness = timeline.staleness[timeline.arrivals]
    tau = np.arange(0, max(300, int(np.quantile(staleness, 0.995))))
    figure = Plot(figsize=(10, 4.2), layout="constrained")
    axes = figure.subplots()
    bars, edges = np.histogram(staleness, bins=60, range=(0, tau[-1]))
    axes.stairs(bars / bars.max() * 0.95, edges, fill=True, color="#dddddd", label="arrivals (relative frequency)")
    for method in methods:
        config = build(preset, method)
        style = "--" if method.startswith("fedasync") else "-"
        share = kept(tau, config.staleness, config.federation)
        axes.plot(tau, share, style, color=METHOD_COLOURS[method], label=method_title(method))
    axes.set(
        xlabel=r"staleness $\tau$ (versions)",
        ylabel=r"weight kept: $1-\beta(\tau)$ or $s(\tau)$",
        xlim=(0, tau[-1]),
        ylim=(0, 1.02),
    )
    axes.set_title("What each method keeps of an update, and how stale updates are")
    figure.legend(loc="outside right upper")
    return figure


def thrown_away(timeline: Timeline, rule: StalenessConfig) -> dict[str, float]:
    """Return the share of weight that `rule` throws away: of all clients, and of each third by speed."""
    jobs = timeline.arrivals
    lost = 1 - kept(timeline.staleness[jobs], rule, timeline.federation)
    groups = speed_groups(timeline.mean_duration)
    return {"all": float(lost.mean())} | {
        name: float(lost[np.isin(timeline.client[jobs], members)].mean()) for name, members in groups.items()
    }


@mpl.rc_context(STYLE)
def plot_thrown_away(timeline: Timeline, rule: StalenessConfig) -> Figure:
    """Plot arrivals by staleness, split into kept and thrown away, and the share thrown away by speed of the client."""
    staleness = timeline.staleness[timeline.arrivals]
    weight, lost = kept(staleness, rule, timeline.federation), thrown_away(timeline, rule)
    figure = Plot(figsize=(11, 4))  # fixed margins: a layout engine takes longer than the whole figure
    left, right = figure.subplots(1, 2, width_ratios=(1.8, 1))
    figure.subplots_adjust(left=0.07, right=0.98, bottom=0.14, top=0.9, wspace=0.18)
    colours, names = ("#0072B2", "#D55E00"), ("kept", "thrown away")
    width = max(1, math.ceil((int(staleness.max()) + 1) / 50))
    bins = np.arange(0, int(staleness.max()) + width + 1, width) - 0.5
    kept_weight, updates = np.histogram(staleness, bins, weights=weight)[0], np.histogram(staleness, bins)[0]
    left.stairs(kept_weight, bins, fill=True, color=colours[0], label=names[0])
    left.stairs(updates, bins, baseline=kept_weight, fill=True, color=colours[1], label=names[1])
    left.set(xlabel=r"staleness $\tau$ (versions)", ylabel="updates (count)")
    left.set_title(f"Down-weighting throws away {lost['all']:.0%} of all updates")
    left.legend()
    right.barh(list(lost), list(lost.values()), color=["#888888"] + 3 * [colours[1]])
    for row, share in enumerate(lost.values()):
        right.text(share + 0.01, row, f"{share:.0%}", va="center")
    right.set(xlim=(0, 1), xlabel="share thrown away", title="... by speed of the client")
    right.invert_yaxis()
    right.grid(visible=False)
    return figure


def delayed_descent(step: float, staleness: int, num_versions: int = 400) -> np.ndarray:
    """Return distances (num_versions,) to the optimum of w^2 / 2: w <- w - step * (w of `staleness` versions ago)."""
    path = [1.0] * (staleness + 1)
    for _ in range(num_versions - 1):
        path.append(path[-1] - step * path[-1 - staleness])
    return np.abs(path[staleness:])


@mpl.rc_context(STYLE)
def plot_delayed(steps: Sequence[float], staleness: int) -> Figure:
    """Plot the distance from the optimum over versions for several step sizes, on a logarithmic axis."""
    figure = Plot(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots()
    for step, colour in zip(steps, TITLE_COLOURS, strict=False):
        axes.semilogy(delayed_descent(step, staleness) + 1e-12, color=colour, lw=1.2, label=f"step {step:g}")
    axes.set(
        xlabel="version of the model",
        ylabel="distance from the optimum",
        title=f"Gradient descent, staleness {staleness}",
    )
    axes.set_ylim(1e-4, 1e4)
    figure.legend(loc="outside right upper")
    return figure


@check(a_function)
def check_alignment(answer: Callable[..., Any]) -> Verdict:
    """Judge a function of (returned, downloaded, current, fresh): the cosine of the update with the fresh one.

    It may be written for NumPy arrays or for tensors.
    """
    returned, downloaded, current, fresh = np.random.default_rng(0).normal(size=(4, 6))
    update = returned - downloaded
    norms = np.linalg.norm(update), np.linalg.norm(fresh)

    def cosine(vector: np.ndarray, other: np.ndarray = fresh) -> float:
        return vector @ other / np.linalg.norm(vector) / np.linalg.norm(other)

    product = update @ fresh
    mistakes = {
        "The sign is wrong: an update is returned minus downloaded, the way the client went.": -cosine(update),
        "You measured from the current model: this also contains what the server did, with a minus sign.": cosine(
            returned - current
        ),
        "This is the cosine of the returned model itself. An update is a difference of two models.": cosine(returned),
        "This is the inner product. Divide by both norms, or long updates will look well aligned.": product,
        "You divide by only one norm; the update's is missing.": product / norms[1],
        "You divide by only one norm; the fresh update's is missing.": product / norms[0],
        "You multiply by the second norm: a / b * c is (a / b) * c. Put b * c in parentheses, or divide twice.": [
            product / norms[0] * norms[1],
            product / norms[1] * norms[0],
        ],
        "You divide by squared norms: is the square root missing?": product / (norms[0] * norms[1]) ** 2,
        "This is 1 minus the cosine, a distance.": 1 - cosine(update),
        "This is the angle itself; the question is its cosine.": math.acos(cosine(update)),
        "This compares two models, not two updates.": [cosine(returned, downloaded), cosine(returned, current)],
        "You subtract something from the fresh update; it is an update already.": cosine(update, fresh - downloaded),
    }

    def answered(*vectors: np.ndarray) -> float:
        try:
            return one_number(answer(*(vector.copy() for vector in vectors)))
        except Exception as of_arrays:  # perhaps it is written for tensors
            try:
                return one_number(answer(*(torch.from_numpy(vector.copy()) for vector in vectors)))
            except Exception as of_tensors:
                raise (of_tensors if "Tensor" in str(of_arrays) else of_arrays) from None

    def correct(returned: np.ndarray, downloaded: np.ndarray, _current: np.ndarray, fresh: np.ndarray) -> float:
        return cosine(returned - downloaded, fresh)

    praise = "You compare directions only: the client's progress, whatever the server did meanwhile."
    verdict = diagnose(answered(returned, downloaded, current, fresh), cosine(update), mistakes, praise)
    two = tuple(np.array(pair) for pair in ([1.0, 2.0], [3.0, 1.0], [0.0, 5.0], [2.0, 0.5]))
    return elsewhere(verdict, answered, correct, {"vectors of two numbers": two})


@check(a_number)
def check_share_lost(answer: float, timeline: Timeline, rule: StalenessConfig) -> Verdict:
    """Judge the mean of beta(tau) over arrivals."""
    staleness, federation = timeline.staleness[timeline.arrivals], timeline.federation
    every = [beta(tau, rule, federation) for tau in timeline.staleness.tolist()]  # with those that never arrive

    def swing(denominator: float) -> float:
        return float(np.mean((1 - np.cos(np.pi * staleness / denominator)) / 2))

    mistakes = {
        "Your cosine turns back too early: its argument is pi tau / (2 s_max), and beyond 2 s_max beta stays 1.": swing(
            rule.s_max
        ),
        "Beyond 2 s_max beta stays at 1; your cosine comes back down.": swing(2 * rule.s_max),
        "Your rule reaches 1 at s_max already; it must do so at 2 s_max.": float(
            np.mean(np.where(staleness >= rule.s_max, 1, (1 - np.cos(np.pi * staleness / rule.s_max)) / 2))
        ),
        "This takes the straight line tau / (2 s_max); the rule is a cosine.": float(
            np.mean(np.minimum(1, staleness / (2 * rule.s_max)))
        ),
        "Jobs that never arrive are in your mean (their staleness is -1): take timeline.arrivals.": float(
            np.mean(every)
        ),
    }
    praise = "{lost} of all updates: clients computed and sent them, and the server did not use them."
    return judge_lost(answer, staleness, rule, federation, praise, mistakes)


@check(a_number)
def check_largest_step(answer: float, staleness: int) -> Verdict:
    """Judge the largest step with which delayed descent on w^2 / 2 still converges: 2 sin(pi / (4 tau + 2))."""
    limit = 2 * math.sin(math.pi / (4 * staleness + 2))
    if 0.95 * limit <= answer <= 1.0001 * limit:
        return right(
            f"The limit is 2 sin(pi / (4 tau + 2)) = {limit:.3f}, {limit / 2:.0%} of what fresh gradients allow (2). "
            "For large tau it falls as 1 / tau: twice as stale, half the step."
        )
    if abs(answer - 2) < 0.1:
        return wrong("2 is the limit for fresh gradients. Look at the figure with that step at this staleness.")
    if answer <= 0:
        return wrong("A step is positive; with 0 nothing is learned.")
    if answer > limit:
        distance = delayed_descent(answer, staleness, 2000)
        if (far := distance > 1e6).any():
            return wrong(f"With {answer:g} the distance exceeds a million after {np.argmax(far)} versions.")
        return wrong(f"With {answer:g} the distance is {distance[-50:].max():.2g} after 2,000 versions, and growing.")
    return wrong(
        f"{answer:g} converges, but a larger step does too: try larger ones until the swings no longer die out."
    )
