"""The certificate of a run: a chain of hashes over everything in its tables that does not depend on the host's speed.

Every evaluation has a link, the hash of the link before, of all columns of the arrivals since then, and of the
evaluation itself with the hash of the state. The last, over the rest and the final state, is the run's certificate: two
runs with one certificate had the same bits throughout. Links follow from the tables, so a table that was changed after
the run is detected.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

OPTIONAL = ("not_teaching",)  # columns of text that only those arrivals have in which something was noted there


def link(previous: str, row: Mapping[str, Any], arrivals: pd.DataFrame) -> str:
    """SHA-256, in hexadecimal, of the `previous` link, of named values and of the rows of `arrivals`.

    A column of OPTIONAL that is empty in these rows is as if it were not there.
    """
    return _link(previous, [(name, canonical(values)) for name, values in [*row.items(), *arrivals.items()]])


def table_sha256(table: pd.DataFrame) -> str:
    """SHA-256, in hexadecimal, of the values of a table."""
    return link("", {}, table)


def _link(previous: str, values: Iterable[tuple[Any, bytes]]) -> str:
    digest = hashlib.sha256(previous.encode())
    for name, content in values:
        if name in OPTIONAL and not content.strip(b"\n"):
            continue
        digest.update(f"\n{name}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def canonical(values: Any) -> bytes:
    """The same bytes for the same values, in memory and read from a file."""
    array = np.atleast_1d(np.asarray(values))
    if array.dtype.kind in "biuf":
        return _numbers(array).tobytes()
    return "\n".join(map(str, array)).encode()


def _numbers(array: np.ndarray) -> np.ndarray:
    numbers = array.astype("<f8")
    numbers[np.isnan(numbers)] = np.nan  # of many kinds
    return numbers


def broken_link(evaluations: Mapping[str, Any], arrivals: Mapping[str, Any], summary: Mapping[str, Any]) -> str | None:
    """What in the tables (as columns) or the final hash is not what the run left; None if all fits the certificate."""
    rows, jobs = ({name: _rows(table[name]) for name in table} for table in (evaluations, arrivals))
    if "chain" not in rows or summary.get("state_sha256") is None:
        return "its evaluations have no links, or its summary has no hash of the final state"
    del rows["chain"]
    previous, first = "", 0
    for number, (last, stated) in enumerate(zip(evaluations["num_arrivals"], evaluations["chain"], strict=True)):
        since = [(name, of(first, last)) for name, of in jobs.items()]
        previous = _link(previous, [*((name, of(number, number + 1)) for name, of in rows.items()), *since])
        if previous != stated:
            return f"evaluations or arrivals up to version {evaluations['version'][number]}"
        first = last
    since = [(name, of(first, None)) for name, of in jobs.items()]
    if _link(previous, [("state_sha256", summary["state_sha256"].encode()), *since]) != summary["certificate"]:
        return "arrivals after the last evaluation, or the hash of the final state"
    return None


def _rows(values: Any) -> Callable[[int, int | None], bytes]:
    """The canonical bytes of some rows of a column, which is converted once; of a column of lists, of one row."""
    array = np.asarray(values)
    if array.dtype.kind in "biuf":
        rows = _numbers(array)
        return lambda first, last: rows[first:last].tobytes()
    if len(array) and isinstance(array[0], np.ndarray | list | tuple):
        return lambda first, last: canonical(array[first])
    return lambda first, last: "\n".join(map(str, array[first:last])).encode()


def state_sha256(state: np.ndarray) -> str:
    """SHA-256 of a flat float32 state, as little-endian bytes."""
    return hashlib.sha256(np.ascontiguousarray(state, dtype="<f4").tobytes()).hexdigest()
