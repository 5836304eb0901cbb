"""Staleness rules: how much of a client's update of staleness tau is replaced.

beta in [0, 1] is the weight taken from the client's update. FedRevive fills it with a distilled update, down-weighting
fills it with nothing, and FedBuff is beta = 0. FedAsync's s(tau) is 1 - beta(tau). Most rules count the versions that
an update is late; others measure something at its arrival (`Measured`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from fedrevive_core.config import FederationConfig, StalenessConfig
from fedrevive_core.errors import ConfigError

Rule = Callable[[float, StalenessConfig, FederationConfig], float]


def _cosine(tau: float, rule: StalenessConfig, _: FederationConfig) -> float:
    # The cosine turns back after half a period; the rule stays at 1.
    return 1.0 if tau >= 2 * rule.s_max else (1 - math.cos(math.pi * tau / (2 * rule.s_max))) / 2


def _stepwise(tau: float, rule: StalenessConfig, federation: FederationConfig) -> float:
    quarter = rule.span * federation.concurrency / federation.buffer_size / 4
    return math.floor(tau / quarter) / 4


def _hinge(tau: float, rule: StalenessConfig, _: FederationConfig) -> float:
    late = tau - rule.hinge_start
    return 0.0 if late <= 0 else 1 - 1 / (rule.hinge_slope * late + 1)


RULES: dict[str, Rule] = {
    "constant": lambda tau, rule, _: rule.constant,
    "cosine": _cosine,
    "linear": lambda tau, rule, _: rule.slope * tau,
    "exponential": lambda tau, rule, _: 1 - math.exp(-rule.rate * tau),
    "stepwise": _stepwise,
    "polynomial": lambda tau, rule, _: 1 - (1 + tau) ** -rule.power,
    "hinge": _hinge,
}


@dataclass(frozen=True)
class Measured:
    """What the server measures at an arrival, for the rules of these names; NaN is unknown.

    distance: norm of current minus downloaded model, divided by that of the client's update (arXiv 2205.13797, gamma).
    length: norm of the client's update, divided by that of the distilled one. disagreement, in [0, 2]: 1 - the cosine
    of the two. coverage, in (0, 1]: effective number of classes that the teachers know, exp of the entropy of their
    mean proportions, divided by the number of classes.
    """

    distance: float = math.nan
    length: float = math.nan
    disagreement: float = math.nan
    coverage: float = math.nan


MEASURING = tuple(Measured.__dataclass_fields__)  # rules that look at more than the staleness


def beta(
    tau: float, staleness: StalenessConfig, federation: FederationConfig, measured: Measured | None = None
) -> float:
    """Weight in [0, 1] taken from a client's update of staleness `tau` >= 0 (versions).

    The stepwise rule steps up at each quarter of f K / B (inclusive), so it needs the federation. Sources: the
    paper's rules, and arXiv 1903.03934 for polynomial and hinge. The rules of MEASURING give x / (x + half) of what is
    `measured`, and 0 where it is unknown. Raises ConfigError if they are asked without it.
    """
    if staleness.rule not in MEASURING:
        return min(1.0, max(0.0, RULES[staleness.rule](tau, staleness, federation)))
    if measured is None:
        raise ConfigError(
            f"staleness.rule = '{staleness.rule}' measures each arrival of a run and does not follow from the "
            "staleness: there is no beta(tau) to show"
        )
    value = getattr(measured, staleness.rule)
    return 1 / (1 + staleness.half / value) if value > 0 else 0.0


def tabulate(rule: Callable[[int], float], longest: int) -> list[float]:
    """beta of staleness 0, 1, ..., `longest` by a `rule` of your own. Raises ConfigError unless all are from 0 to 1."""
    weights = []
    for tau in range(longest + 1):
        weight = rule(tau)
        if not isinstance(weight, int | float) or not 0 <= weight <= 1:
            raise ConfigError(f"beta({tau}) = {weight!r}: a rule of your own must give a number from 0 to 1")
        weights.append(float(weight))
    return weights
