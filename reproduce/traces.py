"""Public traces of real devices as the two tables that `federation.devices.trace` reads: `fedrevive convert-trace`.

Their files are untrusted: sizes are bounded, and a pickle may hold nothing but dictionaries, lists, numbers and text.
Clients are numbered as they stand in the file; identifiers, models of phones and all else are left out.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedrevive_core.config import check_jobs
from fedrevive_core.errors import ConfigError
from fedrevive_core.files import atomic_directory, writing
from fedrevive_core.records import check_file, read_json
from fedrevive_core.timeline.traces import RATES, draw_speeds

LIMIT = 2**28  # bytes of a file; Python's objects take some ten times as much
START = datetime(2020, 1, 2)  # time 0 of dates: where FLHetBench begins to count
TIMES_A_SAMPLE = 3  # FedScale: training takes three times as long as the inference that its file has
BITS = 8


class _Unpickler(pickle.Unpickler):
    """Builds dictionaries, lists, numbers and text; refuses to look up anything that has a name."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module[:40]}.{name[:40]}, and only plain values are read")


def convert(source: Path, out: Path, speed: Path | None = None, batch_size: int = 32) -> dict[str, float]:
    """Write `availability.parquet` and `speed.parquet` into the new directory `out`; returns what they hold.

    Every client's trace is repeated until the longest one ends. Intervals that overlap or touch become one; those that
    end before they begin are left out. Without `speed`, the devices are drawn from three classes.

    Raises ConfigError naming the entry (from 1) that cannot be.
    """
    content = _read(source)
    traces = list(_traces(source, content))
    length = max((period for _, period in traces), default=0.0)
    count = sum(len(spans) * math.ceil(length / period + 1) for spans, period in traces if period >= 1)
    check_jobs(jobs=count)
    rows = [_repeated(spans, period, length) for spans, period in traces]
    client = np.repeat(np.arange(len(rows)), [len(spans) for spans in rows])
    if not len(client):
        raise ConfigError(f"{source.name}: no client is ever there")
    edges = np.concatenate([spans for spans in rows if len(spans)])
    speeds = (
        draw_speeds(np.random.default_rng(0), len(rows)) if speed is None else _speeds(speed, len(rows), batch_size)
    )
    with writing(out), atomic_directory(out) as work:
        table = pd.DataFrame({"client": client, "from": edges[:, 0], "to": edges[:, 1]})
        table.to_parquet(work / "availability.parquet", index=False)
        names = ("seconds_per_step", *RATES)
        table = pd.DataFrame({"client": np.arange(len(rows)), **dict(zip(names, speeds, strict=True))})
        table.to_parquet(work / "speed.parquet", index=False)
    return {
        "clients": len(rows),
        "never there": sum(not len(spans) for spans in rows),
        "intervals": len(client),
        "median seconds of an interval": float(np.median(edges[:, 1] - edges[:, 0])),
        "days": length / 86_400,
    }


def _read(path: Path) -> dict[Any, Any]:
    """The dictionary in a JSON file or in a pickle of plain values. Raises ConfigError if there is none."""
    try:
        if path.suffix == ".json":
            return read_json(path, LIMIT)
        check_file(path, LIMIT)
        with path.open("rb") as file:
            content = _Unpickler(file).load()
    except Exception as error:  # a damaged pickle may raise anything
        raise ConfigError(
            f"{path} cannot be read: {' '.join(str(error).split())[:300] or type(error).__name__}"
        ) from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no dictionary of clients")
    return content


def _traces(source: Path, content: Mapping[Any, Any]) -> Iterator[tuple[np.ndarray, float]]:
    """Of each client, its intervals (n, 2) and the time after which they are repeated, in seconds."""
    for number, entry in enumerate(content.values(), start=1):
        try:
            if not isinstance(entry, dict):
                raise ValueError("is no dictionary")
            if "ready_time" in entry:
                yield _ready_times(entry)
            elif "active" in entry:
                yield _active_times(entry)
            elif "messages" in entry:
                raise ValueError(
                    "has raw messages: convert its 'ready_time' instead, which FLASH keeps as cached_timers"
                )
            else:
                raise ValueError("has neither 'ready_time' (FLASH, FLHetBench) nor 'active' (FedScale)")
        except (ValueError, OverflowError) as error:
            raise ConfigError(f"{source.name}, entry {number} {error}") from None


