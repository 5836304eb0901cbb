"""Our end of a student's process: asks it for values and for calls, with limits, and believes nothing but numbers."""

from __future__ import annotations

import builtins
import contextlib
import math
import multiprocessing
import os
import pickle
import re
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import psutil

from fedrevive_core.errors import ConfigError
from fedrevive_notebooks.lessons import exercise as verdicts
from reproduce.classroom.plain import BYTES, NotPlain, loads
from reproduce.classroom.student import LEAF, MEGABYTE, Job, main

# A copy of this process where copies are safe; elsewhere a new one, which runs the notebook's cells again.
METHOD = "fork" if sys.platform == "linux" else "spawn"
STALLED = 60  # seconds for the rest of a message that has begun
START = 3600  # seconds, at most, until a new process has run the notebook's own cells
PATIENCE = 10  # times the processor time that an answer may take, it may take by the clock: the computer may be busy
MARKS = 20
CALLS = 20_000  # of a function, at most, that are foreseen


class Ended(BaseException):
    """The process ended, or was ended, without an answer. No check may catch it."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind, self.message = kind, message


class Unreadable(BaseException):
    """The answer or a result of it is no plain data; the message names its type. No check may catch it."""


class Apart:
    """A student's process, as a context manager: whatever it started ends with the block."""

    def __init__(self, job: Job, namespace: dict[str, Any]) -> None:
        self.job, self.namespace = job, namespace
        self.marks: list[str] = []
        self.problem: str | None = None
        self.num_calls = 0
        self.foreseen: list[Any] = []

    def __enter__(self) -> Apart:
        context = multiprocessing.get_context(METHOD)
        self.pipe, theirs = context.Pipe()
        given = self.namespace if METHOD == "fork" else None
        self.process = context.Process(target=main, args=(theirs, self.job, given), daemon=True)  # type: ignore[attr-defined]
        self.process.start()
        theirs.close()
        self.watched = psutil.Process(self.process.pid)
        if hasattr(socket, "AF_UNIX"):  # else a message without its end would keep us waiting
            with socket.socket(fileno=os.dup(self.pipe.fileno())) as end:
                for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                    end.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", STALLED, 0))
        self.deadline, self.most_used = time.monotonic() + START, math.inf
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.pipe.close()

    def stop(self) -> None:
        """End the process and all that it started."""
        with contextlib.suppress(psutil.Error):
            for child in self.watched.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    child.kill()
        if hasattr(os, "killpg"):
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()

    # -- what it says --------------------------------------------------------------------------------------------------

    def answer(self) -> tuple[str, Any]:
        """('value', the value), ('function', one that calls the student's) or ('other', the name of a type)."""
        if self._receive() != ["ready"]:
            raise Ended("error", "the process of this answer did not start")
        self.deadline = time.monotonic() + PATIENCE * self.job.seconds
        self.most_used = self._used() + self.job.seconds
        kind, problem, *value = self._receive()
        self.problem = problem if isinstance(problem, str) else None
        if kind == "function":
            self.foreseen = value[0] if value and isinstance(value[0], list) else []
            return kind, self.call
        if kind not in ("value", "other") or len(value) != 1:
            raise Ended("marked", "it sent what no answer sends")
        return kind, value[0]

    def call(self, *given: Any) -> Any:
        """The result of the student's function, as plain data, with its gradients. Raises what it raised."""
        self.num_calls += 1
        number, leaves = self.num_calls, list[Any]()
        if number <= len(self.foreseen) and same_calls(given, self.job.calls[number - 1]):
            reply = self.foreseen[number - 1]
            if not (isinstance(reply, list) and reply):
                raise Ended("marked", "it sent what no answer sends")
        else:
            packed, leaves = _packed(given)
            try:
                self._order("call", number, packed)
            except (pickle.PicklingError, TypeError, AttributeError):
                raise Unreadable("a call whose arguments cannot be sent") from None
            reply = self._receive()
        kind, *said = reply
        if kind == "raised":
            raise _error(*said)
        if kind == "judged":
            if said[0] == "right":
                raise Ended("marked", "it sent a verdict")
            raise verdicts._Judged(verdicts.Verdict("open" if said[0] == "open" else "wrong", str(said[1])))
        if kind != "result" or len(said) != 3 or not isinstance(said[2], list):
            raise Unreadable(str(said[-1]) if said else kind)
        result, graph, changed = said
        for change in changed:
            _change(given, change)
        return self._with_graph(result, number, leaves) if graph else result

    def _with_graph(self, result: Any, number: int, leaves: list[Any]) -> Any:
        """`result` as a tensor whose gradients the student's process computes."""
        import torch

        def backward(incoming: Any) -> list[Any]:
            self._order("gradient", number, incoming)
            kind, *said = self._receive()
            if kind != "gradients" or not isinstance(said[0], list) or len(said[0]) != len(leaves):
                raise Ended("marked", "it sent what no answer sends")
            return said[0]

        class Remote(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, value: Any, *inputs: Any) -> Any:
                """The value that the student's code gave."""
                return value.clone()

            @staticmethod
            def backward(ctx: Any, incoming: Any) -> Any:
                """The gradients of the inputs, from the student's code."""
                return None, *backward(incoming)

        if not isinstance(result, torch.Tensor) or not result.is_floating_point():
            raise Ended("marked", "it sent what no answer sends")
        if not leaves:  # a graph that does not begin at the arguments
            return result.requires_grad_()
        return Remote.apply(result, *leaves)

    def own_verdict(self) -> verdicts.Verdict:
        """The verdict of our check in the student's process, which could have changed it."""
        self._order("check")
        kind, *said = self._receive()
        if kind != "verdict" or len(said) != 2 or said[0] not in verdicts.SIGNS:
            raise Ended("marked", "it sent what no answer sends")
        return verdicts.Verdict(said[0], str(said[1]))

    def end(self) -> None:
        """Let the process report what it changed while its function was called."""
        self._order("end")
        self._receive()

    def _order(self, *order: Any) -> None:
        raw = pickle.dumps(order)
        try:
            self.pipe.send_bytes(raw)
        except OSError:
            raise self._gone() from None

    def _receive(self) -> list[Any]:
        """The next message that is no mark. Raises Ended."""
        while True:
            while not self.pipe.poll(0.05):
                self._check_memory()
                self._check_time()
            self._check_time()
            try:
                message = loads(self.pipe.recv_bytes(BYTES))
            except (EOFError, OSError):
                raise self._gone() from None
            except NotPlain as error:
                raise Ended("marked", f"it sent {error}") from None
            if not (isinstance(message, list) and message and isinstance(message[0], str)):
                raise Ended("marked", "it sent what no answer sends")
            if message[0] == "ended":
                kinds = ("error", "exit", "memory", "output")
                raise Ended(message[1] if message[1:2] and message[1] in kinds else "marked", str(message[-1]))
            if message[0] != "mark":
                return message
            if len(self.marks) < MARKS:
                self.marks.append(str(message[-1]))

    def _used(self) -> float:
        """Seconds of processor time that the process has taken."""
        with contextlib.suppress(psutil.Error):
            times = self.watched.cpu_times()
            return float(times.user + times.system)
        return 0.0

    def _check_time(self) -> None:
        if self._used() > self.most_used:
            raise self._late()
        if time.monotonic() > self.deadline:
            raise Ended("time", f"it takes longer than {PATIENCE * self.job.seconds:g} seconds, most of them waiting")

    def _late(self) -> Ended:
        return Ended("time", f"it takes longer than {self.job.seconds:g} seconds of processor time")

    def _check_memory(self) -> None:
        with contextlib.suppress(psutil.Error):
            if self.watched.memory_info().rss > psutil.Process().memory_info().rss + self.job.megabytes * MEGABYTE:
                raise Ended("memory", f"more than {self.job.megabytes} MB of memory")

    def _gone(self) -> Ended:
        self.process.join(1)
        code = self.process.exitcode
        if hasattr(signal, "SIGXCPU") and code == -signal.SIGXCPU:
            return self._late()
        how = "sent a message without an end" if code is None else f"ended ({_exit(code)})"
        return Ended("exit", f"its process {how} before the answer was judged")


