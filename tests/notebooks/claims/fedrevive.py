"""What 05_fedrevive says of its figures."""

from __future__ import annotations

import numpy as np
import pandas as pd

from claims import Claims
from fedrevive_core.staleness import beta


def over_the_run(n) -> dict[str, float]:
    """The accuracy of each method, averaged over the run."""
    return {run.config.method: run.summary["mean_accuracy"] for run in n.runs}


def learned_faster(n) -> bool:
    mean = over_the_run(n)
    baselines = max(mean[name] for name in mean if name not in ("fedrevive", "dd-fedrevive"))
    return baselines < mean["fedrevive"] < mean["dd-fedrevive"]


def cosines(n) -> pd.Series:
    return n.record.arrivals.loc[n.record.arrivals["revived"], "cosine"]


def at_the_branch(n) -> float:
    """The accuracy of the run's last evaluation up to the branch point."""
    evaluations = n.whole.evaluations
    return evaluations.loc[evaluations["version"] <= n.here.server.version, "accuracy"].iloc[-1]


def staleness(n) -> pd.Series:
    return n.record.arrivals["staleness"]


CLAIMS: Claims = {
    "**the same clients arrive at the same times**": lambda n: n.same,
    "On these arrivals FedRevive learned faster than the asynchronous baselines, and more slowly than with real data "
    "on the server.": learned_faster,
    "the mean staleness is about $s_{\\max}$": lambda n: np.isclose(
        staleness(n).mean(), n.record.config.staleness.s_max, rtol=0.1
    ),
    "most updates are less stale than the mean, and a few are very late": lambda n: (
        staleness(n).median() < staleness(n).mean() < staleness(n).max() / 4
    ),
    "So the mean of beta lies below beta of the mean.": lambda n: (
        n.record.arrivals["beta"].mean()
        < beta(staleness(n).mean(), n.record.config.staleness, n.record.config.federation) - 0.03
    ),
    "The two updates stand nearly at right angles": lambda n: (
        abs(cosines(n).median()) < 0.1 and cosines(n).abs().quantile(0.9) < 0.35
    ),
    "when the model has learned something": lambda n: at_the_branch(n) > 0.15,
}
