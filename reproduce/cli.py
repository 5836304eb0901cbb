"""Commands. Each is a thin layer: parse, call the core, print. Bad input ends with one sentence and exit code 2."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from fedrevive_core.config import RunConfig
from fedrevive_core.presets import METHODS, PRESETS, build
from fedrevive_core.validation import ConfigError, Interrupted, leaf_fields
from reproduce import publishing
from reproduce.branch import branch
from reproduce.console import (
    JsonOption,
    MethodOption,
    PresetOption,
    ScheduleOption,
    SeedOption,
    SetOption,
    command_line,
    console,
    parse_seeds,
    parse_settings,
    print_table,
    save_figure,
    split,
)
from reproduce.place import CheckpointOption, KeepOption, Place, ResumeOption
from reproduce.sweep_cli import sweep
from reproduce.verify import verify

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="""Understand, reproduce and teach **FedRevive**: asynchronous federated learning that revives stale updates.

Start with `quickstart` (no download, a few minutes on a laptop), then look at `presets`, draw a `timeline`, make a
`run`, `compare` methods. `doctor` says what is missing on this machine.""",
)


def main() -> None:
    """Run the command line; a ConfigError becomes one sentence on standard error and exit code 2.

    A run that a signal stopped says how to go on and exits with 128 + the signal's number, as a shell would.
    """
    try:
        app()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except MemoryError as error:
        print(f"error: not enough memory ({error}): choose fewer clients, or a smaller model or pool", file=sys.stderr)
        sys.exit(2)
    except Interrupted as stopped:
        again = command_line() + ("" if "--resume" in sys.argv else " --resume")
        print(
            f"stopped by signal {stopped.signal}; {stopped.checkpoint} holds all that is needed to go on. Go on with:\n"
            f"{again}",
            file=sys.stderr,
        )
        sys.exit(128 + stopped.signal)


@app.command()
def presets(
    preset: Annotated[str | None, typer.Argument(help="Show every setting of this preset, with its source.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List presets and methods, or every setting of one preset for all methods.

    Example: `python -m reproduce presets lab-digits`
    """
    if preset is not None:
        _show_preset({method: build(preset, method) for method in METHODS}, as_json)
        return
    if as_json:
        listed = {
            "presets": {name: chosen.title for name, chosen in PRESETS.items()},
            "methods": {n: {"title": m.title, "rule": m.rule, "source": m.source} for n, m in METHODS.items()},
        }
        print(json.dumps(listed, indent=2))
        return
    rows = []
    for name, chosen in PRESETS.items():
        config = build(name, "fedrevive")
        federation = config.federation
        rows.append(
            {
                "preset": name,
                "model": config.model,
                "N / K / alpha": f"{federation.num_clients} / {federation.concurrency} / {config.data.alpha:g}",
                "what it is": chosen.title,
            }
        )
    print_table("Presets", rows)
    print_table("Methods", [{"method": n, "new version": m.rule, "source": m.source} for n, m in METHODS.items()])


def _show_preset(configs: dict[str, RunConfig], as_json: bool) -> None:
    if as_json:
        print(json.dumps({method: config.to_dict() for method, config in configs.items()}, indent=2))
        return
    rows = []
    for field, description in leaf_fields(RunConfig).items():
        values = {method: _value(config, field) for method, config in configs.items()}
        common = max(values.values(), key=list(values.values()).count)
        others = [f"{method}: {value}" for method, value in values.items() if value != common]
        if field not in ("preset", "method"):
            rows.append({"setting": field, "value": "\n".join([common, *others]), "meaning [source]": description})
    print_table("Settings: the value of most methods, then the methods that differ", rows)


def _value(config: RunConfig, field: str) -> str:
    value: Any = config
    for part in field.split("."):
        value = getattr(value, part)
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