def _exit(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def same_calls(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Are the arguments of two calls numbers, texts and arrays, and the same?"""
    if len(one) != len(other) or not all(map(_is_simple, one)):
        return False
    return all(type(a) is type(b) and np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def recorded(function: Callable[..., Any], calls: list[tuple[Any, ...]]) -> Callable[..., Any]:
    """`function`, whose calls are noted in `calls` up to the first that passes more than numbers, texts and arrays."""
    simple = True

    @wraps(function)
    def call(*given: Any) -> Any:
        nonlocal simple
        simple = simple and all(map(_is_simple, given)) and len(calls) < CALLS
        if simple:
            last = calls[-1] if calls and len(calls[-1]) == len(given) else (None,) * len(given)
            calls.append(tuple(map(_kept, given, last)))
        return function(*given)

    return call


def _is_simple(value: Any) -> bool:
    return isinstance(value, int | float | str | np.ndarray)


def _kept(value: Any, last: Any) -> Any:
    """`value`, as it is now; an array that is that of the last call takes no more memory."""
    if not isinstance(value, np.ndarray):
        return value
    return last if isinstance(last, np.ndarray) and np.array_equal(last, value) else value.copy()


def _packed(given: tuple[Any, ...]) -> tuple[list[Any], list[Any]]:
    """Arguments as they are sent, with leaves in place of tensors with gradients, and these tensors."""
    torch = sys.modules.get("torch")
    packed, leaves = [], []
    for one in given:
        if torch and isinstance(one, torch.Tensor):
            leaf = one.detach().clone()
            if one.requires_grad:
                leaves.append(one)
                packed.append((LEAF, leaf.requires_grad_(), one.is_leaf))
                continue
            one = leaf
        packed.append(one)
    return packed, leaves


def _change(given: tuple[Any, ...], change: Any) -> None:
    """Change an argument as the student's function changed its copy. Raises Ended for what does not fit."""
    torch = sys.modules.get("torch")
    try:
        place, state = change
        argument = given[place]
        if torch and isinstance(argument, torch.nn.Module):
            tensors, training, trained = state
            names = list(argument.state_dict())
            argument.load_state_dict(dict(zip(names, tensors, strict=True)))
            for part, mode in zip(argument.modules(), training, strict=True):
                part.training = bool(mode)
            for parameter, mode in zip(argument.parameters(), trained, strict=True):
                parameter.requires_grad_(bool(mode))
        elif torch and isinstance(argument, torch.Tensor):
            with torch.no_grad():
                argument.copy_(state)
        else:
            argument[...] = state
    except Exception:
        raise Ended("marked", "it sent what no answer sends") from None


def _error(names: Any, text: Any, ours: Any) -> Exception:
    """An exception of the student's function, with its name, its words, and the kind that a check may look for."""
    if ours is True:
        return ConfigError(str(text))
    known = [name for name in names if isinstance(name, str) and re.fullmatch(r"[A-Za-z_]\w{0,60}", name)]
    kinds = [getattr(builtins, name, None) for name in known]
    base = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Exception)), Exception)
    simple: Callable[..., Any] = type(
        known[0] if known else "Exception", (base,), {"__init__": _take, "__str__": _words}
    )
    error: Exception = simple()
    error.words = str(text)  # type: ignore[attr-defined]
    return error


def _take(self: Any) -> None:
    """Kinds such as UnicodeDecodeError ask for more arguments; what is shown is `words`."""


def _words(self: Any) -> str:
    return str(self.words)
