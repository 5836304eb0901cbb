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
from fedrevive_core.files import atomic_file, check_file, writing

console = Console()


def save_figure(figure: Any, path: Path) -> None:
    """Save a matplotlib figure and make its directory. Raises ConfigError if the figure cannot be written there."""
    with writing(path), atomic_file(path) as work:
        figure.savefig(work, dpi=150)


def check_figure(path: Path) -> None:
    """Raise ConfigError, before any work, if no figure can be written as `path`."""
    from matplotlib.backend_bases import FigureCanvasBase

    endings = [f".{ending}" for ending in FigureCanvasBase.get_supported_filetypes()]
    if path.suffix not in endings:
        raise ConfigError(f"cannot draw '{path}': its name must end in {', '.join(endings)}")
    check_file(path)


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
