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


def counted(path: Path, exercises: list[int] | None = None) -> dict[str, float]:
    """Minutes of each part: "beginning" (with the run time), the numbered sections, and "end".

    exercises: those that are done, all if None.
    """
    parts, now, number = {"beginning": seconds(path) / 60}, "beginning", 0
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            tags = cell.metadata.get("tags", [])
            number += "solution" in tags
            if "solution" not in tags or exercises is None or number in exercises:
                parts[now] += of_code(cell.source, tags)
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


TEACHING = (ROOT / "docs" / "TEACHING.md").read_text(encoding="utf-8")
PLANS = [
    pytest.param(int(times or 1), int(length), section, id=heading)
    for heading, times, length, section in re.findall(
        r"^## ((?:(\d+) x )?(\d+) minutes: .*)\n((?:(?!^## ).*\n)*)", TEACHING, re.MULTILINE
    )
]


def numbers(text: str) -> list[int]:
    """The numbers in "1 to 3 and 5"."""
    ranges = re.findall(r"(\d+)(?: to (\d+))?", text)
    return [number for first, last in ranges for number in range(int(first), int(last or first) + 1)]


def asked_for(where: str) -> tuple[Path, list[int] | None, list[int] | None]:
    """The notebook of a row, its sections and its exercises; None stands for all."""
    name = re.match(r"`(\w+)`", where)
    assert name, where
    sections, exercises = (re.search(rf"{word}s? ([\d, to and]+)", where) for word in ("section", "exercise"))
    none = "without exercises" in where
    return (
        ROOT / "notebooks" / f"{name[1]}.ipynb",
        numbers(sections[1]) if sections else None,
        [] if none else numbers(exercises[1]) if exercises else None,
    )


def rows(section: str) -> list[tuple[int, str]]:
    return [(int(n), where) for n, where in re.findall(r"^\| (\d+) \|[^|]*\| ([^|]*) \|$", section, re.MULTILINE)]


def test_there_are_plans() -> None:
    assert [(plan.values[0], plan.values[1]) for plan in PLANS] == [(1, 45), (1, 90), (2, 90)]


@pytest.mark.parametrize(("times", "length", "section"), PLANS)
def test_a_plan_has_the_minutes_that_it_needs(times: int, length: int, section: str) -> None:
    """Each row within two minutes of the count, the beginning of a notebook counted once; and all fit."""
    begun: set[Path] = set()
    for minutes, where in rows(section):
        if where == "\u2013":  # no notebook
            continue
        path, sections, exercises = asked_for(where)
        parts = counted(path, exercises)
        wanted = list(parts) if sections is None else [str(number) for number in sections]
        need = sum(parts[part] for part in wanted) + (0 if path in begun or sections is None else parts["beginning"])
        begun.add(path)
        assert abs(minutes - need) <= 2, f"{where}: {need:.1f}"
    tables = section.split("\n\n")
    sums = [sum(minutes for minutes, _ in rows(table + "\n")) for table in tables]
    assert [total for total in sums if total > length] == []
    assert sum(total > 0 for total in sums) == times


def test_the_constants_are_those_that_the_teacher_reads() -> None:
    said = re.search(r"^## How the minutes are counted\n\n((?:.+\n)+)", TEACHING, re.MULTILINE)
    assert said
    stated = [WORDS, CODE_LINES, 60 * FORMULA, FIGURE, 60 * TABLE, WIDGET, PREDICTION, EXERCISE, CHOICE]
    assert [float(number) for number in re.findall(r"\*\*([\d.]+)\*\*", said[1])] == stated
