"""The configuration of a run: immutable, validated, and convertible to and from plain dictionaries.

One section per part of the pipeline. Every field says what it means, with the source of its value in brackets: [paper]
is the text of arXiv 2511.00655, [authors] the settings of its authors' experiments, [ours] a choice of this project;
else the number of another paper. A value that cannot work is refused here, before anything is computed.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fedrevive_core.config.base import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    Switch,
    choices,
    flatten,
)
from fedrevive_core.config.data import TEXT_DATA, TEXT_MODELS, DataConfig
from fedrevive_core.config.federation import FederationConfig
from fedrevive_core.config.training import TrainingConfig


class ServerConfig(Section):
    """How updates become a new version: w <- w + lr * mean of the buffered updates."""

    lr: PositiveFloat = Field(description="eta_s, server learning rate [authors]")
    clip_norm: PositiveFloat | None = Field(
        None,
        description="largest norm of an update; longer ones are scaled down; unset: no clipping [ours]",
    )
    update_from: Literal["downloaded", "current"] = Field(
        "downloaded",
        description="model that is subtracted from a returned one; 'current' mixes models [arXiv 1903.03934]",
    )
    memory: Literal["none", "calibrate", "average"] = Field(
        "none",
        description="use of the latest update of every client: to calibrate the mean, or averaged "
        "[OpenReview 4aywmeb97I; arXiv 2106.04159]",
    )
    memory_horizon: NonNegativeInt | None = Field(
        None,
        description="a latest update is forgotten when its job began more than this many versions ago; unset: never "
        "[arXiv 2511.19066]",
    )
    optimiser: Literal["sgd", "momentum", "adam", "amsgrad"] = Field(
        "sgd", description="how the mean becomes a step; all except sgd keep moments [arXiv 2003.00295; 2407.18365]"
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="beta_1 of the moments [arXiv 2003.00295]")
    second_momentum: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.99, description="beta_2 of adam and amsgrad [arXiv 2003.00295]"
    )
    eps: PositiveFloat = Field(1e-3, description="added to the root of the second moment [arXiv 2003.00295]")
    delay_threshold: NonNegativeInt | None = Field(
        None,
        description="tau_c: if an update in the buffer is staler, lr is at most 1 / staleness [arXiv 2407.18365]",
    )

    auxiliary: Fraction = Field(
        0.0,
        description="share of a new version that is taken from an auxiliary model, which every update moves, while a "
        "straggler's moves it alone; 0: no such model [arXiv 2403.09086, as we understand it]",
    )
    straggler: PositiveFloat = Field(
        1.0, description="an update is a straggler's if it is staler than this times K / B versions [ours]"
    )

    @model_validator(mode="after")
    def _check(self) -> ServerConfig:
        others = self.memory != "none" or self.optimiser != "sgd" or self.delay_threshold is not None
        if self.auxiliary > 0 and (others or self.update_from == "current"):
            raise ValueError(
                f"auxiliary = {self.auxiliary}: it does not go with memory, optimiser, delay_threshold or update_from"
            )
        if self.update_from == "current" and (self.memory != "none" or self.optimiser != "sgd"):
            raise ValueError(
                "update_from = 'current' mixes models: it cannot be combined with server.memory or server.optimiser"
            )
        if self.memory_horizon is not None and self.memory != "average":
            raise ValueError("memory_horizon is only for memory = 'average'")
        return self


class StalenessConfig(Section):
    """beta, the weight taken from a client's update. Each parameter belongs to one rule, but `half` to four.

    These do not count versions. They measure a number x >= 0 at the arrival, and beta = x / (x + half).
    """

    rule: Literal[
        "constant", "cosine", "linear", "exponential", "stepwise", "polynomial", "hinge",
        "distance", "length", "disagreement", "coverage",
    ] = Field(
        description="shape of beta(tau) [paper; polynomial and hinge: arXiv 1903.03934], or what is measured: distance "
        "of the current from the downloaded model, by the length of the update [arXiv 2205.13797]; length of the "
        "update, by that of the distilled one; disagreement, 1 - their cosine; coverage, the share of classes that "
        "the teachers know [ours]"
    )  # fmt: skip
    constant: Fraction = Field(0.5, description="constant: b; 0 counts every update in full [paper]")
    s_max: PositiveFloat = Field(75.0, description="cosine: half of the staleness at which beta reaches 1 [paper]")
    slope: PositiveFloat = Field(0.005, description="linear: gamma [paper]")
    rate: PositiveFloat = Field(0.005, description="exponential: lambda [paper]")
    span: PositiveFloat = Field(1.5, description="stepwise: f, beta reaches 1 at f K / B [paper]")
    power: PositiveFloat = Field(0.5, description="polynomial: p in (1 + tau)^-p [arXiv 1903.03934]")
    hinge_slope: PositiveFloat = Field(10.0, description="hinge: a in 1 / (a (tau - b) + 1) [arXiv 1903.03934]")
    hinge_start: NonNegativeFloat = Field(
        4.0, description="hinge: b, largest staleness without a cost [arXiv 1903.03934]"
    )
    half: PositiveFloat = Field(
        1.0, description="distance, length, disagreement, coverage: the value at which beta is one half [ours]"
    )


class RevivalConfig(Section):
    """What replaces the share beta that a client's update loses through staleness."""

    source: Literal["none", "synthetic", "held_back", "noise", "other"] = Field(
        "none",
        description="samples to distil on: none, synthetic, real ones of the server [paper], noise, other data [ours]",
    )
    num_teachers: PositiveInt = Field(8, description="c, number of teachers: the models returned last [paper]")
    one_per_client: Switch = Field(
        False, description="a client's next model takes the place of its last one among the teachers [ours]"
    )
    proportions: Literal["proxy", "true"] = Field(
        "proxy", description="class proportions of a client: estimated from its models, or its true histogram [paper]"
    )
    num_probe_inputs: PositiveInt = Field(64, description="Gaussian inputs of the proxy [ours; not in the paper]")
    probe_temperature: PositiveFloat = Field(0.8, description="T_probe, softmax temperature of the proxy [paper]")
    freeze: NonNegativeInt = Field(0, description="versions without synthesis [authors]")
    warmup: NonNegativeInt | None = Field(
        0,
        description="distil after this version, L_adv from it on; unset distils from the first arrival [authors]",
    )
    adversary_counts: Literal["versions", "syntheses"] = Field(
        "versions",
        description="what warmup counts for L_adv: versions [paper], or the syntheses so far [authors]",
    )
    before_distillation: Literal["client", "zero"] = Field(
        "client",
        description="what is blended in before distillation: the client's update [ours] or zero [authors]",
    )
    guard: Switch = Field(True, description="skip losses that are not finite or far above their recent mean [authors]")
    teacher_norm_factor: Annotated[float, Field(ge=1, allow_inf_nan=False, strict=True)] | None = Field(
        None,
        description="an upload teaches only if its update is at most this many times longer or shorter than the median "
        "of the last 100; unset: any length [ours]",
    )
    teacher_agreement: Fraction | None = Field(
        None,
        description="an upload teaches only if it gives at least this share of the pool's samples of its client's "
        "classes their label; unset: any model [ours]",
    )

    @property
    def guards_teachers(self) -> bool:
        """Whether an upload can be refused as a teacher."""
        return self.teacher_norm_factor is not None or self.teacher_agreement is not None


