"""The process that judges answers of some students to one notebook. It runs the notebook's own cells, and our checks.

No student's code runs in it: each answer runs in a process of its own (student.py), which says what the answer is. The
check, here, gets that value; or a function that has the student's process called, and returns numbers alone.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from types import FunctionType
from typing import Any

import psutil

from fedrevive_notebooks.lessons.exercise import Verdict
from reproduce.classroom.apart import Apart, Ended, Unreadable, recorded
from reproduce.classroom.course import Exercise, exercises, uses
from reproduce.classroom.ours import cells_until
from reproduce.classroom.student import Job
from reproduce.notebook_runner import FOLDER

LETTERS, SHOWN = 20_000, 600  # of an answer's source, and of a message
IN_PLACE = ("11_from_scratch",)  # answers that change models and optimisers, which are no plain data, where they are
# Words that no answer needs. They prove nothing; they ask somebody to look.
LOOK = re.compile(
    r"\bcheck_\w+|\blessons?\b|fedrevive_notebooks|\bsolutions?\b|\bsolve\b|\bVerdict\b|\binspect\b|\bctypes\b|\bgc\b|"
    r"\bsubprocess\b|\bos\s*\.|\bsys\s*\.|\bimportlib\b|\b(?:exec|eval|open|setattr|globals|vars|exit|quit)\s*\(|"
    r"__(?!init__)\w+__|\b_getframe\b|\bf_(?:back|locals|globals)\b|\bsocket\b|\bthreading\b|\bmultiprocessing\b"
)


@dataclass(frozen=True)
class Limits:
    """What one answer may take."""

    seconds: float = 30.0  # of processor time
    megabytes: int = 1000


@dataclass(frozen=True)
class Group:
    """Answers to one notebook with one seed: sources by student and number of the exercise."""

    notebook: str
    seed: int | None
    answers: Mapping[str, Mapping[int, list[str]]]
    private: tuple[str, ...]  # directories that students' code must not read
    limits: Limits


@dataclass
class Outcome:
    """What came of one answer. kind: right, wrong, open, error, time, memory, output, exit or marked."""

    student: str
    number: int
    kind: str
    message: str
    marks: list[str] = field(default_factory=list)  # what no honest answer does
    look: list[str] = field(default_factory=list)  # what somebody should look at
    own: bool = False  # the check ran in the student's process, because the answer is no plain data


def main(pipe: Connection, group: Group) -> None:
    """Judge the group, and send each outcome as JSON; the process ends with the one that started it."""
    threading.Thread(target=_follow, daemon=True).start()
    with contextlib.suppress(ImportError):
        import torch

        torch.set_num_threads(1)  # a copy of a process has none of its threads
    try:
        for outcome in judged(group):
            pipe.send_bytes(json.dumps(asdict(outcome)).encode())
    except Exception as error:  # of our own cells: no student's code runs here
        pipe.send_bytes(json.dumps({"failed": f"{type(error).__name__}: {error}"}).encode())


def _follow() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
        os._exit(1)


def judged(group: Group) -> Iterator[Outcome]:
    """Yield the outcomes of all answers: first those that were not given, then by exercise."""
    asked = exercises(group.notebook)
    given: dict[int, list[str]] = {exercise.number: [] for exercise in asked}
    for exercise in asked:
        for student, answers in group.answers.items():
            sources = answers[exercise.number]
            if any(source.strip() not in ("", exercise.stub.strip()) for source in sources):
                given[exercise.number].append(student)
            else:
                why = "The exercise is as it was released." if sources else "No cell gives its answer."
                yield Outcome(student, exercise.number, "open", why)
    fatal: set[tuple[str, int]] = set()  # not run again before later exercises
    ends = {exercise.at for exercise in asked if given[exercise.number]}
    sources = [source for answers in group.answers.values() for cells in answers.values() for source in cells]
    words = uses("\n".join([*sources, *(exercise.solution for exercise in asked if exercise.at in ends)]))
    for at, namespace in cells_until(group.notebook, group.seed, ends, words):
        for exercise in (exercise for exercise in asked if exercise.at == at and given[exercise.number]):
            yield from _exercise(group, exercise, given[exercise.number], namespace, fatal)


def _exercise(
    group: Group, exercise: Exercise, students: list[str], namespace: dict[str, Any], fatal: set[tuple[str, int]]
) -> Iterator[Outcome]:
    """The outcomes of one exercise. Where our own solution is not right, somebody has to look."""
    ours, calls = _ours(exercise, namespace)
    for student in students:
        answers = group.answers[student]
        before = [number for number in sorted(answers) if number < exercise.number and (student, number) not in fatal]
        earlier = tuple(tuple(answers[number]) for number in before)
        outcome = _judge(group, exercise, student, answers[exercise.number], earlier, namespace, calls)
        if outcome.kind == "right" and outcome.own:
            outcome.look.append("only the student's own process could judge it, because the answer is no plain data")
            if not _judge(group, exercise, student, [f"solve = True\n{exercise.solution}"], (), namespace).own:
                outcome.marks.append("the answer is no plain data, and ours is")
        if ours.kind != "right":
            outcome.look.append(f"our own solution is judged '{ours.kind}' with this seed")
        if outcome.marks:
            outcome.kind, outcome.message = "marked", "; ".join(dict.fromkeys(outcome.marks))[:SHOWN]
        if outcome.kind in ("time", "memory", "output", "exit", "marked"):
            fatal.add((student, exercise.number))
        yield outcome


def _ours(exercise: Exercise, namespace: dict[str, Any]) -> tuple[Verdict, tuple[tuple[Any, ...], ...]]:
    """The verdict on our own solution, which is run here, and how the check calls it, if it is a function."""
    variables, calls = namespace | {"solve": True}, list[tuple[Any, ...]]()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        exec(compile(exercise.solution, "<solution>", "exec"), variables)
        if isinstance(solution := variables[exercise.name], FunctionType):
            variables[exercise.name] = recorded(solution, calls)
        verdict: Verdict = eval(exercise.check, variables)
    return verdict, tuple(calls)


def _judge(
    group: Group,
    exercise: Exercise,
    student: str,
    sources: list[str],
    earlier: tuple[tuple[str, ...], ...],
    namespace: dict[str, Any],
    calls: tuple[tuple[Any, ...], ...] = (),
) -> Outcome:
    outcome = Outcome(student, exercise.number, "error", "")
    if sum(map(len, sources)) > LETTERS:
        outcome.message = f"The answer has more than {LETTERS:,} letters."
        return outcome
    found = {word for source in sources for word in LOOK.findall(re.sub(r"#.*", "", source))}
    outcome.look = [f"it mentions {', '.join(sorted(found))[:200]}"] if found else []
    with tempfile.TemporaryDirectory(prefix="fedrevive-answer-", ignore_cleanup_errors=True) as scratch:
        job = Job(
            group.notebook, group.seed, exercise.at, exercise.name, exercise.check, tuple(sources), earlier, scratch,
            (str(FOLDER), *group.private), group.limits.seconds, group.limits.megabytes, calls,
        )  # fmt: skip
        with Apart(job, namespace) as process:
            try:
                verdict, outcome.own = _verdict(process, exercise, namespace)
                outcome.kind, outcome.message = verdict.kind, clean(verdict.message)
                if process.problem:
                    outcome.look.append(f"the cell ends with an error ({clean(process.problem)[:200]})")
            except Ended as ended:
                outcome.kind, outcome.message = ended.kind, clean(ended.message)
                if ended.kind == "marked":
                    outcome.marks.append(outcome.message)
        outcome.marks += map(clean, process.marks)
    return outcome


def _verdict(process: Apart, exercise: Exercise, namespace: dict[str, Any]) -> tuple[Verdict, bool]:
    """The verdict, and whether the student's process had to say it. Raises Ended."""
    kind, answer = process.answer()
    if kind != "other" and exercise.notebook not in IN_PLACE:
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                verdict = eval(exercise.check, namespace | {exercise.name: answer})
        except Unreadable:
            pass
        else:
            if kind == "function":
                process.end()
            return verdict, False
    return process.own_verdict(), True


def clean(text: str) -> str:
    """`text` on one line, without what a terminal or a table could take for an order."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in str(text)).split())[:SHOWN]
