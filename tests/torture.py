"""`make torture`: what the suite tests briefly, at length. Writes what it found to tests/results/torture.json.

python tests/torture.py [kill corrupt malformed readers disk soak cost]
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import damage
import fuzz_commands
import numpy as np
import pandas as pd
import torch
from helpers import SMALL, compared, run_until, small
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedrevive_core.config.base import leaf_fields
from fedrevive_core.config.methods import METHODS
from fedrevive_core.config.presets import build
from fedrevive_core.config.run import RunConfig
from fedrevive_core.errors import ConfigError
from fedrevive_core.files import UNFINISHED
from fedrevive_core.records.record import Record
from fedrevive_core.simulation import checkpoint
from fedrevive_core.simulation.simulation import Simulation, run
from reproduce.cli import door, options

RESULTS = Path(__file__).parent / "results" / "torture.json"
ARRIVALS = 60
PAPER_STATE = 11_173_952  # numbers in a state of the preset cifar10: ResNet-18 and its probes' statistics


def call(*arguments: object) -> tuple[int, str]:
    """The command line in this process: exit code and standard error."""
    sys.argv = ["reproduce", *map(str, arguments)]
    error = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(error):
        try:
            door.main()
        except SystemExit as end:
            return int(end.code or 0), error.getvalue()
    return 0, error.getvalue()


def one_sentence(error: str) -> bool:
    """Whether standard error ends with an error of one line; the progress may stand before it."""
    lines = [line.startswith("error: ") for line in error.splitlines()]
    return sum(lines) == 1 and lines[-1] and "Traceback" not in error


def started(*arguments: object) -> int:
    """The command line in a process of its own, forked so that it need not import PyTorch again; its number."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code, error = call(*arguments)
            if code:
                os.write(2, error.encode())  # so that a failed test shows why
        finally:
            os._exit(code)
    return child


def ended(child: int) -> int:
    """Exit code, or minus the signal, of a process that `started` started."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def arguments_of(method: str, out: Path) -> list[object]:
    """A run of 60 arrivals that writes a checkpoint at every version."""
    versions = ARRIVALS // small(method).federation.buffer_size
    values = SMALL | {"federation.max_versions": versions, "evaluation.every": 2}
    chosen = [f"--set={name}={json.dumps(value)}" for name, value in values.items()]
    return ["run", "--method", method, "--out", out, "--checkpoint-every", 1, *chosen]


def kill(directory: Path, number: int, seed: int = 0) -> dict[str, Any]:
    """SIGKILL at random moments up to the record, over all methods; then resume and compare.

    Four of five kills come after the first checkpoint, because setting up takes most of the time of so short a run.
    """
    rng = np.random.default_rng(seed)
    methods = list(METHODS)[: max(1, min(number, len(METHODS)))]
    whole, seconds = {}, {}
    for method in methods:
        out = directory / f"{method}-whole"
        child = started(*arguments_of(method, out))
        stages = [time.monotonic() for _ in _stages(out)]
        assert ended(child) == 0
        seconds[method] = np.diff([*stages, time.monotonic()])
        whole[method] = compared(Record.load(out))
    identical, stopped_after, missed = 0, [], 0
    while len(stopped_after) < number:
        method = methods[len(stopped_after) % len(methods)]
        out = directory / f"{method}-{len(stopped_after)}-{missed}"
        child = started(*arguments_of(method, out))
        late = int(rng.random() < 0.8)
        for _ in itertools.islice(_stages(out), 1 + late):
            pass
        time.sleep(rng.uniform(0, seconds[method][late]))
        os.kill(child, signal.SIGKILL)
        if ended(child) != -signal.SIGKILL or (out / "run.json").exists():
            missed += 1
            continue
        found = checkpoint.list_checkpoints(_partial(out))
        stopped_after.append(int(found[0].name[:9]) if found else 0)
        assert ended(started(*arguments_of(method, out), "--resume")) == 0
        identical += compared(Record.load(out)) == whole[method]
        shutil.rmtree(out)
    return {
        "kills": number,
        "identical": identical,
        "methods": len(methods),
        "resumed_after_arrivals": {"min": min(stopped_after), "max": max(stopped_after), "of": ARRIVALS},
        "before_the_first_checkpoint": stopped_after.count(0),
        "too_late_and_repeated": missed,
    }


def _partial(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def _stages(out: Path) -> Iterator[None]:
    """Wait for a run's first file, then for its first checkpoint; each at most 60 seconds."""
    for begun in (_partial(out).exists, lambda: checkpoint.list_checkpoints(_partial(out))):
        deadline = time.monotonic() + 60
        while not begun() and time.monotonic() < deadline:
            time.sleep(0.001)
        yield


