"""What a run leaves behind: tables, samples, the final model and where it all came from; in memory and on disk.

A record on disk is a directory that any tool can read: JSON, parquet, npz without objects, safetensors. Never pickle.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from fedrevive_core.config import RunConfig
from fedrevive_core.errors import ConfigError
from fedrevive_core.files import atomic_directory, check_free
from fedrevive_core.records.safe_load import check_file, read_json

TABLES = ("evaluations", "arrivals", "timings")


@dataclass(frozen=True)
class Record:
    """Everything one run leaves.

    config: of the run. summary: numbers that compare runs (see `summarise`). provenance: versions, device, threads.
    evaluations: a row per evaluation (version, sim_time, num_arrivals, accuracy, loss, class_accuracy). arrivals: a row
    per processed upload, the same columns for every method. timings: host seconds per part; nothing else in a record
    depends on the host's speed. samples: the pool's newest images over time: `version` (s,), `images` (s, n, C, S, S)
    uint8 (of texts, `texts` (s, n): nearest tokens), `labels` (s, n), -1 where there is none. model: named tensors of
    the final global model, without frozen ones; empty if it was left out.
    """

    config: RunConfig
    summary: dict[str, Any]
    provenance: dict[str, Any]
    evaluations: pd.DataFrame
    arrivals: pd.DataFrame
    timings: pd.DataFrame
    samples: dict[str, np.ndarray]
    model: dict[str, np.ndarray]

    def save(self, directory: Path | str, *, with_model: bool = True) -> None:
        """Write the record as `directory`, which appears whole or not at all.

        Raises ConfigError if it holds a run, or cannot be written.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        directory = check_free(directory)
        try:
            with atomic_directory(directory, last="run.json") as work:
                for name in TABLES:
                    getattr(self, name).to_parquet(work / f"{name}.parquet", index=False)
                np.savez_compressed(work / "samples.npz", **self.samples)  # type: ignore[arg-type]
                if with_model and self.model:
                    save_file(self.model, work / "model.safetensors")
                header = {"config": self.config.to_dict(), "summary": self.summary, "provenance": self.provenance}
                (work / "run.json").write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8")
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"no record could be written to {directory} ({error}): make room or free it") from None

    @classmethod
    def load(cls, directory: Path | str) -> Record:
        """Read a record that `save` wrote. Raises ConfigError if it is not one."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        directory = Path(directory)
        try:
            header = read_json(directory / "run.json")
            stored = directory / "model.safetensors"
            optional = [stored.name] if stored.exists() else []
            for name in (*(f"{table}.parquet" for table in TABLES), "samples.npz", *optional):
                check_file(directory / name)
            tables = {name: pd.read_parquet(directory / f"{name}.parquet") for name in TABLES}
            with np.load(directory / "samples.npz", allow_pickle=False) as archive:
                samples = dict(archive)
            model = load_file(stored) if optional else {}
            config = RunConfig.from_dict(header["config"])
            return cls(config, header["summary"], header["provenance"], **tables, samples=samples, model=model)
        except (OSError, KeyError, TypeError, ValueError, BadZipFile, SafetensorError) as error:
            raise ConfigError(f"{directory} does not hold a readable run: {error}") from None
