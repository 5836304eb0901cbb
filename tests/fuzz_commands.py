"""Command lines that no user would type, for `torture.malformed`: every command and option, with hostile values.

Each ends with something that no command accepts, so that none of them starts work.
"""

from __future__ import annotations

import random
from pathlib import Path

WORDS = [
    "", " ", "=", "a=", "=1", ",", "1,,2", "1,01", "0,0", "-", "--", "-1", "1e999", "-0", "NaN", "null", "true", "0x10",
    "\uff11\uff12", "²", "9" * 30, "9" * 5000, "[" * 9000, "[" * 100_000, "{" * 99, '{"a":1,"a":2}', "{}", "a\nb",
    "a\x00b", "\x1b[31m", "\ud800", "é" * 300, "x" * 300, "x/" * 3000, "../" * 50, ".", "..", "/", "/dev/null",
    "/dev/zero", "/proc/self/mem", "/proc/1/environ", "~nobody-at-all/x", "*", "$(id)", "%s%n", "{0}", "a b", "'", "\\",
    "experiment.yaml", "empty", "file", "none.yaml", "none.ipynb", "empty/x.ipynb", "file/below",
    "smoke", "lab-digits", "fedbuff", "0", "1",
]  # fmt: skip
PAIRS = ["server.lr={}", "server={}", "{}=1", "{}={}", "server.lr={} ", "federation.schedule={}", "data.mean={}", "{}"]
SET = ["--set", "-p", "--only"]
RUN = ["--preset", "--method", "--schedule", "--seed"]
# Command: its arguments, its options, and what keeps it from work.
COMMANDS: dict[str, tuple[list[str], list[str], list[str]]] = {
    "presets": (["{}"], ["--json"], ["--nothing"]),
    "timeline": ([], [*RUN, "--set", "--plot"], ["--set", "nothing=1"]),
    "run": ([], [*RUN, "--set", "--out", "--checkpoint-every", "--keep-every"], ["--set", "nothing=1"]),
    "compare": ([], ["--methods", "--seeds", "--out", "--preset", "--jobs", "--set"], ["--set", "nothing=1"]),
    "quickstart": ([], ["--seed", "--out"], ["--nothing"]),
    "branch": (["{}"], ["--at", "--method", "--out", "--set"], ["--set", "nothing=1"]),
    "sweep": (["{}"], ["--out", "--scale", "--jobs", "--engine", "--address", "--only"], ["--only", "nothing=1"]),
    "report": (["{}"], [], []),
    "pack": (["{}", "{}"], ["--out"], []),
    "evidence": ([], ["--check", "--pools"], ["--check", "nowhere"]),
    "verify": (["{}", "{}"], [], []),
    "notebook": (["{}"], ["-p", "--out"], ["-p", "nothing=1"]),
    "book": ([], ["--out"], ["--nothing"]),
    "lab": (["{}"], [], ["--nothing"]),
    "bench": ([], ["--out", "--device"], ["--nothing"]),
    "gpu": ([], ["--out", "--device", "--minutes"], ["--nothing"]),
    "seed-texts": ([], ["--model", "--out", "--preset", "--per-class"], ["--nothing"]),
    "doctor": ([], ["--json"], ["--nothing"]),
    "nonsense": (["{}"], ["--help"], ["--nothing"]),
}
USUAL = {"--out": "new", "--methods": "fedbuff", "--model": "none"}  # what a command cannot do without


def prepare(directory: Path) -> None:
    """What some of the WORDS name, in `directory`, which must be the current one."""
    (directory / "empty").mkdir()
    (directory / "file").write_text("", encoding="utf-8")
    (directory / "experiment.yaml").write_text("name: e\nquestion: q\nnotebook: n\nscales: {}\n", encoding="utf-8")


def command_line(rng: random.Random) -> list[str]:
    """One of them."""
    name = rng.choice(list(COMMANDS))
    arguments, options, stop = COMMANDS[name]
    line = [name]
    for argument in arguments:
        line += [argument.format(rng.choice(WORDS))] * (rng.random() < 0.9)
    chosen = rng.sample(options, rng.randint(0, min(3, len(options))))
    for option in (*chosen, *(option for option in USUAL if option in options and option not in chosen)):
        word = USUAL[option] if option not in chosen else rng.choice(WORDS)
        if option in SET:
            pattern = rng.choice(PAIRS)
            word = pattern.replace("{}", word.replace("{}", ""))
        line += (
            [option] if option in ("--json", "--help") else [f"{option}={word}"] if option[1] == "-" else [option, word]
        )
    return [*line, *stop]


def complaint(code: int, error: str) -> str:
    """What is wrong with how a command ended; empty if nothing is."""
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    usage = "Usage: " in error and "Error" in error
    if "Traceback" in error or code not in (0, 2):
        return f"code {code}"
    if code == 2 and len(lines) != 1 and not (usage and not lines):
        return f"{len(lines)} sentences"
    if lines and len(error.strip().splitlines()) != 1:
        return "more than one line"
    return "" if len(error) < 10_000 else "too long"


def snapshot(directory: Path) -> list[tuple[str, int]]:
    """Names and sizes of everything in `directory`."""
    return sorted((str(path), path.lstat().st_size) for path in directory.rglob("*"))
