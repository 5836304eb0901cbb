"""The sections of the configuration that concern data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedrevive_core.config.base import Finite, NonNegativeInt, PositiveFloat, PositiveInt, Section, Switch


class AugmentationConfig(Section):
    """Random changes of training images; all off by default."""

    crop_padding: NonNegativeInt = Field(0, description="pixels of padding before a random crop [authors]")
    flip: Switch = Field(False, description="mirror horizontally with probability 1/2 [authors]")
    rotation: Annotated[float, Field(ge=0, le=180)] = Field(0.0, description="largest rotation in degrees [authors]")


TEXT_DATA = ("newsgroups", "docstrings")
TEXT_MODELS = ("labtext", "encoder")


class DataConfig(Section):
    """Which samples, how they are dealt to clients, how they are fed to a model."""

    name: Literal["digits", "fashion_mnist", "cifar10", "cifar100", "femnist", "newsgroups", "docstrings"] = Field(
        description="data set [authors; digits, fashion_mnist and docstrings: ours]"
    )
    split: Literal["dirichlet", "iid", "natural"] = Field(
        "dirichlet", description="how samples are dealt; natural: one writer, one client [authors]"
    )
    alpha: PositiveFloat = Field(0.5, description="Dirichlet concentration; small is skewed [authors]")
    samples_per_client: PositiveInt = Field(350, description="size of every shard but natural ones [authors]")
    split_seed: NonNegativeInt = Field(0, description="seed of the split, shared by all runs [ours]")
    image_size: PositiveInt | None = Field(None, description="resize images to this side; unset keeps it [ours]")
    mean: tuple[Finite, ...] = Field((0.0,), min_length=1, description="subtracted per channel [authors]")
    std: tuple[PositiveFloat, ...] = Field((1.0,), min_length=1, description="divided by per channel [authors]")
    augmentation: AugmentationConfig = Field(AugmentationConfig(), description="of training images [authors]")
    styles: Switch = Field(False, description="every client draws with a slant, stroke and contrast of its own [ours]")
    tokenizer: str = Field(
        "words", description="of texts: 'words' or a transformers encoder, by name or folder; also 'minilm' [authors]"
    )
    vocabulary_size: Annotated[int, Field(ge=3, strict=True)] = Field(
        2000, description="tokens of 'words': the most frequent ones in the clients' texts [ours]"
    )
    max_tokens: PositiveInt = Field(256, description="tokens of a text; what follows is left out [authors]")
    prefix_token: NonNegativeInt | None = Field(
        None, description="number of the token that serves as [CLS]; unset takes the tokenizer's own [authors]"
    )
