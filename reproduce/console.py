"""What the commands share: options, how they are read, tables, figures."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedrevive_core.validation import ConfigError

console = Console()

PresetOption = Annotated[str, typer.Option("--preset", help="Data set with all its settings; `presets` lists them.")]
MethodOption = Annotated[str, typer.Option("--method", help="What the server does; `presets` lists them.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Of clients, delays, batches, everything but the data split.")]
ScheduleOption = Annotated[str, typer.Option("--schedule", help="Delays: `default` or `shifted` (faster clients).")]
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


def save_figure(figure: Any, path: Path) -> None:
    """Save a matplotlib figure, making its directory. Raises ConfigError if it cannot be drawn there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    except (ValueError, OSError) as error:
        raise ConfigError(f"cannot draw '{path}': {error}") from None


def print_table(title: str, rows: list[dict[str, str]]) -> None:
    """Print `rows`, which share their columns."""
    shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for place, heading in enumerate(rows[0]):
        # Names are typed again, so they are never broken.
        shown.add_column(Text(heading), overflow="fold", no_wrap=place == 0)
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row.values()))
    console.print(shown)


def command_line() -> str:
    """This command, to be shown and typed again."""
    return shlex.join(["python", "-m", "reproduce", *sys.argv[1:]])
