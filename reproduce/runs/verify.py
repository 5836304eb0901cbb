"""Are two runs bit-identical? Does a run come out the same when it is repeated?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedrevive_core.errors import ConfigError
from fedrevive_core.records import Record, first_difference, provenance


def load_intact(directory: Path) -> Record:
    """The record in `directory`, which matches its certificate.

    Raises Altered if something in it changed since its run, ConfigError if there is no record or no certificate.
    """
    record = Record.load(directory)
    if "certificate" not in record.summary:
        raise ConfigError(f"{directory} has no certificate: it was made by a version that did not keep one")
    return record


def repeat(record: Record, directory: Path, warn: Callable[[str], None]) -> Record:
    """The same run again, with the recorded number of threads, on the same kind of device.

    Args:
        directory: where `record` is stored, for messages.
        warn: called before the run with a sentence that names the packages whose versions are others.

    Raises ConfigError for a branch, and for a run whose model run.json does not describe.
    """
    from fedrevive_core.simulation import run

    config, then = record.config, record.provenance
    if then.get("branches"):
        raise ConfigError(f"{directory} is a branch: verify the run it came from, branch again, and compare the two")
    if record.summary.get("model") != config.model:
        raise ConfigError(
            f"{directory} has a custom model ({record.summary.get('model')}), which run.json cannot describe"
        )
    here = provenance(then["device"], then["num_threads"])["versions"]
    others = [
        f"{name} was {version} and is {here.get(name) or 'missing'} here"
        for name, version in then["versions"].items()
        if here.get(name) != version
    ]
    if others:
        warn(f"{'; '.join(others)}: bits may differ for this reason alone")
    device = "cpu" if then["device"] == "cpu" else "cuda"
    federation = config.federation
    if federation.reads_files:  # the record holds the timeline, and the files may have changed
        federation = federation.model_copy(update={"timeline": str(directory), "time_unit": 1.0})
    again = run(
        config.model_copy(update={"device": device, "num_threads": then["num_threads"], "federation": federation})
    )
    return replace(again, config=config)


def differences(one: Record, other: Record) -> list[str]:
    """Sentences that say where two runs first differ and in which settings; empty if they are bit-identical."""
    difference = first_difference(one, other)
    if difference is not None:
        settings = one.config.differences(other.config)
        return [f"different: {difference}", *([f"settings that differ: {', '.join(settings)}"] if settings else [])]
    if one.model and other.model and not _same_arrays(one.model, other.model):
        return ["different: the stored models, although the runs were identical; one file was changed since"]
    return []


def _same_arrays(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name], equal_nan=True) for name in one)
