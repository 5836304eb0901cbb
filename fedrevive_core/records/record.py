"""What a run leaves behind: tables, samples, the final model and where it all came from; in memory and on disk.

A record on disk is a directory that any tool can read: JSON, parquet, npz without objects, safetensors. Never pickle.
What is read is what the run wrote, or it is refused: the tables must fit the hash chain, the summary is computed from
them again, the table of jobs must have the hash in the summary and the arrivals of the tables, the model must have the
hash that the chain ends with, and the header names the hashes of all files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fedrevive_core.config import RunConfig
from fedrevive_core.errors import ConfigError
from fedrevive_core.files import atomic_directory, check_free
from fedrevive_core.records.hash_chain import broken_link, state_sha256, table_sha256
from fedrevive_core.records.header import Altered, check_seal, file_sha256, read_header, seal
from fedrevive_core.records.safe_load import read_arrays, read_table, read_tensors
from fedrevive_core.records.statistics import summarise, summarise_arrivals

if TYPE_CHECKING:
    import pyarrow as pa

TABLES: dict[str, dict[str, str]] = {
    "evaluations": {
        "version": "int", "sim_time": "float", "num_arrivals": "int", "accuracy": "float", "loss": "float",
        "class_accuracy": "floats", "state_sha256": "text", "chain": "text",
    },
    "arrivals": {
        "job": "int", "client": "int", "sim_time": "float", "version": "int", "staleness": "int", "beta": "float",
        "revived": "bool", "fault": "text", "rejected": "text", "pool_size": "int",
        "client_norm": "float", "distilled_norm": "float", "cosine": "float", "feature_loss": "float",
        "label_loss": "float", "adversarial_loss": "float", "distillation_loss": "float", "rejected_terms": "float",
    },
    "timings": {"part": "text", "seconds": "float", "calls": "int"},
}  # fmt: skip
CLASSES = {
    "class": "text",
    **dict.fromkeys(("held", "fast", "medium", "slow", "own", "distilled", "final_accuracy", "mean_accuracy"), "float"),
}
OLDER = ("state_sha256", "chain", "fault")  # columns that older records lack
TIMELINE = {"client": "int", "arrived": "float"}  # columns that are compared with the arrivals
ARRAYS = {"version": ("i", 1), "labels": ("i", 2), "images": ("u", 5), "texts": ("U", 2)}


@dataclass(frozen=True)
class Record:
    """Everything one run leaves.

    config: of the run. summary: numbers that compare runs (see `summarise`). provenance: versions, device, threads.
    evaluations: a row per evaluation (version, sim_time, num_arrivals, accuracy, loss, class_accuracy). arrivals: a row
    per processed upload, the same columns for every method. timings: host seconds per part; nothing else in a record
    depends on the host's speed. samples: the pool's newest images over time: `version` (s,), `images` (s, n, C, S, S)
    uint8 (of texts, `texts` (s, n): nearest tokens), `labels` (s, n), -1 where there is none. model: named tensors of
    the final global model, without frozen ones; empty if it was left out. timeline: a row per job, as `Timeline.save`
    writes it. classes: a row per class, who holds it and how much of it the server took in (see `class_table`). Both
    are empty in a record of an older version.
    """

    config: RunConfig
    summary: dict[str, Any]
    provenance: dict[str, Any]
    evaluations: pd.DataFrame
    arrivals: pd.DataFrame
    timings: pd.DataFrame
    samples: dict[str, np.ndarray]
    model: dict[str, np.ndarray]
    timeline: pd.DataFrame = field(default_factory=pd.DataFrame)
    classes: pd.DataFrame = field(default_factory=pd.DataFrame)

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
                for name in ("timeline", "classes"):
                    if len(table := getattr(self, name)):
                        table.to_parquet(work / f"{name}.parquet", index=False)
                np.savez_compressed(work / "samples.npz", **self.samples)  # type: ignore[arg-type]
                if with_model and self.model:
                    save_file(self.model, work / "model.safetensors")
                header = {
                    "config": self.config.to_dict(),
                    "summary": self.summary,
                    "provenance": self.provenance,
                    "tensors": list(self.model),
                    "files": {path.name: file_sha256(path) for path in sorted(work.iterdir())},
                }
                header["seal"] = seal(header)
                (work / "run.json").write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8")
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"no record could be written to {directory} ({error}): make room or free it") from None

    @classmethod
    def load(cls, directory: Path | str) -> Record:
        """Read a record that `save` wrote.

        Raises Altered if something in it changed since, ConfigError if it is none.
        """
        directory = Path(directory)
        try:
            config, header, tables = load_tables(directory)
            samples = read_arrays(directory / "samples.npz", ARRAYS)
            _check_samples(samples)
            stored = directory / "model.safetensors"
            model = read_tensors(stored) if stored.exists() else {}
            if model and (names := header.get("tensors")):
                state = np.concatenate([model[name].ravel() for name in names if name in model] or [np.empty(0)])
                if sorted(names) != sorted(model) or state_sha256(state) != header["summary"].get("state_sha256"):
                    raise Altered(f"{directory} is not what its run left: {stored.name} changed since")
                model = {name: model[name] for name in names}
            check_seal(directory, header, ["samples.npz", "classes.parquet"])
            frames = {name: table.to_pandas() for name, table in tables.items()}
            frames["timeline"] = _read_timeline(directory, header["summary"], frames["arrivals"])
            if "classes.parquet" in header.get("files", {}):
                frames["classes"] = read_table(directory / "classes.parquet", CLASSES).to_pandas()
            return cls(config, header["summary"], header["provenance"], **frames, samples=samples, model=model)
        except Altered:
            raise
        except (OSError, ValueError) as error:
            raise ConfigError(f"{directory} does not hold a readable run: {error}") from None


def load_tables(directory: Path) -> tuple[RunConfig, dict[str, Any], dict[str, pa.Table]]:
    """The configuration, the header and the tables of the record in `directory`, checked against each other.

    Raises Altered, ConfigError, ValueError or OSError.
    """
    config, header = read_header(directory)
    tables = {name: read_table(directory / f"{name}.parquet", kinds, OLDER) for name, kinds in TABLES.items()}
    evaluations, arrivals = (
        {column: tables[name][column].to_numpy() for column in tables[name].column_names}
        for name in ("evaluations", "arrivals")
    )
    wrong = _wrong(config, header["summary"], evaluations, arrivals)
    if wrong:
        raise Altered(f"{directory} is not what its run left: {wrong}")
    check_seal(directory, header, [f"{name}.parquet" for name in TABLES])
    return config, header, tables


def _read_timeline(directory: Path, summary: Mapping[str, Any], arrivals: pd.DataFrame) -> pd.DataFrame:
    """The table of jobs, empty in a record of an older version. Raises Altered if it is not that of the arrivals."""
    if "timeline_sha256" not in summary:
        return pd.DataFrame()
    jobs = read_table(directory / "timeline.parquet", TIMELINE).to_pandas()
    numbers = arrivals["job"].to_numpy()
    there = jobs.reindex(numbers)
    fits = (there["client"].to_numpy() == arrivals["client"]) & (there["arrived"].to_numpy() == arrivals["sim_time"])
    if not fits.all() or table_sha256(jobs) != summary["timeline_sha256"]:
        raise Altered(f"{directory} is not what its run left: timeline.parquet changed since")
    return jobs


def _wrong(
    config: RunConfig, summary: Mapping[str, Any], evaluations: Mapping[str, Any], arrivals: Mapping[str, Any]
) -> str:
    """What in the tables does not fit the certificate, or in the summary does not fit the tables; '' if all fits."""
    time = evaluations["sim_time"]
    if not len(time):
        raise ValueError("evaluations.parquet has no rows")
    if "certificate" in summary:
        changed = broken_link(evaluations, arrivals, summary)
        if changed:
            return f"{changed} changed since"
    end, budget = summary.get("sim_time", time[-1]), config.federation.max_sim_time
    if end not in (time[-1], budget):
        return f"its summary says sim_time = {end}, and the run lasted {time[-1]:g}" + (f" or {budget}" * bool(budget))
    again = {**summarise(evaluations, end), **summarise_arrivals(arrivals, config)}
    if names := summary.get("class_accuracy"):
        again["class_accuracy"] = dict(zip(names, map(float, evaluations["class_accuracy"][-1]), strict=True))
    for name, value in again.items():
        if name in summary and not _same(summary[name], value):
            return f"its summary says {name} = {summary[name]}, and its tables give {value}"
    return ""


def _same(stated: Any, computed: Any) -> bool:
    """Equal, but for the last bits of a sum, which may differ between versions of NumPy."""
    if isinstance(stated, dict) and isinstance(computed, dict):
        return stated.keys() == computed.keys() and all(_same(stated[name], computed[name]) for name in stated)
    if isinstance(computed, float) and isinstance(stated, int | float):
        return math.isclose(stated, computed, rel_tol=1e-9) or (math.isnan(stated) and math.isnan(computed))
    return type(stated) is type(computed) and stated == computed


def _check_samples(samples: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError unless all arrays are there and belong to the same versions and numbers of samples."""
    shown = samples.keys() & {"images", "texts"}
    if len(shown) != 1 or samples.keys() - shown != {"version", "labels"}:
        raise ValueError(f"samples.npz holds {', '.join(samples)}, not version, labels, and images or texts")
    labels, kept = samples["labels"].shape, samples[shown.pop()].shape
    if kept[:2] != labels or samples["version"].shape != labels[:1]:
        raise ValueError(f"samples.npz: {len(samples['version'])} versions, labels {labels} and samples {kept[:2]}")
