"""What students get: no solutions, nothing folded but hints, seeds of their own; and rosters that are refused."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import nbformat
import pytest

from fedrevive_core.errors import ConfigError
from reproduce.classroom.course import edition, exercises, is_solution, released
from reproduce.classroom.release import read_release, release
from reproduce.classroom.roster import read_roster, seed_of
from reproduce.notebook_runner import find, read_notebook

HEADER = "student_id,last_name,first_name,email\n"


def roster(path: Path, *rows: str, header: str = HEADER) -> Path:
    path.write_bytes((header + "".join(f"{row}\n" for row in rows)).encode())
    return path


def test_every_check_of_the_course_is_an_exercise() -> None:
    for name in released():
        called = [
            found for cell in read_notebook(find(name)).cells for found in re.findall(r"\.check_\w+\(", cell.source)
        ]
        assert len(called) == len(exercises(name)) >= 2, name


def test_editions_hold_no_solution_and_no_explanation_but_every_hint() -> None:
    for name in released():
        ours, theirs = read_notebook(find(name)), edition(name, seed=5, student="ana")
        sources = "\n".join(cell.source for cell in theirs.cells)
        nbformat.validate(theirs)
        for exercise in exercises(name):
            assert exercise.solution.strip().splitlines()[-1].strip() not in sources, exercise.title
            assert any(cell.source == exercise.stub for cell in theirs.cells)
        assert not [
            cell for cell in theirs.cells if is_solution(cell) or re.search(r"^solve\b|if solve", cell.source, re.M)
        ]
        folded = re.findall(r"<summary>(.*?)</summary>", "".join(cell.source for cell in theirs.cells))
        assert folded == [
            found for cell in ours.cells for found in re.findall(r"<summary>(Hint)</summary>", cell.source)
        ]


def test_each_student_has_a_seed_that_follows_from_the_key(tmp_path: Path) -> None:
    students = roster(tmp_path / "r.csv", "ana,A,Ana,", "bob,B,Bob,", "eve,E,Eve,")
    got = release(tmp_path / "one", students, "k")
    release(tmp_path / "two", students, "k")
    seeds = [student.seed for student in got]
    assert len(set(seeds)) == 3
    assert seeds == [seed_of(name, "k") for name in ("ana", "bob", "eve")]
    assert seed_of("ana", "other") != seed_of("ana", "k")
    for student in got:
        folder = tmp_path / "one" / "students" / student.student_id
        text = nbformat.read(folder / "01_staleness.ipynb", 4).cells[3].source
        assert f"\nseed = {student.seed}  #" in text
        first, second = ((tmp_path / n / "zips" / f"{student.student_id}.zip").read_bytes() for n in ("one", "two"))
        assert first == second
    with zipfile.ZipFile(tmp_path / "one" / "zips" / "ana.zip") as archive:
        assert archive.namelist() == [f"ana/{name}.ipynb" for name in released()]
    assert read_release(tmp_path / "one") == got
    assert (tmp_path / "one" / "instructor" / "01_staleness.ipynb").read_bytes() == find("01_staleness").read_bytes()


def test_without_a_roster_there_is_one_edition_with_the_courses_seed(tmp_path: Path) -> None:
    (everyone,) = release(tmp_path / "lab", None, None)
    assert (everyone.student_id, everyone.seed) == ("everyone", None)
    assert (
        "\nseed = 0  #"
        in nbformat.read(tmp_path / "lab" / "students" / "everyone" / "01_staleness.ipynb", 4).cells[3].source
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "line 1: the header must be student_id"),
        ("name,student_id\n", "line 1: the header must be student_id"),
        ("student_id,age\n", "line 1: the header must be student_id"),
        ("student_id,email,email\n", "line 1: the header must be student_id"),
        (HEADER, "names no student"),
        (HEADER + "ana,A\n", "line 2: 2 columns, and the header has 4"),
        (HEADER + "ana,A,A,\n../bob,B,B,\n", "line 3: student_id = '../bob' becomes the name of a folder"),
        (HEADER + ".ana,A,A,\n", "line 2: student_id = '.ana' becomes"),
        (HEADER + ",A,A,\n", "line 2: student_id = '' becomes"),
        (HEADER + "nul.x,A,A,\n", "line 2: student_id = 'nul.x' becomes"),
        (HEADER + "=1+1,A,A,\n", "line 2: student_id = '=1+1' becomes"),
        (HEADER + "a" * 65 + ",A,A,\n", "line 2: student_id = 'aaaa"),
        (HEADER + "ana,A,A,\n\nANA,B,B,\n", "line 4: student_id = 'ANA' is there twice"),
        (HEADER + "ana,A\x07,A,\n", "line 2: there is a letter that cannot be printed"),
        (HEADER + 'ana,"A,A,\n', "line 2: unexpected end of data"),
        (HEADER.encode() + b"ana,\xe9,A,\n", "is not UTF-8"),
        (HEADER + "x" * 1_000_001, "is larger than 1,000,000 bytes"),
    ],
)
def test_bad_rosters_name_the_line(call: Any, tmp_path: Path, content: str | bytes, words: str) -> None:
    path = tmp_path / "r.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, _, error = call("classroom", "release", "--out", tmp_path / "lab", "--students", path)
    assert (code, words in error) == (2, True), error
    assert not (tmp_path / "lab").exists()


def test_a_roster_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_bytes("\ufeffstudent_id;last_name\r\nana;López\r\n".encode())
    (ana,) = read_roster(path, "k")
    assert (ana.student_id, ana.last_name, ana.seed) == ("ana", "López", seed_of("ana", "k"))


def test_a_release_of_other_notebooks_is_refused(tmp_path: Path) -> None:
    release(tmp_path / "lab", None, None)
    path = tmp_path / "lab" / "release.json"
    manifest = json.loads(path.read_text())
    manifest["notebooks"]["01_staleness"] = "0"
    path.write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match=r"from other notebooks .* \(01_staleness\)"):
        read_release(tmp_path / "lab")
    for broken in ("[" * 100_000, "{}", "[]", '{"students": [{"name": 1}], "notebooks": {}}'):
        path.write_text(broken)
        with pytest.raises(ConfigError, match="holds no release"):
            read_release(tmp_path / "lab")


@pytest.mark.processes
def test_a_students_notebook_runs_from_any_folder(tmp_path: Path) -> None:
    """From the zip alone, with the package installed."""
    from reproduce.notebook_runner import execute

    release(tmp_path / "lab", roster(tmp_path / "r.csv", "ana,A,Ana,"), "k")
    with zipfile.ZipFile(tmp_path / "lab" / "zips" / "ana.zip") as archive:
        archive.extractall(tmp_path / "home")
    copy = tmp_path / "executed.ipynb"
    execute(tmp_path / "home" / "ana" / "01_staleness.ipynb", copy, {"num_arrivals": 300}, progress=False)
    assert copy.read_text(encoding="utf-8").count("[open]") == 4
