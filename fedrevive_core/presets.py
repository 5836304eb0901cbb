"""Named configurations: presets (a data set with every setting), as data, and what `build` makes of one and a method.

`build("lab-digits", "fedrevive")` gives a RunConfig. Values are merged in this order, later ones winning: the preset's
base, the method's composition, the preset's settings for that method, the schedule, the caller's overrides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedrevive_core.config import RunConfig
from fedrevive_core.methods import METHODS
from fedrevive_core.schedules import SCHEDULES
from fedrevive_core.validation import ConfigError, choices


@dataclass(frozen=True)
class Preset:
    """title; base: settings of all methods; methods: settings of some; sim_time: budget for each schedule."""

    title: str
    base: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]]
    sim_time: Mapping[str, float]


def _server_lr(**by_method: float) -> dict[str, dict[str, Any]]:
    return {name.replace("_", "-"): {"server": {"lr": lr}} for name, lr in by_method.items()}


def _merge(*settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries merged key by key, later ones winning; none is modified."""
    merged: dict[str, Any] = {}
    for part in settings:
        for key, value in part.items():
            inner = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
            merged[key] = (
                _merge(merged[key], value) if inner else (_merge(value) if isinstance(value, Mapping) else value)
            )
    return merged


# Baselines beyond the paper's, on a buffer of two; their rates are ours.
_MORE_BASELINES = {"fedbuff_momentum": 0.01, "fedbuff_adam": 1e-3, "fadas": 1e-3, "ca2fl": 0.05, "mifa": 0.05}
_BUFFERS_TWO = {
    name: {"federation": {"buffer_size": 2}}
    for name in ("fedbuff", "fedbuff-momentum", "fedbuff-adam", "fadas", "ca2fl", "mifa")
}

