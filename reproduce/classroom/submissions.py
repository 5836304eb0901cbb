"""What students handed in, read with bounds: as text alone. Nothing is unpacked, parsed as Python, or run here."""

from __future__ import annotations

import codecs
import difflib
import io
import json
import os
import re
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fedrevive_core.errors import ConfigError
from reproduce.classroom.course import Exercise, edition, exercises, gives, released

BYTES = 32_000_000  # of a notebook or of all that a zip holds, at most
FILES, DEPTH, CELLS, LETTERS = 200, 4, 2000, 20_000  # in a submission; folders in it; cells of a notebook; of an answer


class Unreadable(Exception):
    """A submitted file is not used; the message says why."""


@dataclass
class Submission:
    """A notebook as it was handed in: for each exercise the sources of its answer's cells, and what else is noted."""

    student_id: str
    notebook: str
    when: datetime
    answers: dict[int, list[str]] = field(default_factory=dict)  # by number of the exercise
    changed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problem: str = ""  # why nothing of it can be judged


def read_submissions(directory: Path) -> list[Submission]:
    """All notebooks of the course in `directory`: a folder or a .zip for each student, named by the student's id.

    Raises ConfigError if it is no directory, or holds nothing.
    """
    found: list[Submission] = []
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError as error:
        raise ConfigError(f"submissions = '{directory}' cannot be read ({error.strerror})") from None
    for entry in entries:
        if not entry.name.startswith("."):
            found += _of_student(entry)
    if not found:
        raise ConfigError(f"submissions = '{directory}' is empty: put a folder or a .zip for each student into it")
    return found


def _of_student(entry: os.DirEntry[str]) -> list[Submission]:
    student, when = re.sub(r"\.zip$", "", entry.name, flags=re.IGNORECASE), datetime.now(UTC)
    notes: list[str] = []
    found: dict[str, Submission] = {}
    try:
        if entry.is_symlink():
            raise Unreadable("it is a link")
        when = datetime.fromtimestamp(entry.stat(follow_symlinks=False).st_mtime, UTC)
        if entry.is_dir():
            files = _in_folder(Path(entry.path), notes)
        elif entry.name.lower().endswith(".zip"):
            files = _in_zip(Path(entry.path), notes)
        else:
            raise Unreadable("it is neither a folder nor a .zip")
        for path, raw in files:
            name = next((name for name in released() if Path(path).name.startswith(name)), None)
            if name is None:
                notes.append(f"{path} is no notebook of the course")
            elif name in found:
                notes.append(f"{path} is a second copy of {name}, and was not judged")
            else:
                found[name] = read_notebook(student, name, raw, when)
    except (Unreadable, OSError) as error:
        notes.append(str(error))
    if not found:
        return [Submission(student, "", when, notes=notes, problem="; ".join(notes) or "it holds no notebook")]
    for submission in found.values():
        submission.notes += notes
    return list(found.values())


def _in_folder(folder: Path, notes: list[str]) -> Iterator[tuple[str, bytes]]:
    """The notebooks in a folder, by name; links, pipes and devices are not opened."""
    count = total = 0
    for root, folders, names in os.walk(folder):
        inside = Path(root).relative_to(folder)
        links = [name for name in folders if Path(root, name).is_symlink()]
        folders[:] = sorted(n for n in folders if n not in links and len(inside.parts) < DEPTH and not n.startswith("."))
        for name in sorted([*names, *links]):
            if (count := count + 1) > FILES:
                raise Unreadable(f"there are more than {FILES} files")
            path = Path(root, name)
            if not stat.S_ISREG(path.lstat().st_mode):
                notes.append(f"{inside / name} is a link or no file, and was not opened")
            elif name.lower().endswith(".ipynb") and not name.startswith("."):
                with path.open("rb") as file:
                    raw = file.read(BYTES + 1 - total)
                if (total := total + len(raw)) > BYTES:
                    raise Unreadable(f"its notebooks have more than {BYTES:,} bytes")
                yield str(inside / name), raw


