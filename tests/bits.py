"""The bits of short runs of every lab preset and method, to compare two checkouts on one machine.

Run it once with each checkout, then compare the two files:

    PYTHONPATH=/path/to/before python tests/bits.py before.json
    PYTHONPATH=/path/to/after python tests/bits.py after.json
    python tests/bits.py before.json after.json

It uses nothing but names that every version of the package has. A preset whose data is absent is left out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

# Enough for warm-up, several syntheses and distillations, and buffers of two; a FedAvg version takes 40 to 80 jobs.
SHORT = {"federation.max_versions": 45, "num_threads": 1}
SHORT_SYNCHRONOUS = {"federation.max_versions": 2, "num_threads": 1}
# What the presets leave switched off.
VARIANTS: dict[str, dict[str, Any]] = {
    "faults": {
        "federation.faults.crash": 0.05, "federation.faults.duplicate": 0.05, "federation.faults.drop_out": 0.02,
        "federation.faults.sign_flip": 0.05, "federation.faults.non_finite": 0.05, "server.clip_norm": 2.0,
    },
    "noise": {"revival.source": "noise"},
    "other": {"revival.source": "other"},
    "uniform labels, true proportions": {"synthesis.labels": "uniform", "revival.proportions": "true"},
    "augmented": {"data.augmentation": {"crop_padding": 1, "flip": True, "rotation": 10.0}},
    "every version, two teachers": {"synthesis.every": 1, "revival.num_teachers": 2},
}  # fmt: skip


def main(out: Path) -> None:
    import fedrevive_core
    from fedrevive_core import METHODS, PRESETS, ConfigError, build, run

    print(f"package: {Path(fedrevive_core.__file__).parent}")
    plans = [
        (f"{preset} {method}", preset, method, SHORT_SYNCHRONOUS if method == "fedavg" else SHORT)
        for preset in PRESETS
        if preset.startswith("lab-")
        for method in METHODS
    ]
    plans += [(f"lab-digits fedrevive, {name}", "lab-digits", "fedrevive", SHORT | v) for name, v in VARIANTS.items()]
    plans += [(f"lab-digits fedrevive, {s}", "lab-digits", "fedrevive", SHORT) for s in ("shifted", "stragglers")]
    found: dict[str, list[str]] = {}
    for name, preset, method, overrides in plans:
        schedule = next((s for s in ("shifted", "stragglers") if name.endswith(s)), "default")
        try:
            record = run(build(preset, method, schedule=schedule, overrides=overrides), progress=False)
        except ConfigError as error:
            print(f"left out: {name}: {error}")
            continue
        found[name] = [record.summary["state_sha256"], record.summary["certificate"]]
        print(f"{name}: {found[name][0][:12]} {found[name][1][:12]}", flush=True)
    out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def compare(one: Path, other: Path) -> None:
    first, second = (json.loads(path.read_text(encoding="utf-8")) for path in (one, other))
    differing = [name for name in first.keys() | second.keys() if first.get(name) != second.get(name)]
    print(f"{len(first.keys() & second.keys()) - len(differing)} runs are bit-identical, {len(differing)} differ")
    for name in sorted(differing):
        print(f"  {name}: {first.get(name)} / {second.get(name)}")
    sys.exit(bool(differing))


if __name__ == "__main__":
    paths = [Path(argument) for argument in sys.argv[1:]]
    main(*paths) if len(paths) == 1 else compare(*paths)
