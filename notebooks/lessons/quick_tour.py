"""Checks and the table of 00_quick_tour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from fedrevive_core.config import FederationConfig, StalenessConfig, method_title
from fedrevive_core.records import Record
from fedrevive_core.staleness import beta
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


@check(a_word("arrivals", "staleness", "both"))
def check_same_arrivals(answer: str, records: Sequence[Record]) -> Verdict:
    """Judge exercise 1: the methods share 'arrivals', 'staleness' or 'both'."""
    fedbuff, others = records[0], records[1:]
    same = all(record.arrivals["client"].equals(fedbuff.arrivals["client"]) for record in others)
    stale = ", ".join(f"{record.config.method} {record.arrivals['staleness'].mean():.3g}" for record in records)
    assert same, "one seed gives the same clients to all methods with O = 1"
    if answer == "arrivals":
        size = fedbuff.config.federation.buffer_size
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
