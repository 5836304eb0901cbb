"""Progress in logs: few lines, on standard error."""

from __future__ import annotations

import pytest

from fedrevive_core.simulation import Progress


def test_a_log_gets_a_line_at_the_start_and_the_end_of_short_work(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("run", 40) as progress:
        for count in range(1, 31):
            progress.advance(count, f"accuracy {count}")
        progress.say("stopped")
    said = capsys.readouterr()
    first, message, last = said.err.splitlines()
    assert (first.split(",")[0], message) == ("run: 0/40", "run: stopped")
    assert last.startswith("run: 30/40, accuracy 30, 00:")
    assert said.out == ""


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("run", 2, show=False) as progress:
        progress.advance(1, "half")
        progress.say("stopped")
    assert capsys.readouterr() == ("", "")
