"""Commands about single runs, and comparisons of a few."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from fedrevive_core.config import METHODS, PRESETS, RunConfig, build, flatten, leaf_fields
from fedrevive_core.files import atomic_file, writing
from reproduce.cli.options import (
    CheckpointOption,
    JobsOption,
    JsonOption,
    KeepOption,
    MethodOption,
    MethodsOption,
    OtherCodeOption,
    PresetOption,
    ResumeOption,
    ScheduleOption,
    SeedOption,
    SeedsOption,
    SetOption,
    TimelineOption,
    completed,
    directory,
    given,
    listed,
    one_of,
    parse_seeds,
    parse_settings,
    split,
)
from reproduce.console import check_figure, command_line, console, print_table, save_figure
from reproduce.runs.output import OutputDirectory, finish


def presets(
    preset: Annotated[
        str | None,
        typer.Argument(
            metavar="PRESET",
            autocompletion=completed(PRESETS),
            help="Show every setting of this preset, with its source.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List presets and methods, or every setting of one preset for all methods.

    ```
    fedrevive presets lab-digits
    ```
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
        size = f"{federation.num_clients} / {federation.concurrency} / {config.data.alpha:g}"
        rows.append({"preset": name, "model": config.model, "N / K / alpha": size, "what it is": chosen.title})
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
    context: typer.Context,
    preset: PresetOption = "lab-digits",
    method: MethodOption = "fedrevive",
    schedule: ScheduleOption = "default",
    seed: SeedOption = 0,
    recorded: TimelineOption = None,
    settings: SetOption = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Also draw it into this file (.png, .svg, .pdf).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compute which client trains when, when its update arrives and how stale it is. Nothing is trained.

    ```
    fedrevive timeline --preset cifar10 --schedule shifted --seed 10
    ```
    """
    from fedrevive_core.timeline import simulate_timeline

    config = _config(context, recorded, parse_settings(settings))
    if plot is not None:
        check_figure(plot)
    started = time.perf_counter()
    played = simulate_timeline(config.federation, config.seed)
    summary = {**played.summary(), "seconds": round(time.perf_counter() - started, 4)}
    if plot is not None:
        from fedrevive_core.plots import plot_timeline

        save_figure(plot_timeline(played), plot)
    if as_json:
        print(json.dumps(summary))
    else:
        rows = [{"quantity": name, "value": f"{value:.6g}"} for name, value in summary.items()]
        print_table(f"Timeline of {recorded or config.preset}, {config.method}, seed {config.seed}", rows)


def _config(context: typer.Context, recorded: Path | None, settings: dict[str, Any]) -> RunConfig:
    """The configuration that the options of a command name, with the arrivals of a `recorded` timeline if there is one.

    Raises ConfigError if they do not go together.
    """
    from reproduce.runs.timelines import config_on

    names = ("preset", "method", "schedule", "seed")
    if recorded is not None:
        return config_on(recorded, given(context, *names), settings)
    return build(**{name: context.params[name] for name in names}, overrides=settings)


