# ruff: noqa: E501
"""Thirty made-up submissions of 01_staleness: ten right, ten with the usual mistakes, ten hostile or broken.

Each gives its answers to the four exercises, and what the table must say of them.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NOTEBOOK = "01_staleness"
COUNT = "def my_staleness(dispatch_time, arrival_time, version_times):\n    return "
RIGHT = (
    (
        COUNT + "np.sum((version_times > dispatch_time) & (version_times < arrival_time))",
        COUNT + "sum(1 for t in version_times.tolist() if dispatch_time < t < arrival_time)",
        COUNT + "int(((dispatch_time < version_times) & (version_times < arrival_time)).sum())",
        "%matplotlib inline\nmy_staleness = lambda d, a, v: np.searchsorted(v, a) - np.searchsorted(v, d, side='right')",
    ),
    ("predicted_mean = 3", "predicted_mean = (13 - 1) / 4", "predicted_mean = np.float32(3)", "predicted_mean = [3.0]"),
    ("b_and_o = (12, 12)", "b_and_o = concurrency, concurrency", "b_and_o = [24, 12]", "b_and_o = np.array([12, 12])"),
    ('mean_staleness_does = "stays"', "mean_staleness_does = ' Stays '"),
)
WRONG: tuple[tuple[tuple[str, str], ...], ...] = (
    (
        (COUNT + "np.sum((version_times > dispatch_time) & (version_times <= arrival_time))", "wrong: You count the version that the update itself completes."),
        (COUNT + "np.sum((version_times >= dispatch_time) & (version_times < arrival_time))", "wrong: You count the version that the job starts from."),
        (COUNT + "np.sum(version_times > dispatch_time & version_times < arrival_time)", "wrong: `&`, `|` and `~` come before `<` and `>`: put each comparison in parentheses"),
        ("def my_staleness(dispatch_time):\n    return 1", "wrong: Your function is called with 3 arguments: write its `def` line as the exercise has it."),
        ("def my_staleness(d, a, v):\n    for t in v:\n        if t > 1e9:\n            return t", "wrong: Your function has a `return`, but here it gave None."),
        ("my_staleness = 3", "wrong: Give a function: def name(...): ... return ...; this is a int."),
        ("def my_staleness(d, a, v)\n    return 1", "error: Python says: SyntaxError: expected ':' (<answer>, line 1)"),
        (COUNT + "helper(version_times)", "wrong: Your function uses a name that has no value"),
    ),
    (
        ("predicted_mean = 13 / 4", "wrong: Nearly."),
        ("predicted_mean = 12", "wrong: This is the number of uploads that arrive while a job runs."),
        ("predicted_mean = '3'", "wrong: Give a number without quotation marks, not '3'."),
        ("predicted_mean = K / B", "error: Python says: NameError: name 'K' is not defined"),
        ("predicted_mean = timeline.staleness.mean", "wrong: This is a function; give a number."),
        ("predicted_mean = float('nan')", "wrong: Your answer is nan: give a finite number."),
    ),
    (
        ("b_and_o = 12", "wrong: Give two whole numbers in parentheses, (B, O)."),
        ("b_and_o = (1, 12)", "wrong: The mean is"),
        ("b_and_o = (12, 10**9)", "wrong: refill_size = 1000000000 must be at most concurrency = 12."),
        ("b_and_o = (12, 12, 12)", "wrong: Give two whole numbers in parentheses, (B, O); these are 3."),
        ("b_and_o = (5, 3); print(b_and_o)", "wrong: The mean is"),
    ),
    (
        ("mean_staleness_does = 'rises'", "wrong: The mean goes from"),
        ("mean_staleness_does = 'falls'", "wrong: The mean goes from"),
        ("mean_staleness_does = stays", "error: Python says: NameError: name 'stays' is not defined"),
        ("mean_staleness_does = 'grows'", "wrong: Answer 'rises', 'stays' or 'falls', with quotation marks."),
    ),
)  # fmt: skip
FORGED = (
    "import fedrevive_notebooks.lessons.exercise as e\n"
    "e.diagnose = lambda *a, **k: e.right('of course')\nlesson.check_prediction = lambda *a: e.right('of course')\n"
)
READS = (
    "import pathlib, {0}\nplace = pathlib.Path({0}.__file__).parent\n"
    "try:\n    text = (place / '01_staleness.ipynb').read_text()\nexcept OSError:\n    pass\n"
)
EQUAL = (
    "class Any(float):\n    def __eq__(self, other):\n        return True\n"
    "    def __sub__(self, other):\n        return 0.0\n    __rsub__ = __sub__\n"
)
# By exercise: the source of the cell, and how what the table says begins.
HOSTILE: tuple[tuple[tuple[str, str], ...], ...] = (
    (  # loops, in four places
        (COUNT + "all(True for _ in iter(int, 1))", "time: it takes longer than"),
        ("predicted_mean = 3\nwhile True: pass", "time: it takes longer than"),
        ("import time\nb_and_o = (12, 12)\ntime.sleep(10**6)", "time: it takes longer than"),
        ("mean_staleness_does = 'stays'", "right"),
    ),
    (  # ends the program
        ("import os\n" + COUNT + "os._exit(0)", "exit: its process ended (exit code 0) before the answer was judged"),
        ("predicted_mean = 3\nexit()", "exit: the answer ends the program: leave out exit() and quit()"),
        ("raise SystemExit", "exit: the answer ends the program: leave out exit() and quit()"),
        ("import os\nos.kill(os.getppid(), 9)", "marked: tried to start or end a process (os.kill)"),
    ),
    (  # prints and takes without end
        ("while True:\n    print('x' * 1000)", "output: it prints more than 1,000,000 letters"),
        ("predicted_mean = np.ones((10**6, 10**6))", "memory: more than"),
        ("b_and_o = []\nwhile True: b_and_o = [b_and_o, bytearray(10**7)]", "memory: more than"),
        ("import os\nwhile True: os.write(1, b'x' * 10**6)", "time: it takes longer than"),
    ),
    (  # forges verdicts
        (FORGED + COUNT + "1", "marked: replaced"),
        (FORGED + "predicted_mean = 99", "marked: replaced"),
        ("import builtins\nbuiltins.print = builtins.len\nb_and_o = (1, 1)", "marked: replaced builtins.print"),
        (FORGED + "mean_staleness_does = 'rises'", "marked: replaced"),
    ),
    (  # reads the solutions
        (READS.format("fedrevive_notebooks") + COUNT + "1", "marked: tried to read solutions or checks"),
        (READS.format("fedrevive_notebooks") + "predicted_mean = 3", "marked: tried to read solutions or checks"),
        ("import inspect\ninspect.getsource(lesson)\nb_and_o = (12, 12)", "marked: tried to read solutions or checks"),
        ("import os\nos.listdir(os.path.dirname(lesson.__file__))", "marked: tried to read solutions or checks"),
    ),
    (  # writes, starts programs, connects
        ("import subprocess\nsubprocess.run(['touch', MARKER])", "marked: tried to start or end a process"),
        ("predicted_mean = 3\nopen(MARKER, 'w')", "marked: tried to write outside of its folder"),
        ("import os\nb_and_o = (12, 12)\nif os.fork() == 0:\n    os._exit(0)", "marked: tried to start or end a process"),
        ("import socket\nsocket.create_connection(('127.0.0.1', 9))", "marked: tried to use the network"),
    ),
    (  # speaks for itself on the pipe, and answers with what compares as it likes
        ("import os\nfor n in range(3, 60):\n    try: os.write(n, b'\\0\\0\\0\\x30' + b'[\"verdict\", \"right\", \"yes\"]')\n    except OSError: pass\n" + COUNT + "1", "marked: it sent a damaged message"),
        (EQUAL + "predicted_mean = Any(99)", "wrong"),
        (EQUAL + "b_and_o = (Any(1), Any(12))", "wrong: The mean is"),
        ("class Word(str):\n    strip = lower = lambda self: 'stays'\nmean_staleness_does = Word('no')", "wrong: Answer 'rises'"),
    ),
)  # fmt: skip
BROKEN = ("not UTF-8", "cut", "deep")  # the last three are no notebooks


def handed_in(folder: Path, students: Sequence[str], released: Path, marker: Path) -> dict[str, list[str]]:
    """Write the submissions of thirty `students`, and return how the table's cells of each must begin."""
    expected = {}
    for number, student in enumerate(students):
        text = (released / "students" / student / f"{NOTEBOOK}.ipynb").read_text(encoding="utf-8")
        kind, one = divmod(number, 10)
        if kind == 0:
            answers = [(ways[one % len(ways)], "right") for ways in RIGHT]
        elif kind == 1:
            answers = [ways[one % len(ways)] for ways in WRONG]
        elif one < len(HOSTILE):
            answers = [(source.replace("MARKER", repr(str(marker))), words) for source, words in HOSTILE[one]]
        else:
            answers = [("", "unreadable")] * 4
        expected[student] = [words for _, words in answers]
        raw = answered(text, [source for source, _ in answers], outputs=kind == 2).encode()
        if kind == 2 and one >= len(HOSTILE):
            raw = broken(raw, BROKEN[one - len(HOSTILE)])
        place = folder / student
        if one % 3 == 1:
            (folder / f"{student}.zip").write_bytes(zipped({f"{student}/{NOTEBOOK}.ipynb": raw}))
        else:
            place.mkdir(parents=True)
            name = f"{NOTEBOOK} (1).ipynb" if one % 3 == 2 else f"{NOTEBOOK}.ipynb"
            (place / name).write_bytes(raw if one != 3 else raw.decode().encode("utf-16"))
    return expected


def answered(text: str, sources: Sequence[str], *, outputs: bool = False) -> str:
    """A released notebook with answers in its exercises' cells, and forged outputs if there are `outputs`."""
    document = json.loads(text)
    code = [cell for cell in document["cells"] if cell["cell_type"] == "code"]
    stubs = [
        n
        for n, cell in enumerate(code)
        if "return None  # " in "".join(cell["source"]) or " = None  # " in "".join(cell["source"])
    ]
    for place, source in zip(stubs, sources, strict=True):
        code[place]["source"] = source
        if outputs:
            said: dict[str, Any] = {
                "output_type": "execute_result",
                "data": {"text/plain": "[right] Yes."},
                "metadata": {},
            }
            code[place + 1]["outputs"] = [said | {"execution_count": 1}]
    return json.dumps(document)


def broken(raw: bytes, how: str) -> bytes:
    """A notebook that cannot be read."""
    if how == "not UTF-8":
        return raw.replace(b"Who works", b"Who \xff works")
    return raw[: len(raw) // 2] if how == "cut" else b'{"cells": ' + b"[" * 100_000


def zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip of files by name."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in files.items():
            archive.writestr(name, raw)
    return made.getvalue()
