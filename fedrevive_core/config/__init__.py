"""The configuration: validated sections, presets and the table of methods. Imports neither NumPy nor PyTorch."""

from __future__ import annotations

from fedrevive_core.config.base import (
    Finite,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    Switch,
    choices,
    flatten,
    leaf_fields,
    merge,
    parse_value,
    sentences,
    unflatten,
)
from fedrevive_core.config.data import TEXT_DATA, DataConfig
from fedrevive_core.config.faults import CRASH, DROP_OUT, DUPLICATE, FAULTS, NEVER_RETURN, FaultsConfig
from fedrevive_core.config.federation import SCHEDULES, Delay, FederationConfig, Schedule
from fedrevive_core.config.methods import METHODS, Method, method_title
from fedrevive_core.config.presets import PRESETS, build
from fedrevive_core.config.price import check_jobs, check_price, counted, price
from fedrevive_core.config.run import (
    DistillationConfig,
    RevivalConfig,
    RunConfig,
    ServerConfig,
    StalenessConfig,
    SynthesisConfig,
)
from fedrevive_core.config.training import LessonConfig, TrainingConfig

__all__ = [
    "CRASH",
    "DROP_OUT",
    "DUPLICATE",
    "FAULTS",
    "METHODS",
    "NEVER_RETURN",
    "PRESETS",
    "SCHEDULES",
    "TEXT_DATA",
    "DataConfig",
    "Delay",
    "DistillationConfig",
    "FaultsConfig",
    "FederationConfig",
    "Finite",
    "Fraction",
    "LessonConfig",
    "Method",
    "NonNegativeFloat",
    "NonNegativeInt",
    "PositiveFloat",
    "PositiveInt",
    "RevivalConfig",
    "RunConfig",
    "Schedule",
    "Section",
    "ServerConfig",
    "StalenessConfig",
    "Switch",
    "SynthesisConfig",
    "TrainingConfig",
    "build",
    "check_jobs",
    "check_price",
    "choices",
    "counted",
    "flatten",
    "leaf_fields",
    "merge",
    "method_title",
    "parse_value",
    "price",
    "sentences",
    "unflatten",
]
