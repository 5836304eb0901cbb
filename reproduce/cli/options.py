"""Options that several commands share, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from fedrevive_core.config import METHODS, PRESETS, SCHEDULES, parse_value
from fedrevive_core.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda")
ENGINES = ("local", "ray")
SCALES = ("lab", "paper")


def completed(names: Iterable[str]) -> Callable[[], list[str]]:
    """Completion of an option that takes one of `names`.

    The value itself is checked where it is used, which suggests a similar name; Typer's own choices do not.
    """
    return lambda: list(names)


def one_of(option: str, names: Iterable[str], words: str) -> Any:
    """An option that takes one of `names`; `words` are its help."""
    return typer.Option(option, metavar=option.strip("-").upper(), autocompletion=completed(names), help=words)


def directory(words: str) -> Any:
    """The option `--out` that takes a directory; `words` are its help."""
    return typer.Option("--out", metavar="DIR", help=words)


def listed(names: Iterable[str]) -> str:
    """The names an option takes, as its help shows them."""
    return ", ".join(f"`{name}`" for name in names)


CheckpointOption = Annotated[
    str | None,
    typer.Option(
        "--checkpoint-every",
        metavar="INTERVAL",
        help="Write a checkpoint to OUT.partial every N versions (`100`) or seconds (`300s`); default: `300s`.",
    ),
]

KeepOption = Annotated[
    int,
    typer.Option(
        "--keep-every",
        metavar="N",
        min=0,
        help="Also keep one checkpoint every N versions; they end up in OUT/checkpoints.",
    ),
]

ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Resume from the newest checkpoint in OUT.partial; begin if there is none; do nothing if OUT is finished.",
    ),
]

OtherCodeOption = Annotated[
    bool,
    typer.Option(
        "--allow-other-code",
        help="Also resume what other code, versions of PyTorch or NumPy, or threads began; the record lists the parts.",
    ),
]

ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Only part I of N (from 1), beside other processes that do the other parts in the same OUT; resumes.",
    ),
]

PresetOption = Annotated[
    str, one_of("--preset", PRESETS, f"Data set, model and all settings. One of {listed(PRESETS)}.")
]

MethodOption = Annotated[
    str, one_of("--method", METHODS, f"What the server does with updates. One of {listed(METHODS)}.")
]

MethodsOption = Annotated[
    str, typer.Option("--methods", metavar="METHOD,...", help="Methods, separated by commas; `presets` lists them.")
]

SeedOption = Annotated[int, typer.Option("--seed", metavar="N", help="Random seed (everything except the data split).")]

SeedsOption = Annotated[str, typer.Option("--seeds", metavar="N,...", help="Random seeds, separated by commas.")]

ScheduleOption = Annotated[
    str,
    one_of(
        "--schedule",
        SCHEDULES,
        f"Delays of the clients. One of {listed(SCHEDULES)}; in `shifted` clients are faster.",
    ),
]

ScaleOption = Annotated[
    str, one_of("--scale", SCALES, "`lab` (minutes on a laptop) or `paper`, if the experiment has it.")
]

EngineOption = Annotated[str, one_of("--engine", ENGINES, "`local`: this machine. `ray`: an existing Ray cluster.")]

DeviceOption = Annotated[str, one_of("--device", DEVICES, "`cpu`, `cuda`, or `auto`: CUDA if available.")]

JobsOption = Annotated[
    int | None,
    typer.Option("--jobs", metavar="N", min=1, help="Runs at the same time; default: one for each core, one on a GPU."),
]

TimelineOption = Annotated[
    Path | None,
    typer.Option(
        "--timeline",
        metavar="RUN",
        help="Take the arrivals (and settings) of this run, or the arrivals in a .csv or .parquet file: docs/LIVE.md.",
    ),
]

SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.FIELD=VALUE", help="Change one setting; repeat the option to change several."
    ),
]

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def given(context: typer.Context, *names: str) -> dict[str, Any]:
    """The values of those parameters called `names` that the user named."""
    sources = {name: context.get_parameter_source(name) for name in names}
    return {name: context.params[name] for name, source in sources.items() if source and source.name != "DEFAULT"}


def parse_pairs(option: str, entries: list[str] | None, form: str, example: str) -> dict[str, str]:
    """Text by name of every NAME=VALUE that was given to `option`.

    Raises ConfigError, which shows `form` and an `example`, for an entry without a name or without `=`, and for a name
    that is given twice.
    """
    pairs: dict[str, str] = {}
    for entry in entries or []:
        name, equals, text = entry.partition("=")
        name = name.strip()
        if not (equals and name):
            raise ConfigError(f"{option} {entry}: must be {form}, such as {example}")
        if name in pairs:
            raise ConfigError(f"{option} {name}={pairs[name]} and {option} {entry}: {name} may be given once")
        pairs[name] = text
    return pairs


def parse_settings(settings: list[str] | None) -> dict[str, Any]:
    """Settings by dotted name from `SECTION.FIELD=VALUE`; a value is JSON or a plain word."""
    pairs = parse_pairs("--set", settings, "SECTION.FIELD=VALUE", "server.lr=0.05")
    if "seed" in pairs:
        raise ConfigError(f"--set seed={pairs['seed']}: --seed or --seeds sets it, where the command has them")
    return {name: parse_value(text) for name, text in pairs.items()}


def split(text: str, option: str) -> list[str]:
    """The parts of a comma-separated list; `option` names it in errors. Raises ConfigError if a part is repeated."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise ConfigError(f"--{option} is empty: give at least one, separated by commas")
    repeated = next((part for part in parts if parts.count(part) > 1), None)
    if repeated is not None:
        raise ConfigError(f"--{option} {text}: each may be given once, and {repeated} is there twice")
    return parts


def parse_seeds(text: str) -> list[int]:
    """Seeds from a comma-separated list."""
    seeds: dict[int, str] = {}
    for part in split(text, "seeds"):
        if not (part.isascii() and part.isdecimal() and len(part) < 20):
            raise ConfigError(f"--seeds {text}: must be whole numbers >= 0, separated by commas, not {part}")
        first = seeds.setdefault(int(part), part)
        if first is not part:
            raise ConfigError(f"--seeds {text}: each may be given once, and {first} and {part} are the same")
    return list(seeds)
