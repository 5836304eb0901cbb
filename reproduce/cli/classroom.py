"""Commands for a class: release editions of the notebooks, and judge what students hand in."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from fedrevive_core.errors import ConfigError
from reproduce.cli.notebooks import notebook_runner
from reproduce.cli.options import directory


def release(
    out: Annotated[Path, directory("New directory for the editions.")],
    students: Annotated[
        Path | None,
        typer.Option("--students", metavar="FILE", help="Roster, a CSV file; without it, one edition for everyone."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="TEXT", help="Secret of the course, from which the students' seeds follow."),
    ] = None,
) -> None:
    """Write the students' editions of the notebooks, a zip of each, and the teacher's edition.

    Students get no solutions and no *Explain*, but the hints. With a roster, each student gets a seed of one's own, so
    that answers differ; the same roster and key give the same seeds. docs/CLASSROOM.md describes the roster.

    ```
    fedrevive classroom release --out lab --students roster.csv --key 'a word of yours'
    ```
    """
    notebook_runner()  # before the next import, which needs the same packages
    from reproduce.classroom.release import release as write

    got = write(out, students, key)
    print(f"{len(got)} edition{'s' * (len(got) != 1)}: send a file of {out / 'zips'} to each student.")
    print(f"Keep {out} to yourself: `classroom collect --released {out}` needs it, and it holds the solutions.")


def collect(
    submissions: Annotated[
        Path, typer.Argument(metavar="SUBMISSIONS", help="Directory with a folder or a .zip for each student, named by the id.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Table to write, a .csv; the class page lies beside it.")
    ],
    released: Annotated[
        Path | None,
        typer.Option("--released", metavar="DIR", help="What `classroom release` wrote: roster and seeds."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", metavar="N", min=1, max=1000, help="Notebooks at the same time; default: one for each core."),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="N", min=1, max=3600, help="Time that one answer may take.")
    ] = 30,
    megabytes: Annotated[
        int, typer.Option("--megabytes", metavar="N", min=50, max=10**6, help="Memory that one answer may take.")
    ] = 1000,
) -> None:
    """Judge what students handed in, and write a table, a class page and a gradebook.

    Each answer runs in a process of its own, with limits, and is judged outside of it by the checks of this
    installation. What should be looked at is marked: nothing that a student's code says is trusted. It is a fence and
    no prison: docs/CLASSROOM.md says what it cannot promise.

    ```
    fedrevive classroom collect handed-in --released lab --out table.csv
    ```
    """
    if out.suffix != ".csv":
        raise ConfigError(f"out = '{out}' must be a .csv file, such as table.csv")
    notebook_runner()
    from reproduce.classroom.collect import beside
    from reproduce.classroom.collect import collect as judge
    from reproduce.classroom.judge import Limits

    results = judge(submissions, out, released, jobs or os.cpu_count() or 1, Limits(seconds, megabytes))
    kinds = Counter(outcome.kind for result in results for outcome in result.outcomes.values())
    print(", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) or "nothing was judged")
    page, gradebook = beside(out)
    print(f"Table: {out}\nGradebook: {gradebook}\nOpen this page: {page.resolve()}")
