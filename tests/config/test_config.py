"""Configurations: what the presets say, what comes back from a dictionary, and what is refused in which words."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
from helpers import constant, steady
from pydantic import BaseModel, ValidationError

from fedrevive_core.config.base import flatten, leaf_fields, unflatten
from fedrevive_core.config.federation import SCHEDULES
from fedrevive_core.config.methods import METHODS, method_title
from fedrevive_core.config.presets import PRESETS, build
from fedrevive_core.config.price import check_price
from fedrevive_core.config.run import RunConfig
from fedrevive_core.errors import ConfigError
from fedrevive_core.simulation.simulation import Simulation
from fedrevive_core.timeline import simulate_timeline

EVERY = [(preset, method, schedule) for preset in PRESETS for method in METHODS for schedule in SCHEDULES]


def refusal(preset: str = "lab-digits", method: str = "fedrevive", **settings: Any) -> str:
    """What ConfigError says about a configuration with these overrides ('__' stands for a dot)."""
    overrides = {name.replace("__", "."): value for name, value in settings.items()}
    with pytest.raises(ConfigError) as error:
        build(preset, method, overrides=overrides)
    return str(error.value)


def fields_of(parameter: Any) -> str:
    """Name of a test case: the fields that it sets."""
    return "-".join(f"{name}={value}"[:50] for name, value in parameter.items()) if isinstance(parameter, dict) else ""


# ------------------------------------------------------------------------------- presets against the specification

# Columns CIFAR-10 and CIFAR-100 of the settings, written out by hand.
COMMON = {
    "model": "resnet18",
    "federation.num_clients": 1000,
    "federation.concurrency": 100,
    "federation.buffer_size": 1,
    "federation.refill_size": 1,
    "federation.max_sim_time": 200.0,
    "federation.max_versions": None,
    "data.split": "dirichlet",
    "data.alpha": 0.5,
    "data.samples_per_client": 350,
    "data.image_size": None,
    "data.augmentation.crop_padding": 4,
    "data.augmentation.flip": True,
    "training.steps": 25,
    "training.batch_size": 32,
    "training.lr": 3e-4,
    "server.update_from": "downloaded",
    "revival.source": "none",
    "evaluation.every": 10,
    "evaluation.split": "test",
}
CIFAR10 = {
    **COMMON,
    "data.name": "cifar10",
    "data.mean": (0.4914, 0.4822, 0.4465),
    "data.std": (0.2023, 0.1994, 0.2010),
    "data.augmentation.rotation": 0.0,
}
CIFAR100 = {
    **COMMON,
    "data.name": "cifar100",
    "data.mean": (0.507, 0.487, 0.441),
    "data.std": (0.268, 0.257, 0.276),
    "data.augmentation.rotation": 15.0,
}
WHOLE = {"staleness.rule": "constant", "staleness.constant": 0.0}
COSINE = {"staleness.rule": "cosine", "staleness.s_max": 75.0}
FEDAVG = {**WHOLE, "federation.refill_size": 100, "federation.buffer_size": 100, "evaluation.every": 1}
DATA_DEPENDENT = {
    "staleness.rule": "constant",
    "staleness.constant": 0.5,
    "revival.source": "held_back",
    "revival.proportions": "true",
    "revival.num_teachers": 8,
    "revival.freeze": 0,
    "revival.warmup": None,
    "revival.guard": False,
    "distillation.steps": 10,
    "distillation.batch_size": 32,
    "distillation.weight_decay": 0.0,
}
REVIVED = {
    **COSINE,
    "revival.source": "synthetic",
    "revival.num_teachers": 8,
    "revival.proportions": "proxy",
    "revival.probe_temperature": 0.8,
    "revival.num_probe_inputs": 64,
    "revival.freeze": 50,
    "revival.warmup": 100,
    "revival.before_distillation": "client",
    "revival.guard": True,
    "synthesis.every": 10,
    "synthesis.batch_size": 64,
    "synthesis.steps": 2,
    "synthesis.noise_dim": 256,
    "synthesis.width": 128,
    "synthesis.generator_lr": 3e-3,
    "synthesis.noise_lr": 1e-3,
    "synthesis.label_weight": 1.0,
    "synthesis.adversarial_weight": 0.1,
    "synthesis.labels": "teachers",
    "synthesis.pool_size": 16_000,
    "synthesis.meta_eps": 1e-8,
    "distillation.steps": 10,
    "distillation.batch_size": 32,
    "distillation.temperature": 1.0,
    "distillation.weight_decay": 1e-5,
    "distillation.rejected_loss": "skips",
    "revival.adversary_counts": "versions",
}
TABLE = {
    ("cifar10", "fedavg"): {**CIFAR10, **FEDAVG, "server.lr": 1.4},
    ("cifar10", "fedbuff"): {**CIFAR10, **WHOLE, "server.lr": 0.05, "federation.buffer_size": 2},
    ("cifar10", "afl-dw"): {**CIFAR10, **COSINE, "server.lr": 0.1},
    ("cifar10", "dd-fedrevive"): {
        **CIFAR10,
        **DATA_DEPENDENT,
        "server.lr": 0.2,
        "distillation.lr": 3e-4,
        "distillation.temperature": 2.0,
    },
    ("cifar10", "fedrevive"): {
        **CIFAR10,
        **REVIVED,
        "server.lr": 0.1,
        "distillation.lr": 1e-4,
        "synthesis.feature_weight": 3e-3,
    },
    ("cifar10-authors", "fedrevive"): {
        **CIFAR10,
        **REVIVED,
        "server.lr": 0.1,
        "distillation.lr": 1e-4,
        "synthesis.feature_weight": 3e-3,
        "revival.proportions": "true",
        "revival.before_distillation": "zero",
        "synthesis.every": 1,
        "synthesis.meta_eps": 0.0,
        "distillation.rejected_loss": "zero_gradient",
        "revival.adversary_counts": "syntheses",
    },
    ("cifar100", "fedavg"): {
        **CIFAR100,
        **FEDAVG,
        "server.lr": 1.4,
        "federation.concurrency": 200,
        "federation.buffer_size": 200,
        "federation.refill_size": 200,
    },
    ("cifar100", "fedbuff"): {**CIFAR100, **WHOLE, "server.lr": 0.1, "federation.buffer_size": 3},
    ("cifar100", "afl-dw"): {**CIFAR100, **COSINE, "server.lr": 0.1},
    ("cifar100", "dd-fedrevive"): {
        **CIFAR100,
        **DATA_DEPENDENT,
        "training.lr": 1e-4,
        "server.lr": 0.3,
        "distillation.lr": 1e-4,
        "distillation.temperature": 1.0,
    },
    ("cifar100", "fedrevive"): {
        **CIFAR100,
        **REVIVED,
        "server.lr": 0.1,
        "distillation.lr": 3e-5,
        "synthesis.feature_weight": 3e-4,
    },
}


@pytest.mark.parametrize(("preset", "method"), TABLE)
def test_presets_are_the_papers_settings(preset: str, method: str) -> None:
    config = build(preset, method)
    wanted = TABLE[preset, method]
    assert flatten(config.model_dump()).items() >= wanted.items()


@pytest.mark.parametrize("method", [method for method in METHODS if method != "fedrevive"])
def test_the_authors_preset_differs_in_fedrevive_alone(method: str) -> None:
    ours, theirs = (build(preset, method).to_dict() for preset in ("cifar10", "cifar10-authors"))
    assert {**theirs, "preset": "cifar10"} == ours


@pytest.mark.parametrize(("schedule", "budget"), [("default", 200.0), ("shifted", 100.0)])
def test_cifar10_runs_as_long_as_in_the_paper(schedule: str, budget: float) -> None:
    federation = build("cifar10", "fedbuff", schedule=schedule).federation
    assert federation.max_sim_time == budget
    assert federation.schedule.model_dump()["training"]["means"] == tuple(SCHEDULES[schedule]["training"]["means"])


@pytest.mark.parametrize(
    ("method", "staleness"),
    [
        ("fedasync-constant", WHOLE),
        ("fedasync-poly", {"staleness.rule": "polynomial", "staleness.power": 0.5}),
        ("fedasync-hinge", {"staleness.rule": "hinge", "staleness.hinge_slope": 10.0, "staleness.hinge_start": 4.0}),
    ],
)
def test_fedasync_mixes_models_one_at_a_time(method: str, staleness: dict[str, Any]) -> None:
    config = build("cifar10", method)
    wanted = {**CIFAR10, **staleness, "server.update_from": "current"}
    assert flatten(config.model_dump()).items() >= wanted.items()


@pytest.mark.parametrize(("preset", "method", "schedule"), EVERY)
def test_every_preset_builds_with_every_method_and_comes_back_whole(preset: str, method: str, schedule: str) -> None:
    config = build(preset, method, seed=7, schedule=schedule)
    assert (config.preset, config.method, config.seed) == (preset, method, 7)
    text = json.dumps(config.to_dict())
    assert RunConfig.from_dict(json.loads(text)) == config


@pytest.mark.parametrize("preset", PRESETS)
def test_all_methods_but_fedavg_see_the_same_clients_delays_and_data(preset: str) -> None:
    shared = ("num_clients", "concurrency", "refill_size", "schedule", "max_sim_time")
    configs = [build(preset, method) for method in METHODS if method != "fedavg"]
    assert len({tuple(str(getattr(config.federation, name)) for name in shared) for config in configs}) == 1
    assert len({str(config.data) for config in configs}) == 1


def test_building_does_not_change_the_tables() -> None:
    before = json.dumps([PRESETS["cifar100"].base, METHODS["fedavg"].settings], default=dict)
    build("cifar100", "fedavg", overrides={"data.augmentation.flip": False, "federation.num_clients": 300})
    assert json.dumps([PRESETS["cifar100"].base, METHODS["fedavg"].settings], default=dict) == before


def test_overrides_win_and_leave_their_neighbours_alone() -> None:
    config = build("cifar10", "fedrevive", overrides={"server.lr": 0.05, "data.augmentation.flip": False})
    assert config.server.lr == 0.05
    assert config.data.augmentation.flip is False
    assert config.data.augmentation.crop_padding == 4


def test_buffer_and_refill_may_follow_the_concurrency() -> None:
    federation = build("cifar10", "fedavg", overrides={"federation.concurrency": 30}).federation
    assert (federation.buffer_size, federation.refill_size) == (30, 30)


def test_a_schedule_may_be_written_out() -> None:
    federation = build("lab-digits", "fedbuff", overrides={"federation.schedule": steady(1.0, 0.5)}).federation
    assert federation.schedule.training.means == (1.0,)
    assert federation.schedule.download.kind == "constant"


def test_nested_and_dotted_names_say_the_same() -> None:
    nested = {"a": {"b": 1, "c": {"d": [2, 3]}}, "e": None}
    assert flatten(nested) == {"a.b": 1, "a.c.d": (2, 3), "e": None}
    assert flatten(nested, " ", max_level=1) == {"a b": 1, "a c": {"d": [2, 3]}, "e": None}
    assert unflatten({"a.b": 1, "a.c.d": (2, 3), "e": None}) == {"a": {"b": 1, "c": {"d": (2, 3)}}, "e": None}
    assert unflatten({"a": {"b": 1}, "a.c": 2}) == {"a": {"b": 1, "c": 2}}
    for one, other in (("a", "a.b"), ("a.b", "a"), ("a.b", "a.b.c")):
        with pytest.raises(ConfigError, match=f"{one} and {other} set the same thing"):
            unflatten({one: 0, other: 1})
    with pytest.raises(ConfigError, match=r"a and a\.b set the same thing"):
        unflatten({"a": {"b": 1}, "a.b": 1})
    with pytest.raises(ConfigError, match="no setting has more than"):
        unflatten({".".join("a" * 5000): 1})
    for config in (build("cifar100", "fedrevive"), build("lab-text", "fedavg")):
        assert RunConfig.from_dict(unflatten(flatten(config.to_dict()))) == config
        assert set(flatten(config.to_dict())) == set(leaf_fields(RunConfig))


# ------------------------------------------------------------------------------------------------------- immutable


def test_nothing_can_be_changed_afterwards() -> None:
    config = build("lab-digits", "fedrevive")
    for section, name in ((config, "seed"), (config.federation, "buffer_size"), (config.data.augmentation, "flip")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, name, 1)


# --------------------------------------------------------------------------------------------------------- refusals


def test_unknown_names_suggest_the_nearest_and_list_the_allowed() -> None:
    with pytest.raises(ConfigError, match=r"preset = 'lab-digit' is unknown: did you mean 'lab-digits'\? allowed: "):
        build("lab-digit", "fedrevive")
    with pytest.raises(ConfigError, match=r"method = 'fedrevife' is unknown: did you mean 'fedrevive'\? allowed: "):
        build("lab-digits", "fedrevife")
    with pytest.raises(ConfigError, match=r"schedule = 'shiftet' is unknown: did you mean 'shifted'\? allowed: "):
        build("lab-digits", "fedrevive", schedule="shiftet")
    with pytest.raises(ConfigError, match=r"preset = 'zzz' is unknown: allowed: lab-digits, "):
        build("zzz", "fedrevive")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        # Unknown fields and names.
        ({"server__learning_rate": 1}, ["server.learning_rate is unknown", "allowed: lr, clip_norm, update_from"]),
        ({"federation__num_client": 1}, ["federation.num_client is unknown", "did you mean 'num_clients'?"]),
        ({"data__augmentation__flips": 1}, ["data.augmentation.flips is unknown", "did you mean 'flip'?"]),
        ({"trainig__lr": 1}, ["trainig is unknown", "did you mean 'training'?"]),
        ({"federation__schedule": "shiftet"}, ["schedule = 'shiftet' is unknown", "'shifted'", "allowed: default"]),
        ({"data__name": "cifar"}, ["data.name = 'cifar'", "'digits', 'fashion_mnist', 'cifar10', 'cifar100'"]),
        ({"model": "resnet"}, ["model = 'resnet'", "'resnet18'"]),
        ({"staleness__rule": "cos"}, ["staleness.rule = 'cos'", "'cosine'"]),
        (
            {"revival__source": "real"},
            ["revival.source = 'real'", "'none', 'synthetic', 'held_back', 'noise' or 'other'"],
        ),
        (
            {"data__name": "docstrings", "model": "labtext", "revival__source": "other"},
            ["revival.source = 'other' is for images", "not data.name = 'docstrings'", "use 'noise'"],
        ),
        ({"device": "gpu"}, ["device = 'gpu'", "'auto', 'cpu' or 'cuda'"]),
        # Numbers that do not go together.
        ({"federation__concurrency": 151}, ["concurrency = 151", "at most num_clients = 150"]),
        ({"federation__refill_size": 81}, ["refill_size = 81", "at most concurrency = 80"]),
        ({"federation__max_sim_time": None}, ["max_sim_time and max_versions are both unset", "at least one budget"]),
        (
            {"server__update_from": "current"},
            ["server.update_from = 'current'", "cannot be combined", "revival.source"],
        ),
        # Numbers out of range.
        ({"federation__buffer_size": 0}, ["federation.buffer_size = 0", "greater than or equal to 1"]),
        ({"federation__buffer_size": -2}, ["federation.buffer_size = -2", "greater than or equal to 1"]),
        ({"federation__num_clients": 0}, ["federation.num_clients = 0", "greater than or equal to 1"]),
        ({"federation__max_versions": 0}, ["federation.max_versions = 0", "greater than or equal to 1"]),
        ({"federation__max_sim_time": 0}, ["federation.max_sim_time = 0", "greater than 0"]),
        ({"data__alpha": 0}, ["data.alpha = 0", "greater than 0"]),
        ({"data__alpha": -0.5}, ["data.alpha = -0.5", "greater than 0"]),
        ({"data__alpha": math.inf}, ["data.alpha = inf", "finite"]),
        ({"data__samples_per_client": 0}, ["data.samples_per_client = 0", "greater than or equal to 1"]),
        ({"data__std": [0.0]}, ["data.std.0 = 0.0", "greater than 0"]),
        ({"training__lr": math.nan}, ["training.lr = nan", "finite"]),
        ({"staleness__constant": 1.5}, ["staleness.constant = 1.5", "less than or equal to 1"]),
        ({"evaluation__target_accuracy": 80}, ["evaluation.target_accuracy = 80", "less than or equal to 1"]),
        ({"seed": -1}, ["seed = -1", "greater than or equal to 0"]),
        # Wrong types.
        ({"federation__num_clients": "many"}, ["federation.num_clients = 'many'", "valid integer"]),
        ({"federation__num_clients": 99.5}, ["federation.num_clients = 99.5", "valid integer"]),
        ({"training__lr": "fast"}, ["training.lr = 'fast'", "valid number"]),
        ({"training__lr": None}, ["training.lr = None", "valid number"]),
        ({"data__augmentation__flip": 3}, ["data.augmentation.flip = 3", "boolean"]),
        ({"training": 3}, ["training = 3", "dictionary"]),
        ({"data__mean": 0.5}, ["data.mean = 0.5", "tuple"]),
    ],
    ids=fields_of,
)
def test_bad_values_are_refused_naming_field_value_and_what_is_allowed(
    settings: dict[str, Any], words: list[str]
) -> None:
    message = refusal(**settings)
    assert all(word in message for word in words), message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        # One synthesis adds a whole batch, more than such a pool can hold.
        ({"synthesis__pool_size": 63}, "pool_size"),
        ({"data__mean": [math.nan]}, "data.mean"),
        ({"data__std": []}, "data.std"),
        # Without any delay simulated time stands still and never reaches the budget.
        ({"federation__schedule": steady(0.0)}, "schedule"),
    ],
    ids=fields_of,
)
def test_values_that_cannot_work_are_refused_before_anything_is_computed(settings: dict[str, Any], word: str) -> None:
    assert word in refusal(**settings)


@pytest.mark.parametrize(
    ("delay", "words"),
    [
        ({"odds": [0.5]}, ["odds = (0.5,)", "sum to 1"]),
        ({"odds": [0.5, 0.5]}, ["odds = (0.5, 0.5)", "one probability per mean in (1.0,)"]),
        ({"means": [-1.0]}, ["federation.schedule.upload.means.0 = -1.0", "greater than or equal to 0"]),
        ({"kind": "uniform", "half_width": 2.0}, ["half_width = 2.0", "negative durations", "at most 1.0"]),
        ({"kind": "normal"}, ["federation.schedule.upload.kind = 'normal'", "'uniform', 'lognormal' or 'pareto'"]),
    ],
    ids=fields_of,
)
def test_delays_of_ones_own_are_checked(delay: dict[str, Any], words: list[str]) -> None:
    message = refusal(federation__schedule={**steady(1.0), "upload": {**constant(1.0), **delay}})
    assert all(word in message for word in words), message
    assert "federation.schedule.upload" in message


def test_every_fault_is_named_at_once() -> None:
    message = refusal(data__alpha=0, training__steps=0)
    assert "data.alpha = 0" in message
    assert "training.steps = 0" in message


def test_a_missing_field_is_named() -> None:
    values = build("lab-digits", "fedrevive").to_dict()
    del values["training"]["lr"], values["federation"]
    with pytest.raises(ConfigError, match=r"federation is missing; training\.lr is missing"):
        RunConfig.from_dict(values)


# ---------------------------------------------------------------------------------------------- every field is told


def fields(section: type[BaseModel], path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, field) of all fields below `section` that are no sections themselves."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            assert field.annotation.__doc__, name
            yield from fields(field.annotation, f"{path}{name}.")
        else:
            yield f"{path}{name}", field


@pytest.mark.parametrize(("name", "field"), [pytest.param(*pair, id=pair[0]) for pair in fields(RunConfig)])
def test_every_field_has_a_meaning_and_a_source(name: str, field: Any) -> None:
    meaning = field.description
    assert meaning, f"{name} has no description"
    assert "\n" not in meaning
    assert re.search(r"\[[^\]]*(paper|authors|ours|arXiv \d{4}\.\d{5})[^\]]*\]$", meaning), f"{name}: {meaning}"


def test_every_method_and_preset_is_told() -> None:
    for method in METHODS.values():
        assert method.title
        assert method.rule
        assert re.match(r"arXiv \d{4}\.\d{5}|OpenReview \w{10}", method.source)
    assert all(preset.title for preset in PRESETS.values())
    assert [method_title(name) for name in ("fedbuff", "mine")] == ["FedBuff", "mine"]


EXPENSIVE = {
    "federation.max_sim_time": 1e12,
    "federation.concurrency": 10**9,
    "federation.num_clients": 10**9,
    "federation.faults.crash": 0.9999999999,
    "data.image_size": 10**6,
    "data.samples_per_client": 10**9,
    "synthesis.width": 10**6,
    "synthesis.noise_dim": 10**9,
    "synthesis.pool_size": 10**9,
    "synthesis.batch_size": 10**9,
    "synthesis.steps": 10**9,
    "revival.num_teachers": 10**9,
    "revival.num_probe_inputs": 10**9,
    "distillation.steps": 10**9,
    "distillation.batch_size": 10**9,
    "training.steps": 10**9,
}


@pytest.mark.parametrize("field", EXPENSIVE)
def test_what_no_machine_can_do_is_refused_before_anything_is_allocated(field):
    overrides = {field: EXPENSIVE[field]}
    if field == "federation.concurrency":
        overrides["federation.num_clients"] = 10**9
    if field == "synthesis.batch_size":
        overrides["synthesis.pool_size"] = 10**9
    if field == "data.samples_per_client":
        overrides["training.batch_size"] = 10**9
        overrides["federation.num_clients"] = 10**7
    config = build("lab-digits", "fedrevive", overrides=overrides)
    with pytest.raises(ConfigError, match=r"this run would take about .* FEDREVIVE_MAX_COST to"):
        Simulation(config)


def test_every_preset_is_within_the_limits_and_they_can_be_raised(monkeypatch):
    for preset in PRESETS:
        for method in METHODS:
            for schedule in SCHEDULES:
                check_price(build(preset, method, schedule=schedule))
    expensive = build("lab-digits", "fedrevive", overrides={"federation.max_sim_time": 1e6})
    with pytest.raises(ConfigError, match=r"5e\+07 jobs"):
        check_price(expensive)
    monkeypatch.setenv("FEDREVIVE_MAX_COST", "10")
    check_price(expensive)
    monkeypatch.setenv("FEDREVIVE_MAX_COST", "much")
    with pytest.raises(ConfigError, match="FEDREVIVE_MAX_COST = 'much' must be a number above 0"):
        check_price(expensive)


def test_a_heavy_tail_cannot_outwit_the_estimate(monkeypatch):
    """Of a lognormal with sigma = 30, nearly all durations are nearly 0, whatever the mean."""
    delay = {"kind": "lognormal", "means": [1.0], "odds": [1.0], "sigma": 30.0}
    constant = {"kind": "constant", "means": [0.0], "odds": [1.0]}
    schedule = {"training": delay, "download": constant, "upload": constant}
    config = build("lab-digits", "fedrevive", overrides={"federation.schedule": schedule})
    monkeypatch.setenv("FEDREVIVE_MAX_COST", "0.002")
    with pytest.raises(ConfigError, match=r"inf jobs, and 2e\+04 are allowed"):
        simulate_timeline(config.federation, 0)
