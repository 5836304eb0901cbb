"""Traces of devices: when each is there, how fast it computes, downloads and uploads; read from two tables, or made.

`availability.csv` (or `.parquet`) has a row for each interval in which a client is there: `client, from, to`, in
seconds from the start of the trace. `speed.csv` (or `.parquet`) has a row for each client, numbered from 0: `client,
seconds_per_step, down_bytes_per_second, up_bytes_per_second`. A client without an interval is never there. The trace
ends with the last interval, and is then repeated from the beginning.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist

import numpy as np

from fedrevive_core.errors import ConfigError
from fedrevive_core.timeline.columns import Place, read_columns, refuse

AVAILABILITY = {"client": "int", "from": "float", "to": "float"}
RATES = ("down_bytes_per_second", "up_bytes_per_second")
SPEED = {"client": "int", "seconds_per_step": "float", **dict.fromkeys(RATES, "float")}

# Of the synthetic trace. Published, of the 1,000 devices of FLHetBench: how many are never there; of the others, the
# share of time that they are there (median and 95th percentile); the median of the intervals.
DEVICES, NEVER_THERE, MEDIAN_SHARE, HIGH_SHARE, MEDIAN_SECONDS = 1000, 290, 0.055, 0.32, 138.0
# Our choices: a week; how much intervals differ (standard deviation of the logarithm); no day and night.
WEEK, SPREAD, LARGEST_SHARE = 604_800.0, 1.0, 0.95
# Our choices: share of the devices, then seconds for a step, and bytes down and up in a second.
CLASSES = {"fast": (0.25, 1.0, 4e6, 1e6), "medium": (0.5, 3.0, 1.5e6, 4e5), "slow": (0.25, 8.0, 5e5, 1.5e5)}


@dataclass(frozen=True)
class DeviceTrace:
    """The intervals of D devices, in order of device and time, without gaps of length 0 between them.

    first (D + 1,): device d has the intervals first[d] to first[d + 1] - 1. start, end: of the I intervals, in seconds.
    period: the trace is repeated after this time, >= the last end. seconds_per_step, down, up (D,): speeds; down and up
    in bytes a second.
    """

    first: np.ndarray
    start: np.ndarray
    end: np.ndarray
    period: float
    seconds_per_step: np.ndarray
    down: np.ndarray
    up: np.ndarray

    @property
    def seconds_there(self) -> np.ndarray:
        """(D,) seconds of one period in which each device is there."""
        until = np.append(0.0, np.cumsum(self.end - self.start))
        return until[self.first[1:]] - until[self.first[:-1]]


def load_trace(source: str) -> DeviceTrace:
    """The trace in the directory `source`, or the 'synthetic' one. Raises ConfigError as `read_trace` does."""
    return synthetic_trace() if source == "synthetic" else read_trace(Path(source))


def read_trace(directory: Path) -> DeviceTrace:
    """The trace in the two tables of a directory. Raises ConfigError naming file and line of what cannot be."""
    setting = "federation.devices.trace"
    if not directory.is_dir():
        raise ConfigError(f"{setting} = '{directory}' is no directory: give 'synthetic', or one with two tables")
    speed, place = read_columns(_table(directory, "speed"), SPEED, SPEED, setting)
    client = speed["client"]
    refuse(place, (client < 0) | (client >= len(client)), lambda row: f"client = {client[row]}: the {len(client)} "
           f"clients of this table must be numbered from 0 to {len(client) - 1}")  # fmt: skip
    order = np.argsort(client, kind="stable")
    twice = np.diff(client[order], prepend=-1) == 0
    refuse(place, twice, lambda row: f"client = {client[row]} is there twice", order)
    for name, least in (("seconds_per_step", 0), *((name, None) for name in RATES)):
        value = speed[name]
        allowed = (value > 0) | (value == least)
        refuse(place, ~(allowed & np.isfinite(value)), lambda row, name=name, value=value, least=least: (  # type: ignore[misc]
               f"{name} = {value[row]:g}: must be a number {'of 0 or more' if least == 0 else 'above 0'}"))  # fmt: skip
    rows, place = read_columns(_table(directory, "availability"), AVAILABILITY, AVAILABILITY, setting)
    first, start, end = _intervals(rows["client"], rows["from"], rows["to"], len(client), place)
    if not len(start):
        raise ConfigError(f"{setting} = '{directory}': no client is ever there: the table of availability has no rows")
    return DeviceTrace(first, start, end, float(end.max()), *(speed[name][order] for name in SPEED if name != "client"))


def _table(directory: Path, name: str) -> Path:
    found = [path for path in (directory / f"{name}.csv", directory / f"{name}.parquet") if path.exists()]
    if len(found) != 1:
        what = "both there: leave one" if found else "not there: give one of them"
        raise ConfigError(f"federation.devices.trace = '{directory}': {name}.csv and {name}.parquet are {what}")
    return found[0]


def _intervals(
    client: np.ndarray, start: np.ndarray, end: np.ndarray, num_clients: int, place: Place
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first three arrays of a `DeviceTrace`; intervals that touch become one. Raises ConfigError with the place."""
    start, end = start.astype(float), end.astype(float)
    refuse(place, (client < 0) | (client >= num_clients), lambda row: f"client = {client[row]} is unknown: the table "
           f"of speeds has clients from 0 to {num_clients - 1}")  # fmt: skip
    refuse(place, ~(np.isfinite(start) & (start >= 0)), lambda row: f"from = {start[row]:g}: must be 0 or more seconds")
    refuse(place, ~np.isfinite(end), lambda row: f"to = {end[row]:g}: must be a number of seconds")
    refuse(place, end <= start, lambda row: f"to = {end[row]:g} must be after from = {start[row]:g}")
    order = np.lexsort((start, client))
    client, start, end = client[order], start[order], end[order]
    same = np.append(False, client[1:] == client[:-1])
    before = np.append(0.0, end[:-1])
    refuse(place, same & (start < before), lambda row: f"an interval of client {client[order == row][0]} begins before "
           "its last one ends", order)  # fmt: skip
    begins = ~(same & (start == before))
    ends = np.append(begins[1:], True)[: len(begins)]
    return np.searchsorted(client[begins], np.arange(num_clients + 1)), start[begins], end[ends]


