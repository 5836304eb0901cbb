"""The door: whatever happens in a command leaves as one sentence and a code; mistakes of ours stay visible."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from typing import Any

import pytest

from fedrevive_core.errors import ConfigError, Interrupted
from reproduce.cli import door


@pytest.fixture
def leaving(monkeypatch: pytest.MonkeyPatch, call: Any) -> Any:
    """`leaving(error)`: (exit code, standard error) of a command that raises `error`, as users see it."""
    monkeypatch.delenv(door.TRACEBACK)

    def run(error: BaseException | None) -> tuple[int, str]:
        def app() -> None:
            if error is not None:
                raise error

        monkeypatch.setattr("reproduce.cli.app.app", app)
        code, _, said = call("presets")
        return code, said

    return run


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ConfigError("x = 1: must be 2\x1b[31m"), 2, "error: x = 1: must be 2\\x1b[31m\n"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a" * 900), 2, "File name too long: '" + "a" * 59 + "..."),
        (MemoryError("8 GB"), 2, "error: not enough memory (8 GB)"),
        (ModuleNotFoundError("No module named 'rich'", name="rich"), 2, "error: the installation is incomplete (No"),
        (ModuleNotFoundError("No module", name="reproduce.x"), 1, "error: a mistake of this program, not yours: M"),
        (KeyError("arm"), 1, "KeyError: 'arm' (tests/reproduce/test_door.py, line"),
        (RecursionError("too deep"), 1, "FEDREVIVE_TRACEBACK=1 for a full report"),
        (KeyboardInterrupt(), 130, "stopped\n"),
        (Interrupted(15, "here"), 143, "resume with:\n"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
        (SystemExit(3), 3, ""),
    ],
)  # fmt: skip
def test_every_error_has_its_sentence_and_code(leaving: Any, error: BaseException, code: int, words: str) -> None:
    found, said = leaving(error)
    assert found == code
    assert words in said
    assert "Traceback" not in said
    assert said.count("\n") == (2 if isinstance(error, Interrupted) else bool(words))


def test_a_mistake_of_ours_is_not_hidden_from_tests(leaving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(door.TRACEBACK, "1")
    with pytest.raises(KeyError):
        leaving(KeyError("arm"))
    code, said = leaving(OSError(errno.EACCES, "Permission denied", "f"))
    assert (code, "Traceback" in said) == (2, True)


@pytest.mark.parametrize(
    ("number", "code", "words"), [(errno.ENOSPC, 2, "standard output cannot be written"), (errno.EPIPE, 141, "")]
)
def test_a_full_disk_or_a_closed_pipe_behind_standard_output(leaving: Any, monkeypatch: pytest.MonkeyPatch,
                                                             number: int, code: int, words: str) -> None:  # fmt: skip
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(sys, "stdout", Full())
    found, said = leaving(None)
    assert (found, words in said, said.count("\n")) == (code, True, bool(words))
    monkeypatch.setattr(sys, "stdout", None)
    assert leaving(None) == (0, "")


def test_ctrl_c_that_comes_out_as_another_error_is_ctrl_c(leaving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("numpy.core.multiarray failed to import", name="numpy") from None

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(door, "_run", broken)
    try:
        assert leaving(None) == (130, "stopped\n")
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_backend_that_does_not_exist_stops_nothing(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "nonsense")
    assert call("presets", "--json")[0] == 0
    assert "MPLBACKEND" not in os.environ


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["presets", "x" * 20_000], "has 20,000 letters: at most 10,000"),
        (["presets", "a\nb"], "has a line break"),
        (["run", "--out", "a\udcff"], "or a byte that is not UTF-8"),
        (["presets", "--json", "--json"], "It may be given once"),
        (["timeline", "--seed", "1", "--seed", "2"], "It may be given once"),
        (["timeline", "--set", "server=5", "--set", "server.lr=1"], "server and server.lr set the same thing"),
        (["timeline", "--set", "server.lr=1", "--set=server.lr=2"], "--set server.lr=2: server.lr may be given once"),
        (["timeline", "--set", 'server={"lr": 1, "lr": 2}'], "'lr' is given twice in one object"),
        (["timeline", "--set", "seed=5"], "--seed or --seeds sets it"),
        (["timeline", "--set", "method=fedbuff"], "method = 'fedbuff' cannot be changed as a setting"),
        (["timeline", "--schedule", "shifted", "--set", "federation.schedule=default"], "and federation.schedule set"),
        (["timeline", "--set", "server.lr=" + "[" * 5000], "nested too deeply"),
        (["timeline", "--set", "server.lr=" + "9" * 5000], "should be a valid number"),
        (["compare", "--methods", "fedbuff", "--out", "x", "--seeds", "1,01"], "1 and 01 are the same"),
        (["compare", "--methods", "fedbuff", "--out", "x", "--seeds", "\u0661"], "must be whole numbers"),
        (["sweep", "smoke", "--out", "x", "--address", "a:1"], "is for --engine ray"),
        (["sweep", "smoke", "--out", "x", "--engine", "ray", "--jobs", "2"], "is for --engine local"),
    ],
)  # fmt: skip
def test_what_would_be_ignored_or_is_too_much_is_refused(call: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch,
                                                         arguments: list[str], words: str) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    code, _, error = call(*arguments)
    assert (code, words in error, list(tmp_path.iterdir())) == (2, True, []), error
    assert error.startswith("Usage") or error.count("\n") == 1
