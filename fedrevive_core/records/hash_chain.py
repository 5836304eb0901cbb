"""The certificate of a run: a chain of hashes over everything in its tables that does not depend on the host's speed.

Every evaluation has a link, the hash of the link before, of all columns of the arrivals since then, and of the
evaluation itself with the hash of the state. The last, over the rest and the final state, is the run's certificate: two
runs with one certificate had the same bits throughout. Links follow from the tables, so a table that was changed after
the run is detected.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fedrevive_core.records.record import Record

OPTIONAL = ("not_teaching",)  # columns of arrivals, of text, that only runs have in which something was noted there


def link(previous: str, row: Mapping[str, Any], arrivals: pd.DataFrame) -> str:
    """SHA-256, in hexadecimal, of the `previous` link, of named values and of the rows of `arrivals`.

    A column of OPTIONAL without an entry in these rows is as if it were not there.
    """
    digest = hashlib.sha256(previous.encode())
    absent = [name for name in OPTIONAL if name in arrivals and not any(map(str, arrivals[name]))]
    for name, values in [*row.items(), *arrivals.drop(columns=absent).items()]:
        digest.update(f"\n{name}\n".encode())
        digest.update(_canonical(values))
    return digest.hexdigest()


def _canonical(values: Any) -> bytes:
    """The same bytes for the same values, in memory and read from a file."""
    array = np.atleast_1d(np.asarray(values))
    if array.dtype.kind in "biuf":
        numbers = array.astype("<f8")
        numbers[np.isnan(numbers)] = np.nan  # of many kinds
        return numbers.tobytes()
    return "\n".join(map(str, array)).encode()


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


def broken_link(record: Record) -> str | None:
    """What in `record` is not what the run left there, or None if its tables and model fit its certificate."""
    previous, first = "", 0
    for row in record.evaluations.to_dict("records"):
        stated = row.pop("chain")
        previous = link(previous, row, record.arrivals[first : row["num_arrivals"]])
        if previous != stated:
            return f"evaluations or arrivals up to version {row['version']}"
        first = row["num_arrivals"]
    state = record.summary["state_sha256"]
    if link(previous, {"state_sha256": state}, record.arrivals[first:]) != record.summary["certificate"]:
        return "arrivals after the last evaluation, or the hash of the final state"
    return None


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
            same = np.array([_canonical(a) == _canonical(b) for a, b in zip(here, there, strict=True)], dtype=bool)
        if not same.all():
            first, column = int(same.argmin()), str(name)
    return first, column


def state_sha256(state: np.ndarray) -> str:
    """SHA-256 of a flat float32 state, as little-endian bytes."""
    return hashlib.sha256(np.ascontiguousarray(state, dtype="<f4").tobytes()).hexdigest()
