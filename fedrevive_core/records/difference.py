"""Where two runs part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fedrevive_core.records.hash_chain import canonical
from fedrevive_core.records.record import Record


@dataclass(frozen=True)
class Difference:
    """Where two runs part: after `num_arrivals`, at `version`, and in which `quantity`, with both values."""

    num_arrivals: int
    version: int
    quantity: str
    one: Any
    other: Any

    def __str__(self) -> str:
        return f"at version {self.version} in {self.quantity}: {self.one} / {self.other}"


def first_difference(one: Record, other: Record) -> Difference | None:
    """Where two runs first differ; None if they have the same certificate."""
    if one.summary["certificate"] == other.summary["certificate"]:
        return None
    differences = []
    for name in ("arrivals", "evaluations"):
        tables = getattr(one, name), getattr(other, name)
        row, column = _first_cell(*tables)
        if column is not None:
            here, there = (table.iloc[row] for table in tables)
            after = row + 1 if name == "arrivals" else int(here["num_arrivals"])
            differences.append(Difference(after, int(here["version"]), column, here[column], there[column]))
    if differences:  # an arrival and the evaluation after it: the arrival comes first
        return min(differences, key=lambda difference: difference.num_arrivals)
    ends = [record.summary for record in (one, other)]
    names = ("num_arrivals", "num_versions", "state_sha256", "certificate")
    name = next(name for name in names if ends[0][name] != ends[1][name])
    common = [min(end[count] for end in ends) for count in names[:2]]
    return Difference(common[0], common[1], name, ends[0][name], ends[1][name])


def _first_cell(one: pd.DataFrame, other: pd.DataFrame) -> tuple[int, str | None]:
    """The first row in which two tables differ, as far as both go, and there the first column."""
    first, column = min(len(one), len(other)), None
    for name in one.columns.intersection(other.columns):
        here, there = one[name].to_numpy()[:first], other[name].to_numpy()[:first]
        if here.dtype.kind in "biuf" and there.dtype.kind in "biuf":
            same = (here == there) | (np.isnan(here) & np.isnan(there))
        else:
            same = np.array([canonical(a) == canonical(b) for a, b in zip(here, there, strict=True)], dtype=bool)
        if not same.all():
            first, column = int(same.argmin()), str(name)
    return first, column
