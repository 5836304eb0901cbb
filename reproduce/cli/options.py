"""Options that several commands share, and how they are read."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from fedrevive_core.errors import ConfigError

CheckpointOption = Annotated[
    str | None,
    typer.Option(
        "--checkpoint-every", metavar="VERSIONS|SECONDSs", help="Write checkpoints to OUT.partial: `100` or `300s`."
    ),
]


KeepOption = Annotated[
    int,
    typer.Option(
        "--keep-every", help="Also keep the checkpoints at multiples of so many versions, in OUT/checkpoints at last."
    ),
]


ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in OUT.partial.")]


PresetOption = Annotated[str, typer.Option("--preset", help="Data set with all its settings; `presets` lists them.")]


MethodOption = Annotated[str, typer.Option("--method", help="What the server does; `presets` lists them.")]


SeedOption = Annotated[int, typer.Option("--seed", help="Of clients, delays, batches, everything but the data split.")]


ScheduleOption = Annotated[
    str, typer.Option("--schedule", help="Delays: `default`, `shifted` (faster clients) or `stragglers`.")
]


SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="Change one setting; may be given several times."),
]


JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]


def parse_settings(settings: list[str] | None) -> dict[str, Any]:
    """Settings by dotted name from `SECTION.FIELD=VALUE`; a value is JSON or a plain word."""
    parsed: dict[str, Any] = {}
    for setting in settings or []:
        name, equals, text = setting.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set {setting}: must be SECTION.FIELD=VALUE, such as server.lr=0.05")
        try:
            parsed[name.strip()] = json.loads(text)
        except json.JSONDecodeError:
            parsed[name.strip()] = text  # a plain word
    return parsed


def split(text: str, option: str) -> list[str]:
    """The parts of a comma-separated list; `option` names it in errors. Raises ConfigError if one is given twice."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise ConfigError(f"--{option} is empty: give at least one, separated by commas")
    if len(set(parts)) < len(parts):
        raise ConfigError(f"--{option} {text}: each may be given once")
    return parts


def parse_seeds(text: str) -> list[int]:
    """Seeds from a comma-separated list."""
    seeds = split(text, "seeds")
    if not all(seed.isdecimal() for seed in seeds):
        raise ConfigError(f"--seeds {text}: must be whole numbers >= 0, separated by commas")
    return [int(seed) for seed in seeds]