@app.command()
def timeline(
    preset: PresetOption = "lab-digits",
    method: MethodOption = "fedrevive",
    schedule: ScheduleOption = "default",
    seed: SeedOption = 0,
    settings: SetOption = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Also draw it into this file (.png, .svg, .pdf).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compute who trains what, when it arrives and how stale it is, without any training.

    Example: `python -m reproduce timeline --preset cifar10 --schedule shifted --seed 10`
    """
    from fedrevive_core.timeline import simulate_timeline

    config = build(preset, method, seed=seed, schedule=schedule, overrides=parse_settings(settings))
    started = time.perf_counter()
    played = simulate_timeline(config.federation, seed)
    summary = {**played.summary(), "seconds": round(time.perf_counter() - started, 4)}
    if plot is not None:
        from fedrevive_core.plots import plot_timeline

        save_figure(plot_timeline(played), plot)
    if as_json:
        print(json.dumps(summary))
    else:
        rows = [{"quantity": name, "value": f"{value:.6g}"} for name, value in summary.items()]
        print_table(f"Timeline of {preset}, {method}, seed {seed}", rows)


@app.command()
def run(
    out: Annotated[Path, typer.Option("--out", help="New directory for the record: tables, model, figure.")],
    preset: PresetOption = "lab-digits",
    method: MethodOption = "fedrevive",
    schedule: ScheduleOption = "default",
    seed: SeedOption = 0,
    settings: SetOption = None,
    checkpoint_every: CheckpointOption = None,
    keep_every: KeepOption = 0,
    resume: ResumeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make one run and write its record: run.json, evaluations, arrivals, timings, samples, model and curves.png.

    With `--checkpoint-every`, a run that is interrupted or killed goes on exactly with `--resume`. Example:
    `python -m reproduce run --preset lab-digits --method fedrevive --set server.lr=0.05 --out runs/first`
    """
    from fedrevive_core import simulate

    config = build(preset, method, seed=seed, schedule=schedule, overrides=parse_settings(settings))
    place = Place(out, checkpoint_every, keep_every, resume)
    place.finish(simulate.run(config, **place.checkpoints()), as_json)


@app.command()
def compare(
    methods: Annotated[str, typer.Option("--methods", help="Comma-separated methods.")],
    out: Annotated[Path, typer.Option("--out", help="Directory for all records, table and figure.")],
    preset: PresetOption = "lab-digits",
    seeds: Annotated[str, typer.Option("--seeds", help="Comma-separated seeds.")] = "0,1,2",
    schedule: ScheduleOption = "default",
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run several methods over several seeds with the same draws of clients and delays; write table and figure.

    The same command goes on where an interrupted one stopped. Example:
    `python -m reproduce compare --methods fedbuff,afl-dw,fedrevive --seeds 0,1,2 --out runs/compare`
    """
    from fedrevive_core.plots import plot_accuracy
    from reproduce.comparison import markdown, run_all, table

    configs = [
        build(preset, method, seed=seed, schedule=schedule, overrides=parse_settings(settings))
        for method in split(methods, "methods")
        for seed in parse_seeds(seeds)
    ]
    records = run_all(configs, out)
    rows = table(records)
    (out / "table.md").write_text(f"`{command_line()}`\n\n{markdown(rows)}")
    save_figure(plot_accuracy(records), out / "curves.png")
    if as_json:
        print(json.dumps(rows))
    else:
        print_table(f"{preset}: mean and 95% interval over {len(parse_seeds(seeds))} seeds", rows)
        console.print(f"Records, table.md, curves.png: {out}", soft_wrap=True)


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option("--out", help="Directory for records and page.")] = Path("runs/quickstart"),
    seed: SeedOption = 0,
) -> None:
    """The main job: FedBuff, AFL-DW and FedRevive over one timeline on real digits, and a page that shows it.

    Needs no download and no GPU; takes a few minutes on two cores.
    """
    from reproduce.comparison import run_all, table
    from reproduce.quickstart import METHODS_SHOWN, PRESET, write_quickstart_page

    num_clients = build(PRESET, "fedrevive").federation.num_clients
    console.print(f"Three methods on preset '{PRESET}': real digits, {num_clients} clients, one timeline of arrivals.")
    records = run_all([build(PRESET, method, seed=seed) for method in METHODS_SHOWN], out)
    print_table("Quickstart: one seed; `compare` gives intervals over several", table(records))
    page = write_quickstart_page(records, out / "index.html", command_line())
    console.print(f"Open this page: {page.resolve()}", soft_wrap=True)


@app.command()
def bench(
    out: Annotated[Path, typer.Option("--out", help="JSON file; a figure of the same name (.png) goes beside it.")],
    device: Annotated[str, typer.Option("--device", help="`cpu`, `cuda`, or `auto`: CUDA if there is one.")] = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="Smallest workload, few repeats: half a minute.")] = False,
    accuracy: Annotated[
        bool, typer.Option("--accuracy", help="Compare accuracies instead, three seeds: a quarter of an hour.")
    ] = False,
) -> None:
    """Measure speed against a plain reference path: one client after the other, DataLoader, eager Adam, `.item()`.

    Both run in turn in one process and medians are compared, so that a noisy machine slows both. Example:
    `python -m reproduce bench --device cpu --out build/bench.json`
    """
    from fedrevive_core.assembly import pick_device
    from reproduce.bench import accuracies, plot_bench
    from reproduce.bench import bench as measure

    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device {device}: must be auto, cpu or cuda")
    out.parent.mkdir(parents=True, exist_ok=True)
    if accuracy:
        found = accuracies(pick_device(device), *(((0,), 40) if quick else ()))
        out.write_text(json.dumps(found, indent=2) + "\n")
        print_table(
            "FedRevive on lab-digits: final accuracy (mean over the run)",
            [
                {"seed": str(row["seed"])}
                | {
                    path: f"{final:.3f} ({mean:.3f})"
                    for path, final, mean in zip(found["order"], row["final"], row["mean"], strict=True)
                }
                for row in found["runs"]
            ],
        )
        return
    measured = measure(pick_device(device), quick=quick)
    out.write_text(json.dumps(measured, indent=2) + "\n")
    save_figure(plot_bench(measured), out.with_suffix(".png"))
    rows = [
        {"what": kind, "workload": name, **{key: f"{value:,.3g}" for key, value in values.items()}}
        for kind, workloads in measured["results"].items()
        for name, values in workloads.items()
        if isinstance(values, dict)
    ]
    columns = ["what", "workload", "ours", "reference", "ratio", "fraction_of_limit"]
    print_table("Rates and ratios", [{column: row.get(column, "") for column in columns} for row in rows])


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Say what is installed, which device is used, which data sets are present, and what to do about the rest."""
    from reproduce.doctor import examine

    findings = examine()
    if as_json:
        print(json.dumps(findings, indent=2))
    else:
        print_table("Doctor", findings)


for command in (branch, verify, sweep):
    app.command()(command)
publishing.register(app)
