"""For 11_from_scratch: checks of the method's pieces, and the run that puts them together beside the package."""

from __future__ import annotations

import copy
import heapq
import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any
from unittest import mock

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from fedrevive_core import ConfigError, Simulation, build, simulate_timeline
from fedrevive_core.plots import STYLE, TITLE_COLOURS, Plot
from fedrevive_core.staleness import beta as package_beta
from fedrevive_notebooks import from_scratch as scratch
from fedrevive_notebooks.lessons.exercise import (
    Verdict,
    a_function,
    check,
    diagnose,
    one_number,
    with_gradient,
    wrong,
)

State = dict[str, Tensor]
PIECES = (
    "timeline", "local_training", "beta", "new_generator", "synthesis_losses", "reptile", "distil", "new_version",
)  # fmt: skip


def package_timeline(num_arrivals: int, seed: int) -> np.ndarray:
    """Return (job, client, start) of the package's arrivals on lab-digits, (num_arrivals, 3)."""
    length = {"federation.max_versions": num_arrivals, "federation.max_sim_time": None}
    jobs = simulate_timeline(build("lab-digits", "fedrevive", overrides=length).federation, seed)
    return np.stack([jobs.arrivals, jobs.client[jobs.arrivals], jobs.base_version[jobs.arrivals]], axis=1)


def apart(num_versions: int, seed: int, pieces: Mapping[str, Callable[..., Any] | None]) -> list[float]:
    """Return how far from_scratch with your `pieces` is from the package at each version, on lab-digits.

    The distance of the parameters is a share of the way that the package has gone from its first model. Pieces that
    are None are those of the file.
    """
    chosen = {"federation.max_versions": num_versions, "federation.max_sim_time": None}
    simulation = Simulation(build("lab-digits", "fedrevive", seed=seed, overrides=chosen))
    first, theirs = simulation.server.state, [simulation.server.state for is_new in simulation.steps() if is_new]
    ours: list[Tensor] = []
    names = [name for name, _ in scratch.new_model(0).named_parameters()]

    def keep(version: int, state: State, share: float) -> None:
        ours.append(torch.cat([state[name].flatten() for name in names]))

    written = {name: piece for name, piece in pieces.items() if piece is not None}
    with torch.random.fork_rng(), mock.patch.dict(vars(scratch), written):
        scratch.run(num_versions, seed, keep)
    size = len(ours[0])
    pairs = zip(ours, theirs, strict=True)
    return [float((mine - other[:size]).norm() / (other - first)[:size].norm()) for mine, other in pairs]


def in_words(distances: list[float], pieces: Mapping[str, Callable[..., Any] | None]) -> str:
    """Say whose pieces made the versions, and whether they are the package's."""
    yours = sum(piece is not None for piece in pieces.values())
    made = f"{yours} of the {len(pieces)} pieces are yours" + (
        ". " if yours == len(pieces) else ", the others are the file's. "
    )
    parted = next((number for number, distance in enumerate(distances, 1) if not distance < 1e-2), None)
    if parted is None:
        return f"{made}All {len(distances)} versions are the package's: at most {max(distances):.1e} of the way apart."
    return f"{made}Up to version {parted - 1} they are the package's; at version {parted} they part."


