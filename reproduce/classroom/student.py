"""The process in which a student's code runs: confined, watched, and able to say nothing but plain data.

It is one for each answer, and ends with it. On Linux it is a copy of the process that ran the notebook's own cells;
elsewhere it runs them again. An audit hook refuses what no answer needs, and reports it at once. This is a fence and
not a prison: see docs/CLASSROOM.md.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import pickle
import re
import signal
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from fedrevive_notebooks.lessons import exercise as verdicts
from reproduce.classroom.course import uses
from reproduce.classroom.ours import cells_until
from reproduce.classroom.plain import BYTES, NotPlain, dumps

PRINTED = 1_000_000  # letters that an answer may print
MEGABYTE = 2**20
MAGIC = re.compile(r"^[ \t]*[%!].*$", re.MULTILINE)  # IPython's, which plain Python does not know
OURS = ("fedrevive_notebooks", "fedrevive_core")
REFUSED = {
    "start or end a process": {
        "os.exec", "os.fork", "os.forkpty", "os.kill", "os.killpg", "os.posix_spawn", "os.spawn", "os.startfile",
        "os.system", "pty.spawn", "signal.pthread_kill", "subprocess.Popen",
    },
    "use the network": {
        "socket.bind", "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendmsg",
        "socket.sendto", "urllib.Request",
    },
    "reach into the interpreter": {
        "ctypes.addressof", "ctypes.cdata", "ctypes.dlopen", "ctypes.dlsym", "gc.get_objects", "gc.get_referents",
        "gc.get_referrers", "resource.prlimit", "resource.setrlimit", "sys._current_frames",
    },
}  # fmt: skip
LISTS = {"os.listdir", "os.scandir"}
CHANGES = {
    "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate",
    "shutil.move", "shutil.rmtree",
}  # fmt: skip
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Job:
    """What one process does: the answer to one exercise, after the student's answers before it."""

    notebook: str
    seed: int | None
    at: int  # position of the cell with the check
    name: str
    check: str
    sources: tuple[str, ...]
    earlier: tuple[tuple[str, ...], ...]
    scratch: str  # a directory of its own
    private: tuple[str, ...]  # directories that it must not read
    seconds: float  # of processor time
    megabytes: int
    calls: tuple[tuple[Any, ...], ...] = ()  # arguments with which the check is likely to call a function, in order


def main(pipe: Connection, job: Job, namespace: dict[str, Any] | None) -> None:
    """Run the answer, say what it is, and serve calls until the end; `namespace` None: run the notebook first."""
    if namespace is None:
        words = uses("\n".join([*job.sources, *(source for sources in job.earlier for source in sources)]))
        ((_, namespace),) = cells_until(job.notebook, job.seed, [job.at], words)
    _confine(pipe, job)
    process = _Process(pipe, job, namespace)
    process.say("ready")
    sys.addaudithook(process.audited)
    try:
        process.run()
        process.serve()
    except MemoryError:
        process.end("memory", f"more than {job.megabytes} MB of memory")
    except (SystemExit, KeyboardInterrupt):
        process.end("exit", "the answer ends the program: leave out exit() and quit()")
    finally:
        os._exit(0)


def _confine(pipe: Connection, job: Job) -> None:
    """Close what belongs to others, and set the limits that the system can keep."""
    os.chdir(job.scratch)
    os.environ.update(HOME=job.scratch, USERPROFILE=job.scratch, TMPDIR=job.scratch, TEMP=job.scratch)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # else torch.random.fork_rng loads a library, which the hook refuses
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    if hasattr(os, "setsid"):
        os.setsid()
        parent = os.getppid()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.closerange(3, pipe.fileno())  # above all, the pipes by which verdicts are reported
        os.closerange(pipe.fileno() + 1, os.sysconf("SC_OPEN_MAX") if hasattr(os, "sysconf") else 4096)

        def follow() -> None:
            while os.getppid() == parent:
                time.sleep(1)
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()
    with contextlib.suppress(ImportError):
        import resource

        import psutil

        memory = psutil.Process().memory_info().vms + job.megabytes * MEGABYTE
        cpu = int(time.process_time() + job.seconds) + 5  # the other process is earlier
        for limit, most in (("AS", memory), ("CPU", cpu), ("FSIZE", 16 * MEGABYTE), ("CORE", 0)):
            with contextlib.suppress(ValueError, OSError):  # a system that does not know it, or allows less
                resource.setrlimit(getattr(resource, f"RLIMIT_{limit}"), (most, most))


