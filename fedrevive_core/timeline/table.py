"""A timeline as a table, of this program or of someone else's federation: read with bounds and checked row by row.

A row is a job: `client` (from 0), `dispatched` and `arrived` (times; `arrived` empty: still at work at the end of the
table) and, if wanted, `lost` (the job never arrived, and the server gave it up at the time `arrived`). A row without
`dispatched` names a client that never worked. Of a file with a column `format`, which this program wrote, the times
are simulated time; of any other they are seconds.

Order at equal times: jobs are numbered by `dispatched`, then as they stand in the table; they arrive in the order of
`arrived`, then of their numbers; and an arrival at the very moment of a dispatch comes before it, unless the column
`dispatched_after` (the number of arrivals before the dispatch) says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fedrevive_core.config import CRASH, DUPLICATE, FAULTS, NEVER_RETURN, FederationConfig, choices
from fedrevive_core.errors import ConfigError
from fedrevive_core.timeline.columns import Place, read_columns
from fedrevive_core.timeline.columns import refuse as refuse_row

FORMAT = 1  # raised when a change makes older files unreadable
KINDS = {
    "client": "int", "dispatched": "float", "arrived": "float", "lost": "bool", "fault": "text",
    "dispatched_after": "int", "mean_duration": "float", "format": "int",
}  # fmt: skip
REQUIRED = ("client", "dispatched", "arrived")
LOSING = (NEVER_RETURN, CRASH)


@dataclass(frozen=True)
class Jobs:
    """The jobs of a table in order of dispatch: arrays of length J, as in `Timeline`; `place`, of each in the file.

    end: `arrived`, infinite for a job that is still at work. arrivals: job numbers in order of arrival, copies too.
    mean_duration: of each client (N,), as the file says or as measured. at_work: most jobs at work at the same time.
    """

    place: Place
    client: np.ndarray
    start: np.ndarray
    end: np.ndarray
    lost: np.ndarray
    fault: np.ndarray
    dispatched_after: np.ndarray
    arrivals: np.ndarray
    mean_duration: np.ndarray
    at_work: int


def read_jobs(path: Path, federation: FederationConfig | None) -> Jobs:
    """The jobs in a .csv or .parquet file, in the units of the file if it has a `format`, else of `federation`.

    Raises ConfigError naming file and line (of a parquet file: row) of the first thing that cannot be, such as a client
    that `federation` does not have, or more jobs at work than its concurrency.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"timeline = '{path}' is neither a run nor a .csv or .parquet file")
    columns, place = read_columns(path, KINDS, REQUIRED, "timeline")
    return _checked(columns, place, federation)


def measured_means(client: np.ndarray, duration: np.ndarray, num_clients: int) -> np.ndarray:
    """(N,) mean `duration` of each client's jobs; a client without jobs has the mean of all."""
    counts = np.bincount(client, minlength=num_clients)
    sums = np.bincount(client, weights=duration, minlength=num_clients)
    return np.where(counts > 0, sums / np.maximum(counts, 1), duration.mean() if len(duration) else 0.0)


