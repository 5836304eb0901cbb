"""Where the runs of a sweep are carried out: processes of this machine, or tasks of a Ray cluster (ray_engine.py)."""

from __future__ import annotations

import multiprocessing
import signal
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Protocol

from reproduce.sweeps.worker import Run, main


class Engine(Protocol):
    """Carries out runs; what ends is reported by `wait` as (run, what went wrong or None)."""

    out: Path

    @property
    def device(self) -> str:
        """Kind of device that runs get: 'cpu' or 'cuda'."""

    @property
    def slots(self) -> int:
        """Runs that may be started at a time."""

    @property
    def running(self) -> list[Run]:
        """What was started and has not been reported."""

    def start(self, run: Run) -> None:
        """Begin with `run`, from its checkpoint if there is one."""

    def wait(self, seconds: float) -> list[tuple[Run, str | None]]:
        """What has ended, as soon as something has, or after `seconds`."""

    def stop(self) -> None:
        """Let everything that runs write a checkpoint and end."""


class LocalExecutor:
    """Up to `slots` processes of this machine, one for each run."""

    def __init__(self, out: Path, slots: int) -> None:
        self.out, self.slots = out, slots
        self.processes: dict[int, tuple[Run, SpawnProcess, Connection]] = {}  # by sentinel

    @property
    def device(self) -> str:
        from fedrevive_core.simulation import pick_device

        return pick_device("auto").type

    @property
    def running(self) -> list[Run]:
        return [run for run, _, _ in self.processes.values()]

    def start(self, run: Run) -> None:
        # A fresh interpreter: nothing that this process has imported or set can change the run.
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=main, args=(run, self.out, sender), name=run.name)
        # Ctrl-C in a terminal reaches all processes; `stop` alone tells the workers, when they are able to listen.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        sender.close()
        self.processes[process.sentinel] = (run, process, receiver)

    def wait(self, seconds: float) -> list[tuple[Run, str | None]]:
        # The pipes too: a long traceback would otherwise keep its worker from ending.
        by_handle: dict[Any, int] = {sentinel: sentinel for sentinel in self.processes}
        by_handle |= {receiver: sentinel for sentinel, (_, _, receiver) in self.processes.items()}
        return [
            self._collect(sentinel) for sentinel in {by_handle[handle] for handle in wait(list(by_handle), seconds)}
        ]

    def _collect(self, sentinel: int) -> tuple[Run, str | None]:
        run, process, receiver = self.processes.pop(sentinel)
        try:
            outcome = receiver.recv()
            process.join()
        except EOFError:
            process.join()
            code = process.exitcode or 0
            how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            outcome = f"The process of this run {how} before it could say why"
        receiver.close()
        process.close()
        return run, outcome

    def stop(self) -> None:
        for _, process, _ in self.processes.values():
            process.terminate()
        while self.processes:
            self.wait(60)
