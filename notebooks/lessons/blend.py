"""For 05_fedrevive: runs of several methods over one timeline, points to branch from, and checks of the exercises."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure

from fedrevive_core import Record, RunConfig, Simulation, build, run
from fedrevive_core.config import method_title
from fedrevive_core.files import check_free
from fedrevive_core.plots import STYLE, Plot, lead_of_branch, since_branch
from fedrevive_core.staleness import beta
from fedrevive_notebooks.lessons.exercise import (
    Verdict,
    a_function,
    a_number,
    a_whole_number,
    check,
    diagnose,
    elsewhere,
    one_number,
    right,
    wrong,
)
from fedrevive_notebooks.lessons.quick_tour import judge_lost

RECORDS = Path(__file__).parents[1] / "records" / "methods"  # they come with the course
SHOWN = ("fedrevive", "dd-fedrevive", "afl-dw", "fedbuff", "fedasync-poly")


def records(folder: str, *, recompute: bool, **overrides: Any) -> list[Record]:
    """Return a record of each method in SHOWN on lab-digits, seed 0, from `folder`; if it is empty, from RECORDS.

    recompute: make them instead, and write them to `folder` if it is not empty. Raises ConfigError, before any work, if
    there is something already.
    """
    directories = {method: Path(folder).expanduser() / method if folder else RECORDS / method for method in SHOWN}
    if not recompute:
        return [Record.load(directory) for directory in directories.values()]
    if folder:
        for directory in directories.values():
            check_free(directory)
    made = []
    for method, directory in directories.items():
        record = run(build("lab-digits", method, overrides=overrides))
        # It may be read on other computers: do not name the kernel of this one.
        made.append(replace(record, provenance=record.provenance | {"platform": platform.system()}))
        if folder:
            made[-1].save(directory, with_model=False)
    return made


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


def who_leads(runs: Sequence[Record]) -> str:
    """Say which runs are ahead over the first third of the simulated time, and which at the end."""
    third = min(run.evaluations["sim_time"].iloc[-1] for run in runs) / 3
    early = {
        method_title(run.config.method): run.evaluations.loc[run.evaluations["sim_time"] <= third, "accuracy"].mean()
        for run in runs
    }
    final = {method_title(run.config.method): run.summary["final_accuracy"] for run in runs}

    def ranked(accuracy: dict[str, float]) -> str:
        best = sorted(accuracy, key=lambda title: -accuracy[title])[:3]
        return ", ".join(f"{title} ({accuracy[title]:.0%})" for title in best)

    return f"Ahead on average over the first third: {ranked(early)}, ...; at the end: {ranked(final)}, ..."


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
    left.set_title("Where the two updates point")
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
    against, low, high = (both["cosine"] < 0).mean(), *both["cosine"].quantile([0.025, 0.975])
    count = record.summary["num_parameters"]
    return (
        f"The median cosine over {len(both)} blended updates is **{both['cosine'].median():+.2f}**, and "
        f"**{against:.0%}** of the distilled updates point against the client's. 95% of the cosines lie from "
        f"{low:+.2f} to {high:+.2f}; those of random directions among {count:,} parameters would lie within "
        f"{1.96 / count**0.5:.2f} of zero. The norm of the distilled update is **{ratio:.2f}** "
        "times the client's (median)."
    )


def what_the_branches_say(whole: Record, branches: Mapping[str, Record]) -> str:
    """Say in Markdown how far each branch is ahead of the run after they parted, and over how many evaluations."""
    said = [f"*{title}* **{lead_of_branch(whole, branch):+.1f}** points" for title, branch in branches.items()]
    both = since_branch(whole, next(iter(branches.values())))
    start = whole.evaluations.loc[whole.evaluations["version"] < both["version"].min(), "accuracy"].iloc[-1]
    return (
        f"At the branch the model is right on {start:.0%} of the test images. Over the {len(both)} evaluations after "
        f"it, against the run itself: {', '.join(said)}. With one seed this is a hint, not a result."
    )


@check(a_function)
def check_blend(answer: Callable[..., Any]) -> Verdict:
    """Judge `answer(client, distilled, beta)`: the update that the server applies."""
    client, distilled = torch.tensor([4.0, 0.0, -2.0]), torch.tensor([0.0, 8.0, 2.0])
    kept = client.clone(), distilled.clone()
    weights = torch.tensor([0.25, 0.8])
    results = [answer(client, distilled, weight) for weight in weights.tolist()]
    if not (torch.equal(client, kept[0]) and torch.equal(distilled, kept[1])):
        return wrong("Your function changes the updates that it gets. They are needed later: make a new tensor.")
    for result in results:
        if np.shape(result) != client.shape:
            return wrong(f"Your answer has shape {tuple(np.shape(result))}, not {tuple(client.shape)}.")
    weight = weights[:, None]  # (2, 1), so that each formula is computed for both
    expected = (1 - weight) * client + weight * distilled
    mistakes = {
        "The weights are the wrong way round: a late update has a large beta, and beta goes to the distilled update.": (
            weight * client + (1 - weight) * distilled
        ),
        "Nothing is taken from the client's update: it keeps 1 - beta.": client + weight * distilled,
        "This is down-weighting (AFL-DW): fill what is taken from the client's update.": (1 - weight) * client,
        "beta weighs the distilled update, too: its weight is beta, not 1.": (1 - weight) * client + distilled,
        "This is a plain mean: use beta.": ((client + distilled) / 2).expand_as(expected),
        "This is a plain sum: use beta.": (client + distilled).expand_as(expected),
        "This is the client's update alone.": client.expand_as(expected),
        "This is the distilled update alone.": distilled.expand_as(expected),
        "Both updates have the weight 1 - beta; the distilled one gets beta.": (1 - weight) * (client + distilled),
        "Both updates have the weight beta; the client's keeps 1 - beta.": weight * (client + distilled),
        "The distilled update is subtracted; add it.": (1 - weight) * client - weight * distilled,
        "You divide by 2, but the weights 1 - beta and beta already sum to 1.": expected / 2,
    }
    return diagnose(
        torch.stack([torch.as_tensor(result) for result in results]),
        expected,
        mistakes,
        "At beta = 0 it is the client's update alone, at beta = 1 the distilled one: the staler, the more distilled.",
        otherwise="This is not the formula above. Try it on paper: client = 4, distilled = 0 must give 3 for "
        "beta = 0.25, and 0.8 for beta = 0.8.",
    )


@check(a_function)
def check_cosine_rule(answer: Callable[[float, float], float], config: RunConfig) -> Verdict:
    """Judge `answer(tau, s_max)`: beta of the cosine rule."""
    s_max = 40.0
    taus = np.arange(0, 200, 5.0)
    rule = config.staleness.model_copy(update={"rule": "cosine", "s_max": s_max})
    expected = np.array([beta(tau, rule, config.federation) for tau in taus.tolist()])
    result = np.array([one_number(answer(tau, s_max)) for tau in taus.tolist()])
    angle = math.pi * taus / (2 * s_max)
    late, swing = taus >= 2 * s_max, (1 - np.cos(angle)) / 2
    mistakes = {
        "Right up to 2 s_max; then the cosine turns back, and a very late update would count fully again.": swing,
        "Your rule reaches 1 at s_max: the denominator is 2 s_max.": [
            np.where(taus >= s_max, 1.0, (1 - np.cos(2 * angle)) / 2),
            (1 - np.cos(2 * angle)) / 2,
        ],
        "Your rule jumps to 1 at s_max: the cosine goes on to 2 s_max.": np.where(taus >= s_max, 1.0, swing),
        "The half in front is missing.": [
            2 * swing,
            2 * expected,
            np.minimum(1, 2 * swing),
            np.where(late, 1, 2 * swing),
        ],
        "This is what the client keeps, 1 - beta: at tau = 0, beta must be 0.": [
            1 - expected,
            1 - swing,
        ],
        "cos already takes radians: do not convert the angle.": [
            (1 - np.cos(np.radians(angle))) / 2,
            np.where(late, 1.0, (1 - np.cos(np.radians(angle))) / 2),
        ],
        "/ 2 * s_max divides by 2 and multiplies by s_max: put 2 * s_max in parentheses.": np.where(
            late, 1.0, (1 - np.cos(math.pi * taus / 2 * s_max)) / 2
        ),
        "This takes 0 beyond 2 s_max; the latest updates are to be replaced entirely: beta is 1.": np.where(
            late, 0.0, swing
        ),
        "This is a straight line; the rule is a cosine.": np.minimum(1, taus / (2 * s_max)),
        "1 - cos(...) / 2 halves the cosine alone: put 1 - cos(...) in parentheses.": [
            1 - np.cos(angle) / 2,
            np.where(late, 1.0, 1 - np.cos(angle) / 2),
        ],
        "This is a sine; take the cosine.": [np.sin(angle), np.where(late, 1.0, (1 - np.sin(angle)) / 2)],
    }
    first = int(np.argmin(np.isclose(result, expected, atol=1e-5)))
    verdict = diagnose(
        result,
        expected,
        mistakes,
        f"beta is 1/2 at s_max and 1 from 2 s_max on, so at s_max = {s_max:g} both updates have equal weight.",
        otherwise=f"With s_max = 40, beta({taus[first]:g}) should be {expected[first]:.3g}; yours is "
        f"{result[first]:.3g}.",
    )

    def correct(tau: float, s_max: float) -> float:
        return beta(tau, rule.model_copy(update={"s_max": s_max}), config.federation)

    return elsewhere(verdict, answer, correct, {"s_max = 75": (60.0, 75.0), "s_max = 8": (5.0, 8.0)})


@check(a_whole_number)
def check_downloaded(answer: int, record: Record, number: int) -> Verdict:
    """Judge the version from which the client of arrival `number` started."""
    row = record.arrivals.iloc[number]
    version, staleness = int(row["version"]), int(row["staleness"])
    if answer == version - staleness:
        return right(f"Staleness counts the versions made between download and arrival: {version} - {staleness}.")
    if answer == version:
        return wrong("This is the version that the server had at the arrival; the client downloaded earlier.")
    if answer == version + staleness:
        return wrong("A client cannot start from a version that is not made yet: count back from the arrival.")
    if answer in (version - staleness - 1, version - staleness + 1):
        return wrong("Off by one: an update that arrives before any new version is made has staleness 0.")
    if answer == staleness:
        return wrong("This is the staleness: how many versions were made since the download, not which one it was.")
    if answer == staleness - version:
        return wrong("The sign is wrong: take the version at the arrival minus the staleness.")
    if not 0 <= answer <= version:
        return wrong(f"At the arrival the server has version {version}: the client started from one of 0 to {version}.")
    return wrong("version is the server's at the arrival; staleness is the number of versions made since the download.")


@check(a_number)
def check_lost(answer: float, record: Record) -> Verdict:
    """Judge the mean weight taken from the updates of a run."""
    config, staleness = record.config, record.arrivals["staleness"].to_numpy()
    praise = "{lost} of all weight is taken from the clients. AFL-DW leaves it empty, FedRevive fills it."
    return judge_lost(answer, staleness, config.staleness, config.federation, praise)
