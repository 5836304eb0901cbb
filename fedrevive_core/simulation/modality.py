"""What a sample is. Images and texts go through one pipeline; here stands all in which they differ outside generators.

Both kinds say how real and synthetic samples are prepared, what a synthetic one looks like in memory, which Gaussian
inputs probe a model, what generates them and how they are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fedrevive_core.config import RunConfig
from fedrevive_core.data import FederatedData, Tokenizer
from fedrevive_core.errors import ConfigError
from fedrevive_core.models import TextModel
from fedrevive_core.revival import ImageGenerator, SampleGenerator, TextGenerator, nearest_tokens, seed_source
from fedrevive_core.transforms import Preparation, TextPreparation


class Modality(Protocol):
    """prepare, prepare_synthetic: of real and of synthetic samples. synthetic_shape: of one synthetic sample."""

    prepare: Preparation
    prepare_synthetic: Preparation
    synthetic_shape: tuple[int, ...]

    def probe(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """`count` Gaussian inputs as a model is fed, float32."""

    def noise(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """`count` samples without content in the form of synthetic ones, float32."""

    def generator(self) -> SampleGenerator:
        """A new generator of samples; its parameters are drawn by PyTorch."""

    def show(self, samples: Tensor) -> np.ndarray:
        """Synthetic samples (n, ...) in the form in which a run keeps them."""

    def stack(self, shown: Sequence[np.ndarray], count: int) -> dict[str, np.ndarray]:
        """What a record keeps of `shown`, one array of at most `count` samples for each version."""


class ImageModality:
    """Images (C, S, S) in [0, 1], augmented and normalised; shown as bytes."""

    def __init__(self, config: RunConfig, data: FederatedData, device: torch.device) -> None:
        self.config = config.synthesis
        self.prepare = Preparation(config.data, device)
        self.prepare_synthetic = Preparation(config.data, device, synthetic=True)
        self.synthetic_shape = data.sample_shape

    def probe(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Standard normal pixels, as after normalisation."""
        return rng.standard_normal((count, *self.synthetic_shape), dtype=np.float32)

    def noise(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Pixels uniform in [0, 1)."""
        return rng.random((count, *self.synthetic_shape), dtype=np.float32)

    def generator(self) -> SampleGenerator:
        """The convolutional generator."""
        return ImageGenerator(self.config.noise_dim, self.config.width, *self.synthetic_shape[:2])

    def show(self, samples: Tensor) -> np.ndarray:
        """Pixels, uint8 (n, C, S, S)."""
        return samples.mul(255).round().byte().cpu().numpy()

    def stack(self, shown: Sequence[np.ndarray], count: int) -> dict[str, np.ndarray]:
        """`images` (versions, count, C, S, S) uint8, black where there is none."""
        images = np.zeros((len(shown), count, *self.synthetic_shape), dtype=np.uint8)
        for row, pixels in enumerate(shown):
            images[row, : len(pixels)] = pixels
        return {"images": images}


class TextModality:
    """Soft texts (L, d + 1) in the model's frozen space of embeddings; shown as nearest tokens.

    Raises ConfigError if the model has no such space.
    """

    def __init__(self, config: RunConfig, data: FederatedData, tokenizer: Tokenizer, model: nn.Module) -> None:
        if not isinstance(model, TextModel):
            raise ConfigError(
                f"model {type(model).__name__} is not a TextModel: texts are synthesised in its embeddings"
            )
        self.config, self.tokenizer, self.class_names = config.synthesis, tokenizer, data.class_names
        # A table may have more rows than there are tokens (T5's is rounded up).
        self.embedding = model.embedding.weight.detach()[: len(tokenizer.vocabulary)]
        self.prepare: Preparation = TextPreparation(config.data.max_tokens)
        self.prepare_synthetic: Preparation = self.prepare
        self.synthetic_shape: tuple[int, ...] = (self.config.tokens, self.embedding.shape[1] + 1)
        usual = self.embedding[torch.from_numpy(tokenizer.usual).to(self.embedding.device)].double()
        self.mean, self.spread = usual.mean(dim=0).cpu().numpy(), usual.std(dim=0).cpu().numpy()

    def probe(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Full texts of Gaussian embeddings with the mean and spread, per dimension, of the table's."""
        length, width = self.synthetic_shape
        texts = np.ones((count, length, width), dtype=np.float32)
        texts[..., :-1] = self.mean + self.spread * rng.standard_normal((count, length, width - 1), dtype=np.float32)
        return texts

    noise = probe

    def generator(self) -> SampleGenerator:
        """Prompts and sequences from the seeds that the configuration names."""
        seeds = seed_source(self.config.seeds, self.tokenizer.usual, self.class_names, self.tokenizer.split)
        return TextGenerator(self.embedding, self.tokenizer.usual, self.config, seeds)

    def show(self, samples: Tensor) -> np.ndarray:
        """Numbers of the nearest tokens, int32 (n, L), -1 where there is none."""
        return nearest_tokens(samples, self.embedding)

    def stack(self, shown: Sequence[np.ndarray], count: int) -> dict[str, np.ndarray]:
        """`texts` (versions, count) of the tokens' strings, '' where there is none."""
        words = np.array([*self.tokenizer.vocabulary, ""])
        texts = [[" ".join(words[text[text >= 0]]) for text in tokens] for tokens in shown]
        longest = max((len(text) for row in texts for text in row), default=1)
        stacked = np.full((len(texts), count), "", dtype=f"<U{longest}")
        for number, row in enumerate(texts):
            stacked[number, : len(row)] = row
        return {"texts": stacked}


def build_modality(config: RunConfig, data: FederatedData, model: nn.Module, device: torch.device) -> Modality:
    """What a sample of `data` is; `model` is on `device`."""
    if data.tokenizer is None:
        return ImageModality(config, data, device)
    return TextModality(config, data, data.tokenizer, model)
