"""The door of the program: every command goes through `main`, and whatever happens leaves as one sentence and a code.

0: done. 1: the work failed, or a mistake of this program. 2: something that the user can put right. 128 + number: a
signal. Before the door is open nothing is imported that takes time, so that Ctrl-C ends the program quietly also while
PyTorch is loaded.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from threading import current_thread, main_thread
from types import FrameType

LONGEST = 10_000  # letters of an argument
TRACEBACK = "FEDREVIVE_TRACEBACK"  # set: mistakes of ours keep their tracebacks, as in tests
OURS = ("fedrevive_core", "reproduce")


def main() -> None:
    """Run the command line and end the program with its exit code."""
    with _ctrl_c() as received:
        try:
            code = _run()
        except BaseException as error:
            code = _explained(KeyboardInterrupt() if received else error)
        sys.exit(_flushed(code))


def _run() -> int:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by who started this
            setattr(sys, name, io.StringIO())
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a console without Greek letters shows '?' in their place
    # Figures are drawn into files. A backend that does not exist would stop the import of Matplotlib.
    os.environ.pop("MPLBACKEND", None)
    for name in ("SIGTERM", "SIGHUP"):  # end as on Ctrl-C, so that what is unfinished is removed
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and current_thread() is main_thread() and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    check_arguments(sys.argv[1:])
    from reproduce.cli.app import app

    try:
        app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def check_arguments(arguments: list[str]) -> None:
    """Raise ConfigError for an argument that no command can use, whichever option it belongs to."""
    from fedrevive_core.errors import ConfigError

    for argument in arguments:
        if len(argument) > LONGEST:
            raise ConfigError(f"'{argument[:40]}...' has {len(argument):,} letters: at most {LONGEST:,} are allowed")
        if any(letter < " " or letter == "\x7f" or "\ud800" <= letter <= "\udfff" for letter in argument):
            raise ConfigError(f"{argument!r} has a line break, a control character or a byte that is not UTF-8")


def _explained(error: BaseException) -> int:
    """Say in one sentence what `error` means, and return the exit code; a mistake of ours is raised with TRACEBACK."""
    from fedrevive_core.errors import ConfigError, Interrupted

    if isinstance(error, KeyboardInterrupt):
        _say("stopped")
        return 128 + signal.SIGINT
    if isinstance(error, Interrupted):
        from reproduce.console import command_line

        again = command_line() + ("" if "--resume" in sys.argv else " --resume")
        _say(f"stopped by signal {error.signal}; resume with:\n{again}")
        return 128 + error.signal
    if isinstance(error, BrokenPipeError):
        return _BROKEN_PIPE
    if isinstance(error, ConfigError):
        _say(f"error: {error}")
        return 2
    if isinstance(error, MemoryError):
        sentence = f"not enough memory ({error}): choose fewer clients, or a smaller model or pool"
    elif isinstance(error, OSError):
        place = "" if error.filename is None else f": '{error.filename}'"
        sentence = f"{error.strerror or error}{place}"
    elif isinstance(error, ImportError) and (error.name or "").split(".")[0] not in OURS:
        sentence = f"the installation is incomplete ({error}): pip install -e . , then `doctor` says what is missing"
    else:
        if os.environ.get(TRACEBACK):
            raise error
        _say(
            f"error: a mistake of this program, not yours: {type(error).__name__}: {error} ({_place(error)}). "
            f"Run the same command with the environment variable {TRACEBACK}=1 for a full report"
        )
        return 1
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    _say(f"error: {sentence}")
    return 2


_BROKEN_PIPE = 141  # 128 + SIGPIPE, which Windows does not have


def _place(error: BaseException) -> str:
    """The last line of ours that `error` came through."""
    root = Path(__file__).parents[2]
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(root)]
    return ", ".join(f"{Path(frame.filename).relative_to(root)}, line {frame.lineno}" for frame in own[-1:])


def _say(text: str) -> None:
    """Print on standard error, if that is possible; control characters are shown, and very long words cut."""
    shown = "".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text)
    shown = re.sub(r"\S{500,}", lambda word: f"{word[0][:60]}...{word[0][-20:]}", shown)
    with contextlib.suppress(OSError, ValueError):
        print(shown, file=sys.stderr, flush=True)


def _flushed(code: int) -> int:
    """`code`, or another one if standard output could not be written: a full disk, or a pipe that nobody reads."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            with contextlib.suppress(OSError, ValueError):  # or the interpreter tries again, and prints a traceback
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if code == 0:
                broken = isinstance(error, OSError) and error.errno == errno.EPIPE
                code = _BROKEN_PIPE if broken else 2
                if not broken:
                    _say(f"error: standard output cannot be written ({getattr(error, 'strerror', error)})")
    return code


@contextlib.contextmanager
def _ctrl_c() -> Iterator[list[int]]:
    """Collect SIGINT, which is also raised: while a C library is imported, it can come out as another error."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the second one would interrupt the way out
        raise KeyboardInterrupt

    if current_thread() is not main_thread():
        yield received
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield received
    finally:
        if not received:
            signal.signal(signal.SIGINT, before)
