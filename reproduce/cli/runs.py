"""Commands about single runs, and about a few of them."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedrevive_core.config import METHODS, PRESETS, RunConfig, build, flatten, leaf_fields
from fedrevive_core.errors import ConfigError
from reproduce.cli.options import (
    CheckpointOption,
    JsonOption,
    KeepOption,
    MethodOption,
    PresetOption,
    ResumeOption,
    ScheduleOption,
    SeedOption,
    SetOption,
    parse_seeds,
    parse_settings,
    split,
)
from reproduce.console import command_line, console, print_table, save_figure
from reproduce.runs.output import OutputDirectory

if TYPE_CHECKING:
    from fedrevive_core.records import Record


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
    by_method = {method: flatten(config.model_dump()) for method, config in configs.items()}
    for field, description in leaf_fields(RunConfig).items():
        values = {method: _text(settings[field]) for method, settings in by_method.items()}
        common = max(values.values(), key=list(values.values()).count)
        others = [f"{method}: {value}" for method, value in values.items() if value != common]
        if field not in ("preset", "method"):
            rows.append({"setting": field, "value": "\n".join([common, *others]), "meaning [source]": description})
    print_table("Settings: the value of most methods, then the methods that differ", rows)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


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
    from fedrevive_core import simulation

    config = build(preset, method, seed=seed, schedule=schedule, overrides=parse_settings(settings))
    directory = OutputDirectory(out, checkpoint_every, keep_every, resume)
    _finish(simulation.run(config, **directory.checkpoints()), directory, as_json)


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
    from reproduce.reports.text import markdown, table
    from reproduce.runs.comparison import run_all

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


def quickstart(
    out: Annotated[Path, typer.Option("--out", help="Directory for records and page.")] = Path("runs/quickstart"),
    seed: SeedOption = 0,
) -> None:
    """The main job: FedBuff, AFL-DW and FedRevive over one timeline on real digits, and a page that shows it.

    Needs no download and no GPU; takes a few minutes on two cores.
    """
    from reproduce.reports.text import table
    from reproduce.runs.comparison import run_all
    from reproduce.runs.quickstart import METHODS_SHOWN, PRESET, write_quickstart_page

    num_clients = build(PRESET, "fedrevive").federation.num_clients
    console.print(f"Three methods on preset '{PRESET}': real digits, {num_clients} clients, one timeline of arrivals.")
    records = run_all([build(PRESET, method, seed=seed) for method in METHODS_SHOWN], out)
    print_table("Quickstart: one seed; `compare` gives intervals over several", table(records))
    page = write_quickstart_page(records, out / "index.html", command_line())
    console.print(f"Open this page: {page.resolve()}", soft_wrap=True)


def verify(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN [OTHER]", help="One directory of a record, or two.")],
) -> None:
    """Say whether two runs had the same bits throughout, or where they first differ; of one run, carry it out again.

    Exit code 0 if they are identical, 1 if not. Example: `python -m reproduce verify runs/first runs/second`
    """
    from reproduce.runs.verify import Altered, differences, load_intact, repeat

    if len(runs) > 2:
        raise ConfigError(f"verify takes one record or two, not {len(runs)}")
    try:
        records = [load_intact(directory) for directory in runs]
    except Altered as error:
        print(f"different: {error}")
        raise typer.Exit(1) from None
    if len(records) == 1:
        records.append(repeat(records[0], runs[0], lambda words: print(f"warning: {words}", file=sys.stderr)))
    sentences = differences(*records)
    if sentences:
        print("\n".join(sentences))
        raise typer.Exit(1)
    summary = records[0].summary
    print(
        f"identical: {summary['num_arrivals']} arrivals, {summary['num_versions']} versions, "
        f"certificate {summary['certificate']}"
    )


def branch(
    source: Annotated[Path, typer.Argument(metavar="RUN", help="OUT.partial, or OUT of a run with --keep-every.")],
    out: Annotated[Path, typer.Option("--out", help="New directory for the branch's record.")],
    at: Annotated[int | None, typer.Option("--at", help="Version to go on from; unset takes the newest.")] = None,
    method: Annotated[str | None, typer.Option("--method", help="Go on with this method; unset keeps it.")] = None,
    settings: SetOption = None,
    checkpoint_every: CheckpointOption = None,
    keep_every: KeepOption = 0,
    resume: ResumeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Go on from a checkpoint under other settings, with the same jobs and arrivals; the run itself stays as it is.

    Where it was branched from is in run.json under provenance. Example:
    `python -m reproduce branch runs/first --at 1000 --method afl-dw --out runs/what-if`
    """
    from reproduce.runs.branching import run_branch

    directory = OutputDirectory(out, checkpoint_every, keep_every, resume)
    record = run_branch(source, at, method, parse_settings(settings), **directory.checkpoints())
    _finish(record, directory, as_json)


def _finish(record: Record, directory: OutputDirectory, as_json: bool) -> None:
    """Save the record and print its summary."""
    from reproduce.reports.text import table

    directory.save(record)
    if as_json:
        print(json.dumps(record.summary))
    else:
        print_table(f"{record.config.preset}, seed {record.config.seed}", table([record]))
        console.print(f"Record: {directory.out}", soft_wrap=True)