def corrupt(directory: Path, number: int, seed: int = 0) -> dict[str, Any]:
    """Damage the newest checkpoint in a random way, a fifth of the time the older one too; resume, compare."""
    rng = np.random.default_rng(seed)
    config = small("fedrevive")
    whole = compared(run(config, progress=False))
    source = directory / "source"
    simulation = Simulation(config)
    for stop in (6, 12):
        checkpoint.write(run_until(simulation, stop), source)
    counts = dict.fromkeys(("found", "older_used", "refused", "wrong_results", "tracebacks"), 0)
    kinds: dict[str, int] = {}
    for place in range(number):
        copy = directory / f"copy-{place}"
        shutil.copytree(source, copy)
        both = rng.random() < 0.2
        for path in checkpoint.list_checkpoints(copy)[: 2 if both else 1]:
            kind = _damage(rng, path, checkpoint.list_checkpoints(source))
            kinds[kind] = kinds.get(kind, 0) + 1
        fresh = Simulation(config)
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                checkpoint.restore(fresh, copy)
            counts["found"] += any("is damaged" in str(warning.message) for warning in warned)
            counts["older_used"] += fresh.num_processed == 6
            counts["wrong_results"] += compared(fresh.run(progress=False)) != whole
        except ConfigError as error:
            counts["refused"] += both
            counts["found"] += both and "damaged" in str(error)
        except Exception:
            counts["tracebacks"] += 1
        shutil.rmtree(copy)
    return {"corruptions": number, **counts, "kinds": dict(sorted(kinds.items()))}


def _damage(rng: np.random.Generator, path: Path, others: list[Path]) -> str:
    name = str(rng.choice([checkpoint.TENSORS, checkpoint.MANIFEST]))
    kind = str(rng.choice(["flip", "truncate", "delete", "swap", "foreign"]))
    content = bytearray((path / name).read_bytes())
    if kind == "delete":
        (path / name).unlink()
        return kind
    if kind == "flip":
        for place in rng.integers(len(content), size=rng.integers(1, 17)):
            content[place] ^= int(rng.integers(1, 256))
    elif kind == "truncate":
        content = content[: rng.integers(len(content))]
    elif kind == "swap":
        (other,) = (other for other in others if other.name != path.name)
        content = bytearray((other / name).read_bytes())
    else:
        content = bytearray(rng.bytes(int(rng.integers(0, 10_000))))
    (path / name).write_bytes(content)
    return kind


NONSENSE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 10**10, 10**30, -(10**400)]),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)