def _ready_times(entry: Mapping[str, Any]) -> tuple[np.ndarray, float]:
    """FLASH and FLHetBench: {'trace_start': ..., 'trace_end': ..., 'ready_time': [[from, to], ...]}."""
    start, end = entry.get("trace_start"), entry.get("trace_end")
    if start is None or end is None:  # FLHetBench could not read this one
        return np.empty((0, 2)), 0.0
    pairs = _list(entry, "ready_time")
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise ValueError("has a 'ready_time' that is no list of pairs")
    period = _seconds("trace_end", end) - _seconds("trace_start", start)
    return _spans([[_seconds("ready_time", value) for value in pair] for pair in pairs]), period


def _active_times(entry: Mapping[str, Any]) -> tuple[np.ndarray, float]:
    """FedScale: {'active': [from, ...], 'inactive': [to, ...], 'finish_time': ...}."""
    begins, ends = _list(entry, "active"), _list(entry, "inactive")
    if len(begins) != len(ends):
        raise ValueError(f"has {len(begins)} times in 'active' and {len(ends)} in 'inactive'")
    pairs = [[_seconds("active", a), _seconds("inactive", b)] for a, b in zip(begins, ends, strict=True)]
    return _spans(pairs), _seconds("finish_time", entry.get("finish_time"))


def _spans(pairs: list[list[float]]) -> np.ndarray:
    spans = np.array(pairs, dtype=float).reshape(-1, 2)
    return spans[spans[:, 1] > spans[:, 0]]


def _list(entry: Mapping[str, Any], name: str) -> list[Any]:
    value = entry.get(name)
    if not isinstance(value, list):
        raise ValueError(f"has no list '{name}'")
    check_jobs(jobs=len(value))
    return value


def _seconds(name: str, value: Any) -> float:
    """A time: a number of seconds, or 'YYYY-MM-DD HH:MM:SS', counted from START."""
    if isinstance(value, str):
        try:
            return (datetime.strptime(value, "%Y-%m-%d %H:%M:%S") - START).total_seconds()
        except ValueError:
            value = None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        raise ValueError(f"has a time in '{name}' that is neither a number of seconds nor 'YYYY-MM-DD HH:MM:SS'")
    return float(value)


def _repeated(spans: np.ndarray, period: float, length: float) -> np.ndarray:
    """`spans` (n, 2) repeated after every `period`, from 0 to `length`; sorted, and joined where they touch."""
    if period < 1 or not len(spans):
        return np.empty((0, 2))
    lasts = np.minimum(spans[:, 1] - spans[:, 0], period)
    shifts = period * np.arange(-1, math.ceil(length / period))
    start = (spans[:, 0] % period + shifts[:, None]).ravel()
    end = np.clip(start + np.tile(lasts, len(shifts)), 0, length)
    start = np.clip(start, 0, length)
    order = np.argsort(start, kind="stable")
    start, end = start[order], np.maximum.accumulate(end[order])
    begins = np.append(True, start[1:] > end[:-1])
    joined = np.stack([start[begins], end[np.append(begins[1:], True)]], axis=1)
    return joined[joined[:, 1] > joined[:, 0]]


def _speeds(path: Path, num_clients: int, batch_size: int) -> tuple[np.ndarray, ...]:
    """FedScale's speeds, {id: {'computation': ms of a sample, 'communication': kbit/s}}, repeated for all clients."""
    found: list[list[float]] = []
    for number, entry in enumerate(_read(path).values(), start=1):
        values = [entry.get(name) for name in ("computation", "communication")] if isinstance(entry, dict) else []
        numbers = [value for value in values if isinstance(value, int | float) and 0 < value < 1e12]
        if len(numbers) < 2:
            raise ConfigError(f"{path.name}, entry {number} has no positive numbers 'computation' and 'communication'")
        found.append(numbers)
    if not found:
        raise ConfigError(f"{path.name} holds no speeds")
    computation, communication = np.resize(np.array(found, dtype=float), (num_clients, 2)).T
    rate = 1000 * communication / BITS
    return TIMES_A_SAMPLE * batch_size * computation / 1000, rate, rate
