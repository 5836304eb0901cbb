"""A class of thirty, from the release to the table."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from classroom.thirty import NOTEBOOK, handed_in

STUDENTS = [f"s{number:02}" for number in range(30)]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.processes
def test_nothing_hangs_nothing_is_trusted_and_the_table_is_right_in_all(call: Any, tmp_path: Path) -> None:
    roster, lab, table = tmp_path / "roster.csv", tmp_path / "lab", tmp_path / "table.csv"
    people = "".join(f"{student},Last,First,{student}@example.org\n" for student in STUDENTS)
    roster.write_text(f"student_id,last_name,first_name,email\n{people}", encoding="utf-8")
    assert call("classroom", "release", "--out", lab, "--students", roster, "--key", "a key")[0] == 0
    marker = tmp_path / "marker"
    (tmp_path / "in").mkdir()
    expected = handed_in(tmp_path / "in", STUDENTS, lab, marker)
    limits = ("--seconds", 3, "--megabytes", 400, "--jobs", 2)
    code, out, _ = call("classroom", "collect", tmp_path / "in", "--released", lab, "--out", table, *limits)
    assert code == 0, out
    rows = {row["student_id"]: row for row in rows_of(table)}
    said = {student: [rows[student][f"exercise {n}"] for n in (1, 2, 3, 4)] for student in STUDENTS}
    differ = [
        (student, n + 1, cell, words)
        for student, cells in said.items()
        for n, (cell, words) in enumerate(zip(cells, expected[student], strict=True))
        if not cell.startswith(words)
    ]
    assert not differ, "\n".join(map(str, differ))
    assert not marker.exists()
    kinds = Counter(cell.partition(":")[0] for cells in said.values() for cell in cells)
    assert kinds["right"] == 41  # of the ten, and one of the student whose other answers loop
    grades = {row["student_id"]: row for row in rows_of(tmp_path / "table-gradebook.csv")}
    assert {grades[s]["raw_score"] for s in STUDENTS[:10]} == {"4.0"}
    assert {grades[s]["raw_score"] for s in STUDENTS[10:20]} == {"0.0"}
    assert grades["s00"]["assignment"] == NOTEBOOK
    page = (tmp_path / "table.html").read_text(encoding="utf-8")
    assert "Usual mistakes in 01_staleness" in page
    assert "You count the version that the update itself completes." in page
