"""The lab plans of docs/TEACHING.md: their sections exist, and each runs without the sections that the plan leaves out.

A plan is a table `minutes | what | where`; `where` names notebooks and may name sections, such as "`05_fedrevive`,
sections 1 and 3 without exercises". What stands above the first section of a notebook is always run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from test_notebooks import FOLDER, NOTEBOOKS, TINY, execute

TEACHING = Path(__file__).parents[2] / "docs" / "TEACHING.md"
HEAD = "| minutes | what | where |"


def plans() -> dict[str, list[tuple[int, str]]]:
    """Minutes and place of every row of every table, by the plan's heading and the number of the table in it."""
    found = {}
    for part in re.split(r"^## ", TEACHING.read_text(encoding="utf-8"), flags=re.MULTILINE):
        for number, table in enumerate(part.split(HEAD)[1:], 1):
            rows = re.findall(r"^\| *(\d+) *\|[^|]*\|([^|]*)\| *$", table.split("\n\n")[0], re.MULTILINE)
            found[f"{part.splitlines()[0]} ({number})"] = [(int(minutes), where.strip()) for minutes, where in rows]
    return found


def sections(where: str) -> set[int]:
    """The numbers in "sections 1 to 3, 5 and 7"; empty if the whole notebook is meant."""
    named = re.search(r"\bsections? ([\d, ]+(?:(?:and|to) [\d, ]+)*)", where)
    numbers: set[int] = set()
    for first, last in re.findall(r"(\d+)(?: to (\d+))?", named[1]) if named else ():
        numbers |= set(range(int(first), int(last or first) + 1))
    return numbers


def parts() -> list[tuple[str, str, frozenset[int], bool]]:
    """Plan, notebook, sections and whether its exercises are left out, for every notebook of which a plan uses a part.

    A notebook that a plan visits twice is run once, with all its sections.
    """
    found = []
    for plan, rows in plans().items():
        wanted: dict[str, list[str]] = {}
        for _, where in rows:
            for name in re.findall(r"`(\d\d_\w+)`", where):
                wanted.setdefault(name, []).append(where)
        for name, places in wanted.items():
            if all(sections(where) for where in places):
                numbers = frozenset().union(*map(sections, places))
                found.append((plan, name, numbers, all("without" in where for where in places)))
    return found


def is_exercise(cell: Any) -> bool:
    return "solution" in cell.metadata.get("tags", []) or bool(
        re.search(r"^\w+ = None  # |^    return None|\.check_\w+\(", cell.source, re.MULTILINE)
    )


def only(notebook: Any, numbers: frozenset[int], *, exercises: bool) -> Any:
    """`notebook` with what stands above its first section and with those numbered."""
    kept, now = [], 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (heading := re.match(r"## (?:(\d+)\.)?", cell.source)):
            now = int(heading[1] or -1)
        if now in {0, *numbers} and (exercises or not is_exercise(cell)):
            kept.append(cell)
    notebook.cells = kept
    return notebook


def test_plans_are_found_and_their_minutes_fit() -> None:
    assert len(plans()) >= 3
    assert parts()
    for plan, rows in plans().items():
        length = int(re.findall(r"(\d+) minutes", plan)[0])
        assert 0.7 * length < sum(minutes for minutes, _ in rows) <= length, plan


def test_the_sections_of_every_plan_exist() -> None:
    known = {path.stem for path in NOTEBOOKS}
    for rows in plans().values():
        for name in re.findall(r"`(\d\d_\w+)`", " ".join(where for _, where in rows)):
            assert name in known
    for _, name, numbers, _ in parts():
        source = "\n".join(c.source for c in nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells)
        assert numbers <= {int(number) for number in re.findall(r"^## (\d+)\.", source, re.MULTILINE)}, name


def test_sections_are_read_as_a_teacher_reads_them() -> None:
    assert sections("`03_synthesis`, sections 1 to 3") == {1, 2, 3}
    assert sections("`05_fedrevive`, sections 1 and 3 without exercises") == {1, 3}
    assert sections("`04_distillation`, sections 1, 2 and 5 to 7") == {1, 2, 5, 6, 7}
    assert sections("`03_synthesis`, section 7") == {7}
    assert sections("end of `01_staleness`") == set()


@pytest.mark.notebooks
@pytest.mark.parametrize(
    ("name", "numbers", "without"),
    [pytest.param(*part[1:], id=f"{part[0].split(':')[0]}{part[0][-4:]}-{part[1]}") for part in parts()],
)
def test_a_plan_runs_by_its_sections_alone(name: str, numbers: frozenset[int], without: bool, tmp_path: Path) -> None:
    part = only(nbformat.read(FOLDER / f"{name}.ipynb", as_version=4), numbers, exercises=not without)
    assert len(part.cells) > 5
    nbformat.write(part, tmp_path / f"{name}-part.ipynb")
    (tmp_path / "out").mkdir()
    execute(tmp_path / f"{name}-part.ipynb", tmp_path / "out", **TINY[name])