@mpl.rc_context(STYLE)
def plot_apart(distances: list[float]) -> Figure:
    """Plot the distance from the package by version."""
    figure = Plot(figsize=(10, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.semilogy(range(1, len(distances) + 1), distances, "o-", color=TITLE_COLOURS[0], ms=4)
    axes.axhline(1e-2, color="black", ls="--", lw=1, label="1% of the way: more than rounding")
    axes.set(xlabel="version", ylabel="distance / way", ylim=(1e-8, 10))
    axes.set_title("How far your versions are from the package's")
    axes.legend(loc="upper left", fontsize=9)
    return figure


# -- exercises ---------------------------------------------------------------------------------------------------------


def flat(state: Mapping[str, Tensor]) -> Tensor:
    """Return the tensors of a state, one after the other."""
    return torch.cat([tensor.detach().flatten().double() for tensor in state.values()])


def copied(state: State) -> State:
    return {name: tensor.clone() for name, tensor in state.items()}


def as_state(result: Any, like: State) -> Tensor:
    """Return the state that a student's function returned, flat and in the order of `like`."""
    if not isinstance(result, Mapping) or set(result) != set(like):
        raise ConfigError(
            f"Return a state, a dict with the names {', '.join(list(like)[:2])}, ...; this is a {type(result).__name__}"
        )
    return flat({name: torch.as_tensor(result[name]) for name in like})


ARRIVALS, SEED = 200, 3


def _swap(free: list[int], position: int) -> int:
    free[position], free[-1] = free[-1], free[position]
    return free.pop()


def play(
    take: Callable[[list[int], int], int] = _swap,
    queue: Callable[[float, float, int], float] = lambda now, lasts, job: now + lasts,
    start: Callable[[int, int], int] = lambda arrivals, jobs: arrivals,
    row: Callable[[int, int, int, int], tuple[int, ...]] = lambda job, client, start, arrival: (job, client, start),
) -> np.ndarray:
    """Return the arrivals of `from_scratch.timeline` with one part of it changed."""
    lasts, pick = scratch.durations(SEED), scratch.stream(SEED, "selection")
    free, in_flight, jobs, arrivals, now = list(range(scratch.N)), [], [], [], 0.0  # type: ignore[var-annotated]
    while len(arrivals) < ARRIVALS:
        for _ in range(scratch.K - len(in_flight)):
            client = take(free, int(pick.random() * len(free)))
            heapq.heappush(in_flight, (queue(now, lasts(client), len(jobs)), len(jobs)))
            jobs.append((client, start(len(arrivals), len(jobs))))
        now, job = heapq.heappop(in_flight)
        arrivals.append(row(job, *jobs[job], len(arrivals)))
        free.append(jobs[job][0])
    return np.array(arrivals)


@check(a_function)
def check_timeline(answer: Callable[[int, int], Any]) -> Verdict:
    """Judge piece 1: (job, client, start) of each arrival."""
    expected = package_timeline(ARRIVALS, SEED)
    mistakes = {
        "The clients are others than the package's. Put the last free client in the place of the chosen one, as the "
        "text says; free.pop(position) moves all that follow.": play(take=lambda free, at: free.pop(at)),
        "A client that works is chosen again: take it out of the list of free clients.": play(
            take=lambda free, at: free[at]
        ),
        "You sort jobs by how long they last. They arrive in the order of their end, which is now plus that.": play(
            queue=lambda now, lasts, job: lasts
        ),
        "Jobs arrive in the order in which they were dispatched. Who is done first arrives first.": play(
            queue=lambda now, lasts, job: job
        ),
        "The third number counts jobs. `start` is the version that the job downloads: the number of arrivals until "
        "then.": play(start=lambda arrivals, jobs: jobs),
        "The third number is one too large: before the first arrival the server has version 0.": play(
            start=lambda arrivals, jobs: arrivals + 1
        ),
        "The third number is the version at the arrival, so nothing would be stale. `start` is the version at the "
        "dispatch.": play(row=lambda job, client, start, arrival: (job, client, arrival)),
        "The third number is the staleness. The version that was downloaded is asked for.": play(
            row=lambda job, client, start, arrival: (job, client, arrival - start)
        ),
        "The order is (job, client, start).": play(row=lambda job, client, start, arrival: (client, job, start)),
    }
    result = np.array(answer(ARRIVALS, SEED), dtype=float)
    wrongly = np.flatnonzero((result != expected).any(axis=1)) if result.shape == expected.shape else [0]
    first = int(wrongly[0]) if len(wrongly) else 0
    return diagnose(
        result,
        expected,
        mistakes,
        f"All {ARRIVALS} arrivals are the package's. Nothing was trained: who comes when does not depend on models.",
        tolerance=1e-9,
        otherwise=f"Arrival number {first} should be (job, client, start) = {tuple(expected[first].tolist())}. "
        f"Yours differs there; the {first} before it agree.",
    )


@cache
def digits() -> tuple[Tensor, Tensor, list[np.ndarray], np.ndarray]:
    return scratch.federated_digits()  # type: ignore[no-any-return]


def train(
    model: nn.Module,
    start: State,
    batches: list[np.ndarray],
    *,
    optimiser: type[torch.optim.Optimizer] = torch.optim.Adam,
    lr: float = scratch.CLIENT_LR,
    loads: bool = True,
    training: bool = True,
    clears: bool = True,
) -> Tensor:
    """Return the state after `from_scratch.local_training` with one part of it changed, flat."""
    images, labels, _, _ = digits()
    if loads:
        model.load_state_dict(start)
    model.train(training)
    steps = optimiser(model.parameters(), lr=lr)  # type: ignore[call-arg]
    for batch in batches:
        if clears:
            steps.zero_grad()
        F.cross_entropy(model(images[batch]), labels[batch]).backward()
        steps.step()
    return flat(model.state_dict())


@cache
def training_results() -> tuple[Tensor, dict[str, Tensor]]:
    """Return the right state after training, flat, and those of the usual mistakes."""
    shard, size = digits()[2][0], scratch.BATCH
    start, other = _models()

    def passes(count: int = scratch.STEPS) -> list[np.ndarray]:
        rng = scratch.stream(0, "batches", 5)
        return [part for _ in range(count) for part in np.split(rng.permutation(shard), [size])]

    def trained(batches: list[np.ndarray] | None = None, **how: Any) -> Tensor:
        return train(copy.deepcopy(other), start, batches or passes()[: scratch.STEPS], **how)

    expected = trained()
    once = scratch.stream(0, "batches", 5).permutation(shard)
    return expected, {
        "The model starts from what the last client left in it: load the state `start` first.": trained(loads=False),
        "The model is in evaluation mode, so its probes remember nothing of the client's data: call train().": trained(
            training=False
        ),
        "The gradients of all steps add up: call zero_grad() in every step.": trained(clears=False),
        "This is plain gradient descent; use Adam.": trained(optimiser=torch.optim.SGD),
        "Adam has its usual rate here; use CLIENT_LR.": trained(lr=1e-3),
        "This is the update. Return the model's state: the server subtracts `start` itself, and keeps the model as a "
        "teacher.": expected - flat(start),
        "This is one pass through the shard; make STEPS steps.": trained(passes(1)),
        "You make STEPS whole passes: STEPS counts batches.": trained(passes()),
        "All passes have the same order: shuffle in each pass.": trained(
            (np.split(once, [size]) * scratch.STEPS)[: scratch.STEPS]
        ),
        "You leave out the last 28 samples of each pass.": trained(passes()[::2]),
        "The shard is not shuffled: use rng.permutation(shard).": trained(
            (np.split(shard, [size]) * scratch.STEPS)[: scratch.STEPS]
        ),
        "Nothing is trained: call backward() and the optimiser's step() in each step.": flat(start),
    }


def _models() -> tuple[State, nn.Module]:
    """Return the state from which a client starts, and a model in which another client's state is left."""
    with torch.random.fork_rng():
        return scratch.new_model(0).state_dict(), scratch.new_model(1)


@check(a_function)
def check_local_training(answer: Callable[..., Any]) -> Verdict:
    """Judge piece 2: the state that a client returns."""
    images, labels, shards, _ = digits()
    (start, model), (expected, mistakes) = _models(), training_results()
    given = copied(start)
    result = answer(model, given, shards[0].copy(), images, labels, scratch.stream(0, "batches", 5))
    verdict = diagnose(
        as_state(result, start),
        expected,
        mistakes,
        "A client starts from what it downloaded, and its probes remember its data: the server never sees them.",
        tolerance=1e-3,
        otherwise="The state differs from the package's. Compare the steps, the batches and the optimiser.",
    )
    now = model.state_dict()
    if verdict.kind == "right" and any(result[name].data_ptr() == now[name].data_ptr() for name in now):
        return wrong("The values are right, but they are the model's own tensors: the next client changes them. Copy.")
    return verdict


@check(a_function)
def check_beta(answer: Callable[[int], Any]) -> Verdict:
    """Judge piece 3: the share that is replaced, by staleness."""
    config, s_max = build("lab-digits", "fedrevive"), scratch.S_MAX
    taus = np.array([0, 1, 40, s_max, 110, 2 * s_max, 2 * s_max + 1, 5 * s_max])
    expected = np.array([package_beta(tau, config.staleness, config.federation) for tau in taus])
    late, angle = taus >= 2 * s_max, np.pi * taus / (2 * s_max)
    short = np.minimum(2 * angle, np.pi)
    mistakes = {
        "The cosine turns back beyond 2 S_MAX: use min(staleness, 2 * S_MAX).": (1 - np.cos(angle)) / 2,
        "Your rule reaches 1 at S_MAX; there it is one half.": (1 - np.cos(short)) / 2,
        "Your rule stops at S_MAX, and with it at one half: it ends at 2 S_MAX.": np.minimum(expected, 0.5),
        "Your rule jumps to 1 at S_MAX.": np.where(taus >= s_max, 1, expected),
        "This is what the client keeps, 1 - beta.": 1 - expected,
        "The half in front is missing.": 2 * expected,
        "This is a straight line.": np.minimum(1, taus / (2 * s_max)),
        "The cosine takes radians, not degrees.": np.where(late, 1, (1 - np.cos(np.radians(angle))) / 2),
        "Take the cosine, not the sine.": np.where(late, 1, (1 - np.sin(angle)) / 2),
        "Beyond 2 S_MAX your rule is 0; there everything is replaced.": np.where(taus > 2 * s_max, 0, expected),
    }
    result = np.array([one_number(answer(int(tau))) for tau in taus])
    first = int(np.argmin(np.isclose(result, expected, atol=1e-6)))
    return diagnose(
        result,
        expected,
        mistakes,
        f"At staleness {s_max} half of an update is replaced, from {2 * s_max} on all of it.",
        otherwise=f"beta({taus[first]}) should be {expected[first]:.4g}; yours is {result[first]:.4g}.",
    )


@check(a_function)
def check_new_generator(answer: Callable[[int], Any]) -> Verdict:
    """Judge piece 4: a new generator with the package's weights."""
    noise = torch.from_numpy(scratch.stream(0, "noise").standard_normal((6, scratch.NOISE), dtype=np.float32))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = [answer(0), answer(0)]
        right_one, unseeded = scratch.new_generator(0), scratch.new_generator(5)
        first = scratch.stream(0, "initialisation", 0)
        with mock.patch.object(scratch, "stream", return_value=first):
            of_the_model = scratch.new_generator(0)
    if not all(isinstance(one, nn.Module) for one in made):
        return wrong(f"Return a module, such as nn.Sequential(...); this is a {type(made[0]).__name__}.")
    if made[0] is made[1]:
        return wrong("Both calls return the same module: make a new one in each call.")
    sizes = [sum(p.numel() for p in one.parameters()) for one in (made[0], right_one)]
    if sizes[0] != sizes[1]:
        bias = " Convolutions before a BatchNorm have no bias." if sizes[0] - sizes[1] in (32, 64, 96) else ""
        return wrong(f"Your generator has {sizes[0]:,} parameters, the package's {sizes[1]:,}.{bias}")
    if not all(map(torch.equal, made[0].parameters(), made[1].parameters())):
        return wrong("One seed gives two different generators: call torch.manual_seed as the text says, at the start.")

    def images(of: nn.Module, **changed: nn.Module) -> Tensor:
        """Images of a generator, some of whose modules are changed (by the name of their class)."""
        of = nn.Sequential(*(changed.get(type(module).__name__, module) for module in copy.deepcopy(of)))
        with torch.no_grad():
            return of.train()(noise)

    mistakes = {
        "The pixels are not between 0 and 1: the sigmoid at the end is missing.": images(
            right_one, Sigmoid=nn.Identity()
        ),
        "The pixels go from -1 to 1: use a sigmoid at the end, not tanh.": images(right_one, Sigmoid=nn.Tanh()),
        "LeakyReLU has its usual slope here; the slope is 0.2.": images(right_one, LeakyReLU=nn.LeakyReLU()),
        "You used ReLU; use LeakyReLU(0.2).": images(right_one, LeakyReLU=nn.ReLU()),
        "The activations between the convolutions are missing.": images(right_one, LeakyReLU=nn.Identity()),
        "The images are enlarged in another way: nn.Upsample repeats pixels unless you say otherwise.": [
            images(right_one, Upsample=nn.Upsample(scale_factor=2, mode=mode)) for mode in ("bilinear", "bicubic")
        ],
        "These are the weights of another seed: use `seed`.": images(unseeded),
        "These are the random numbers of the model: the generator's have the index 1.": images(of_the_model),
    }
    with torch.no_grad():
        result = made[0].train()(noise)
    return diagnose(
        result,
        images(right_one),
        mistakes,
        f"{sizes[0]:,} parameters, and images between 0 and 1, as the clients' images are.",
        tolerance=1e-4,
        otherwise="The images are others than the package's: compare the order of the layers with the table.",
    )


def synthesis_terms(
    x: Tensor,
    y: Tensor,
    teachers: list[State],
    weights: Tensor,
    student: State | None,
    *,
    correction: int = 0,
    power: int = 1,
    remembered: bool = True,
    say: str = "w",
    agreeing: Callable[[Tensor, Tensor], Any] = lambda a, b: a == b,
    divergence: Callable[[Tensor, Tensor], Tensor] = scratch.kl,
    sign: int = -1,
    by: int | None = None,
) -> Tensor:
    """Return the losses of `from_scratch.synthesis_losses` with one part of them changed, stacked."""
    model = scratch.new_model(0).eval()
    of_student = None if student is None else functional_call(model, student, x)
    terms = [torch.zeros(()), torch.zeros(()), torch.zeros(())]
    for w, teacher in zip(weights[:, y], teachers, strict=True):
        w = w if say == "w" else torch.ones_like(w)
        logits = functional_call(model, teacher, x)
        for name, kept in (("1", teacher), ("5", teacher)):
            inside = functional_call(
                model[: int(name)], {n: t for n, t in kept.items() if int(n.split(".")[0]) < int(name)}, x
            )
            mean, var = kept[f"{name}.running_mean"], kept[f"{name}.running_var"]
            old = (mean, var) if remembered else (torch.zeros_like(mean), torch.ones_like(var))
            new = inside.mean((0, 2, 3)), inside.var((0, 2, 3), correction=correction)
            for one, other in zip(new, old, strict=True):
                terms[0] = terms[0] + w.sum() * (one - other).norm() ** power
        terms[1] = terms[1] + (w * F.cross_entropy(logits, y, reduction="none")).sum()
        if of_student is not None:
            agree = agreeing(logits.argmax(dim=1), of_student.argmax(dim=1))
            terms[2] = terms[2] + sign * (w * agree * divergence(logits, of_student)).sum()
    return torch.stack(terms[: 2 if student is None else 3]) / (by or len(x))


@cache
def synthesis_scene() -> tuple[Tensor, Tensor, list[State], Tensor, State]:
    """Return images x (n, 1, 8, 8) with a gradient, labels (n,), two teachers, weights (2, C) and a student."""
    images, labels, shards, _ = digits()
    with torch.random.fork_rng():
        model = scratch.new_model(0)
        start = copied(model.state_dict())
        states = [
            scratch.local_training(model, start, shards[m], images, labels, scratch.stream(0, "batches", m))
            for m in range(3)
        ]
        student, x = states.pop(), images[:24].clone().requires_grad_()
        y = labels[:24]
        weights = torch.tensor([[1.0] * 5 + [0.2] * 5, [0.0] * 5 + [0.8] * 5])
    return x, y, states, weights, student


@cache
def synthesis_results() -> tuple[Tensor, dict[str, Tensor]]:
    """Return the right losses, of a call with and of one without a student, and those of the usual mistakes."""
    x, y, states, weights, student = synthesis_scene()

    def all_terms(**how: Any) -> Tensor:
        both = (synthesis_terms(x, y, states, weights, given, **how) for given in (student, None))
        return torch.cat(list(both))

    with torch.random.fork_rng():
        expected = all_terms()
        return expected, {
            "L_feat compares with the biased variance: pass correction=0, or use `seen` of the probe.": all_terms(
                correction=1
            ),
            "L_feat takes norms, not their squares.": all_terms(power=2),
            "L_feat compares with mean 0 and variance 1. Compare with what each teacher remembers, in its state.": (
                all_terms(remembered=False)
            ),
            "Every teacher counts fully: weigh it by weights[m, y].": all_terms(say="1"),
            "L_adv lacks its condition: only samples that teacher and student give the same class count.": all_terms(
                agreeing=lambda a, b: torch.ones_like(a)
            ),
            "The condition of L_adv is reversed: samples count on which both agree.": all_terms(
                agreeing=lambda a, b: a != b
            ),
            "The sign of L_adv is wrong: the generator is rewarded for what the student does not know.": all_terms(
                sign=1
            ),
            "The divergence in L_adv is turned round: the teacher comes first.": all_terms(
                divergence=lambda teacher, student: scratch.kl(student, teacher)
            ),
            "These are sums over samples: divide by their number.": all_terms(by=1),
            "You divide by the number of classes, not by the number of samples.": all_terms(by=scratch.C),
        }


@check(a_function)
def check_synthesis_losses(answer: Callable[..., Any]) -> Verdict:
    """Judge piece 5: the three losses of synthetic images, with and without a student."""
    x, y, states, weights, student = synthesis_scene()
    expected, mistakes = synthesis_results()
    before = [flat(state) for state in (*states, student)]
    with torch.random.fork_rng():
        model = scratch.new_model(3).train()
    given_states = [copied(state) for state in (*states, student)]
    answered = [answer(model, x, y, given_states[:2], weights, given) for given in (given_states[2], None)]
    if any(not torch.equal(flat(now), old) for now, old in zip(given_states, before, strict=True)):
        return wrong(
            "Your function changes the teachers or the student: the model was in training mode, and your images went "
            "into their statistics. Call model.eval() first."
        )
    lengths = tuple(len(losses) for losses in answered)
    if lengths != (3, 2):
        return wrong(
            f"With a student there are 3 losses and without one there are 2; you return {lengths[0]} and {lengths[1]}."
        )
    result = torch.stack([torch.as_tensor(loss) for losses in answered for loss in losses])
    names = ("L_feat", "L_hot", "L_adv", "L_feat without a student", "L_hot without a student")
    distance = (result - expected).abs().detach()
    worst = int(distance.argmax())
    verdict = diagnose(
        result,
        expected,
        mistakes,
        "Three losses, from models alone: look like the client's data inside, be of the class, be new to the student.",
        tolerance=1e-4,
        otherwise=f"{names[worst]} should be {expected[worst].item():.4g}; yours is {result[worst].item():.4g}.",
    )
    return with_gradient(verdict, result, expected, {"x": x})


def _small_generator() -> tuple[nn.Module, torch.optim.Optimizer, list[nn.Module]]:
    """Return a small module, its optimiser and two fast copies that have gone somewhere else."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        slow = nn.Linear(3, 2)
        fast = [copy.deepcopy(slow), copy.deepcopy(slow)]
        for size, one in zip((0.3, 0.02), fast, strict=True):
            one(torch.randn(4, 3)).square().mean().backward()
            with torch.no_grad():
                for parameter in one.parameters():
                    parameter += size * torch.randn(parameter.shape)
    return slow, torch.optim.Adam(slow.parameters(), lr=scratch.GENERATOR_LR, betas=(0.5, 0.999)), fast


def two_steps(step: Callable[[nn.Module, nn.Module, torch.optim.Optimizer], Any]) -> Tensor:
    """Return the parameters of a small module after two steps of `step`, flat."""
    slow, optimiser, fast = _small_generator()
    for one in fast:
        step(slow, one, optimiser)
    return flat(dict(slow.named_parameters()))


def towards(sign: int = 1, adds: bool = False, of: str = "difference") -> Callable[..., None]:
    """Return `from_scratch.reptile` with one part of it changed."""

    def step(slow: nn.Module, fast: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        for one, quick in zip(slow.parameters(), fast.parameters(), strict=True):
            gone = {"difference": one - quick, "quick": quick, "gradient": quick.grad}[of].detach()  # type: ignore[union-attr]
            one.grad = sign * gone + (one.grad if adds and one.grad is not None else 0)
        optimiser.step()

    return step


def _moves(share: float) -> Callable[..., None]:
    @torch.no_grad()
    def step(slow: nn.Module, fast: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        for one, quick in zip(slow.parameters(), fast.parameters(), strict=True):
            one += share * (quick - one)

    return step


def a_step(answer: Any) -> Callable[..., Any]:
    """Read a function that changes its arguments and returns nothing."""
    a_function(answer)
    if inspect.isfunction(answer) and len(inspect.signature(answer).parameters) != 3:
        raise ConfigError("The function takes (generator, fast, meta_optimiser)")
    return answer  # type: ignore[no-any-return]


@check(a_step)
def check_reptile(answer: Callable[..., Any]) -> Verdict:
    """Judge piece 6: one step of the generator towards its fast copy."""
    slow, optimiser, fast = _small_generator()
    before = flat(dict(fast[0].named_parameters()))
    answer(slow, fast[0], optimiser)
    if not torch.equal(flat(dict(fast[0].named_parameters())), before):
        return wrong("Your function moves the fast copy. It was trained already; the generator is to follow it.")
    mistakes = {
        "The generator moves away from the fast copy: an optimiser steps against .grad, so .grad is slow minus "
        "quick.": two_steps(towards(-1)),
        "Nothing moves: set the .grad of the generator's parameters, then call meta_optimiser.step().": two_steps(
            lambda *_: None
        ),
        "The generator jumps onto its fast copy. Reptile takes one step of the optimiser towards it.": two_steps(
            _moves(1)
        ),
        "The parameters are mixed without the optimiser: give it the difference as a gradient.": [
            two_steps(_moves(share)) for share in (scratch.GENERATOR_LR, 0.1, 0.5)
        ],
        "The gradients of both calls add up: set .grad, do not add to it.": two_steps(towards(adds=True)),
        "You use the fast copy's parameters as the gradient: take the difference, slow minus quick.": two_steps(
            towards(of="quick")
        ),
        "You use the fast copy's last gradient. Reptile needs only where the copy went: slow minus quick.": two_steps(
            towards(of="gradient")
        ),
    }
    return diagnose(
        two_steps(answer),
        two_steps(scratch.reptile),
        mistakes,
        "Where the fast copy went is used as if it were a gradient. So the generator learns to be a good start.",
        tolerance=1e-5,
        otherwise="The generator moves, but not as far or not in the direction of one step of Adam with slow - quick.",
    )


class _Refuses:
    """A guard that refuses the third loss."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def accepts(self, value: float) -> bool:
        self.asked.append(float(value))
        return len(self.asked) != 3


def learn(
    model: nn.Module,
    current: State,
    teachers: list[State],
    x: Tensor,
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = lambda answers, logits: scratch.kl(answers, logits).mean(),
    lr: float = scratch.DISTILLATION_LR,
    decay: float = scratch.DECAY,
    optimiser: type[torch.optim.Optimizer] = torch.optim.Adam,
    clears: bool = True,
    guarded: bool = True,
    training: bool = False,
    part: Callable[[int], int] = lambda step: step,
    jointly: bool = False,
) -> Tensor:
    """Return the update of `from_scratch.distil` with one part of it changed, flat."""
    model, guard = copy.deepcopy(model), _Refuses()
    model.load_state_dict(current)
    steps = optimiser(model.parameters(), lr=lr, weight_decay=decay)  # type: ignore[call-arg]
    for step in range(scratch.DISTILLATION_STEPS):
        asked = x[:, part(step)]
        with torch.no_grad():
            answers = torch.stack([functional_call(model.eval(), state, asked[m]) for m, state in enumerate(teachers)])
        answers = answers.mean(dim=0).expand_as(answers) if jointly else answers
        value = loss(answers.flatten(0, 1), model.train(training)(asked.flatten(0, 1)))
        if clears:
            steps.zero_grad()
        value.backward()
        if guard.accepts(value.item()) or not guarded:
            steps.step()
    return flat(model.state_dict()) - flat(current)


@cache
def distillation_scene() -> tuple[nn.Module, State, list[State], Tensor]:
    """Return a model, the current state, two teachers and their samples (2, steps, B, 1, 8, 8)."""
    images, labels, shards, _ = digits()
    with torch.random.fork_rng():
        model = scratch.new_model(0)
        current = copied(model.state_dict())
        teachers = [
            scratch.local_training(model, current, shards[m], images, labels, scratch.stream(0, "batches", m))
            for m in range(2)
        ]
    x = images[: 2 * scratch.DISTILLATION_STEPS * 6].reshape(2, scratch.DISTILLATION_STEPS, 6, 1, 8, 8)
    with torch.random.fork_rng():
        return scratch.new_model(0), current, teachers, x


@cache
def distillation_results() -> tuple[Tensor, dict[str, Tensor]]:
    """Return the right update, flat, and those of the usual mistakes."""
    model, current, teachers, x = distillation_scene()

    def learned(**how: Any) -> Tensor:
        return learn(model, current, teachers, x, **how)

    expected = learned()
    return expected, {
        "This is the student's new state; return its difference from `current`.": expected + flat(current),
        "The sign is wrong: the update is the student's new state minus `current`.": -expected,
        "The divergence is turned round: KL(teacher || student) has the teacher first.": learned(
            loss=lambda answers, logits: scratch.kl(logits, answers).mean()
        ),
        "This is plain gradient descent; use Adam.": learned(optimiser=torch.optim.SGD),
        "This is the clients' rate; use DISTILLATION_LR.": learned(lr=scratch.CLIENT_LR),
        "Adam has no weight decay here: pass weight_decay=DECAY.": learned(decay=0),
        "The gradients of all steps add up: call zero_grad() in every step.": learned(clears=False),
        "The guard refuses one loss, and your function makes the step all the same.": learned(guarded=False),
        "The student is in training mode, so its probes' statistics move: use model.eval().": learned(training=True),
        "Every step uses the same samples; step s uses x[:, s].": learned(part=lambda step: 0),
        "You averaged the teachers' logits. Each teacher answers samples of its own.": learned(jointly=True),
        "You compare logits by their mean square; compare distributions, with kl.": learned(
            loss=lambda answers, logits: (answers - logits).square().mean()
        ),
        "The student did not move. Is it made of leaves with requires_grad, and does the optimiser hold them?": (
            torch.zeros_like(expected)
        ),
    }


@check(a_function)
def check_distil(answer: Callable[..., Any]) -> Verdict:
    """Judge piece 7: the distilled update."""
    model, current, teachers, x = distillation_scene()
    expected, mistakes = distillation_results()
    guard, given = _Refuses(), [copied(state) for state in (current, *teachers)]
    result = answer(copy.deepcopy(model).train(), given[0], given[1:], x.clone(), guard)
    if any(not torch.equal(flat(one), flat(two)) for one, two in zip(given, (current, *teachers), strict=True)):
        return wrong(
            "Your function changes `current` or a teacher. Clone the current state, and answer in evaluation mode."
        )
    if not guard.asked:
        return wrong("Your function never asks the guard: make a step only if guard.accepts(loss.item()).")

    return diagnose(
        as_state(result, current),
        expected,
        mistakes,
        "The current model learned what the teachers say about images that nobody owns, and the update says how.",
        tolerance=2e-4,
        otherwise="The update differs from the package's. Compare the loss, the samples of a step, the optimiser.",
    )


@check(a_function)
def check_new_version(answer: Callable[..., Any]) -> Verdict:
    """Judge piece 8: the blend, and the step to the next version."""
    names, share, eta = ("weight", "1.running_mean"), 0.2, scratch.SERVER_LR

    def state(weight: float, mean: float) -> State:
        return dict(zip(names, (torch.tensor([weight, -weight]) * 1.0, torch.tensor([mean]) * 1.0), strict=True))

    current, update, distilled, first = state(3, 5), state(1, 2), state(-4, 0), state(9, 7)

    def next_states(weights: tuple[float, float], alone: float = 1, rate: float = eta, mean: Any = None) -> Tensor:
        """The states with and without a distilled update, with other `weights` of the two updates."""
        blended = {name: weights[0] * update[name] + weights[1] * distilled[name] for name in names}
        single = {name: alone * update[name] for name in names}
        made = [{name: current[name] + rate * moved[name] for name in names} for moved in (blended, single)]
        return torch.cat([flat(one | ({} if mean == "moves" else {names[1]: mean or first[names[1]]})) for one in made])

    mistakes = {
        "The weights are the wrong way round: `share` is what is replaced.": next_states((share, 1 - share)),
        "Nothing is taken from the client's update: it has the weight 1 - share.": next_states((1, share)),
        "The distilled update is left out: this is down-weighting.": next_states((1 - share, 0)),
        "The distilled update counts fully; its weight is `share`.": next_states((1 - share, 1)),
        "Without a distilled update the client's counts fully: there is nothing to replace its share.": next_states(
            (1 - share, share), alone=1 - share
        ),
        "The server's step is missing: multiply by SERVER_LR.": next_states((1 - share, share), rate=1),
        "The sign is wrong: the server adds the update.": next_states((1 - share, share), rate=-eta),
        "The probes' statistics move with the update. They start again in each version, with those of `first`.": (
            next_states((1 - share, share), mean="moves")
        ),
        "The probes keep the statistics of the current version. They start again, with those of `first`.": next_states(
            (1 - share, share), mean=current[names[1]]
        ),
    }
    parts = [copied(part) for part in (current, update, distilled, first)]
    results = [answer(parts[0], parts[1], given, share, parts[3]) for given in (parts[2], None)]
    if any(
        not torch.equal(flat(one), flat(two))
        for one, two in zip(parts, (current, update, distilled, first), strict=True)
    ):
        return wrong("Your function changes its arguments; older versions are needed later. Make a new dict.")
    return diagnose(
        torch.cat([as_state(result, current) for result in results]),
        next_states((1 - share, share)),
        mistakes,
        "The gap that lateness leaves is filled, and the next client's probes start from nothing.",
        otherwise=f"With share = {share} the new weight should be "
        f"{float(next_states((1 - share, share))[0]):.4g}; yours is {float(as_state(results[0], current)[0]):.4g}.",
    )
