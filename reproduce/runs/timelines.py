"""Which settings a run has whose arrivals are those of another run, or of a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrevive_core.config import RunConfig, build, flatten, merge, unflatten
from fedrevive_core.errors import ConfigError
from reproduce.runs.branching import kept_settings


def config_on(source: Path, given: Mapping[str, Any], settings: Mapping[str, Any]) -> RunConfig:
    """The configuration of a run on the timeline in `source`, a run's directory or a file.

    Args:
        given: preset, method, seed and schedule, as far as the user named them. settings: values by dotted name.

    On the timeline of a run, all settings are those of the run; another method keeps what the run had changed in its
    preset. Raises ConfigError for what the timeline says already.
    """
    preset, method, seed, changes = base_of(source, given, settings, another_method="method" in given)
    return build(preset, method, seed=seed, overrides=changes)


def base_of(
    source: Path, given: Mapping[str, Any], settings: Mapping[str, Any], *, another_method: bool
) -> tuple[str, str, int, dict[str, Any]]:
    """Preset, method, seed and changed settings of a run on the timeline in `source`; arguments as in `config_on`."""
    if "schedule" in given:
        raise ConfigError(
            f"schedule = '{given['schedule']}' and --timeline both say who arrives when: give one of them"
        )
    # The budget is what was recorded. A run that its time ended lasts until then, whichever method repeats it.
    changes: dict[str, Any] = {"federation.timeline": str(source), "federation.max_versions": None}
    base = {"preset": "lab-digits", "method": "fedrevive", "seed": 0}
    if source.is_dir():
        config, num_versions = _recorded(source)
        base = {name: getattr(config, name) for name in base}
        if given.get("preset", base["preset"]) != base["preset"]:
            raise ConfigError(
                f"preset = '{given['preset']}', but the run in '{source}' has {config.preset}: leave it out"
            )
        changes = kept_settings(config, another_method=another_method) | changes
    if not source.is_dir() or num_versions == config.federation.max_versions:
        changes["federation.max_sim_time"] = None
    preset, method, seed = ({**base, **given}[name] for name in base)
    return preset, method, seed, flatten(merge(unflatten(changes), unflatten(settings)), max_level=1)


def _recorded(directory: Path) -> tuple[RunConfig, int | None]:
    """The configuration of the run in `directory`, and how many versions it made."""
    from fedrevive_core.records import read_header

    try:
        config, values = read_header(directory)
    except (OSError, ValueError) as error:
        raise ConfigError(f"timeline = '{directory}' does not hold a readable run: {error}") from None
    return config, values["summary"].get("num_versions")
