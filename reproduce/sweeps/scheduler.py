"""Which run starts when: as many at a time as the executor has slots; a failed run once more; and signals to stop."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from fedrevive_core.errors import Interrupted, stop_signals
from reproduce.sweeps.executors import Executor
from reproduce.sweeps.worker import CellRun


class Event(NamedTuple):
    """Something happened to `run`: 'started', 'done', 'retried' or 'failed'; `problem` says why."""

    run: CellRun
    kind: str
    problem: str = ""


def run_all(
    runs: Iterable[CellRun],
    executor: Executor,
    report: Callable[[Event], None],
    tick: Callable[[], None] = lambda: None,
) -> dict[str, str]:
    """Do all `runs`. Returns the problem of each run that failed, by name.

    A run that fails is tried once more, from its checkpoint. `report` gets every event; `tick` is called about twice
    a second. On SIGINT or SIGTERM the runs in progress write checkpoints. Raises Interrupted then.
    """
    waiting, tried, failed = deque(runs), Counter[str](), {}
    for run in waiting:
        run.failure_path(executor.out).unlink(missing_ok=True)
    with stop_signals() as received:
        while waiting or executor.running:
            if received:
                executor.stop()
                raise Interrupted(received[0], str(executor.out))
            while waiting and len(executor.running) < executor.slots:
                run = waiting.popleft()
                executor.start(run)
                report(Event(run, "started"))
            for run, problem in executor.wait(0.5):
                tried[run.name] += 1
                if problem is None:
                    report(Event(run, "done"))
                elif received:
                    waiting.append(run)  # the signal reached it too: no failure
                elif tried[run.name] == 1:
                    report(Event(run, "retried", problem))
                    waiting.append(run)
                else:
                    failed[run.name] = problem
                    _keep(run.failure_path(executor.out), problem)
                    report(Event(run, "failed", problem))
            tick()
    return failed


def _keep(path: Path, problem: str) -> None:
    try:
        path.write_text(problem.rstrip() + "\n", encoding="utf-8")
    except OSError as error:  # the disk that stopped the run is still full
        print(f"{path} could not be written ({error.strerror})", file=sys.stderr)
