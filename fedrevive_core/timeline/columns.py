"""Tables that someone else may have made: columns of known kinds from a CSV or parquet file, read with bounds."""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedrevive_core.config import check_jobs, choices
from fedrevive_core.errors import ConfigError

Place = Callable[[int], str]


def read_columns(
    path: Path, kinds: Mapping[str, str], required: Collection[str], setting: str
) -> tuple[dict[str, np.ndarray], Place]:
    """The columns of a .csv or .parquet file, and a function that names file and line (or row) of an index.

    kinds: 'int', 'float', 'bool' or 'text' of each column that may be there. setting: which names the file in errors.
    Raises ConfigError naming the line of what cannot be read, or if the file has more rows than a run may have jobs.
    """
    try:
        columns, places = (_read_csv if path.suffix == ".csv" else _read_parquet)(path, kinds, required)
    except (OSError, ValueError, csv.Error) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{setting} = '{path}' cannot be read: {error}") from None
    word = "line" if path.suffix == ".csv" else "row"
    return columns, lambda row: f"{path.name}, {word} {places[row]}"


def refuse(place: Place, wrong: np.ndarray, words: Callable[[int], str], rows: np.ndarray | None = None) -> None:
    """Raise ConfigError with place and `words` of the first row that is `wrong`; entry i is about row `rows[i]`."""
    if wrong.any():
        row = int(wrong.argmax() if rows is None else rows[wrong.argmax()])
        raise ConfigError(f"{place(row)}: {words(row)}")


def _read_csv(
    path: Path, kinds: Mapping[str, str], required: Collection[str]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The columns of a CSV file, and the line of each row."""
    from fedrevive_core.records import check_file

    check_file(path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        names = [name.strip() for name in next(rows, [])]
        _check_names(path, names, kinds, required)
        values: dict[str, list[Any]] = {name: [] for name in names}
        lines = []
        for cells in rows:
            if not "".join(cells).strip():
                continue
            if len(cells) != len(names):
                raise ConfigError(f"{path.name}, line {rows.line_num} has {len(cells)} cells, not {len(names)}")
            for name, cell in zip(names, cells, strict=True):
                try:
                    values[name].append(PARSERS[kinds[name]](cell.strip()))
                except ValueError as error:
                    raise ConfigError(f"{path.name}, line {rows.line_num}: {name} = {cell[:40]!r} {error}") from None
            lines.append(rows.line_num)
            check_jobs(jobs=len(lines))
    types = {"int": np.int64, "float": float, "bool": bool, "text": object}
    return {name: np.array(values[name], dtype=types[kinds[name]]) for name in names}, np.array(lines, dtype=np.int64)


def _whole(text: str) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 19):
        raise ValueError("must be a whole number")
    return int(text)


def _time(text: str) -> float:
    if not text:
        return np.nan
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise ValueError("must be a number, or empty")
    return value


def _truth(text: str) -> bool:
    if text.lower() not in ("", "0", "1", "false", "true"):
        raise ValueError("must be true, false, 1, 0 or empty")
    return text.lower() in ("1", "true")


PARSERS: dict[str, Callable[[str], Any]] = {"int": _whole, "float": _time, "bool": _truth, "text": str}


def _read_parquet(
    path: Path, kinds: Mapping[str, str], required: Collection[str]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The columns of a parquet file, and the number of each row, from 1."""
    from fedrevive_core.records import read_table

    table = read_table(path, kinds, [name for name in kinds if name not in required])
    _check_names(path, table.column_names, kinds, required)
    check_jobs(jobs=table.num_rows)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    return columns, np.arange(1, table.num_rows + 1)


def _check_names(path: Path, names: list[str], kinds: Mapping[str, str], required: Collection[str]) -> None:
    for name in names:
        if name not in kinds or names.count(name) > 1:
            what = "is there twice" if name in kinds else f"is unknown: {choices(name, kinds)}"
            raise ConfigError(f"{path.name}: the column {name[:40]!r} {what}")
    for name in required:
        if name not in names:
            raise ConfigError(f"{path.name}: there is no column {name}; needed are {', '.join(required)}")
