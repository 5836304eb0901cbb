"""Checks and the table of 00_quick_tour."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from fedrevive_core.config import method_title
from fedrevive_core.records import Record
from lessons.exercise import Verdict, check, right, wrong


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


@check
def check_same_arrivals(answer: str, records: Sequence[Record]) -> Verdict:
    """Judge exercise 1: the methods share 'arrivals', 'staleness' or 'both'."""
    fedbuff, others = records[0], records[1:]
    same = all(record.arrivals["client"].equals(fedbuff.arrivals["client"]) for record in others)
    stale = ", ".join(f"{record.config.method} {record.arrivals['staleness'].mean():.3g}" for record in records)
    assert same, "one seed gives the same clients to all methods with O = 1"
    if answer == "arrivals":
        return right(f"The same clients arrive at the same times. Mean staleness: {stale}; a buffer of 2 halves it.")
    if answer == "both":
        return wrong(
            f"Look at FedBuff's buffer. Staleness counts versions, and FedBuff makes fewer. Mean staleness: {stale}."
        )
    if answer == "staleness":
        return wrong("It is the other way round: who arrives when does not depend on what the server does.")
    return wrong("Answer 'arrivals', 'staleness' or 'both'.")


@check
def check_what_is_lost(answer: float, record: Record) -> Verdict:
    """Judge exercise 2: the share of an average update that down-weighting throws away in `record`."""
    lost = float(record.arrivals["beta"].mean())
    if abs(answer - lost) <= 0.05:
        return right(f"It is {lost:.0%}: FedRevive fills this share with a distilled update.")
    if abs(answer - (1 - lost)) <= 0.05:
        return wrong("That is the share that is kept, 1 - beta. Which share is thrown away?")
    if answer > 1:
        return wrong("Give a share between 0 and 1, not a percentage.")
    return wrong(f"Too {'much' if answer > lost else 'little'}: take the mean of records[1].arrivals['beta'].")
