"""Where the runs of a sweep happen: in processes of this machine, or as tasks of a Ray cluster (ray_executor.py)."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Protocol

import psutil

from reproduce.sweeps.worker import CellRun, main


class Executor(Protocol):
    """Does runs; `wait` reports each that ended as (run, what went wrong or None)."""

    out: Path

    @property
    def device(self) -> str:
        """Kind of device that runs get: 'cpu' or 'cuda'."""

    @property
    def slots(self) -> int:
        """How many runs may happen at a time."""

    @property
    def running(self) -> list[CellRun]:
        """The runs that were started and not yet reported."""

    def start(self, run: CellRun) -> None:
        """Start `run`, from its checkpoint if there is one."""

    def wait(self, seconds: float) -> list[tuple[CellRun, str | None]]:
        """Wait until a run ends, `seconds` at most. Returns the runs that ended."""

    def stop(self) -> None:
        """Let every run write a checkpoint and end."""


class LocalExecutor:
    """Up to `slots` processes of this machine, one for each run; None: one for each core, or one at a time on a GPU."""

    def __init__(self, out: Path, slots: int | None = None) -> None:
        self.out = out
        self.slots = slots or (num_cores() if self.device == "cpu" else 1)
        self.processes: dict[int, tuple[CellRun, SpawnProcess, Connection]] = {}  # by sentinel

    @property
    def device(self) -> str:
        """Kind of device that runs get: 'cpu' or 'cuda'."""
        from fedrevive_core.simulation import pick_device

        return pick_device("auto").type

    @property
    def running(self) -> list[CellRun]:
        """The runs that were started and not yet reported."""
        return [run for run, _, _ in self.processes.values()]

    def start(self, run: CellRun) -> None:
        """Start `run` in a fresh interpreter: nothing that this process imported or set can change the run."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=main, args=(run, self.out, theirs), name=run.name)
        with _ctrl_c_blocked():
            process.start()
        theirs.close()
        self.processes[process.sentinel] = (run, process, ours)

    def wait(self, seconds: float) -> list[tuple[CellRun, str | None]]:
        """Wait until a run ends, `seconds` at most. Returns the runs that ended."""
        # The pipes too: a long traceback would otherwise keep its worker from ending.
        by_handle: dict[Any, int] = {sentinel: sentinel for sentinel in self.processes}
        by_handle |= {pipe: sentinel for sentinel, (_, _, pipe) in self.processes.items()}
        return [
            self._collect(sentinel) for sentinel in {by_handle[handle] for handle in wait(list(by_handle), seconds)}
        ]

    def _collect(self, sentinel: int) -> tuple[CellRun, str | None]:
        run, process, pipe = self.processes.pop(sentinel)
        try:
            outcome = pipe.recv()
            process.join()
        except (EOFError, ConnectionError):  # a pipe of a process that was killed may also be reset
            process.join()
            code = process.exitcode or 0
            how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            outcome = f"The process of this run {how} before it could say why"
        pipe.close()
        process.close()
        return run, outcome

    def stop(self) -> None:
        """Let every run write a checkpoint and end."""
        for _, _, pipe in self.processes.values():
            # A message, because terminate() of Windows kills at once: no handler would write a checkpoint.
            with contextlib.suppress(OSError):  # the process has ended already
                pipe.send("stop")
        while self.processes:
            self.wait(60)


def num_cores() -> int:
    """Physical cores that this process may use. A second thread of a core gains little here."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or allowed, allowed))


@contextlib.contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Processes that are started here do not get Ctrl-C, which reaches all processes of a terminal.

    `stop` alone tells them, once they are able to write a checkpoint. Windows cannot block a signal: there a run that
    Ctrl-C reaches writes its checkpoint without being asked, and one that has not begun has nothing to write.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
