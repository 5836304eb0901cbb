"""Named configurations: the table of presets, and `build`, which combines a preset with a method.

`build("lab-digits", "fedrevive")` gives a RunConfig. Values are merged in this order, later ones winning: the preset's
base, the method's composition, the preset's settings for that method, the schedule, the caller's overrides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedrevive_core.config.base import choices, flatten, merge, unflatten
from fedrevive_core.config.federation import SCHEDULES
from fedrevive_core.config.methods import METHODS
from fedrevive_core.config.preset_base import Preset
from fedrevive_core.config.presets_lab import LAB_PRESETS
from fedrevive_core.config.presets_paper import PAPER_PRESETS
from fedrevive_core.config.price import state_values
from fedrevive_core.config.run import RunConfig
from fedrevive_core.errors import ConfigError

PRESETS: dict[str, Preset] = LAB_PRESETS | PAPER_PRESETS


def build(
    preset: str,
    method: str,
    *,
    seed: int = 0,
    schedule: str = "default",
    overrides: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Configuration of `method` on `preset`.

    Args:
        schedule: 'default', 'shifted', 'stragglers' or 'devices'; also sets the preset's budget for it.
        overrides: values by dotted name, such as {"server.lr": 0.05}.

    Raises ConfigError for unknown names, values that are not allowed and overrides that set the same thing twice.
    """
    names = {"preset": (preset, [*PRESETS]), "method": (method, [*METHODS]), "schedule": (schedule, [*SCHEDULES])}
    for field, (name, allowed) in names.items():
        if name not in allowed:
            raise ConfigError(f"{field} = '{name}' is unknown: {choices(name, allowed)}")
    changes = unflatten(overrides or {})
    for field in ("preset", "method", *(["seed"] if seed else [])):
        if field in changes:
            raise ConfigError(f"{field} = {changes[field]!r} cannot be changed as a setting: give it as the {field}")
    if schedule != "default" and "federation.schedule" in flatten(changes, max_level=1):
        raise ConfigError(f"schedule = '{schedule}' and federation.schedule set the same thing: give one of them")
    chosen = PRESETS[preset]
    sim_time = chosen.sim_time.get(schedule, chosen.sim_time["default"])
    config = RunConfig.from_dict(
        merge(
            {"preset": preset, "method": method, "seed": seed},
            chosen.base,
            METHODS[method].settings,
            chosen.methods.get(method, {}),
            {"federation": {"schedule": schedule, "max_sim_time": sim_time}},
            changes,
        )
    )
    return _with_jobs(config)


def _with_jobs(config: RunConfig) -> RunConfig:
    """`config` where steps and bytes of a job on a device are those of training and model, unless they are given."""
    devices = config.federation.devices
    if devices.trace is None:
        return config
    steps, model_bytes = devices.steps or config.training.steps, devices.model_bytes or 4 * state_values(config)
    devices = devices.model_copy(update={"steps": steps, "model_bytes": model_bytes})
    return config.model_copy(update={"federation": config.federation.model_copy(update={"devices": devices})})
