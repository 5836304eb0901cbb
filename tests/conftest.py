"""Fixtures that several test files use."""

from __future__ import annotations

import os
import sys

import pytest
import torch

from reproduce.cli import door

os.environ[door.TRACEBACK] = "1"  # mistakes of ours show themselves, here and in processes that tests start


@pytest.fixture
def call(monkeypatch, capsys):
    """Run the command line; returns (exit code, standard output, standard error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["reproduce", *map(str, arguments)])
        code = 0
        try:
            door.main()
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def one_thread():
    """Bits are promised for one number of threads; `run` pins it, tests that drive a Simulation by hand use this."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
