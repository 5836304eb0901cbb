"""What a class knows: a table for the teacher, a page with the usual mistakes, a gradebook with nbgrader's columns."""

from __future__ import annotations

import csv
import platform
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from fedrevive_core.files import atomic_file, writing
from reproduce.classroom.course import exercises
from reproduce.classroom.judge import Outcome, clean
from reproduce.classroom.roster import Student
from reproduce.classroom.submissions import Submission
from reproduce.console import command_line
from reproduce.reports.html import write_page

GRADEBOOK = (
    "assignment", "duedate", "timestamp", "student_id", "last_name", "first_name", "email", "raw_score",
    "late_submission_penalty", "score", "max_score",
)  # fmt: skip
PERSON = ("student_id", "last_name", "first_name")
SENTENCE = re.compile(r".+?(?<!\.\.)[.?!](?=\s|$)")


@dataclass
class Result:
    """One notebook of one student; without `submission` nothing was handed in."""

    student: Student
    notebook: str
    submission: Submission | None = None
    outcomes: dict[int, Outcome] = field(default_factory=dict)  # by number of the exercise

    def cell(self, number: int) -> str:
        """What the table says of an exercise."""
        if self.submission is None:
            return "missing"
        if self.submission.problem:
            return f"unreadable: {clean(self.submission.problem)[:200]}"
        outcome = self.outcomes[number]
        if outcome.kind in ("right", "open"):
            return outcome.kind
        return f"{outcome.kind}: {first_sentence(outcome.message)}"

    @property
    def look(self) -> list[str]:
        """What somebody should look at, by exercise."""
        found = [] if self.submission is None else [clean(note) for note in self.submission.notes]
        for number, outcome in sorted(self.outcomes.items()):
            if words := dict.fromkeys([*outcome.marks, *outcome.look]):
                found.append(f"exercise {number}: {', '.join(words)}")
        return found

    @property
    def score(self) -> float:
        """How many exercises are right; one that is marked does not count."""
        return float(sum(outcome.kind == "right" for outcome in self.outcomes.values()))


def first_sentence(message: str) -> str:
    """The first sentence of a message that says more than that something is wrong; the one that names the slip."""
    message = message.removeprefix("Your answer could not be used. ")
    found = SENTENCE.match(message)
    return found[0] if found else message


def write_results(out: Path, page: Path, gradebook: Path, results: Sequence[Result]) -> None:
    """Write the table, the class page and the gradebook. Raises ConfigError if one cannot be written."""
    _write_csv(out, list(_rows(results)))
    _write_csv(gradebook, [_grade(result) for result in results if result.notebook])
    _write_class_page(page, results)


def _rows(results: Sequence[Result]) -> Iterable[dict[str, object]]:
    """A row for each student and notebook, with as many exercises as the longest notebook has."""
    most = max((len(exercises(result.notebook)) for result in results if result.notebook), default=0)
    for result in results:
        count = len(exercises(result.notebook)) if result.notebook else 0
        cells = {f"exercise {n}": result.cell(n) if n <= count else "" for n in range(1, most + 1)}
        problem = "" if result.notebook or result.submission is None else result.submission.problem
        changed = [] if result.submission is None else result.submission.changed
        yield {
            **_person(result.student),
            "notebook": result.notebook,
            **cells,
            "right": f"{result.score:g} of {count}" if count else "",
            "changed cells": clean("; ".join(changed)),
            "look at it": "; ".join(filter(None, [clean(problem), *result.look])),
        }


def _person(student: Student) -> dict[str, object]:
    return {name: getattr(student, name) for name in PERSON}


def _grade(result: Result) -> dict[str, object]:
    """A row of the gradebook, as nbgrader's own export has it; there is no due date, so there is no penalty."""
    when = "" if result.submission is None else f"{result.submission.when:%Y-%m-%d %H:%M:%S}"
    values = ("", when, *_person(result.student).values(), result.student.email, result.score, 0.0, result.score)
    return dict(zip(GRADEBOOK, (result.notebook, *values, float(len(exercises(result.notebook)))), strict=True))


def _write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    with writing(path), atomic_file(path) as work, work.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else GRADEBOOK)
        writer.writeheader()
        writer.writerows({name: _harmless(value) for name, value in row.items()} for row in rows)


def _harmless(value: object) -> object:
    """A text that a spreadsheet would take for a formula gets a quotation mark in front, which it shows as text."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value


def _write_class_page(path: Path, results: Sequence[Result]) -> None:
    judged = [result for result in results if result.outcomes]
    students = {result.student.student_id for result in results}
    words = "✓ is right. The table beside this page has the sentences."
    tables = [("Who solved what", words, list(_kinds(results)))]
    for notebook in sorted({result.notebook for result in judged}):
        rows = list(_mistakes([result for result in judged if result.notebook == notebook]))
        tables.append(
            (f"Usual mistakes in {notebook}", "The most frequent first. What was marked is not counted.", rows)
        )
    tables.append(("Look at these", "Nothing here proves anything. Ask the student.", list(_looks(results))))
    write_page(
        path,
        title="The class",
        intro=[
            f"{len(students)} students, {len(judged)} notebooks judged. A verdict says what an answer does, not who "
            "found it: grade predictions and explanations too.",
        ],
        tables=tables,
        illustrations=[],
        command=command_line(),
        provenance={"version": f"fedrevive {version('fedrevive')}", "system": platform.system()},
    )


def _kinds(results: Sequence[Result]) -> Iterable[dict[str, object]]:
    most = max((len(exercises(result.notebook)) for result in results if result.notebook), default=0)
    for result in results:
        count = len(exercises(result.notebook)) if result.notebook else 0
        kinds = {n: result.cell(n).partition(":")[0] for n in range(1, count + 1)}
        cells = {str(n): "✓" if kinds.get(n) == "right" else kinds.get(n, "") for n in range(1, most + 1)}
        yield {
            "student": result.student.student_id,
            "notebook": result.notebook or "none",
            **cells,
            "right": f"{result.score:g}",
        }


def _mistakes(results: Sequence[Result]) -> Iterable[dict[str, object]]:
    counts = Counter(
        (number, outcome.kind, first_sentence(outcome.message))
        for result in results
        for number, outcome in result.outcomes.items()
        if outcome.kind not in ("right", "open", "marked")
    )
    for (number, kind, words), count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        yield {"exercise": f"exercise {number}", "students": str(count), "what": f"{kind}: {words}"}


def _looks(results: Sequence[Result]) -> Iterable[dict[str, object]]:
    for result in results:
        changed = [] if result.submission is None else result.submission.changed
        problem = [result.submission.problem] if result.submission and result.submission.problem else []
        words = "; ".join([*map(clean, problem), *result.look, *(f"changed: {clean(one)}" for one in changed)])
        if words:
            yield {"student": result.student.student_id, "notebook": result.notebook or "none", "what": words}
