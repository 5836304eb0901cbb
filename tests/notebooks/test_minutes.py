"""The minutes that notebooks and lab plans state are counted: reading, figures, predictions, exercises, run time.

The constants below are what docs/TEACHING.md states; nothing here is measured with students.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))

WORDS = 180  # read in a minute
CODE_LINES = 20  # read in a minute
FORMULA = 1 / 3  # minutes for a formula on a line of its own
FIGURE = 1.0  # minutes for what is drawn; several in a loop count as three
TABLE = 0.5  # minutes for a table or a sentence that a cell shows
WIDGET = 3.0  # minutes for a figure with controls
PREDICTION = 1.0  # minutes to think and write it down
EXERCISE = 3.0  # minutes, and one more for each line of a function to be written
CHOICE = 1.5  # minutes for a question with options

DRAWS = r"(plot|still)_\w+|(\w+_)?figure"
MOVES = r"Panel|WhatIf|explore_\w+|time_travel|synthesis_microscope|sweep_explorer"


def words(markdown: str) -> int:
    """How many words a reader sees; a formula within a line is one."""
    text = re.sub(r"\$\$.*?\$\$", " ", markdown, flags=re.DOTALL)
    text = re.sub(r"\$[^$]+\$", " x ", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"<[^>]+>|^[-| :]+$", " ", text, flags=re.MULTILINE)
    return len(re.findall(r"[^\s|*#_-]\S*", text))


def of_markdown(text: str) -> float:
    formulas = len(re.findall(r"\$\$.*?\$\$", text, flags=re.DOTALL))
    asked = len(re.findall(r"\*Predict", text))
    return words(text) / WORDS + FORMULA * formulas + PREDICTION * asked


def of_code(source: str, tags: list[str]) -> float:
    tree = ast.parse(source)
    if "solution" in tags:
        if re.search(r'= "[a-d]"$', source):
            return CHOICE
        is_function = any(isinstance(node, ast.FunctionDef | ast.Lambda) for node in ast.walk(tree))
        lines = [
            line for line in source.splitlines() if line.strip() and not line.strip().startswith(("if solve", "def"))
        ]
        return EXERCISE + len(lines) * is_function
    reading = len(source.splitlines()) / CODE_LINES
    calls = {node: ast.unparse(node.func).split(".")[-1] for node in ast.walk(tree) if isinstance(node, ast.Call)}
    if any(name.startswith("check_") for name in calls.values()):
        return reading
    if any(re.fullmatch(MOVES, name) for name in calls.values()):
        return reading + WIDGET
    looped = {part for node in ast.walk(tree) if isinstance(node, ast.For) for part in ast.walk(node)}
    drawn = [3 if node in looped else 1 for node, name in calls.items() if re.fullmatch(DRAWS, name)]
    if drawn:
        return reading + FIGURE * sum(drawn)
    shows = isinstance(tree.body[-1], ast.Expr) or "display" in calls.values()
    return reading + TABLE * shows


def seconds(path: Path) -> float:
    """The run time that the first cell of a notebook states."""
    said = re.search(r"\b(\d+) seconds?\b", nbformat.read(path, as_version=4).cells[0].source)
    assert said, "say how long it runs"
    return float(said[1])


def counted(path: Path) -> dict[str, float]:
    """Minutes of each part: "beginning" (with the run time), the numbered sections, and "end"."""
    parts, now = {"beginning": seconds(path) / 60}, "beginning"
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            parts[now] += of_code(cell.source, cell.metadata.get("tags", []))
            continue
        for piece in re.split(r"^(?=## )", cell.source, flags=re.MULTILINE):
            if heading := re.match(r"## (?:(\d+)\. )?", piece):
                now = heading[1] or "end"
                assert now not in parts, f"two sections {now}"
                parts[now] = 0.0
            parts[now] += of_markdown(piece)
    return parts


def stated(path: Path) -> tuple[int, dict[str, int]]:
    """The minutes in all, and of each part, that the first cell of a notebook states."""
    first = nbformat.read(path, as_version=4).cells[0].source
    line = re.search(r"^- \*\*Time:\*\* (\d+) minutes \((.*?)\)", first, re.MULTILINE)
    assert line, "state the minutes"
    pairs = re.findall(r"(beginning|\d+(?=:)|end):? (\d+)", line[2])
    return int(line[1]), {part: int(minutes) for part, minutes in pairs}


def sentence(parts: dict[str, Any]) -> str:
    """What the first cell should state."""
    whole = {part: max(1, round(minutes)) for part, minutes in parts.items()}
    listed = ", ".join(f"§{part}: {n}" if part.isdigit() else f"{part} {n}" for part, n in whole.items())
    return f"- **Time:** {sum(whole.values())} minutes ({listed})"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_cell_says_what_is_learned_needed_and_how_long_it_takes(path: Path) -> None:
    """Within a minute of the count for each part, so that a changed sentence needs no change of the minutes."""
    first = nbformat.read(path, as_version=4).cells[0].source
    assert re.search(r"^- \*\*Afterwards you can\*\* \w+", first, re.MULTILINE)
    assert re.search(r"^- \*\*You need\*\* \w+", first, re.MULTILINE)
    total, parts = stated(path)
    truth = counted(path)
    assert list(parts) == list(truth), sentence(truth)
    assert total == sum(parts.values()), sentence(truth)
    for part, minutes in parts.items():
        assert abs(minutes - max(1, truth[part])) <= 1, f"{part}: {truth[part]:.1f}. {sentence(truth)}"


def test_the_contents_page_has_the_same_minutes() -> None:
    (contents,) = nbformat.read(ROOT / "notebooks" / "index.ipynb", as_version=4).cells
    listed = re.findall(r"^\| \[(\w+)\]\([^)]*\) \|[^|]*\| (\d+) \|$", contents.source, re.MULTILINE)
    assert dict(listed) == {path.stem: str(stated(path)[0]) for path in NOTEBOOKS}
