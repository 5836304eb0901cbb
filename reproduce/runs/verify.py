"""Are two runs the same, bit for bit? Does a run come out again as it is recorded?"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from fedrevive_core.errors import ConfigError
from fedrevive_core.records import Record, broken_link, provenance


def _intact(directory: Path) -> Record:
    record = Record.load(directory)
    if "certificate" not in record.summary:
        raise ConfigError(f"{directory} has no certificate: it was made by a version that did not keep one")
    wrong = broken_link(record)
    if wrong is not None:
        print(f"different: {directory} is not what its run left: {wrong} changed since")
        sys.exit(1)
    return record


def _again(record: Record, directory: Path) -> Record:
    """The same run once more, as `directory` says it was made, with as many threads on the same kind of device."""
    from fedrevive_core.simulation import run

    config, then = record.config, record.provenance
    if then["branches"]:
        raise ConfigError(f"{directory} is a branch: verify the run it came from, branch again, and compare the two")
    if record.summary["model"] != config.model:
        raise ConfigError(f"{directory} has a model of its own ({record.summary['model']}), which run.json cannot make")
    now = provenance(then["device"], then["num_threads"])
    for name, version in then["versions"].items():
        if now["versions"].get(name) != version:
            found = now["versions"].get(name) or "missing"
            print(f"warning: {name} was {version} and is {found} here; bits may differ for that alone", file=sys.stderr)
    device = "cpu" if then["device"] == "cpu" else "cuda"
    return run(config.model_copy(update={"device": device, "num_threads": then["num_threads"]}))


def _same_models(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name], equal_nan=True) for name in one)
