"""The table of methods: each is a composition of the same parts. docs/METHODS.md has a section on each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Method:
    """A method.

    title: its name in tables and figures. rule: what the server does. source: its paper. settings: the composition.
    """

    title: str
    rule: str
    source: str
    settings: Mapping[str, Any]


def method_title(name: str) -> str:
    """Title of the method `name` for tables and figures; a name that is not in METHODS is its own title."""
    return METHODS[name].title if name in METHODS else name


WHOLE_UPDATES = {"rule": "constant", "constant": 0.0}  # beta = 0: every update counts in full
MIXES_MODELS = {"update_from": "current"}

METHODS: dict[str, Method] = {
    "fedavg": Method(
        "FedAvg",
        "synchronous rounds: w + eta * mean of K updates",
        "arXiv 1602.05629",
        {
            "federation": {"buffer_size": "concurrency", "refill_size": "concurrency"},
            "staleness": WHOLE_UPDATES,
            "evaluation": {"every": 1},
        },
    ),
    "fedasync-constant": Method(
        "FedAsync constant",
        "(1 - a) w + a w_client",
        "arXiv 1903.03934",
        {"server": MIXES_MODELS, "staleness": WHOLE_UPDATES},
    ),
    "fedasync-poly": Method(
        "FedAsync polynomial",
        "(1 - a s) w + a s w_client, s = (1 + tau)^-p",
        "arXiv 1903.03934",
        {"server": MIXES_MODELS, "staleness": {"rule": "polynomial", "power": 0.5}},
    ),
    "fedasync-hinge": Method(
        "FedAsync hinge",
        "(1 - a s) w + a s w_client, s = 1 if tau <= b else 1 / (a' (tau - b) + 1)",
        "arXiv 1903.03934",
        {"server": MIXES_MODELS, "staleness": {"rule": "hinge", "hinge_slope": 10.0, "hinge_start": 4.0}},
    ),
    "fedbuff": Method(
        "FedBuff",
        "w + eta * mean of B updates",
        "arXiv 2106.06639",
        {"staleness": WHOLE_UPDATES},
    ),
    "afl-dw": Method(
        "AFL-DW",
        "w + eta * (1 - beta(tau)) * update",
        "arXiv 2511.00655",
        {"staleness": {"rule": "cosine", "s_max": 75.0}},
    ),
    "fedbuff-momentum": Method(
        "FedBuff + momentum",
        "w + eta * m, m = 0.9 m + mean of B updates",
        "arXiv 1909.06335, on FedBuff's buffer",
        {"staleness": WHOLE_UPDATES, "server": {"optimiser": "momentum"}},
    ),
    "fedbuff-adam": Method(
        "FedBuff + Adam",
        "w + eta * m / (sqrt(v) + eps), moments of the mean of B updates",
        "arXiv 2003.00295, on FedBuff's buffer",
        {"staleness": WHOLE_UPDATES, "server": {"optimiser": "adam"}},
    ),
    "fadas": Method(
        "FADAS",
        "AMSGrad on the mean of B updates; eta at most 1 / tau_max where that is above tau_c",
        "arXiv 2407.18365",
        {
            "staleness": WHOLE_UPDATES,
            "server": {"optimiser": "amsgrad", "eps": 1e-8, "delay_threshold": 1},
        },
    ),
    "ca2fl": Method(
        "CA2FL",
        "w + eta * (mean over N of h + mean over B of update - h), h the client's latest update",
        "OpenReview 4aywmeb97I",
        {"staleness": WHOLE_UPDATES, "server": {"memory": "calibrate"}},
    ),
    "mifa": Method(
        "MIFA-style",
        "w + eta * mean of the latest updates of all clients seen",
        "arXiv 2106.04159",
        {"staleness": WHOLE_UPDATES, "server": {"memory": "average"}},
    ),
    "ace": Method(
        "ACE",
        "w + eta * mean of the latest updates of all clients seen, at every arrival",
        "arXiv 2511.19066",
        {"staleness": WHOLE_UPDATES, "server": {"memory": "average"}},
    ),
    "aced": Method(
        "ACED",
        "as ACE, but only over clients whose latest job began at most tau_algo versions ago",
        "arXiv 2511.19066",
        {"staleness": WHOLE_UPDATES, "server": {"memory": "average", "memory_horizon": 100}},
    ),
    "asyncfeded": Method(
        "AsyncFedED",
        "w + eta * update / (1 + gamma / eps), gamma = |w - downloaded| / |update|",
        "arXiv 2205.13797",
        {"staleness": {"rule": "distance", "half": 5.0}},
    ),
    "fare-dust": Method(
        "FARe-DUST",
        "w + eta * mean of B updates; a job also learns from one of the models returned last",
        "arXiv 2403.09086",
        {"staleness": WHOLE_UPDATES, "training": {"lesson": {"teacher": "returned"}}},
    ),
    "feast-msg": Method(
        "FeAST-on-MSG",
        "(1 - g) (w + eta * updates in time) + g a, a an auxiliary model that all updates move",
        "arXiv 2403.09086",
        {"staleness": WHOLE_UPDATES, "server": {"auxiliary": 0.1}},
    ),
    "fedadt": Method(
        "FedADT",
        "w + eta * update; a stale model first learns from w on its client's samples",
        "arXiv 2504.04081",
        {"staleness": WHOLE_UPDATES, "training": {"lesson": {"teacher": "current", "rise": 100}}},
    ),
    "dd-fedrevive": Method(
        "DD-FedRevive",
        "w + eta * (0.5 * update + 0.5 * distilled on held-back real data)",
        "arXiv 2511.00655",
        {
            "staleness": {"rule": "constant", "constant": 0.5},
            "revival": {"source": "held_back", "proportions": "true", "freeze": 0, "warmup": None, "guard": False},
            "distillation": {"weight_decay": 0.0},
        },
    ),
    "fedrevive": Method(
        "FedRevive",
        "w + eta * ((1 - beta(tau)) * update + beta(tau) * distilled on synthetic data)",
        "arXiv 2511.00655",
        {"staleness": {"rule": "cosine", "s_max": 75.0}, "revival": {"source": "synthetic"}},
    ),
}