SEEDS = ("random-tokens", "class-words")


class SynthesisConfig(Section):
    """Data-free synthesis of training samples."""

    every: PositiveInt = Field(10, description="T_gen, synthesise at multiples of this version [authors]")
    batch_size: PositiveInt = Field(64, description="samples per synthesis [authors]")
    steps: PositiveInt = Field(2, description="K_synth, steps of the fast copy of the generator [authors]")
    noise_dim: PositiveInt = Field(256, description="n_z, size of a noise vector [authors]")
    width: PositiveInt = Field(128, description="n_gf, channels of the generator's last hidden map [authors]")
    generator_lr: PositiveFloat = Field(3e-3, description="lr_g, of the fast copy and of the meta step [authors]")
    noise_lr: PositiveFloat = Field(1e-3, description="lr_z, of the noise and the class embeddings [authors]")
    feature_weight: NonNegativeFloat = Field(3e-3, description="a_feat, weight of L_feat [paper]")
    label_weight: NonNegativeFloat = Field(1.0, description="a_hot, weight of L_hot [paper]")
    adversarial_weight: NonNegativeFloat = Field(0.1, description="a_adv, weight of L_adv [paper]")
    labels: Literal["teachers", "uniform"] = Field(
        "teachers", description="draw labels from the teachers' mean proportions (authors), or uniformly [paper]"
    )
    pool_size: PositiveInt = Field(16_000, description="synthetic samples kept; the oldest go first [authors]")
    meta_eps: NonNegativeFloat = Field(1e-8, description="eps of the Reptile step's Adam [ours; the authors used 0]")
    tokens: PositiveInt = Field(128, description="length of a synthetic text, with prompts [authors]")
    prompt_tokens: PositiveInt = Field(4, description="meta-learned prompt vectors that begin every text [authors]")
    min_tokens: PositiveInt = Field(64, description="shortest active length, without prompts [authors]")
    seeds: str = Field(
        "random-tokens",
        description="what texts start from: 'random-tokens', 'class-words' or a .jsonl file of texts and labels [ours]",
    )

    @model_validator(mode="after")
    def _check(self) -> SynthesisConfig:
        if self.pool_size < self.batch_size:
            raise ValueError(f"pool_size = {self.pool_size} must be at least batch_size = {self.batch_size}")
        if self.prompt_tokens >= self.tokens:
            raise ValueError(f"prompt_tokens = {self.prompt_tokens} must be below tokens = {self.tokens}")
        if self.min_tokens > self.tokens:
            raise ValueError(f"min_tokens = {self.min_tokens} must be at most tokens = {self.tokens}")
        if self.seeds not in SEEDS and not self.seeds.endswith(".jsonl"):
            raise ValueError(f"seeds = '{self.seeds}' is unknown: {choices(self.seeds, (*SEEDS, 'FILE.jsonl'))}")
        return self


