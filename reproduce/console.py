"""What the commands share: options, how they are read, tables, figures."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedrevive_core.errors import ConfigError

console = Console()


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
