"""What if: resume a run from one of its checkpoints under other settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrevive_core.config import RunConfig, build, flatten, merge, unflatten
from fedrevive_core.errors import ConfigError

if TYPE_CHECKING:
    from fedrevive_core.records import Record
    from reproduce.runs.output import OutputDirectory

METHOD_SECTIONS = ("server", "staleness", "revival", "synthesis", "distillation")


def run_branch(
    source: Path, at: int | None, method: str | None, settings: Mapping[str, Any], output: OutputDirectory
) -> Record:
    """Run on from the checkpoint in `source` under `settings`, with the same jobs and arrivals.

    Args:
        source: directory with checkpoints, or a record that kept some; not modified.
        at: version to start from; None takes the newest.
        method: another method; None keeps the one of the run.
        settings: values by dotted name, such as {"server.lr": 0.05}.
        output: where the branch goes; if it is finished there, its record is returned.

    Raises ConfigError if there is no such checkpoint or the settings do not allow a branch.
    """
    from fedrevive_core.simulation import Simulation, checkpoint

    path, identity = checkpoint.at_version(source, at)
    before = RunConfig.from_dict(identity["config"])
    config = changed(before, method, settings)
    if (record := output.finished(config)) is not None:
        branches = record.provenance.get("branches")
        began, wanted = branches[-1].get("num_arrivals", 0) if branches else 0, int(path.name.partition("-")[0])
        if began != wanted:
            raise ConfigError(
                f"out = '{output.out}' already holds a run, which differs in the arrival after which it was branched: "
                f"{began} / {wanted}; choose another directory"
            )
        return record
    simulation = Simulation(before)
    simulation.branches = identity["branches"]
    checkpoint.restore(simulation, path, output.allow_other_code)
    branch = simulation.branched(config)
    branch.branches[-1]["checkpoint"] = str(path)
    return branch.run(**output.options())


def changed(config: RunConfig, method: str | None, settings: Mapping[str, Any]) -> RunConfig:
    """`config` with `settings`, and as another `method` if one is named.

    What the run had changed in its preset stays changed, except for what makes the method.
    """
    changes = merge(unflatten(kept_settings(config, another_method=method is not None)), unflatten(settings))
    return build(config.preset, method or config.method, seed=config.seed, overrides=changes)


def kept_settings(config: RunConfig, *, another_method: bool) -> dict[str, Any]:
    """What a run had changed in its preset, by dotted name; for `another_method`, without what makes the method."""
    # One level, so that a schedule stays whole.
    usual = flatten(build(config.preset, config.method, seed=config.seed).to_dict(), max_level=1)
    kept = {name: value for name, value in flatten(config.to_dict(), max_level=1).items() if value != usual[name]}
    return {name: value for name, value in kept.items()
            if not (another_method and name.split(".")[0] in METHOD_SECTIONS)}  # fmt: skip
