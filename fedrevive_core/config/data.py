"""Sections of the configuration: data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedrevive_core.config.base import Finite, Fraction, NonNegativeInt, PositiveFloat, PositiveInt, Section, Switch


class AugmentationConfig(Section):
    """Random changes of training images. All are off by default."""

    crop_padding: NonNegativeInt = Field(0, description="pixels of padding before a random crop [authors]")
    flip: Switch = Field(False, description="mirror horizontally with probability 1/2 [authors]")
    rotation: Annotated[float, Field(ge=0, le=180)] = Field(0.0, description="largest rotation in degrees [authors]")


TEXT_DATA = ("newsgroups", "docstrings")
TEXT_MODELS = ("labtext", "encoder")


class DataConfig(Section):
    """Which samples are used, how clients get them, and how they are prepared for a model."""

    name: Literal["digits", "fashion_mnist", "cifar10", "cifar100", "femnist", "newsgroups", "docstrings"] = Field(
        description="data set [authors; digits, fashion_mnist and docstrings: ours]"
    )
    split: Literal["dirichlet", "iid", "natural"] = Field(
        "dirichlet", description="how samples are divided among clients; natural: one client per writer [authors]"
    )
    alpha: PositiveFloat = Field(0.5, description="Dirichlet concentration; smaller means more skew [authors]")
    samples_per_client: PositiveInt = Field(350, description="samples per client, except in natural splits [authors]")
    split_seed: NonNegativeInt = Field(0, description="seed of the split among clients, the same for all runs [ours]")
    speed_skew: Fraction = Field(
        0.0,
        description="0: who holds which samples does not depend on speed; 1: slow clients hold classes that fast ones "
        "lack [ours; heterogeneity amplification: arXiv 2511.19066]",
    )
    image_size: PositiveInt | None = Field(
        None, description="resize images to this side; unset keeps their size [ours]"
    )
    mean: tuple[Finite, ...] = Field((0.0,), min_length=1, description="subtracted per channel [authors]")
    std: tuple[PositiveFloat, ...] = Field((1.0,), min_length=1, description="divided by per channel [authors]")
    augmentation: AugmentationConfig = Field(
        AugmentationConfig(), description="random changes of training images [authors]"
    )
    styles: Switch = Field(False, description="every client writes with another slant, stroke and contrast [ours]")
    tokenizer: str = Field(
        "words", description="for texts: 'words', 'minilm', or the name or folder of a transformers encoder [authors]"
    )
    vocabulary_size: Annotated[int, Field(ge=3, strict=True)] = Field(
        2000, description="size of the vocabulary 'words', the most frequent words of the clients' texts [ours]"
    )
    max_tokens: PositiveInt = Field(256, description="length at which texts are cut off [authors]")
    prefix_token: NonNegativeInt | None = Field(
        None, description="number of the token that serves as [CLS]; unset takes the tokenizer's [CLS] [authors]"
    )

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if self.speed_skew > 0 and self.split == "iid":
            raise ValueError(
                f"speed_skew = {self.speed_skew} with split = 'iid', where all clients hold the same classes: "
                "choose split = 'dirichlet' with a small alpha"
            )
        return self