class Attempts:
    """Tries inputs that may be malformed, and notes each that is not refused with one sentence."""

    def __init__(self, directory: Path) -> None:
        self.record, self.out = directory / "record", directory / "out"
        self.counts = dict.fromkeys(("configurations", "options", "files", "commands"), 0)
        self.wrong: list[str] = []

    def _refused(self, kind: str, error: str, *, well: bool) -> None:
        self.counts[kind] += 1
        if not (well and error.strip() and "\n" not in error.strip() and "Traceback" not in error):
            self.wrong.append(f"{kind}: {error}")

    def configuration(self, values: Any) -> None:
        try:
            RunConfig.from_dict(values)
        except ConfigError as error:
            self._refused("configurations", str(error), well=True)

    def option(self, name: str, value: Any) -> None:
        setting = f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        try:
            build("lab-digits", "fedrevive", overrides=options.parse_settings([setting]))
        except ConfigError:
            code, error = call("run", "--out", self.out, f"--set={setting}")
            self._refused("options", error, well=code == 2 and one_sentence(error))

    def command(self, seed: int) -> None:
        """Any command with hostile options, in a directory of its own, which it must leave as it is."""
        directory = self.out.with_name("commands")
        if not directory.exists():
            directory.mkdir()
            fuzz_commands.prepare(directory)
        line = fuzz_commands.command_line(random.Random(seed))
        with contextlib.chdir(directory):
            before = fuzz_commands.snapshot(directory)
            code, error = call(*line)
            wrong = fuzz_commands.complaint(code, error)
            wrong += "" if fuzz_commands.snapshot(directory) == before else " something was written"
        self.counts["commands"] += 1
        if wrong:
            self.wrong.append(f"{[word[:40] for word in line]}: {wrong}: {error[-300:]}")

    def file(self, content: bytes) -> None:
        (self.record / "run.json").write_bytes(content)
        try:
            Record.load(self.record)
        except ConfigError as error:
            self._refused("files", str(error), well=True)


def put(values: dict[str, Any], path: list[str], value: Any, name: str = "") -> dict[str, Any]:
    """A copy of nested `values` with `value` at `path`, or at `name` in the section there."""
    copied = json.loads(json.dumps(values))
    inner = copied
    for part in path[:-1]:
        inner = inner[part]
    if name:
        inner[path[-1]][name] = value
    else:
        inner[path[-1]] = value
    return copied


