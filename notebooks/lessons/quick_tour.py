"""Checks and the table of 00_quick_tour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from IPython.display import Markdown

from fedrevive_core.config import FederationConfig, StalenessConfig, method_title
from fedrevive_core.records import Record
from fedrevive_core.staleness import beta
from fedrevive_core.timeline import Timeline
from fedrevive_notebooks.lessons.exercise import Verdict, a_number, a_word, check, diagnose, right, wrong


def table(records: Sequence[Record]) -> pd.DataFrame:
    """One row per method: accuracies, mean staleness (versions), number of uploads, and how many were revived."""
    return pd.DataFrame(
        {
            method_title(record.config.method): {
                "final accuracy": f"{record.summary['final_accuracy']:.1%}",
                "averaged over the run": f"{record.summary['mean_accuracy']:.1%}",
                "mean staleness": f"{record.arrivals['staleness'].mean():.1f}",
                "uploads": len(record.arrivals),
                "revived": int(record.arrivals["revived"].sum()),
            }
            for record in records
        }
    ).T


def who_leads(records: Sequence[Record]) -> Markdown:
    """Say which method ends best, from when on it leads for good, and how far a curve moves between evaluations."""
    tables = [record.evaluations for record in records]
    times = np.unique(np.concatenate([table["sim_time"] for table in tables]))
    curves = np.array(
        [table["accuracy"].to_numpy()[np.searchsorted(table["sim_time"], times, "right") - 1] for table in tables]
    )
    best, second, *_ = sorted(range(len(records)), key=lambda number: -records[number].summary["final_accuracy"])
    titles = [method_title(record.config.method) for record in records]
    final = [record.summary["final_accuracy"] for record in records]
    behind = np.flatnonzero(curves[best] <= np.delete(curves, best, axis=0).max(axis=0))
    since = f"and leads for good from time {times[behind[-1] + 1]:.1f} on" if behind[-1] + 1 < len(times) else ""
    moved = np.mean([table["accuracy"].diff().abs().mean() for table in tables])
    since = since or "but is not ahead at the last evaluation"
    return Markdown(
        f"**{titles[best]}** ends best, at {final[best]:.1%} ({100 * (final[best] - final[second]):.1f} points above "
        f"{titles[second]}), {since}; the run ends at {times[-1]:.1f}. From one evaluation to the next, a curve moves "
        f"by {100 * moved:.0f} points on average."
    )


@check(a_word("arrivals", "staleness", "both"))
def check_same_arrivals(answer: str, timelines: Mapping[str, Timeline]) -> Verdict:
    """Judge exercise 1: the `timelines` of methods share 'arrivals', 'staleness' or 'both'."""
    first, *others = [(timeline.client[timeline.arrivals]).tolist() for timeline in timelines.values()]
    assert all(other == first for other in others), "one seed gives the same clients to all methods with O = 1"
    means = {method: timeline.summary()["mean_staleness"] for method, timeline in timelines.items()}
    stale = ", ".join(f"{method_title(method)} {mean:.3g}" for method, mean in means.items())
    if answer == "arrivals":
        size = timelines["fedbuff"].federation.buffer_size
        return right(
            f"The same clients arrive at the same times. Mean staleness: {stale}. FedBuff makes one version of {size} "
            f"uploads, so an update misses about 1/{size} as many."
        )
    if answer == "both":
        return wrong(
            f"Look at FedBuff's buffer. Staleness counts versions, and FedBuff makes fewer. Mean staleness: {stale}."
        )
    return wrong("It is the other way round: who arrives when does not depend on what the server does.")


def judge_lost(
    answer: float,
    staleness: np.ndarray,
    rule: StalenessConfig,
    federation: FederationConfig,
    praise: str,
    mistakes: Mapping[str, object] | None = None,
) -> Verdict:
    """Judge the mean of beta over arrivals of `staleness` (n,), which three notebooks ask for.

    praise: may hold {lost}. mistakes: more of them, as `diagnose` takes them.
    """
    weights = np.array([beta(tau, rule, federation) for tau in staleness.tolist()])
    lost = float(weights.mean())
    usual = {
        "This is the share that is kept, 1 - beta. Which share is taken away?": 1 - lost,
        "This is beta of the mean staleness. The rule is no straight line: take the mean of beta over the "
        "arrivals.": beta(float(staleness.mean()), rule, federation),
        "This counts the updates that lose something; the question is how much is lost.": float((weights > 0).mean()),
        "This counts the updates that lose everything; others lose a part.": float((weights == 1).mean()),
        "This is the median; an average update has the mean.": float(np.median(weights)),
        **(mistakes or {}),
    }
    if not 0 <= answer <= 1:
        return wrong("A share lies between 0 and 1: it is no percentage, no sum, and no number of versions.")
    far = f"This is too {'large' if answer > lost else 'small'}, and no mistake that this check knows."
    otherwise = f"{far} Take the mean of beta over all arrivals."
    return diagnose(answer, lost, usual, praise.format(lost=f"{lost:.1%}"), tolerance=0.005, otherwise=otherwise)


@check(a_number)
def check_what_is_lost(answer: float, record: Record) -> Verdict:
    """Judge exercise 2: the share of an average update that down-weighting throws away in `record`."""
    config, staleness = record.config, record.arrivals["staleness"].to_numpy()
    praise = "It is {lost}: FedRevive fills this share with a distilled update."
    return judge_lost(answer, staleness, config.staleness, config.federation, praise)
