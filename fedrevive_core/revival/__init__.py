"""From a stale arrival to a distilled update of the current global model."""

from __future__ import annotations

from fedrevive_core.revival.distillation import Distiller
from fedrevive_core.revival.generator import ImageGenerator, SampleGenerator
from fedrevive_core.revival.losses import kl_divergence
from fedrevive_core.revival.pool import SamplePool
from fedrevive_core.revival.reviver import Revival, Reviver
from fedrevive_core.revival.synthesis import Synthesizer
from fedrevive_core.revival.teachers import ClassProportions, Teacher, teacher_weights
from fedrevive_core.revival.text_generator import TextGenerator, nearest_tokens, seed_source

__all__ = [
    "ClassProportions",
    "Distiller",
    "ImageGenerator",
    "Revival",
    "Reviver",
    "SampleGenerator",
    "SamplePool",
    "Synthesizer",
    "Teacher",
    "TextGenerator",
    "kl_divergence",
    "nearest_tokens",
    "seed_source",
    "teacher_weights",
]
