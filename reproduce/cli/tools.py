"""Commands that measure, check and prepare."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fedrevive_core.config import choices
from fedrevive_core.errors import ConfigError
from fedrevive_core.files import atomic_file, check_file, check_free, writing
from reproduce.cli.options import (
    DEVICES,
    DeviceOption,
    JsonOption,
    SeedsOption,
    SetOption,
    directory,
    listed,
    one_of,
    parse_seeds,
    parse_settings,
)
from reproduce.console import command_line, print_table, save_figure
from reproduce.seed_texts import TEXT_PRESETS, check_new, class_names, write_seeds


def bench(
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE", help="JSON file; a figure with the same name (.png) goes beside it."),
    ],
    device: DeviceOption = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="Smallest workload, few repeats: half a minute.")] = False,
    accuracy: Annotated[
        bool, typer.Option("--accuracy", help="Compare accuracies instead, with three seeds: a quarter of an hour.")
    ] = False,
) -> None:
    """Measure the speed against a plain reference: straightforward code, one client after the other, eager Adam.

    Both run in turn on one thread in one process. On a CPU the ratios are of CPU time, on a GPU of wall time.

    ```
    fedrevive bench --device cpu --out build/bench.json
    ```
    """
    from fedrevive_core.simulation import pick_device
    from reproduce.benchmark.bench import accuracies, plot_bench, run_benchmark

    if device not in DEVICES:
        raise ConfigError(f"--device {device}: {choices(device, DEVICES)}")
    figure = out.with_suffix(".png")
    check_file(out, figure)
    if accuracy:
        found = accuracies(pick_device(device), *(((0,), 40) if quick else ()))
        _write_json(found, out)
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
    measured = run_benchmark(pick_device(device), quick=quick)
    _write_json(measured, out)
    save_figure(plot_bench(measured), figure)
    rows = [
        {"what": kind, "workload": name, **{key: f"{value:,.3g}" for key, value in values.items()}}
        for kind, workloads in measured["results"].items()
        for name, values in workloads.items()
        if isinstance(values, dict)
    ]
    columns = ["what", "workload", "ours", "reference", "ratio", "ratio_wall", "fraction_of_limit"]
    print_table(
        f"Rates and ratios by {measured['clock']}",
        [{column: row.get(column, "") for column in columns} for row in rows],
    )


def gpu(
    out: Annotated[Path, directory("New directory for a page, and for the numbers as JSON.")],
    minutes: Annotated[float, typer.Option("--minutes", metavar="N", min=0.1, max=600, help="Time it may take.")] = 8,
    device: Annotated[str, one_of("--device", ("cuda", "cpu"), "`cuda`, or `cpu` to try the command.")] = "cuda",
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Smallest sizes: a few seconds, and no use as a result.")
    ] = False,
) -> None:
    """Check and measure a GPU: does it agree with the CPU, what is fastest on it, how long is the paper's run?

    What it has found is kept if it is stopped.

    ```
    fedrevive gpu --minutes 8 --out build/gpu
    ```
    """
    if device not in ("cuda", "cpu"):
        raise ConfigError(f"--device {device}: {choices(device, ('cuda', 'cpu'))}")
    check_free(out)
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("PyTorch sees no CUDA GPU here, and gpu measures one: --device cpu --tiny tries the command")
    from reproduce.benchmark.gpu.measure import Measurement
    from reproduce.benchmark.gpu.page import write_gpu_page

    measurement = Measurement(torch.device(device), minutes, out, few=tiny)
    try:
        measurement.make()
    finally:
        measurement.save()
        page = write_gpu_page(measurement.found, measurement.winners(), out / "index.html", command_line())
        print(f"Written: {page}")


def privacy(
    out: Annotated[Path, directory("Directory for privacy.json, privacy.png, and the units they are made of.")],
    seeds: SeedsOption = "0,1,2,3,4",
    settings: SetOption = None,
) -> None:
    """Measure on lab-digits what the server learns about clients, and what clipping and noise do to it and to accuracy.

    Attacks: class proportions from models, membership from updates and from the pool. Twenty minutes on one core
    with five seeds. If it was interrupted, the same command resumes it.

    ```
    fedrevive privacy --out runs/privacy --seeds 0,1,2,3,4
    ```
    """
    from reproduce.evidence.privacy import accuracy_table, attack_table, label_table, plot_privacy
    from reproduce.runs.privacy import measure

    found = {"command": command_line(), **measure(out, parse_seeds(seeds), parse_settings(settings))}
    _write_json(found, out / "privacy.json")
    save_figure(plot_privacy(found), out / "privacy.png")
    print_table("Membership inference: area under the ROC curve, 0.5 is a guess", attack_table(found))
    print_table("Class proportions of a client: total variation from the truth; KL divergence", label_table(found))
    print_table("Accuracy", accuracy_table(found))
    print(f"Written: {out / 'privacy.json'}, {out / 'privacy.png'}")


def _write_json(values: dict[str, Any], out: Path) -> None:
    with writing(out), atomic_file(out) as path:
        path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def doctor(as_json: JsonOption = False) -> None:
    """Show what is installed, which device is used, which data sets are available, and how to get the rest.

    ```
    fedrevive doctor
    ```
    """
    from reproduce.doctor import examine

    findings = examine()
    if as_json:
        print(json.dumps(findings, indent=2))
    else:
        print_table("Doctor", findings)


def verify(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN [OTHER]", help="Directory of a record, or two of them.")],
) -> None:
    """Check that two runs are bit-identical, or show where they first differ. With one run, repeat it and compare.

    The exit code is 0 if they are identical, 1 if not.

    ```
    fedrevive verify runs/first runs/second
    ```
    """
    from fedrevive_core.records import Altered
    from reproduce.runs.verify import differences, load_intact, repeat

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


def seed_texts(
    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="Causal language model: a name on the Hub, or a folder.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="New .jsonl file.")],
    preset: Annotated[
        str, one_of("--preset", TEXT_PRESETS, f"Its data set gives the classes. One of {listed(TEXT_PRESETS)}.")
    ] = "newsgroups",
    per_class: Annotated[int, typer.Option("--per-class", metavar="N", min=1, help="Texts per class.")] = 2000,
) -> None:
    """Let a language model write texts of every class, from which the synthesis of texts starts.

    Use the file with `--set synthesis.seeds=FILE`.

    ```
    fedrevive seed-texts --model HuggingFaceTB/SmolLM2-360M --out seeds.jsonl
    ```
    """
    check_new(out)
    write_seeds(model, class_names(preset), per_class, out)
    print(f"Written: {out}")


def convert_trace(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="Availability: JSON, or a pickle of FedScale.")],
    out: Annotated[Path, directory("New directory for the two tables, a value of `federation.devices.trace`.")],
    speed: Annotated[
        Path | None,
        typer.Option("--speed", metavar="FILE", help="FedScale's pickle of speeds; without, three classes are drawn."),
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", metavar="N", min=1, max=10**6, help="Samples of a step, for `--speed`.")
    ] = 32,
) -> None:
    """Convert a public trace of real devices (FLASH, FLHetBench, FedScale): docs/DEVICES.md. No identifiers are kept.

    ```
    fedrevive convert-trace cached_timers.json --out runs/trace
    ```
    """
    from reproduce.traces import convert

    check_free(out)
    found = convert(source, out, speed, batch_size)
    print_table("Devices", [{"quantity": name, "value": f"{value:.6g}"} for name, value in found.items()])
    print(f"Written: {out}")