def _in_zip(path: Path, notes: list[str]) -> Iterator[tuple[str, bytes]]:
    """The notebooks in a zip, by name. They are read into memory, whatever place their names ask for."""
    total = 0
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) > FILES:
                raise Unreadable(f"there are more than {FILES} files in the zip")
            for entry in sorted(entries, key=lambda entry: entry.filename):
                name = entry.filename
                if name.startswith("/") or ".." in re.split(r"[\\/]", name) or ":" in name:
                    notes.append(f"{name!r} in the zip leads out of its folder, and was not read")
                elif stat.S_ISLNK(entry.external_attr >> 16):
                    notes.append(f"{name!r} in the zip is a link, and was not read")
                elif name.lower().endswith(".ipynb") and "/." not in f"/{name}" and not name.startswith("__MACOSX"):
                    with archive.open(entry) as file:
                        raw = file.read(BYTES + 1 - total)
                    if (total := total + len(raw)) > BYTES:
                        raise Unreadable(f"its notebooks have more than {BYTES:,} bytes")
                    yield name, raw
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, ValueError, OSError) as error:
        raise Unreadable(f"the zip cannot be read: {str(error)[:200]}") from None
    except Exception as error:  # of a decompressor, such as zlib.error and lzma.LZMAError, which share no base
        raise Unreadable(f"the zip is damaged: {type(error).__name__}") from None


def read_notebook(student_id: str, notebook: str, raw: bytes, when: datetime) -> Submission:
    """A submitted notebook, compared with the students' edition. What cannot be read becomes its `problem`."""
    submission = Submission(student_id, notebook, when)
    try:
        cells, metadata = _cells(raw)
    except Unreadable as error:
        submission.problem = str(error)
        return submission
    owner = metadata.get("student") if isinstance(metadata, dict) else None
    if isinstance(owner, str) and owner and owner.casefold() != student_id.casefold():
        submission.notes.append(f"this copy was released to {owner[:64]}")
    for exercise in exercises(notebook):
        submission.answers[exercise.number] = _answer(exercise, cells)
    submission.changed = _changes(notebook, cells)
    return submission


def _cells(raw: bytes) -> tuple[list[Any], Any]:
    """The code cells of a notebook's bytes, each with `id` and `source`; and what its metadata say of the class."""
    encoding = "utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        document = json.loads(raw.decode(encoding))
        found = document["cells"]
    except UnicodeDecodeError:
        raise Unreadable("it is not UTF-8") from None
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise Unreadable(f"it is no notebook of format 4 ({type(error).__name__})") from None
    if not isinstance(found, list) or len(found) > CELLS:
        raise Unreadable(f"it has no list of at most {CELLS} cells")
    cells = []
    for cell in found:
        source = cell.get("source") if isinstance(cell, dict) else None
        if isinstance(source, list) and all(isinstance(line, str) for line in source):
            source = "".join(source)
        if not isinstance(source, str):
            raise Unreadable("a cell of it has no source")
        if cell.get("cell_type") == "code":
            cells.append(SimpleNamespace(id=cell.get("id"), source=source.replace("\r\n", "\n")))
    metadata = document.get("metadata")
    return cells, metadata.get("fedrevive") if isinstance(metadata, dict) else None


def _answer(exercise: Exercise, cells: list[Any]) -> list[str]:
    """The sources that give the answer: of the exercise's own cell, and of cells that were added and assign its name."""
    found = [cell for cell in cells if cell.id == exercise.cell or gives(exercise.name, cell)]
    untouched = [cell for cell in found if cell.source.strip() == exercise.stub.strip()]
    return [cell.source for cell in found if cell not in untouched or len(found) == len(untouched)]


def _changes(notebook: str, cells: list[Any]) -> list[str]:
    """The code cells of ours that are not there as they were released, and how many were added."""
    answers = {exercise.cell for exercise in exercises(notebook)}
    theirs = [cell.source.strip() for cell in cells]
    ours = [cell for cell in edition(notebook, seed=None).cells if cell.cell_type == "code"]
    changed, number = [], 0
    for cell in ours:
        number += 1
        if cell.id in answers or cell.source.strip() in theirs:
            continue
        now = next((c.source for c in cells if c.id == cell.id), None)
        if "parameters" in cell.metadata.get("tags", []):
            lines = _lines(cell.source, now or "")
            if lines:
                changed.append(f"parameters ({', '.join(lines)})" if now is not None else "parameters (removed)")
        else:
            first = next(iter(cell.source.strip().splitlines()), "")[:60]
            changed.append(f"code cell {number} `{first}` was {'removed' if now is None else 'changed'}")
    known = {cell.id for cell in ours} | {cell.source.strip() for cell in ours}
    more = sum(1 for cell in cells if cell.id not in known and cell.source.strip() not in known | {""})
    return changed + ([f"{more} code cell{'s' * (more > 1)} added"] if more else [])


def _lines(before: str, after: str) -> list[str]:
    """The names in the lines of the parameters that differ; the seed is the student's own."""
    marks = difflib.ndiff(before.splitlines(), after.splitlines()[:200])
    names = [line[2:].split("=")[0].strip()[:40] for line in marks if line[0] in "+-"]
    return [name for name in dict.fromkeys(names) if name and name != "seed"]