def malformed(directory: Path, number: int) -> dict[str, Any]:
    """Configurations, --set options and run.json files that cannot be used: one sentence, code 2, nothing written."""
    names = list(leaf_fields(RunConfig))
    sections = sorted({name.rpartition(".")[0] for name in names} - {""})
    valid = small("fedrevive").to_dict()
    run(small("fedbuff"), progress=False).save(directory / "record")
    header = (directory / "record" / "run.json").read_bytes()
    attempts = Attempts(directory)
    attempts.command(0)
    before = sorted(directory.iterdir())
    inputs = st.tuples(
        st.sampled_from(["leaf", "section", "unknown", "root", "option", "file", "file_value", "command"]),
        st.sampled_from(names),
        st.sampled_from(sections),
        NONSENSE,
        st.text(min_size=1, max_size=8),
        st.integers(0, len(header) - 1),
        st.binary(max_size=20),
        st.integers(0, 2**32),
    )

    # Some of what is drawn is a valid configuration after all.
    @settings(max_examples=2 * number, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(drawn=inputs)
    def attempt(drawn: tuple[Any, ...]) -> None:
        if sum(attempts.counts.values()) == number:
            return
        kind, name, section, value, unknown, cut, inserted, seed = drawn
        try:
            if kind == "leaf":
                attempts.configuration(put(valid, name.split("."), value))
            elif kind == "section":
                attempts.configuration(put(valid, section.split("."), value))
            elif kind == "unknown":
                attempts.configuration(put(valid, section.split("."), value, unknown))
            elif kind == "root":
                attempts.configuration(value)
            elif kind == "option":
                attempts.option(name, value)
            elif kind == "command":
                attempts.command(seed)
            elif kind == "file_value":
                attempts.file(json.dumps(json.loads(header) | {"config": put(valid, name.split("."), value)}).encode())
            else:
                attempts.file(header[:cut] + inserted + header[cut + 1 :])
        except Exception as error:
            attempts.wrong.append(f"{kind} {name} {section} {value!r}: {error!r}")

    attempt()
    (directory / "record" / "run.json").write_bytes(header)
    if sorted(directory.iterdir()) != before:
        attempts.wrong.append("something was written")
    counts, wrong = attempts.counts, attempts.wrong
    return {"malformed": sum(counts.values()), **counts, "wrong": len(wrong), "examples_of_wrong": wrong[:5]}


STEPS: dict[str, tuple[Any, str]] = {
    "tensors": (checkpoint, "save_file"),
    "manifest": (Path, "write_text"),
    "flush": (os, "fsync"),
    "rename": (os, "replace"),
    "record": (pd.DataFrame, "to_parquet"),
}


def disk(directory: Path, steps: Sequence[str] = tuple(STEPS), *, real: bool = True) -> dict[str, Any]:
    """No space and no permission, injected at every step of writing and, where rights allow, on a real file system."""
    reference = directory / "reference"
    assert call(*arguments_of("fedrevive", reference))[0] == 0
    whole = compared(Record.load(reference))
    injected = {}
    for name in steps:
        out = directory / name
        with _failing(*STEPS[name], after=0 if name == "record" else 7):
            code, error = call(*arguments_of("fedrevive", out))
        good = code == 2 and one_sentence(error) and not out.exists()
        partial = out.with_name(out.name + ".partial")
        intact = len(checkpoint.list_checkpoints(partial)) == 2 and not list(partial.glob(f"{UNFINISHED}*"))
        resumed = call(*arguments_of("fedrevive", out), "--resume")[0] == 0 and compared(Record.load(out)) == whole
        injected[name] = bool(good and intact and resumed)
    return {"injected": injected, **({"real": _real_disk(directory, whole)} if real else {})}


@contextlib.contextmanager
def _failing(owner: Any, name: str, after: int) -> Iterator[None]:
    """`owner.name` fails as on a full disk from its call number `after` on."""
    original, calls = getattr(owner, name), iter(range(10**9))

    def failing(*arguments: Any, **options: Any) -> Any:
        if next(calls) >= after:
            raise OSError(28, "No space left on device")
        return original(*arguments, **options)

    setattr(owner, name, failing)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _real_disk(directory: Path, whole: Any) -> Any:
    mount = directory / "mount"
    mount.mkdir()
    simulation = run_until(Simulation(small("fedrevive")), 12)
    size = sum(file.stat().st_size for file in checkpoint.write(simulation, directory / "size").iterdir())

    def tmpfs(*options: str) -> bool:
        given = ["mount", *options, "tmpfs", str(mount)] if "-t" in options else ["mount", *options, str(mount)]
        return subprocess.run(given, capture_output=True, check=False).returncode == 0

    # Room for two and a half checkpoints, while writing the third takes three.
    if shutil.which("mount") is None or not tmpfs("-t", "tmpfs", "-o", f"size={int(2.5 * size)}"):
        return "skipped: no right to mount a file system"
    try:
        out = mount / "run"
        code, error = call(*arguments_of("fedrevive", out))
        full = code == 2 and "No space left" in error and one_sentence(error)
        kept = len(checkpoint.list_checkpoints(out.with_name("run.partial")))
        tmpfs("-o", "remount,ro")
        code, error = call(*arguments_of("fedrevive", out), "--resume")
        read_only = code == 2 and one_sentence(error)
        tmpfs("-o", f"remount,rw,size={20 * size}")
        resumed = call(*arguments_of("fedrevive", out), "--resume")[0] == 0 and compared(Record.load(out)) == whole
    finally:
        subprocess.run(["umount", str(mount)], check=True)
    return {"full": full, "checkpoints_left": kept, "read_only": read_only, "resumed_identically": bool(resumed)}


SOAK = """
import json, sys, time
sys.path.insert(0, {here!r})
import torch
from helpers import resident
from fedrevive_core import build
from fedrevive_core.simulation import Simulation
torch.set_num_threads(1)
arrivals = {arrivals}
config = build("lab-digits", {method!r}, overrides={{
    "training.steps": 1, "federation.max_sim_time": None,
    "federation.buffer_size": 1, "federation.max_versions": arrivals}})
simulation, early, started = Simulation(config), None, time.monotonic()
for _ in simulation.steps():
    if simulation.num_processed == {early}:
        early = resident()
record = simulation.record()
print(json.dumps({{"arrivals": len(record.arrivals), "early_mb": early / 1e6, "end_mb": resident() / 1e6,
    "growth": resident() / early - 1, "minutes": (time.monotonic() - started) / 60}}))
"""


def soak(method: str, arrivals: int, early: int) -> dict[str, Any]:
    """Resident memory of a long run on lab-digits, in a process of its own, after `early` arrivals and at the end.

    Clients train for one step: how long they do changes the time that this takes and not the memory.
    """
    code = SOAK.format(here=str(Path(__file__).parent), arrivals=arrivals, method=method, early=early)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {key: round(value, 3) for key, value in json.loads(done.stdout).items()}


def cost(directory: Path, versions: int = 400) -> dict[str, Any]:
    """A checkpoint against 100 versions, measured in turn on lab-digits; sizes; a large write.

    In seconds of the clock, and of the processor, which leave out other programs and waiting for the disk.
    """
    found: dict[str, Any] = {}
    for method in ("fedbuff", "fedrevive"):
        simulation = Simulation(build("lab-digits", method))
        running, writing, sizes, began = [], [], [], _clocks()
        for is_new in simulation.steps():
            version = simulation.server.version
            if is_new and version % 100 == 0:
                running.append(_clocks() - began)
                began = _clocks()
                path = checkpoint.write(simulation, directory / method)
                writing.append(_clocks() - began)
                sizes.append(sum(file.stat().st_size for file in path.iterdir()))
                began = _clocks()
            if version == versions:
                break
        run_seconds, write_seconds = np.median(running, axis=0), np.median(writing, axis=0)
        found[method] = {
            "ratio": round(write_seconds[0] / run_seconds[0], 4),
            "ratio_of_processor_time": round(write_seconds[1] / run_seconds[1], 4),
            "seconds_of_a_checkpoint": round(write_seconds[0], 4),
            "seconds_of_100_versions": round(run_seconds[0], 2),
            "mb": round(max(sizes) / 1e6, 1),
        }
    # What a checkpoint of any size costs: copying, writing, hashing and flushing, here 500 MB of states.
    state = simulation.state_dict()
    states = {str(number): torch.zeros(12_500_000) for number in range(10)}
    began = time.perf_counter()
    with _replaced(simulation, "state_dict", lambda: state | {"more": states}):
        checkpoint.write(simulation, directory / "large")
    rate = 0.5e9 / (time.perf_counter() - began)
    state = 4 * PAPER_STATE
    paper = build("cifar10", "fedrevive").federation.concurrency
    size = state * (2 * paper + 1 + 8 + 2)
    found["paper_scale"] = {
        "mb_per_second": round(rate / 1e6),
        "state_mb": round(state / 1e6, 1),
        "gb_at_most": round(size / 1e9, 1),
        "seconds": round(size / rate),
        "minutes_between_for_3_percent": round(size / rate / 0.03 / 60, 1),
    }
    return found


def _clocks() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def main(chosen: list[str]) -> None:
    parts: dict[str, Callable[[Path], dict[str, Any]]] = {
        "kill": lambda directory: kill(directory, 50),
        "corrupt": lambda directory: corrupt(directory, 200),
        "malformed": lambda directory: malformed(directory, 3000),
        "readers": lambda directory: damage.attempt(directory, 1000),
        "disk": disk,
        "soak": lambda _: {"fedbuff": soak("fedbuff", 20_000, 2000), "fedrevive": soak("fedrevive", 4000, 2000)},
        "cost": cost,
    }
    if set(chosen) - set(parts):
        sys.exit(f"parts are {', '.join(parts)}")
    torch.set_num_threads(1)
    for name in chosen or parts:
        print(f"{name} ...", flush=True)
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as directory:
            found = parts[name](Path(directory))
        found["seconds"] = round(time.monotonic() - began)
        print(f"{name}: {json.dumps(found)}", flush=True)
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}  # of the other parts
        results |= {name: found, "made_with": {"python": platform.python_version(), "torch": torch.__version__}}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
