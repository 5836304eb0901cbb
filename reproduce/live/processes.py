"""Clients as processes of this machine, each with a pipe of its own.

One thread a client reads and writes its pipe, so that a client that stops in the middle of a message holds up nobody;
it keeps one message at most. Who is at the other end of a pipe is known, so no client can speak for another.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from threading import Thread

from fedrevive_core.config import RunConfig
from reproduce.live import client as client_program
from reproduce.live.messages import Event, check_hello
from reproduce.live.wire import WORDS_LIMIT, pack, unpack

START = 900.0  # seconds within which a client must have said hello
PAUSE = 2.0  # seconds before a client that is gone is started again
MOST_FAILURES = 5  # times in a row that a client is started and gone without a result
MOST_STRAY = 10  # answers to other jobs that a client may send in a row


class Client:
    """One process, its pipe, and the thread that serves it; `events` gets what happens."""

    def __init__(
        self, number: int, config: RunConfig, data: str, slowdown: float, size: int, events: queue.Queue[Event]
    ):
        self.number, self.config, self.data, self.events = number, config, data, events
        self.limit = 4 * size + WORDS_LIMIT
        self.jobs: queue.Queue[tuple[int, bytes] | None] = queue.Queue(1)
        self.why, self.joined, self.started = "its process has ended", False, time.monotonic()
        self.refused = False  # it will not be better next time
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        arguments = (theirs, config.to_dict(), number, slowdown)
        self.process: SpawnProcess = context.Process(target=client_program.main, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        self.thread = Thread(target=self._serve, args=(self.pipe,), daemon=True)
        self.thread.start()

    def _serve(self, pipe: Connection) -> None:
        try:
            words, _ = unpack(pipe.recv_bytes(self.limit))
            if why := check_hello(words, self.number, self.config, self.data):
                self.refused = True
                raise ValueError(why)
            self.joined = True
            self.events.put(Event(self.number, "joined"))
            while (asked := self._next_job()) is not None:
                job, state = asked
                pipe.send_bytes(pack({"job": job}, state))
                self.events.put(Event(self.number, "result", self._answer(pipe, job)))
        except ValueError as error:
            self.why = str(error)
        except (EOFError, OSError) as error:
            if isinstance(error, OSError) and error.errno is None:  # the pipe refused to read it
                self.why = f"it sent a message of more than {self.limit:,} bytes"
        self.process.kill()
        self.process.join()
        pipe.close()
        self.events.put(Event(self.number, "gone", why=self.why))

    def _next_job(self) -> tuple[int, bytes] | None:
        """The next job; None at the end. Raises EOFError if the process has ended meanwhile."""
        while True:
            try:
                return self.jobs.get(timeout=1)
            except queue.Empty:
                if not self.process.is_alive():
                    raise EOFError from None

    def _answer(self, pipe: Connection, job: int) -> bytes:
        """The state that answers `job`; answers to other jobs, such as a result that is sent twice, are passed over."""
        for _ in range(MOST_STRAY):
            words, state = unpack(pipe.recv_bytes(self.limit))
            if words.get("job") == job:
                return state
        raise ValueError(f"it answers jobs that it does not have, {MOST_STRAY} times in a row")

    def end(self, why: str) -> None:
        """End the process; its thread says that it is gone."""
        self.why = why
        self.process.kill()
        with suppress(queue.Full):  # its thread is about to write to a pipe that has no reader any more
            self.jobs.put_nowait(None)


class Processes:
    """The transport to `len(slowdowns)` processes; see `Transport`. One that is gone is started again after a pause.

    Args:
        config: of the run. data: fingerprint of its data. slowdowns: how many times as long as necessary each client
            takes. size: numbers in a state.
    """

    def __init__(
        self, config: RunConfig, data: str, slowdowns: Sequence[float], size: int, pause: float = PAUSE
    ) -> None:
        self.config, self.data, self.slowdowns, self.size, self.pause = config, data, slowdowns, size, pause
        self.events: queue.Queue[Event] = queue.Queue()
        self.failures = dict.fromkeys(range(len(slowdowns)), 0)
        self.again: dict[int, float] = {}  # when to start a client again
        self.clients = {number: self._start(number) for number in self.failures}

    def _start(self, number: int) -> Client:
        return Client(number, self.config, self.data, self.slowdowns[number], self.size, self.events)

    @property
    def given_up(self) -> list[int]:
        """Clients that are not started again."""
        return [number for number, count in self.failures.items() if count >= MOST_FAILURES]

    def send(self, client: int, job: int, state: bytes) -> None:
        """See `Transport`."""
        self.clients[client].jobs.put((job, state))

    def wait(self, seconds: float) -> list[Event]:
        """See `Transport`."""
        now = time.monotonic()
        for number in [number for number, when in self.again.items() if when <= now]:
            del self.again[number]
            self.clients[number] = self._start(number)
        for client in self.clients.values():
            if not client.joined and client.started < now - START and client.number not in self.again:
                client.end(f"it did not begin within {START:g} seconds")
        events = []
        try:
            events.append(self.events.get(timeout=min([seconds, *(when - now for when in self.again.values())])))
            for _ in range(len(self.clients)):  # what others have to say by now: no client waits longer than a round
                events.append(self.events.get_nowait())
        except queue.Empty:
            pass
        for event in events:
            if event.kind == "result":
                self.failures[event.client] = 0
            elif event.kind == "gone":
                refused = self.clients[event.client].refused
                self.failures[event.client] = MOST_FAILURES if refused else self.failures[event.client] + 1
                if self.failures[event.client] < MOST_FAILURES:
                    self.again[event.client] = time.monotonic() + self.pause
        return events

    def drop(self, client: int, why: str) -> None:
        """See `Transport`."""
        self.clients[client].end(why)

    def close(self) -> None:
        """See `Transport`."""
        for client in self.clients.values():
            client.end("the server has ended")
        for client in self.clients.values():
            client.thread.join(10)