# The paper's CIFAR experiments, in the settings of its authors. FedAsync is not among them: its rates
# are ours, untuned.
_CIFAR = {
    "model": "resnet18",
    "federation": {"num_clients": 1000, "concurrency": 100},
    "data": {
        "alpha": 0.5,
        "samples_per_client": 350,
        "augmentation": {"crop_padding": 4, "flip": True},
    },
    "training": {"steps": 25, "batch_size": 32, "lr": 3e-4},
    "revival": {"freeze": 50, "warmup": 100},
    "synthesis": {"noise_dim": 256, "width": 128, "generator_lr": 3e-3, "noise_lr": 1e-3},
}
_CIFAR10 = _merge(
    _CIFAR,
    {
        "data": {"name": "cifar10", "mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)},
        "synthesis": {"feature_weight": 3e-3},
        "distillation": {"lr": 1e-4, "temperature": 1.0},
    },
)
_CIFAR10_METHODS = _merge(
    _server_lr(
        fedavg=1.4, fedbuff=0.05, afl_dw=0.1, dd_fedrevive=0.2, fedrevive=0.1,
        fedasync_constant=0.1, fedasync_poly=0.1, fedasync_hinge=0.1, **_MORE_BASELINES,
    ),
    {
        **_BUFFERS_TWO,
        "dd-fedrevive": {"distillation": {"lr": 3e-4, "temperature": 2.0}},
    },
)  # fmt: skip
_CIFAR_SIM_TIME = {"default": 200.0, "shifted": 100.0}

# Presets for laptops, all values ours. The rates were tuned on lab-digits, with the same budget for every method
# (docs/METHODS.md).
_LAB = {
    "model": "labnet",
    "num_threads": 1,  # nearly as fast as two for models this small, and bits do not depend on the number of cores
    "training": {"steps": 15, "batch_size": 32, "lr": 3e-3},
    "revival": {"freeze": 0, "warmup": 20},
    "synthesis": {"noise_dim": 64, "width": 32, "feature_weight": 0.3, "pool_size": 4000},
    "distillation": {"lr": 1e-3},
}
_LAB_METHODS = _merge(
    _server_lr(
        fedavg=0.7, fedbuff=0.05, afl_dw=0.05, dd_fedrevive=0.1, fedrevive=0.1,
        fedasync_constant=0.05, fedasync_poly=0.4, fedasync_hinge=0.2, **_MORE_BASELINES,
    ),
    {**_BUFFERS_TWO, "fedasync-hinge": {"staleness": {"hinge_slope": 0.1}}},
)  # fmt: skip

PRESETS: dict[str, Preset] = {
    "lab-digits": Preset(
        "scikit-learn's digits, 150 clients, strong skew, high staleness: a run takes a minute or two (ours)",
        _merge(
            _LAB,
            {
                "federation": {"num_clients": 150, "concurrency": 80},
                "data": {"name": "digits", "alpha": 0.1, "samples_per_client": 60},
            },
        ),
        _LAB_METHODS,
        {"default": 30.0, "shifted": 3.6},
    ),
    "lab-fashion": Preset(
        "Fashion-MNIST at 14x14, 200 clients, strong skew, high staleness: a run takes a few minutes (ours)",
        _merge(
            _LAB,
            {
                "federation": {"num_clients": 200, "concurrency": 80},
                "data": {"name": "fashion_mnist", "image_size": 14, "alpha": 0.1, "samples_per_client": 120},
            },
        ),
        _LAB_METHODS,
        {"default": 14.0, "shifted": 1.75},
    ),
    "cifar10": Preset("CIFAR-10 as in the paper", _CIFAR10, _CIFAR10_METHODS, _CIFAR_SIM_TIME),
    "cifar10-authors": Preset(
        "CIFAR-10 as in the authors' first code: true proportions, T_gen 1, zeros blended at first, meta eps 0",
        _CIFAR10,
        _merge(
            _CIFAR10_METHODS,
            {
                "fedrevive": {
                    "revival": {"proportions": "true", "before_distillation": "zero"},
                    "synthesis": {"every": 1, "meta_eps": 0.0},
                }
            },
        ),
        _CIFAR_SIM_TIME,
    ),
    "cifar100": Preset(
        "CIFAR-100 as in the paper; the budget in simulated time is ours",
        _merge(
            _CIFAR,
            {
                "data": {"name": "cifar100", "mean": (0.507, 0.487, 0.441), "std": (0.268, 0.257, 0.276)},
                "synthesis": {"feature_weight": 3e-4},
                "distillation": {"lr": 3e-5, "temperature": 1.0},
            },
            {"data": {"augmentation": {"rotation": 15.0}}},
        ),
        _merge(
            _server_lr(
                fedavg=1.4, fedbuff=0.1, afl_dw=0.1, dd_fedrevive=0.3, fedrevive=0.1,
                fedasync_constant=0.1, fedasync_poly=0.1, fedasync_hinge=0.1, **_MORE_BASELINES,
            ),
            {
                **_BUFFERS_TWO,
                "fedavg": {"federation": {"concurrency": 200}},
                "fedbuff": {"federation": {"buffer_size": 3}},
                "dd-fedrevive": {"training": {"lr": 1e-4}, "distillation": {"lr": 1e-4, "temperature": 1.0}},
            },
        ),
        _CIFAR_SIM_TIME,
    ),
}  # fmt: skip


def build(
    preset: str,
    method: str,
    *,
    seed: int = 0,
    schedule: str = "default",
    overrides: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Configuration of `method` on `preset`.

    Args:
        schedule: 'default' or 'shifted'; also sets the preset's budget in simulated time for it.
        overrides: values by dotted name, such as {"server.lr": 0.05}.

    Raises ConfigError for unknown names and values that are not allowed.
    """
    if preset not in PRESETS:
        raise ConfigError(f"preset = '{preset}' is unknown: {choices(preset, PRESETS)}")
    if method not in METHODS:
        raise ConfigError(f"method = '{method}' is unknown: {choices(method, METHODS)}")
    if schedule not in SCHEDULES:
        raise ConfigError(f"schedule = '{schedule}' is unknown: {choices(schedule, SCHEDULES)}")
    chosen = PRESETS[preset]
    return RunConfig.from_dict(
        _merge(
            {"preset": preset, "method": method, "seed": seed},
            chosen.base,
            METHODS[method].settings,
            chosen.methods.get(method, {}),
            {"federation": {"schedule": schedule, "max_sim_time": chosen.sim_time[schedule]}},
            *(_nested(name, value) for name, value in (overrides or {}).items()),
        )
    )


def _nested(dotted: str, value: Any) -> dict[str, Any]:
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return value
