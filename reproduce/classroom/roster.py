"""Who is in the class, and the seed that each student gets."""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
import re
from dataclasses import dataclass
from pathlib import Path

from fedrevive_core.errors import ConfigError

COLUMNS = ("student_id", "last_name", "first_name", "email")
BYTES, STUDENTS = 1_000_000, 2000  # at most, in a roster
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # no names of files on Windows
SEEDS = 1_000_000


@dataclass(frozen=True)
class Student:
    """A row of the roster; `seed` is None where the class shares one edition."""

    student_id: str
    last_name: str = ""
    first_name: str = ""
    email: str = ""
    seed: int | None = None


def is_plain(name: str) -> bool:
    """Can `name` be a student's id, and so the name of a folder on every system?"""
    return bool(NAME.fullmatch(name)) and not name.endswith(".") and not RESERVED.fullmatch(name)


def seed_of(student_id: str, key: str) -> int:
    """The student's seed, 1 to SEEDS: it follows from the course key, and tells nothing of the other seeds."""
    digest = hmac.new(key.encode(), student_id.encode(), hashlib.sha256).digest()
    return 1 + int.from_bytes(digest[:8], "big") % SEEDS


def read_roster(path: Path, key: str) -> list[Student]:
    """The students of a CSV file in its order.

    Raises ConfigError, which names the line, for what is not a roster: see docs/CLASSROOM.md.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(BYTES + 1)
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"students = '{path}' cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"students = '{path}' is not UTF-8: save it as 'CSV UTF-8'") from None
    if len(raw) > BYTES:
        raise ConfigError(f"students = '{path}' is larger than {BYTES:,} bytes: it is no roster of a class")
    first = text.partition("\n")[0]
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=";" if ";" in first else ",", strict=True)
    try:
        return _students(path, rows, key)
    except csv.Error as error:
        raise ConfigError(f"students = '{path}', line {rows.line_num}: {error}") from None


def _students(path: Path, rows: "csv._reader", key: str) -> list[Student]:  # noqa: UP037
    header = [cell.strip() for cell in next(rows, [])]
    if not header or header[0] != COLUMNS[0] or len(set(header)) < len(header) or set(header) - set(COLUMNS):
        raise ConfigError(
            f"students = '{path}', line 1: the header must be student_id, and after it any of "
            f"{', '.join(COLUMNS[1:])}; it is {','.join(header)[:200] or 'empty'}"
        )
    students: dict[str, Student] = {}
    for row in rows:
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        where = f"students = '{path}', line {rows.line_num}"
        if len(cells) != len(header):
            raise ConfigError(f"{where}: {len(cells)} columns, and the header has {len(header)}")
        if any(not letter.isprintable() for cell in cells for letter in cell):
            raise ConfigError(f"{where}: there is a letter that cannot be printed")
        name = cells[0]
        if not is_plain(name):
            raise ConfigError(
                f"{where}: student_id = '{name[:80]}' becomes the name of a folder: use letters from a to z, digits, "
                "'.', '_' and '-', at most 64, and begin with a letter or a digit"
            )
        if name.casefold() in students:
            raise ConfigError(f"{where}: student_id = '{name}' is there twice (capital letters make no difference)")
        students[name.casefold()] = Student(**dict(zip(header, cells, strict=True)), seed=seed_of(name, key))
        if len(students) > STUDENTS:
            raise ConfigError(f"{where}: more than {STUDENTS} students")
    if not students:
        raise ConfigError(f"students = '{path}' names no student")
    return list(students.values())
