"""What if: a run goes on from one of its checkpoints under other settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fedrevive_core.config import RunConfig
from fedrevive_core.presets import build
from reproduce.console import JsonOption, SetOption, parse_settings
from reproduce.place import CheckpointOption, KeepOption, Place, ResumeOption

METHOD_SECTIONS = ("server", "staleness", "revival", "synthesis", "distillation")


def branch(
    source: Annotated[Path, typer.Argument(metavar="RUN", help="OUT.partial, or OUT of a run with --keep-every.")],
    out: Annotated[Path, typer.Option("--out", help="New directory for the branch's record.")],
    at: Annotated[int | None, typer.Option("--at", help="Version to go on from; unset takes the newest.")] = None,
    method: Annotated[str | None, typer.Option("--method", help="Go on with this method; unset keeps it.")] = None,
    settings: SetOption = None,
    checkpoint_every: CheckpointOption = None,
    keep_every: KeepOption = 0,
    resume: ResumeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Go on from a checkpoint under other settings, with the same jobs and arrivals; the run itself stays as it is.

    Where it was branched from is in run.json under provenance. Example:
    `python -m reproduce branch runs/first --at 1000 --method afl-dw --out runs/what-if`
    """
    from fedrevive_core import checkpoint
    from fedrevive_core.assembly import num_threads
    from fedrevive_core.simulate import Simulation

    path, manifest = checkpoint.at_version(source, at)
    before = RunConfig.from_dict(manifest["config"])
    config = changed(before, method, parse_settings(settings))
    place = Place(out, checkpoint_every, keep_every, resume)
    with num_threads(config.num_threads):
        simulation = Simulation(before)
        simulation.branches = manifest["branches"]
        checkpoint.restore(simulation, path)
        simulation = simulation.branched(config)
        simulation.branches[-1]["checkpoint"] = str(path)
        record = simulation.run(**place.checkpoints())
    place.finish(record, as_json)


def changed(config: RunConfig, method: str | None, settings: Mapping[str, Any]) -> RunConfig:
    """`config` with `settings`, and as another `method` if one is named.

    What the run had changed in its preset stays changed, except for what makes the method.
    """
    usual = _settings(build(config.preset, config.method, seed=config.seed))
    kept = {name: value for name, value in _settings(config).items() if value != usual[name]}
    if method is not None:
        kept = {name: value for name, value in kept.items() if name.split(".")[0] not in METHOD_SECTIONS}
    return build(config.preset, method or config.method, seed=config.seed, overrides={**kept, **settings})


def _settings(config: RunConfig) -> dict[str, Any]:
    """Values by name, as in 'seed' and 'server.lr'."""
    found: dict[str, Any] = {}
    for name, value in config.to_dict().items():
        found |= (
            {f"{name}.{field}": inner for field, inner in value.items()} if isinstance(value, dict) else {name: value}
        )
    return found
