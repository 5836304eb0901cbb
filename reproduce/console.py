"""What the commands share in printing: tables, figures, the command as the user typed it."""

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
    """Save a matplotlib figure and make its directory. Raises ConfigError if the figure cannot be written there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    except (ValueError, OSError) as error:
        raise ConfigError(f"cannot draw '{path}': {error}") from None


def print_table(title: str, rows: list[dict[str, str]]) -> None:
    """Print `rows`, which share their columns."""
    shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for number, heading in enumerate(rows[0]):
        # Users type the names in the first column again, so these are never broken.
        shown.add_column(Text(heading), overflow="fold", no_wrap=number == 0)
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row.values()))
    console.print(shown)


def command_line(*arguments: object) -> str:
    """A command to be typed as the user typed this one, `fedrevive` or `python -m reproduce`.

    Without `arguments` it is this very command.
    """
    program = ["fedrevive"] if Path(sys.argv[0]).stem == "fedrevive" else ["python", "-m", "reproduce"]
    return shlex.join([*program, *(map(str, arguments) if arguments else sys.argv[1:])])


def hint(words: str) -> None:
    """Say on standard error how an old spelling is written today."""
    print(f"hint: {words}", file=sys.stderr)