@lru_cache(1)
def synthetic_trace() -> DeviceTrace:
    """1,000 devices over a week, always the same: drawn from published figures and from choices of ours (see above).

    The shares of time are exact quantiles of a lognormal distribution, in random order. Lengths of intervals are
    lognormal and gaps exponential, both scaled so that each device has its share.
    """
    draws = np.random.default_rng(0)
    usable = DEVICES - NEVER_THERE
    normal = NormalDist()
    deviation = np.log(HIGH_SHARE / MEDIAN_SHARE) / normal.inv_cdf(0.95)
    quantiles = np.array([normal.inv_cdf((rank + 0.5) / usable) for rank in range(usable)])
    share = np.minimum(MEDIAN_SHARE * np.exp(deviation * draws.permutation(quantiles)), LARGEST_SHARE)
    counts = np.maximum(1, np.round(share * WEEK / (MEDIAN_SECONDS * np.exp(SPREAD**2 / 2)))).astype(int)
    length = np.exp(SPREAD * draws.standard_normal(counts.sum()))
    length *= np.repeat(share * WEEK / _sums(length, counts), counts)
    gap = draws.standard_exponential((counts + 1).sum())
    gap *= np.repeat((1 - share) * WEEK / _sums(gap, counts + 1), counts + 1)
    passed = np.cumsum(np.delete(gap, np.cumsum(counts + 1) - 1) + length)  # no interval follows a device's last gap
    end = passed - np.repeat(np.append(0.0, passed[np.cumsum(counts) - 1])[:-1], counts)
    device = np.repeat(np.sort(draws.permutation(DEVICES)[:usable]), counts)
    shift = np.repeat(WEEK * draws.random(usable), counts)  # else nobody would be there at first
    start = (end - length + shift) % WEEK
    end = start + length
    over = end > WEEK  # continues at the beginning of the week
    device, start = np.append(device, device[over]), np.append(start, np.zeros(over.sum()))
    end = np.append(np.minimum(end, WEEK), end[over] - WEEK)
    order = np.lexsort((start, device))
    first = np.searchsorted(device[order], np.arange(DEVICES + 1))
    # Rounded, so that it is the same on every processor.
    return DeviceTrace(first, start[order].round(3), end[order].round(3), WEEK, *draw_speeds(draws, DEVICES))


def draw_speeds(draws: np.random.Generator, num_devices: int) -> tuple[np.ndarray, ...]:
    """`seconds_per_step`, `down` and `up` as in `DeviceTrace`, of devices in the three classes, in random order."""
    shares = np.cumsum([share for share, *_ in CLASSES.values()])
    of_class = np.searchsorted(shares, (draws.permutation(num_devices) + 0.5) / num_devices)
    return tuple(np.array([values[column] for values in CLASSES.values()])[of_class] for column in (1, 2, 3))


def _sums(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The sum of each group of `values`; the groups have `counts` (>= 1) members and follow each other."""
    return np.add.reduceat(values, np.append(0, np.cumsum(counts)[:-1]))
