"""Editions of the course for a class: one for each student, zipped, and one for the teacher."""

from __future__ import annotations

import io
import json
import secrets
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import nbformat

from fedrevive_core.errors import ConfigError
from fedrevive_core.files import atomic_directory, check_free, writing
from reproduce.classroom.course import edition, fingerprint, has_seed, released
from reproduce.classroom.roster import Student, read_roster
from reproduce.notebook_runner import find

MANIFEST = "release.json"
EVERYONE = "everyone"  # the one edition of a class without a roster
BYTES = 10_000_000  # at most, of a manifest


def release(out: Path, roster: Path | None, key: str | None) -> list[Student]:
    """Write the editions into the directory `out`, and return who got one.

    Args:
        roster: a CSV file of students; None: one edition for all, with the notebooks' own seed.
        key: makes the students' seeds; None: a new one, which `out/release.json` keeps.

    Raises ConfigError for a bad roster, an empty key, and an `out` that is not empty.
    """
    if key is not None and not key.strip():
        raise ConfigError("key = '' is empty: give some words that students do not know, or leave it out")
    key = key or secrets.token_hex(16)
    students = [Student(EVERYONE)] if roster is None else read_roster(roster, key)
    check_free(out)
    with writing(out), atomic_directory(out) as work:
        for name in ("instructor", "students", "zips"):
            (work / name).mkdir()
        for name in released():
            shutil.copyfile(find(name), work / "instructor" / f"{name}.ipynb")
        for student in students:
            _write_edition(work, student)
        manifest = {
            "format": 1,
            "key": None if roster is None else key,
            "notebooks": {name: fingerprint(name) for name in released()},
            "students": [asdict(student) for student in students],
        }
        (work / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return students


def _write_edition(work: Path, student: Student) -> None:
    folder = work / "students" / student.student_id
    folder.mkdir()
    with zipfile.ZipFile(work / "zips" / f"{student.student_id}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in released():
            text = nbformat.writes(edition(name, seed=student.seed, student=student.student_id)) + "\n"
            (folder / f"{name}.ipynb").write_text(text, encoding="utf-8")
            # With a date of its own, so that the same roster and key make the same bytes.
            entry = zipfile.ZipInfo(f"{student.student_id}/{name}.ipynb")
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, text, zipfile.ZIP_DEFLATED)


def read_release(directory: Path) -> list[Student]:
    """The students to whom the course was released into `directory`.

    Raises ConfigError if it holds no release, or one of other notebooks than those that are installed.
    """
    path = directory / MANIFEST
    try:
        with path.open("rb") as file:
            manifest = json.load(io.BytesIO(file.read(BYTES)))
        students = [Student(**row) for row in manifest["students"]]
        notebooks = dict(manifest["notebooks"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"released = '{directory}' holds no release ({type(error).__name__}: {str(error)[:200]}): give the "
            "directory that `classroom release` wrote"
        ) from None
    changed = [name for name, known in notebooks.items() if name not in released() or fingerprint(name) != known]
    if changed:
        raise ConfigError(
            f"released = '{directory}' was made from other notebooks than those that are installed "
            f"({', '.join(changed)[:200]}): install the version from which they were released"
        )
    return students


def seed_for(student: Student, notebook: str) -> int | None:
    """The seed with which `student` works on a notebook; None: the notebook's own, or it has none."""
    return student.seed if has_seed(notebook) else None


def names(students: Sequence[Student]) -> dict[str, Student]:
    """Students by id; capital letters make no difference."""
    return {student.student_id.casefold(): student for student in students}
