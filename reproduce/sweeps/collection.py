"""Tables of many runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet

from fedrevive_core.errors import ConfigError
from fedrevive_core.records import check_file, read_json


class Records(NamedTuple):
    """Tables of many runs, each with the columns `run`, `method`, `seed` and every setting that varies among them.

    `run` is the record's path below the directory that was read. runs: a row per run with its summary (nested entries
    as 'time_to 0.8', None where the target was never reached) and host seconds per part ('server_seconds').
    evaluations, arrivals: the tables of all runs, one after the other.
    """

    runs: pd.DataFrame
    evaluations: pd.DataFrame
    arrivals: pd.DataFrame


def load_many(directory: Path | str) -> Records:
    """Read the tables of all records below `directory`, without models and samples; others may be written meanwhile.

    Raises ConfigError if there is none, or one that is damaged.
    """
    directory = Path(directory)
    paths = sorted(header.parent for header in directory.rglob("run.json"))
    paths = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(directory).parts)]
    if not paths:
        raise ConfigError(f"{directory} holds no runs: give a directory that a sweep or a comparison wrote")
    headers: list[dict[str, Any]] = []
    seconds: list[dict[str, float]] = []
    tables: dict[str, list[pyarrow.Table]] = {"evaluations": [], "arrivals": []}
    for path in paths:
        try:
            header = read_json(path / "run.json")
            headers.append({"config": dict(header["config"]), "summary": dict(header["summary"])})
            for name, parts in tables.items():
                parts.append(_read_table(path / f"{name}.parquet"))
            timings = _read_table(path / "timings.parquet").to_pylist()
            seconds.append({f"{row['part']}_seconds": row["seconds"] for row in timings})
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{path} does not hold a readable run: {error}") from None
    configs = pd.json_normalize([header["config"] for header in headers], sep=".").map(_comparable)
    varied = [name for name in configs if configs[name].map(str).nunique() > 1]
    columns = list(dict.fromkeys(["method", "seed", *varied]))
    settings = configs[columns]
    settings.insert(0, "run", [path.relative_to(directory).as_posix() for path in paths])
    summaries = pd.json_normalize([header["summary"] for header in headers], sep=" ").map(_comparable)
    summaries = summaries.join(pd.DataFrame(seconds))
    runs = settings.join(summaries[[name for name in summaries if name not in settings]])
    # Categories, because a text per row would cost more than the row.
    texts = [name for name in settings if settings[name].map(type).eq(str).all()]
    settings = settings.astype(dict.fromkeys(texts, "category"))
    return Records(runs, *(_joined(settings, tables[name]) for name in tables))


def _comparable(value: Any) -> Any:
    """Lists as tuples, which can be compared and grouped by."""
    return tuple(value) if isinstance(value, list) else value


def _read_table(path: Path) -> pyarrow.Table:
    check_file(path)
    return pyarrow.parquet.ParquetFile(path).read(use_threads=False)


def _joined(settings: pd.DataFrame, tables: list[pyarrow.Table]) -> pd.DataFrame:
    """All `tables` below each other, each row beside the row of `settings` that belongs to its table."""
    table = pyarrow.concat_tables(tables, promote_options="permissive").to_pandas()
    repeated = settings.iloc[np.repeat(np.arange(len(tables)), [len(part) for part in tables])]
    return pd.concat([repeated.reset_index(drop=True), table[[n for n in table if n not in settings]]], axis=1)