def _checked(columns: dict[str, np.ndarray], place: Place, federation: FederationConfig | None) -> Jobs:
    """The jobs that the `columns` of a file describe. Raises ConfigError for the first thing that cannot be."""
    refuse = partial(refuse_row, place)
    client, start, end = (np.asarray(columns[name]) for name in REQUIRED)
    start, end = start.astype(float), end.astype(float)
    count, ours = len(client), "format" in columns
    if ours:
        refuse(columns["format"] != FORMAT, lambda row: f"format = {columns['format'][row]}, and this version reads "
               f"{FORMAT}: use the version that wrote the file")  # fmt: skip
    lost = np.asarray(columns.get("lost", np.zeros(count, bool)))
    names = columns.get("fault")
    fault = np.where(lost, CRASH, 0) if names is None else _codes(names)
    means = columns.get("mean_duration", np.full(count, np.nan)).astype(float)
    number = federation.num_clients if federation else int(client.max(initial=0)) + 1
    refuse((client < 0) | (client >= number), lambda row: f"client = {client[row]} is unknown: the {number} clients "
           f"of federation.num_clients are numbered from 0 to {number - 1}")  # fmt: skip
    refuse(np.isinf(start), lambda row: f"dispatched = {start[row]}: must be a number, or empty")
    refuse(np.isinf(end), lambda row: f"arrived = {end[row]}: must be a number, or empty")
    refuse(np.isinf(means) | (means < 0), lambda row: f"mean_duration = {means[row]}: must be 0 or more, or empty")
    refuse(np.isnan(start) & ~np.isnan(end), lambda row: f"arrived = {end[row]:g}, but dispatched is empty: give both")
    refuse(end < start, lambda row: f"arrived = {end[row]:g} is before dispatched = {start[row]:g}")
    refuse(lost & np.isnan(end), lambda row: "lost, but arrived is empty: give the time when the job was given up")
    refuse(fault < 0, lambda row: f"fault = {str(names[row])[:40]!r} is unknown: {choices('', FAULTS[1:])}")  # type: ignore[index]
    refuse(lost & ~np.isin(fault, LOSING), lambda row: "lost, but its fault is not never_return or crash")
    refuse(~lost & ~np.isnan(end) & np.isin(fault, LOSING), lambda row: f"fault = '{FAULTS[fault[row]]}' without lost")

    rows = np.argsort(start, kind="stable")[: count - int(np.isnan(start).sum())]  # in order of dispatch
    client_rows, own_means = client, means
    client, start, end, lost, fault = client[rows], start[rows], end[rows], lost[rows], fault[rows]
    end = np.where(np.isnan(end), np.inf, end)
    arrived = np.flatnonzero(~lost & np.isfinite(end))
    arrivals = arrived[np.argsort(end[arrived], kind="stable")]
    arrivals = np.repeat(arrivals, np.where(fault[arrivals] == DUPLICATE, 2, 1))
    stated = np.asarray(columns["dispatched_after"])[rows] if "dispatched_after" in columns else None
    after = _dispatched_after(start, end, arrivals) if stated is None else stated
    if stated is not None:
        first, last = (np.searchsorted(end[arrivals], start, side) for side in ("left", "right"))
        wrong = (after < first) | (after > last) | (np.diff(after, prepend=0) < 0) | (after > _positions(arrivals, end))
        refuse(wrong, lambda row: f"dispatched_after = {columns['dispatched_after'][row]} contradicts the times", rows)

    order = np.lexsort((np.arange(len(rows)), client))
    earlier, later = order[:-1], order[1:]
    overlap = (client[earlier] == client[later]) & (end[earlier] > start[later])
    refuse(overlap, lambda row: f"client {client_rows[row]} gets a job while it has another", rows[later])
    at_work = 1 + np.arange(len(rows)) - _num_ended(start, end, lost, arrivals, after)
    most = int(at_work.max(initial=1))
    allowed = federation.concurrency if federation else most
    refuse(at_work > allowed, lambda row: f"a job is dispatched while {allowed} others are at work, and "
           f"federation.concurrency = {allowed} allows no more", rows)  # fmt: skip

    unit = 1.0 if ours or federation is None else federation.time_unit
    start, end = ((time - (0.0 if ours else start.min(initial=np.inf))) / unit for time in (start, end))
    measured = measured_means(client[arrived], (end - start)[arrived], number)
    known = np.flatnonzero(~np.isnan(own_means))
    measured[client_rows[known]] = own_means[known]
    return Jobs(lambda job: place(int(rows[job])), client, start, end, lost, fault, after, arrivals, measured, most)


def _codes(names: np.ndarray) -> np.ndarray:
    """The codes of faults, -1 for a name that is none."""
    codes = {name: code for code, name in enumerate(FAULTS)}
    return np.array([codes.get(str(name), -1) for name in names.tolist()], dtype=np.int64)


def _positions(arrivals: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(J,) place of each job's first arrival; the number of all arrivals for one that does not arrive."""
    positions = np.full(len(end), len(arrivals))
    positions[arrivals[::-1]] = np.arange(len(arrivals))[::-1]
    return positions


def _dispatched_after(start: np.ndarray, end: np.ndarray, arrivals: np.ndarray) -> np.ndarray:
    """(J,) arrivals at or before each dispatch; a job that takes no time is dispatched before it arrives itself."""
    before = np.minimum(np.searchsorted(end[arrivals], start, "right"), _positions(arrivals, end))
    return np.minimum.accumulate(before[::-1])[::-1]


def _num_ended(
    start: np.ndarray, end: np.ndarray, lost: np.ndarray, arrivals: np.ndarray, after: np.ndarray
) -> np.ndarray:
    """(J,) how many jobs have arrived, or were lost, before each dispatch."""
    different = np.append(0, np.cumsum(np.diff(arrivals, prepend=-1) != 0))
    return different[after] + np.searchsorted(np.sort(end[lost]), start, "right")
