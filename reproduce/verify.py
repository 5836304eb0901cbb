"""Are two runs the same, bit for bit? Does a run come out again as it is recorded?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from fedrevive_core.certificate import check, first_difference
from fedrevive_core.record import Record, provenance
from fedrevive_core.validation import ConfigError


def verify(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN [OTHER]", help="One directory of a record, or two.")],
) -> None:
    """Say whether two runs had the same bits throughout, or where they first differ; of one run, carry it out again.

    Exit code 0 if they are identical, 1 if not. Example: `python -m reproduce verify runs/first runs/second`
    """
    if len(runs) > 2:
        raise ConfigError(f"verify takes one record or two, not {len(runs)}")
    records = [_intact(directory) for directory in runs]
    if len(records) == 1:
        records.append(_again(records[0], runs[0]))
    difference = first_difference(*records)
    if difference is not None:
        print(f"different: {difference}")
        settings = records[0].config.differences(records[1].config)
        if settings and len(runs) == 2:
            print(f"settings that differ: {', '.join(settings)}")
        sys.exit(1)
    models = [record.model for record in records]
    if all(models) and not _same_models(*models):
        print("different: the stored models, although the runs were identical; one file was changed since")
        sys.exit(1)
    summary = records[0].summary
    print(
        f"identical: {summary['num_arrivals']} arrivals, {summary['num_versions']} versions, "
        f"certificate {summary['certificate']}"
    )


def _intact(directory: Path) -> Record:
    record = Record.load(directory)
    if "certificate" not in record.summary:
        raise ConfigError(f"{directory} has no certificate: it was made by a version that did not keep one")
    wrong = check(record)
    if wrong is not None:
        print(f"different: {directory} is not what its run left: {wrong} changed since")
        sys.exit(1)
    return record


def _again(record: Record, directory: Path) -> Record:
    """The same run once more, as `directory` says it was made, with as many threads on the same kind of device."""
    from fedrevive_core.simulate import run

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
