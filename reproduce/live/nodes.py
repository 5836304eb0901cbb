"""Clients as the nodes of a grid, such as Flower's: machines that join, answer messages, and may be gone at any time.

A node is asked who it is as soon as it is there, and then gets jobs. A reply counts if it answers a message that is
still open, and comes from the node that got it; so a node speaks for itself only. A client is one node at a time.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from fedrevive_core.config import RunConfig
from reproduce.live.messages import NOBODY, Event, check_hello
from reproduce.live.wire import WORDS_LIMIT, pack, unpack

ABSENT = 900.0  # seconds after which nobody waits for a client any more
LOOK = 1.0  # seconds between two looks at who is there
MOST_FAILURES = 5  # times in a row that a node is asked and fails
PAUSE = 2.0  # seconds before a node that failed is asked again
POLL = 0.1  # seconds between two looks for replies
SPARE = 60.0  # seconds that the grid keeps a message longer than we do, so that we are the first to say so
START = 900.0  # seconds that a node has to say who it is: it may have to load much first
SERVER = None  # the sender of a reply that says that there is none of the node


class Reply(NamedTuple):
    """What came back: `answers` is the id of a message, `node` the sender or SERVER; error: '' or why there is none."""

    answers: str
    node: int | None
    message: bytes = b""
    error: str = ""


class Grid(Protocol):
    """What carries messages to nodes and back."""

    def nodes(self) -> set[int]:
        """Nodes that are there."""

    def push(self, node: int, message: bytes, seconds: float) -> str:
        """Send `message`, which nobody needs after some `seconds`; returns its id, or '' if it is refused."""

    def pull(self, ids: Sequence[str], limit: int) -> list[Reply]:
        """Replies to the messages of these ids that have come since; one of more than `limit` bytes is an error."""


class Asked(NamedTuple):
    """An open message: what `node` is to do (the number of a job, or None: say who it is), and until when."""

    node: int
    job: int | None
    until: float


class Nodes:
    """The transport to the nodes of `grid`; see `Transport`.

    Args:
        config: of the run. data: fingerprint of its data. size: numbers in a state. timeout: seconds that a job may
            take.
    """

    def __init__(self, grid: Grid, config: RunConfig, data: str, size: int, timeout: float) -> None:
        self.grid, self.config, self.data, self.timeout = grid, config, data, timeout
        self.limit = 4 * size + WORDS_LIMIT
        self.known: set[int] = set()
        self.to_ask: dict[int, float] = {}  # when to ask a node who it is
        self.asked: dict[str, Asked] = {}  # by the id of the message
        self.waiting: dict[int, int] = {}  # client by node, for those that are accepted while another has their place
        self.holders: dict[int, int] = {}  # node by client, for those that have joined
        self.failures: Counter[int] = Counter()
        self.missing = dict.fromkeys(range(config.federation.num_clients), time.monotonic())  # since when, by client
        self.events: list[Event] = []
        self.looked = -math.inf

    @property
    def given_up(self) -> list[int]:
        """Clients that have not been there for long."""
        return [client for client, since in self.missing.items() if since < time.monotonic() - ABSENT]

    def send(self, client: int, job: int, state: bytes) -> None:
        """See `Transport`."""
        if Event(client, "gone") in [event._replace(why="") for event in self.events]:
            return  # which says that the job is lost
        node = self.holders[client]
        if not self._ask(node, job, pack({"job": job}, state)):
            self._fail(node, "the grid refused its job")

    def wait(self, seconds: float) -> list[Event]:
        """See `Transport`."""
        latest = time.monotonic() + seconds
        while not self.events:
            if time.monotonic() >= self.looked + LOOK:
                self._look()
            for reply in self.grid.pull(list(self.asked), self.limit) if self.asked else ():
                self._take(reply)
            if not self.events:
                if time.monotonic() >= latest:
                    return []
                time.sleep(POLL)
        return [self.events.pop(0)]  # one by one: who gets it may send a job before the next

    def drop(self, client: int, why: str) -> None:
        """See `Transport`."""
        if client in self.holders:
            self._fail(self.holders[client], why)

    def close(self) -> None:
        """See `Transport`; nodes belong to the grid, which may have other work for them."""

    def _ask(self, node: int, job: int | None, message: bytes) -> bool:
        seconds = START if job is None else self.timeout
        if name := self.grid.push(node, message, seconds + SPARE):
            self.asked[name] = Asked(node, job, time.monotonic() + seconds)
        return bool(name)

    def _look(self) -> None:
        """Notice who has come and gone, and ask those who they are that have not said so."""
        self.looked = now = time.monotonic()
        there = self.grid.nodes()
        for node in self.known - there:
            self._part(node, "its node is not there any more")
            self.failures.pop(node, None)
        self.to_ask |= dict.fromkeys(there - self.known, now)
        self.known = there
        for asked in list(self.asked.values()):
            if asked.job is None and asked.until < now:
                self._fail(asked.node, f"it has not said who it is for {START:g} seconds")
        for node in [node for node, when in self.to_ask.items() if when <= now]:
            del self.to_ask[node]
            if not self._ask(node, None, pack({"hello": True})):
                self._fail(node, "the grid refused the first message to it")

    def _take(self, reply: Reply) -> None:
        """Process a reply; one to a message that is not open, or of another node, is passed over."""
        asked = self.asked.get(reply.answers)
        if asked is None or reply.node not in (asked.node, SERVER):
            return
        del self.asked[reply.answers]
        try:
            if reply.error:
                raise ValueError(reply.error)
            words, state = unpack(reply.message)
            if asked.job is None:
                self._accept(asked.node, words)
            elif words.get("job") != asked.job:
                raise ValueError("it answers a job that it does not have")
            else:
                self.failures.pop(asked.node, None)
                client = next(client for client, node in self.holders.items() if node == asked.node)
                self.events.append(Event(client, "result", state))
        except ValueError as error:
            self._fail(asked.node, f"{error!s:.300}")

    def _accept(self, node: int, words: Mapping[str, Any]) -> None:
        """Let a node be the client that it says it is, or refuse it for good."""
        client = words.get("client")
        if type(client) is not int or not 0 <= client < self.config.federation.num_clients:
            client, why = NOBODY, f"it calls itself client {words.get('client')!r:.20}, which the run does not have"
        else:
            why = check_hello(words, client, self.config, self.data)
        if why:
            self.failures[node] = MOST_FAILURES
            self.events.append(Event(client, "refused", why=why))
        elif client in self.holders:
            self.waiting[node] = client
            self.events.append(Event(client, "refused", why="another node has its place; this one waits"))
        else:
            self._join(node, client)

    def _join(self, node: int, client: int) -> None:
        self.holders[client] = node
        del self.missing[client]
        self.events.append(Event(client, "joined"))

    def _fail(self, node: int, why: str) -> None:
        """Part with a node, and ask it again after a pause, unless it has failed too often."""
        self._part(node, why, refused=True)
        self.failures[node] += 1
        if self.failures[node] < MOST_FAILURES:
            self.to_ask[node] = time.monotonic() + PAUSE

    def _part(self, node: int, why: str, *, refused: bool = False) -> None:
        """Forget all that is open with a node; another one that waits for its place gets it."""
        self.to_ask.pop(node, None)
        self.waiting.pop(node, None)
        self.asked = {name: asked for name, asked in self.asked.items() if asked.node != node}
        client = next((client for client, holder in self.holders.items() if holder == node), NOBODY)
        if client == NOBODY:
            if refused:
                self.events.append(Event(NOBODY, "refused", why=why))
            return
        del self.holders[client]
        self.missing[client] = time.monotonic()
        self.events.append(Event(client, "gone", why=why))
        if (other := next((other for other, wanted in self.waiting.items() if wanted == client), None)) is not None:
            del self.waiting[other]
            self._join(other, client)
