"""For 05_fedrevive: runs of several methods over one timeline, points to branch from, and checks of the exercises."""

from __future__ import annotations

import math
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure

from fedrevive_core import Record, RunConfig, Simulation, build, run
from fedrevive_core.config import method_title
from fedrevive_core.plots import STYLE, Plot
from fedrevive_core.staleness import beta
from lessons.exercise import Verdict, check, one_number, right, wrong

SHOWN = ("fedrevive", "dd-fedrevive", "afl-dw", "fedbuff", "fedasync-poly")


def records(folder: str, *, recompute: bool, **overrides: Any) -> list[Record]:
    """Return a record of each method in SHOWN on lab-digits, seed 0: read from `folder`, or run and written there."""
    if recompute:
        for method in SHOWN:
            made = run(build("lab-digits", method, overrides=overrides))
            directory = Path(folder, method)
            shutil.rmtree(directory, ignore_errors=True)
            # The record is read on other computers: do not name the kernel of this one.
            anywhere = replace(made, provenance=made.provenance | {"platform": platform.system()})
            anywhere.save(directory, with_model=False)
    return [Record.load(Path(folder, method)) for method in SHOWN]


def accuracy_table(runs: Sequence[Record]) -> str:
    """Return Markdown: accuracy of each run over its time and at its end, and when it first reached 80%."""
    rows = [
        f"| {method_title(run.config.method)} | {run.summary['mean_accuracy']:.1%} | "
        f"{run.summary['final_accuracy']:.1%} | {_time(run.summary['time_to']['0.8'])} |"
        for run in runs
    ]
    head = "| method | accuracy, mean over the run | accuracy at the end | time to reach 80% |\n|---|---|---|---|"
    return "\n".join([head, *rows])


def _time(value: float | None) -> str:
    return "not reached" if value is None else f"{value:.1f}"


def branch_points(config: RunConfig, every: int) -> tuple[list[Simulation], Record]:
    """Run `config` to its end; return a copy of the simulation at every `every`-th version, and the record."""
    simulation, kept = Simulation(config), []
    for is_new in simulation.steps():
        version = simulation.server.version
        if is_new and version % every == 0 and version < simulation.timeline.num_versions:
            kept.append(simulation.branched(config))
    return kept, simulation.run(progress=False)


@mpl.rc_context(STYLE)
def plot_directions(record: Record) -> Figure:
    """Plot the cosine of the two updates over the staleness of the client's update, and the ratio of their norms."""
    both = record.arrivals[record.arrivals["revived"]]
    ratio = both["distilled_norm"] / both["client_norm"]
    figure = Plot(figsize=(10, 3.8), layout="constrained")
    left, middle = figure.subplots(1, 2, width_ratios=(3, 2))
    left.scatter(both["staleness"], both["cosine"], s=9, color="#D55E00", alpha=0.5, lw=0)
    left.axhline(0, color="black", lw=1)
    left.set(xlabel=r"staleness $\tau$ (versions)", ylabel="cosine (-1 to 1)", ylim=(-1, 1))
    left.set_title("Where the two updates point: nearly at right angles")
    middle.hist(ratio, np.linspace(0, max(1.0, float(ratio.max())), 31), color="#0072B2", alpha=0.7)
    middle.axvline(float(ratio.median()), color="black", label=f"median {ratio.median():.2f}")
    middle.set(xlabel="norm of distilled / norm of client's", ylabel="arrivals (count)")
    middle.set_title("How long they are")
    middle.legend()
    return figure


def what_the_directions_say(record: Record) -> str:
    """Return in Markdown the numbers behind `plot_directions`."""
    both = record.arrivals[record.arrivals["revived"]]
    ratio = (both["distilled_norm"] / both["client_norm"]).median()
    against = (both["cosine"] < 0).mean()
    return (
        f"The median cosine over {len(both)} blended updates is **{both['cosine'].median():+.2f}**, and "
        f"**{against:.0%}** of the distilled updates point against the client's. The norm of the distilled "
        f"update is **{ratio:.2f}** times the client's (median)."
    )


@check
def check_blend(answer: Callable[..., Any]) -> Verdict:
    """Judge `answer(client, distilled, beta)`: the update that the server applies."""
    client, distilled = torch.tensor([4.0, 0.0, -2.0]), torch.tensor([0.0, 8.0, 2.0])
    kept = client.clone(), distilled.clone()
    weight = 0.25
    result = torch.as_tensor(answer(client, distilled, weight), dtype=torch.float32)
    if not (torch.equal(client, kept[0]) and torch.equal(distilled, kept[1])):
        return wrong("Your function changes the updates that it gets. They are needed later: make a new tensor.")
    mistakes = {
        "The weights are the wrong way round: a late update has a large beta, and beta goes to the distilled update.": (
            weight * client + (1 - weight) * distilled
        ),
        "Nothing is taken from the client's update: it keeps 1 - beta.": client + weight * distilled,
        "This is down-weighting (AFL-DW): fill what is taken from the client's update.": (1 - weight) * client,
        "beta weighs the distilled update, too: its weight is beta, not 1.": (1 - weight) * client + distilled,
        "This is a plain mean: use beta.": (client + distilled) / 2,
    }
    return _judge(
        result,
        (1 - weight) * client + weight * distilled,
        mistakes,
        "At beta = 0 it is the client's update alone, at beta = 1 the distilled one: the staler, the more distilled.",
    )