class DistillationConfig(Section):
    """Multi-teacher distillation into the current global model."""

    steps: PositiveInt = Field(10, description="K_KD, optimiser steps [authors]")
    batch_size: PositiveInt = Field(32, description="samples per teacher and step [authors]")
    lr: PositiveFloat = Field(1e-4, description="lr_kd, Adam learning rate [authors]")
    temperature: PositiveFloat = Field(1.0, description="T, softmax temperature [authors]")
    weight_decay: NonNegativeFloat = Field(1e-5, description="added to the gradient [authors]")
    rejected_loss: Literal["skips", "zero_gradient"] = Field(
        "skips",
        description="a step whose loss the guard rejects is left out [ours], or made with a gradient of zero, so that "
        "Adam's moments and the weight decay act, as in the authors' first code [authors]",
    )


class EvaluationConfig(Section):
    """When and on what the global model is evaluated."""

    every: PositiveInt = Field(10, description="versions between evaluations; the last is always evaluated [authors]")
    split: Literal["test", "validation"] = Field("test", description="'validation' is for tuning [ours]")
    target_accuracy: Annotated[float, Field(gt=0, le=1)] | None = Field(None, description="stop when reached [authors]")
    stop_diverged: NonNegativeFloat | None = Field(
        None,
        description="stop if 10 evaluations in a row have a loss that is not finite or, from this simulated time on, "
        "an accuracy near chance (at most 1.5 / classes); unset never stops [ours]",
    )


class RunConfig(Section):
    """A whole run. `build` makes one from names, `from_dict` from a dictionary such as the one in `run.json`."""

    preset: str = Field("custom", description="name of the preset, only a label [ours]")
    method: str = Field("custom", description="name of the method, only a label [ours]")
    seed: NonNegativeInt = Field(0, description="seed of every random stream except the split's [ours]")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where tensors are; auto: CUDA if it is available [ours]"
    )
    offload: Switch = Field(
        False, description="keep waiting versions and returned models in pinned host memory, not on the GPU [ours]"
    )
    executor: Annotated[str, Field(max_length=20)] = Field(
        "auto",
        description="how jobs are trained: single, stacked, stacked-N, streams-N, captured, captured-N (N at once); "
        "auto: what was fastest on this GPU, else by the model's size [ours]",
    )
    num_threads: Annotated[int, Field(ge=1, le=1024, strict=True)] | None = Field(
        None, description="CPU threads, recorded; unset takes PyTorch's choice [ours]"
    )
    model: Literal["labnet", "convnet", "resnet18", "labtext", "encoder"] = Field(
        "labnet", description="architecture; encoder: the one named by data.tokenizer [authors; lab...: ours]"
    )
    federation: FederationConfig
    data: DataConfig
    training: TrainingConfig
    server: ServerConfig
    staleness: StalenessConfig
    revival: RevivalConfig = RevivalConfig()
    synthesis: SynthesisConfig = SynthesisConfig()
    distillation: DistillationConfig = DistillationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        if self.revival.source != "none" and self.server.update_from == "current":
            raise ValueError("server.update_from = 'current' mixes models and cannot be combined with revival.source")
        if self.revival.source == "none" and self.staleness.rule in ("length", "disagreement", "coverage"):
            raise ValueError(
                f"staleness.rule = '{self.staleness.rule}' looks at the distilled update or its teachers: set "
                "revival.source, or take another rule, such as 'distance'"
            )
        texts = self.data.name in TEXT_DATA
        if texts != (self.model in TEXT_MODELS):
            allowed = f"one of texts: {', '.join(TEXT_MODELS)}" if texts else "one of images, such as labnet"
            raise ValueError(f"model = '{self.model}' does not fit data.name = '{self.data.name}': choose {allowed}")
        if texts and self.revival.source == "other":
            raise ValueError(f"revival.source = 'other' is for images, not data.name = '{self.data.name}': use 'noise'")
        if self.model == "encoder" and self.data.tokenizer == "words":
            raise ValueError("model = 'encoder' needs an encoder in data.tokenizer, such as 'minilm' or 't5-small'")
        if texts and self.synthesis.tokens > self.data.max_tokens:
            raise ValueError(
                f"synthesis.tokens = {self.synthesis.tokens} must be at most data.max_tokens = {self.data.max_tokens}"
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """The configuration as nested dictionaries for JSON; `from_dict` gives the same configuration back."""
        return self.model_dump(mode="json")

    def differences(self, other: RunConfig) -> list[str]:
        """One line 'field: value here / value in other' for every setting that differs."""
        ours, theirs = flatten(self.model_dump()), flatten(other.model_dump())
        return [f"{name}: {value} / {theirs[name]}" for name, value in ours.items() if value != theirs[name]]
