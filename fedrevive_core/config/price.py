"""What a run would cost, estimated before anything is allocated: so that nobody's file can take a whole machine.

The estimates are rough, within a factor of a few: they tell a run that works from one that cannot end or fit. Every
preset is below the limits, and the environment variable FEDREVIVE_MAX_COST multiplies them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from math import inf

from fedrevive_core.config.federation import Delay, FederationConfig
from fedrevive_core.config.run import RunConfig
from fedrevive_core.errors import ConfigError

VARIABLE = "FEDREVIVE_MAX_COST"
LIMITS = {"jobs": 1e7, "bytes": 2e11, "operations": 1e19}  # the largest of the presets: 1e5, 1e11 and 4e18
WHERE = {
    "jobs": "the budget or the concurrency of the federation",
    "bytes": "num_clients, concurrency, batch, pool or image sizes",
    "operations": "the budget of the federation, or steps and batch sizes",
}
# Samples, channels, side, classes. Of texts, the side is the number of tokens.
DATA = {
    "digits": (1_797, 1, 8, 10), "fashion_mnist": (70_000, 1, 28, 10), "cifar10": (60_000, 3, 32, 10),
    "cifar100": (60_000, 3, 32, 100), "femnist": (810_000, 1, 28, 62), "newsgroups": (18_846, 1, 1, 20),
    "docstrings": (20_000, 1, 1, 20),
}  # fmt: skip
# Of one sample of one pixel or token: numbers kept for a gradient, multiplications forward.
MODELS = {
    "labnet": (60, 1_400), "convnet": (300, 5e4), "resnet18": (2_500, 5.5e5),
    "labtext": (2_000, 7e4), "encoder": (60_000, 2e7),
}  # fmt: skip


def check_price(config: RunConfig, jobs: int | None = None) -> None:
    """Raise ConfigError if a run of `config` would take more than the limits allow; `jobs`: their number, if known."""
    _check(price(config, jobs))


def check_jobs(federation: FederationConfig | None = None, jobs: float = inf) -> None:
    """Raise ConfigError if the timeline of `federation`, or a table of `jobs` rows, has more than allowed."""
    _check({"jobs": jobs if federation is None else num_jobs(federation)})


def counted(duration: Callable[[int], float]) -> Callable[[int], float]:
    """`duration` of a job of a client, which can be asked for as many jobs as are allowed.

    The estimate is from mean durations; most of a distribution with a heavy tail is far below its mean.
    """
    left = int(_limit("jobs"))

    def of(client: int) -> float:
        nonlocal left
        left -= 1
        if left < 0:
            raise _too_much("jobs", inf)
        return duration(client)

    return of


def _check(amounts: dict[str, float]) -> None:
    for what, amount in amounts.items():
        if amount > _limit(what):
            raise _too_much(what, amount)


def _limit(what: str) -> float:
    text = os.environ.get(VARIABLE, "1")
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 0 < factor < inf:
        raise ConfigError(f"{VARIABLE} = '{text[:40]}' must be a number above 0, which multiplies the limits")
    return LIMITS[what] * factor


def _too_much(what: str, amount: float) -> ConfigError:
    factor = f"{1.1 * amount / LIMITS[what]:.2g}" if amount < inf else "a larger number"
    return ConfigError(
        f"this run would take about {amount:.2g} {what}, and {_limit(what):.2g} are allowed: lower {WHERE[what]}, or "
        f"set the environment variable {VARIABLE} to {factor}"
    )


def num_jobs(federation: FederationConfig) -> float:
    """About how many jobs are dispatched until the budget ends; the fewest, where that is not known before."""
    if federation.timeline is not None or federation.devices.trace is not None:
        return federation.concurrency + federation.buffer_size
    faults, schedule = federation.faults, federation.schedule
    lasts = sum(map(_mean, (schedule.training, schedule.download, schedule.upload)))
    lost = min(faults.never_return + faults.crash, 1 - 1e-12)
    held = lasts * (1 - faults.never_return - faults.crash / 2) + faults.never_return * (faults.timeout or 0)
    slots, buffer = federation.concurrency, federation.buffer_size
    by_time = slots * (1 + (federation.max_sim_time / held if held > 0 else inf)) if federation.max_sim_time else inf
    by_versions = slots + federation.max_versions * buffer / (1 - lost) if federation.max_versions else inf
    return max(min(by_time, by_versions), (slots + buffer) / (1 - lost))


def _mean(delay: Delay) -> float:
    return sum(mean * odds for mean, odds in zip(delay.means, delay.odds, strict=True))


def state_values(config: RunConfig) -> int:
    """How many numbers a state of the model of `config` has; of an encoder, about."""
    _, channels, side, classes = DATA[config.data.name]
    side = config.data.image_size or side
    if config.model == "labnet":
        return 4_816 + 144 * channels + 2_048 * (side // 4) ** 2 + 65 * classes
    if config.model == "convnet":
        return 94_604 + 576 * channels + 12_800 * (((side - 4) // 2 - 2) // 2) ** 2 + 101 * classes
    if config.model == "resnet18":
        return 11_167_104 + 576 * channels + 512 * classes
    if config.model == "labtext":
        return 67_136 + 64 * config.data.max_tokens + 65 * classes
    return 20_000_000 + 512 * classes


def price(config: RunConfig, known_jobs: int | None = None) -> dict[str, float]:
    """About how many jobs a run has (unless that is known), bytes it takes, and multiplications it does."""
    federation, data, revival, synthesis = config.federation, config.data, config.revival, config.synthesis
    jobs = num_jobs(federation) if known_jobs is None else float(known_jobs)
    versions = min(jobs / federation.buffer_size, float(federation.max_versions or inf))
    samples, channels, side, classes = DATA[data.name]
    lesson = config.training.lesson
    texts = data.name in ("newsgroups", "docstrings")
    side = data.image_size or side
    places = data.max_tokens if texts else side**2  # of one sample: pixels or tokens
    size = float(state_values(config))
    kept, forward = MODELS[config.model]
    kept, forward = kept * places, forward * places
    batch = min(config.training.batch_size, data.samples_per_client if data.split != "natural" else samples)
    together = federation.concurrency if size <= 1e5 else 1  # small models are trained side by side
    evaluations = versions / config.evaluation.every + 2

    numbers = {
        "data": 2 * samples * channels * places,
        "clients": federation.num_clients * (2.0 * min(data.samples_per_client, samples) + classes + 100),
        "jobs": 75 * jobs + (250 + classes) * evaluations,
        "states": size * (2 * federation.concurrency + federation.buffer_size + 20),
        "memory": size * (federation.num_clients if config.server.memory != "none" else 0),
        "teachers of jobs": size * (lesson.kept + federation.concurrency if lesson.source == "returned" else 0),
        "training": batch * together * kept,
    }
    taught = {"returned": config.training.steps, "current": 4 * lesson.steps}.get(lesson.source, 0)
    work = jobs * (3 * config.training.steps + taught) * batch * forward + evaluations * samples * forward
    if revival.source != "none":
        teachers, distillation, wide = revival.num_teachers, config.distillation, synthesis.width
        shown = (synthesis.tokens * 512 if texts else channels * places) + 1
        numbers |= {
            "pool": synthesis.pool_size * shown,
            "teachers": size * teachers,
            "distillation": distillation.batch_size * teachers * kept,
            "probes": revival.num_probe_inputs * (kept + shown),
            "generator": 6 * (wide * (54 * wide + synthesis.noise_dim * places / 8) if not texts else 1),
            "synthesis": synthesis.batch_size * (teachers * kept + 8 * wide * places + synthesis.noise_dim),
        }
        work += (
            jobs * forward * (distillation.steps * distillation.batch_size * 4 * teachers + revival.num_probe_inputs)
        )
        made = versions / synthesis.every * synthesis.steps * synthesis.batch_size
        work += made * 3 * ((teachers + 1) * forward + (0 if texts else 16 * wide**2 * places))
    return {"jobs": jobs, "bytes": 4 * float(sum(numbers.values())), "operations": float(work)}
