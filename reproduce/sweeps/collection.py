"""Tables of many runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow

from fedrevive_core.config import flatten
from fedrevive_core.errors import ConfigError
from fedrevive_core.records import Altered, load_tables


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
    configs: list[dict[str, Any]] = []
    summaries: list[dict[str, Any]] = []
    tables: dict[str, list[pyarrow.Table]] = {"evaluations": [], "arrivals": []}
    for path in paths:
        try:
            config, header, found = load_tables(path)
            seconds = {f"{row['part']}_seconds": row["seconds"] for row in found["timings"].to_pylist()}
        except Altered:
            raise
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} does not hold a readable run: {error}") from None
        configs.append(flatten(config.to_dict()))
        summaries.append({**seconds, **flatten(header["summary"], " ")})
        for name, parts in tables.items():
            parts.append(found[name])
    frame = pd.DataFrame(configs)
    varied = [name for name in frame if frame[name].map(str).nunique() > 1]
    settings = frame[list(dict.fromkeys(["method", "seed", *varied]))]
    settings.insert(0, "run", [path.relative_to(directory).as_posix() for path in paths])
    numbers = pd.DataFrame(summaries)
    runs = settings.join(numbers[[name for name in numbers if name not in settings]])
    # Categories, because a text per row would cost more than the row.
    texts = [name for name in settings if settings[name].map(type).eq(str).all()]
    settings = settings.astype(dict.fromkeys(texts, "category"))
    try:
        return Records(runs, *(_joined(settings, tables[name]) for name in tables))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"the tables of the runs in {directory} do not go together: {error}") from None


def _joined(settings: pd.DataFrame, tables: list[pyarrow.Table]) -> pd.DataFrame:
    """All `tables` below each other, each row beside the row of `settings` that belongs to its table."""
    table = pyarrow.concat_tables(tables, promote_options="permissive").to_pandas()
    repeated = settings.iloc[np.repeat(np.arange(len(tables)), [len(part) for part in tables])]
    return pd.concat([repeated.reset_index(drop=True), table[[n for n in table if n not in settings]]], axis=1)