class _Printed(io.TextIOBase):
    """Standard output: counts, and ends the process that prints without end."""

    def __init__(self, process: _Process) -> None:
        self.process, self.count = process, 0

    def write(self, text: str) -> int:
        self.count += len(text)
        if self.count > PRINTED:
            self.process.end("output", f"it prints more than {PRINTED:,} letters")
        return len(text)


class _Process:
    def __init__(self, pipe: Connection, job: Job, namespace: dict[str, Any]) -> None:
        self.pipe, self.job, self.namespace = pipe, job, namespace
        self.counts = False  # are refused actions reported? Not those of an earlier exercise
        self.marks = 0
        self.answer: Any = None
        self.kept: dict[int, tuple[Any, list[Any]]] = {}
        self.before = _attributes()
        self.scratch = os.path.realpath(job.scratch)
        self.private = [os.path.realpath(path) for path in job.private]
        self.public = os.path.realpath(Path(verdicts.__file__).parent.parent / "records")
        sys.stdout = sys.stderr = _Printed(self)

    def say(self, *message: Any) -> None:
        self.pipe.send_bytes(dumps(list(message)))

    def end(self, kind: str, message: str) -> None:
        """Say how it ended, and end at once."""
        with contextlib.suppress(OSError):
            self.say("ended", kind, message)
        os._exit(0)

    def mark(self, words: str) -> None:
        """Report what no honest answer does."""
        if self.counts and self.marks < 20:
            self.marks += 1
            self.say("mark", words)

    def audited(self, event: str, given: tuple[Any, ...]) -> None:
        """The audit hook. Raises PermissionError for what is refused."""
        for what, events in REFUSED.items():
            if event in events:
                self.refuse(f"tried to {what} ({event})")
        if event == "object.__setattr__" and given[1] == "__code__":
            self.refuse("tried to replace the code of a function")
        if event == "open" and given and isinstance(given[0], str | bytes | os.PathLike):
            mode, flags = given[1], given[2]
            writes = any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool(flags & WRITES)
            self.touched(given[0], writes)
        elif event in LISTS and given and isinstance(given[0], str | bytes | os.PathLike):
            self.touched(given[0], False)
        elif event in CHANGES:
            for path in given:
                if isinstance(path, str | bytes | os.PathLike):
                    self.touched(path, True)

    def touched(self, path: Any, writes: bool) -> None:
        real = os.path.realpath(os.fsdecode(path))
        if _inside(real, self.scratch) or real == os.devnull:
            return
        if writes:
            self.refuse(f"tried to write outside of its folder ({os.path.basename(real)[:60]})")
        process = re.match(r"/proc/(\d+)", real)
        if process and int(process[1]) != os.getpid():
            self.refuse("tried to look into another process")
        if any(_inside(real, place) for place in self.private) and not _inside(real, self.public):
            self.refuse(f"tried to read solutions or checks ({os.path.basename(real)[:60]})")

    def refuse(self, words: str) -> None:
        self.mark(words)
        raise PermissionError(f"not allowed here: it {words}")

    # -- the answer ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run the cells, and say what the answer is."""
        for sources in self.job.earlier:
            with contextlib.suppress(BaseException):
                for source in sources:
                    _execute(source, self.namespace)
        self.counts, self.namespace[self.job.name] = True, None
        problem = None
        try:
            for source in self.job.sources:
                _execute(source, self.namespace)
        except (MemoryError, SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            problem = _said(error)
        self.answer = self.namespace.get(self.job.name)
        self.look_for_changes()
        if problem is not None and self.answer is None:
            self.end("error", problem)
        torch = sys.modules.get("torch")
        if callable(self.answer) and not (torch and isinstance(self.answer, torch.nn.Module)):
            return self.say("function", problem, self.foreseen())
        try:
            self.say("value", problem, self.answer)
        except NotPlain as error:
            self.say("other", problem, str(error))

    def look_for_changes(self) -> None:
        """Report attributes of our modules, and built-in names, that the student's code replaced."""
        for (module, name), value in _attributes().items():
            if self.before.get((module, name), value) is not value:
                self.mark(f"replaced {module}.{name}")
                self.before[module, name] = value

    def serve(self) -> None:
        """Do what our process asks for; it is the only one that holds the other end of the pipe."""
        while True:
            order, *given = pickle.loads(self.pipe.recv_bytes())
            if order == "call":
                self.say(*self.reply(*given))
            elif order == "gradient":
                self.gradient(*given)
            elif order == "check":
                verdict = eval(self.job.check, self.namespace | {self.job.name: self.answer})
                self.look_for_changes()
                self.say("verdict", verdict.kind, verdict.message)
            else:
                self.look_for_changes()
                self.say("end")
                return

    def foreseen(self) -> list[Any]:
        """What the calls say that are likely to come: thousands of messages, on a busy computer, would take long."""
        replies, size = [], 0
        for number, given in enumerate(self.job.calls, 1):
            reply = self.reply(number, [one.copy() if isinstance(one, np.ndarray) else one for one in given])
            size += len(dumps(reply))
            if size > BYTES // 4:
                break
            replies.append(reply)
            if reply[0] != "result":
                break
        return replies

    def reply(self, number: int, given: list[Any]) -> list[Any]:
        """Call the student's function; what there is to say of its result, and of arguments that it changed."""
        leaves = [one[1] for one in given if isinstance(one, tuple) and one[:1] == (LEAF,)]
        given = [one[1] if one[2] else one[1].clone() for one in map(_argument, given)]
        images = [_image(one) for one in given]
        try:
            result = verdicts.a_function(self.answer)(*given)
        except verdicts._Judged as judged:
            return ["judged", judged.verdict.kind, judged.verdict.message]
        except (MemoryError, SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            names = [kind.__name__ for kind in type(error).__mro__]
            return ["raised", names, str(error)[:1000], isinstance(error, verdicts.ConfigError)]
        changed = [[n, _state(one)] for n, one in enumerate(given) if _image(one) != images[n]]
        graph = bool(getattr(result, "requires_grad", False))
        if graph and leaves:
            self.kept[number] = result, leaves
        reply = ["result", result, graph, changed]
        try:
            dumps(reply)
        except NotPlain as error:
            return ["other", None, str(error)]
        return reply

    def gradient(self, number: int, incoming: Any) -> None:
        import torch

        result, leaves = self.kept[number]
        found = torch.autograd.grad(result, leaves, incoming, retain_graph=True, allow_unused=True)
        self.say("gradients", list(found))


LEAF = "leaf"  # of a graph of gradients: (LEAF, tensor, is the argument this leaf itself?)


def _argument(one: Any) -> tuple[str, Any, bool]:
    return one if isinstance(one, tuple) and one[:1] == (LEAF,) else ("", one, True)


def _execute(source: str, namespace: dict[str, Any]) -> None:
    exec(compile(MAGIC.sub("", source), "<answer>", "exec"), namespace)


def _said(error: BaseException) -> str:
    return f"Python says: {type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"


def _attributes() -> dict[tuple[str, str], Any]:
    """What a dishonest answer would replace: every attribute of our modules, and the built-in names."""
    modules: dict[str, Any] = {name: m for name, m in sys.modules.items() if m and name.split(".")[0] in OURS}
    found = {(name, key): value for name, module in modules.items() for key, value in vars(module).items()}
    return found | {("builtins", key): value for key, value in vars(builtins).items() if key != "_"}


def _inside(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip(os.sep) + os.sep)


def _state(value: Any) -> Any:
    """What a function may change in an argument, as plain data."""
    torch = sys.modules.get("torch")
    if torch and isinstance(value, torch.nn.Module):
        trained = [parameter.requires_grad for parameter in value.parameters()]
        return [list(value.state_dict().values()), [part.training for part in value.modules()], trained]
    return value


def _image(value: Any) -> bytes | None:
    """Bytes that differ if `value` was changed; None for what is passed by value."""
    torch = sys.modules.get("torch")
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if torch and isinstance(value, torch.Tensor | torch.nn.Module):
        return dumps(_state(value))
    return None
