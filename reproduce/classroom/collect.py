"""Judge what a class handed in, and write the table, the class page and the gradebook."""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import psutil

from fedrevive_core.files import check_file
from reproduce.classroom.course import exercises
from reproduce.classroom.judge import OURSELVES, Group, Limits, Outcome, main
from reproduce.classroom.release import EVERYONE, names, read_release, seed_for
from reproduce.classroom.results import Result, write_results
from reproduce.classroom.roster import Student, is_plain
from reproduce.classroom.submissions import Submission, read_submissions

# Imported once, and not by each process that judges; not on Windows, which cannot copy a process.
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
SILENT = 3600  # seconds after which a process that reports nothing is ended
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}  # each process has one core


def collect(submissions: Path, out: Path, released: Path | None, jobs: int, limits: Limits) -> list[Result]:
    """Judge all of `submissions`, write the table `out` with its class page and gradebook, and return the results.

    Args:
        submissions: a directory with a folder or a .zip for each student.
        out: a .csv file; the page and the gradebook lie beside it.
        released: the directory that `release` wrote; None: the notebooks' own seeds, and no roster.
        jobs: how many notebooks are judged at a time.

    Raises ConfigError, before any work, for paths that do not hold what they should, or cannot be written.
    """
    page, gradebook = beside(out)
    check_file(out, page, gradebook)
    roster = None if released is None else read_release(released)
    if roster is not None and [student.student_id for student in roster] == [EVERYONE]:
        roster = None
    handed_in = read_submissions(submissions)
    results = _prepared(handed_in, roster)
    private = (str(submissions.resolve()), *([] if released is None else [str(released.resolve())]))
    for group, outcome in _judge(list(_groups(results, private, limits, jobs)), jobs):
        if outcome.student != OURSELVES:
            results[outcome.student, group.notebook].outcomes[outcome.number] = outcome
    ordered = list(results.values())
    write_results(out, page, gradebook, ordered)
    return ordered


def beside(out: Path) -> tuple[Path, Path]:
    """Paths of the class page and of the gradebook, beside the table `out`."""
    return out.with_suffix(".html"), out.with_name(f"{out.stem}-gradebook.csv")


def _prepared(handed_in: Sequence[Submission], roster: list[Student] | None) -> dict[tuple[str, str], Result]:
    """A result for each student and notebook, still without outcomes; also where a notebook is missing."""
    given = {submission.notebook for submission in handed_in} - {""}
    known = names(roster or [])
    results: dict[tuple[str, str], Result] = {}
    for student in roster or []:
        for notebook in sorted(given):
            results[student.student_id, notebook] = Result(student, notebook)
    for submission in handed_in:
        named = submission.student_id
        student = known.get(named.casefold()) or Student(named)
        if roster is None and not is_plain(named):
            submission.problem = submission.problem or "its name is no plain student id"
        if roster is not None and named.casefold() not in known:
            submission.problem = submission.problem or "the name is not in the roster"
        for notebook in [submission.notebook] if submission.notebook else sorted(given) or [""]:
            results[student.student_id, notebook] = Result(student, notebook, submission)
    return results


def _groups(
    results: dict[tuple[str, str], Result], private: tuple[str, ...], limits: Limits, jobs: int
) -> Iterator[Group]:
    """What one process each judges: those with the same notebook and seed, in as many parts as there are jobs."""
    together: dict[tuple[str, int | None], dict[str, Any]] = {}
    for (student, notebook), result in results.items():
        if result.submission is not None and not result.submission.problem:
            seed = seed_for(result.student, notebook)
            together.setdefault((notebook, seed), {})[student] = result.submission.answers
    for (notebook, seed), answers in together.items():
        students = sorted(answers)
        size = math.ceil(len(students) / jobs)
        for start in range(0, len(students), size):
            part = {student: answers[student] for student in students[start : start + size]}
            yield Group(notebook, seed, part, private, limits)


@dataclass
class _Running:
    group: Group
    process: Any
    pipe: Any
    left: set[tuple[str, int]]


def _judge(groups: list[Group], jobs: int) -> Iterator[tuple[Group, Outcome]]:
    """Yield every outcome; where a process ended too early, its missing ones are errors."""
    context = multiprocessing.get_context(METHOD)
    if METHOD == "forkserver":
        context.set_forkserver_preload(["reproduce.classroom.preload"])
    waiting, running = list(groups), dict[Any, _Running]()
    total, done = len(groups), 0
    with _environment(ONE_THREAD):
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    one = _start(context, waiting.pop(0))
                    running[one.pipe] = one
                for pipe in wait(list(running), SILENT) or list(running):
                    one = running[pipe]
                    outcome = _outcome(one)
                    if isinstance(outcome, Outcome):
                        one.left.discard((outcome.student, outcome.number))
                        yield one.group, outcome
                    else:
                        _stop(running.pop(pipe))
                        done += 1
                        _say(f"{one.group.notebook}: {done} of {total} groups of notebooks are judged")
                        for student, number in sorted(one.left):
                            yield one.group, Outcome(student, number, "error", f"It was not judged: {outcome}")
        finally:
            for one in running.values():
                _stop(one)


def _start(context: Any, group: Group) -> _Running:
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=main, args=(theirs, group))
    process.start()
    theirs.close()
    numbers = [exercise.number for exercise in exercises(group.notebook)]
    return _Running(group, process, ours, {(student, number) for student in group.answers for number in numbers})


def _outcome(one: _Running) -> Outcome | str:
    """The next outcome of a process, or why there is none."""
    try:
        if not one.pipe.poll(0):
            return f"nothing was heard of its process for {SILENT} seconds"
        said = json.loads(one.pipe.recv_bytes())
    except (EOFError, OSError, ValueError):
        one.process.join(5)
        return f"its process ended (exit code {one.process.exitcode})"
    return said["failed"] if "failed" in said else Outcome(**said)


def _stop(one: _Running) -> None:
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(one.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
    one.process.kill()
    one.process.join()
    one.pipe.close()


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables of the processes that are started in the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