def run(
    context: typer.Context,
    out: Annotated[Path, directory("New directory for the record: tables, model, figure.")],
    preset: PresetOption = "lab-digits",
    method: MethodOption = "fedrevive",
    schedule: ScheduleOption = "default",
    seed: SeedOption = 0,
    recorded: TimelineOption = None,
    settings: SetOption = None,
    checkpoint_every: CheckpointOption = None,
    keep_every: KeepOption = 0,
    resume: ResumeOption = False,
    allow_other_code: OtherCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run one method and write its record: run.json, tables, timeline, samples, model and figures.

    A run that was interrupted or killed can be resumed with `--resume`; it ends with the same bits. A finished one is
    not repeated then, so that a batch system may start the same command again and again.

    ```
    fedrevive run --preset lab-digits --method fedrevive --out runs/first
    fedrevive run --method afl-dw --set server.lr=0.05 --out runs/slow
    fedrevive run --timeline runs/first --method afl-dw --out runs/same
    ```
    """
    from fedrevive_core import simulation

    config = _config(context, recorded, parse_settings(settings))
    output = OutputDirectory(out, checkpoint_every, keep_every, resume, allow_other_code)
    finish(output.finished(config) or simulation.run(config, **output.options()), output, as_json)


def compare(
    context: typer.Context,
    methods: MethodsOption,
    out: Annotated[Path, directory("Directory for all records, table and figure.")],
    preset: PresetOption = "lab-digits",
    seeds: SeedsOption = "0,1,2",
    schedule: ScheduleOption = "default",
    recorded: TimelineOption = None,
    settings: SetOption = None,
    jobs: JobsOption = None,
    allow_other_code: OtherCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run several methods on the same arrivals, with several seeds, and write a table and a figure.

    The records are in OUT/runs/METHOD-sSEED-HASH. If it was interrupted, the same command resumes it.

    ```
    fedrevive compare --methods fedbuff,afl-dw,fedrevive --out runs/compare
    ```
    """
    from fedrevive_core.plots import plot_accuracy
    from reproduce.reports.text import comparison_table, markdown
    from reproduce.runs.comparison import comparison, run_comparison

    numbers, changes = parse_seeds(seeds), parse_settings(settings)
    if recorded is not None:
        from reproduce.runs.timelines import base_of

        preset, _, seed, changes = base_of(recorded, given(context, "preset", "schedule"), changes, another_method=True)
        numbers = numbers if given(context, "seeds") else [seed]
    experiment = comparison(preset, split(methods, "methods"), numbers, schedule, changes)
    records = run_comparison(experiment, out, jobs, allow_other_code)
    rows = comparison_table(records)
    with writing(out), atomic_file(out / "table.md") as path:
        path.write_text(f"`{command_line()}`\n\n{markdown(rows)}", encoding="utf-8")
    save_figure(plot_accuracy(records), out / "curves.png")
    if as_json:
        print(json.dumps(rows))
    else:
        several = f"mean and 95% interval over {len(numbers)} seeds" if len(numbers) > 1 else f"seed {numbers[0]}"
        print_table(f"{preset}: {several}", rows)
        console.print(f"Records: {out / 'runs'}; table.md, curves.png: {out}", soft_wrap=True)


def quickstart(
    out: Annotated[Path, directory("Directory for records and page.")] = Path("runs/quickstart"),
    seed: SeedOption = 0,
    allow_other_code: OtherCodeOption = False,
) -> None:
    """Run FedBuff, AFL-DW and FedRevive on real digits with the same arrivals, and write a page about what happened.

    It needs no download and no GPU, and takes a minute and a half on two cores.

    ```
    fedrevive quickstart
    ```
    """
    from reproduce.reports.text import comparison_table
    from reproduce.runs.comparison import comparison, run_comparison
    from reproduce.runs.quickstart import METHODS_SHOWN, PRESET, SETTINGS, write_quickstart_page

    num_clients = build(PRESET, "fedrevive").federation.num_clients
    console.print(f"Three methods on preset '{PRESET}': real digits, {num_clients} clients, one timeline of arrivals.")
    experiment = comparison(PRESET, METHODS_SHOWN, [seed], "default", SETTINGS)
    records = run_comparison(experiment, out, None, allow_other_code)
    print_table("Quickstart: one seed; `compare` gives intervals over several", comparison_table(records))
    page = write_quickstart_page(records, out / "index.html", command_line())
    console.print(f"Open this page: {page.resolve()}", soft_wrap=True)


def branch(
    source: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="Record of a run with `--keep-every`, or OUT.partial of an unfinished run."),
    ],
    out: Annotated[Path, directory("New directory for the record of the branch.")],
    at: Annotated[
        int | None, typer.Option("--at", metavar="VERSION", help="Version to start from; default: the newest.")
    ] = None,
    method: Annotated[
        str | None,
        one_of("--method", METHODS, f"Another method; default: that of the run. One of {listed(METHODS)}."),
    ] = None,
    settings: SetOption = None,
    checkpoint_every: CheckpointOption = None,
    keep_every: KeepOption = 0,
    resume: ResumeOption = False,
    allow_other_code: OtherCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Resume a run from a checkpoint under other settings, with the same jobs and arrivals, as a new run.

    The original run is not modified. The field `provenance` in run.json says where the branch starts.

    ```
    fedrevive branch runs/first --at 1000 --method afl-dw --out runs/what-if
    ```
    """
    from reproduce.runs.branching import run_branch

    output = OutputDirectory(out, checkpoint_every, keep_every, resume, allow_other_code)
    finish(run_branch(source, at, method, parse_settings(settings), output), output, as_json)