def _judge(result: torch.Tensor, expected: torch.Tensor, mistakes: dict[str, torch.Tensor], praise: str) -> Verdict:
    if result.shape != expected.shape:
        return wrong(f"The result has shape {tuple(result.shape)}, not {tuple(expected.shape)}.")
    if torch.allclose(result, expected, atol=1e-5):
        return right(praise)
    for text, mistake in mistakes.items():
        if torch.allclose(result, mistake, atol=1e-5):
            return wrong(text)
    return wrong("This is not the formula above. Try it on paper: client = 4, distilled = 0, beta = 0.25 must give 3.")


@check
def check_cosine_rule(answer: Callable[[float, float], float], config: RunConfig) -> Verdict:
    """Judge `answer(tau, s_max)`: beta of the cosine rule."""
    s_max = 40.0
    taus = np.arange(0, 200, 5.0)
    rule = config.staleness.model_copy(update={"rule": "cosine", "s_max": s_max})
    expected = [beta(tau, rule, config.federation) for tau in taus.tolist()]
    result = [one_number(answer(tau, s_max)) for tau in taus.tolist()]

    def same(formula: Callable[[float], float]) -> bool:
        return bool(np.allclose(result, [formula(tau) for tau in taus.tolist()], atol=1e-6))

    if np.allclose(result, expected, atol=1e-6):
        return right(
            f"beta is 1/2 at s_max and 1 from 2 s_max on, so at s_max = {s_max:g} both updates have equal weight."
        )
    if same(lambda tau: (1 - math.cos(math.pi * tau / (2 * s_max))) / 2):
        return wrong("Right up to 2 s_max; then the cosine turns back, and a very late update would count fully again.")
    if same(lambda tau: (1 - math.cos(math.pi * tau / s_max)) / 2 if tau < s_max else 1.0):
        return wrong("Your rule reaches 1 at s_max: the denominator is 2 s_max.")
    if same(lambda tau: 1 - math.cos(math.pi * tau / (2 * s_max))) or max(result) > 1.5:
        return wrong("beta exceeds 1: the half in front is missing.")
    if same(lambda tau: 1 - beta(tau, rule, config.federation)):
        return wrong("This is what the client keeps, 1 - beta: a fresh update (tau = 0) must have beta = 0.")
    if same(lambda tau: (1 - math.cos(math.radians(math.pi * tau / (2 * s_max)))) / 2):
        return wrong("cos already takes radians: do not convert the angle.")
    if same(lambda tau: 1.0 if tau >= 2 * s_max else (1 - math.cos(math.pi * tau / 2 * s_max)) / 2):
        return wrong("/ 2 * s_max divides by 2 and multiplies by s_max: put 2 * s_max in parentheses.")
    first = int(np.argmin(np.isclose(result, expected, atol=1e-6)))
    return wrong(
        f"With s_max = 40, beta({taus[first]:g}) should be {expected[first]:.3g}; yours is {result[first]:.3g}."
    )


@check
def check_downloaded(answer: int, record: Record, number: int) -> Verdict:
    """Judge the version from which the client of arrival `number` started."""
    row = record.arrivals.iloc[number]
    version, staleness = int(row["version"]), int(row["staleness"])
    if answer == version - staleness:
        return right(f"Staleness counts the versions made between download and arrival: {version} - {staleness}.")
    if answer == version + staleness:
        return wrong("A client cannot start from a version that is not made yet: count back from the arrival.")
    if answer == version:
        return wrong("This is the version that the server had at the arrival; the client downloaded earlier.")
    if answer in (version - staleness - 1, version - staleness + 1):
        return wrong("Off by one: an update that arrives before any new version is made has staleness 0.")
    return wrong("version is the server's at the arrival; staleness is the number of versions made since the download.")


@check
def check_lost(answer: float, record: Record) -> Verdict:
    """Judge the mean weight taken from the updates of a run, to within a percentage point."""
    weights = record.arrivals["beta"]
    mean_tau = float(record.arrivals["staleness"].mean())
    at_mean = beta(mean_tau, record.config.staleness, record.config.federation)
    if 1 < answer <= 100:
        return wrong("Give a fraction from 0 to 1.")
    if abs(answer - float(weights.mean())) < 0.01:
        return right(
            f"{weights.mean():.0%} of all weight is taken from the clients. AFL-DW leaves it empty, FedRevive fills it."
        )
    if abs(answer - at_mean) < 0.01:
        return wrong("This is beta of the mean staleness. beta is curved: take the mean of the betas.")
    if abs(answer - float(1 - weights.mean())) < 0.01:
        return wrong("This is what the clients keep; the rest is taken from them.")
    if abs(answer - float((weights > 0).mean())) < 0.01:
        return wrong("This counts the updates that lose something; the question is how much they lose.")
    return wrong("Take the mean of one column of record.arrivals.")
