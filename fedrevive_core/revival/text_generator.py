"""Synthesis of texts, in the frozen space of embeddings: meta-learned prompts before trainable sequences.

A synthetic text is one tensor (L, d + 1): embeddings, and in the last column 1 where there is a token, 0 where there is
none. It is made of prompt vectors, which Reptile learns, and of positions that begin as the embeddings of seed tokens
and are optimised. For showing, each position is named by the nearest token of the vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedrevive_core.config import SynthesisConfig
from fedrevive_core.errors import ConfigError
from fedrevive_core.models import to_device
from fedrevive_core.revival.generator import SampleGenerator

# Token numbers (count,) to begin a text of a class with.
SeedSource = Callable[[np.random.Generator, int, int], np.ndarray]


class TextGenerator(SampleGenerator):
    """Prompts, then sequences that start from seed tokens (authors' settings).

    Args:
        embedding: the frozen table (V, d). usual: numbers of the tokens that texts are made of; the prompts begin as
        embeddings of some of them. seeds: gives a class's tokens.
    """

    restarts = True

    def __init__(self, embedding: Tensor, usual: np.ndarray, config: SynthesisConfig, seeds: SeedSource) -> None:
        super().__init__()
        self.table, self.config, self.seeds = (embedding,), config, seeds  # in a tuple: a copy need not copy the table
        some = torch.from_numpy(usual)[torch.randint(len(usual), (config.prompt_tokens,))]
        self.prompts = nn.Parameter(embedding[some.to(embedding.device)].clone())

    def __deepcopy__(self, memo: dict[int, Any]) -> TextGenerator:
        """A copy with its own prompts; the table is shared, because it never changes."""
        copied = TextGenerator.__new__(TextGenerator)
        nn.Module.__init__(copied)
        copied.table, copied.config, copied.seeds = self.table, self.config, self.seeds
        copied.prompts = nn.Parameter(self.prompts.detach().clone())
        return copied

    def draw(
        self, rng: np.random.Generator, size: int, num_classes: int, target: np.ndarray | None
    ) -> tuple[np.ndarray, tuple[Tensor, ...]]:
        """Labels, and sequences (size, L - p, d + 1): embeddings of seed tokens, and a mask of random length."""
        config, (table,) = self.config, self.table
        labels = rng.choice(num_classes, size=size, p=target)
        length = config.tokens - config.prompt_tokens
        # The authors draw a length, add the prompts, and cut it off at the length of the sequence.
        active = rng.integers(config.min_tokens, config.tokens, size=size, endpoint=True)
        mask = np.arange(length) < np.minimum(active, length)[:, None]
        tokens = np.stack([self.seeds(rng, int(label), length) for label in labels])
        embeddings = table[to_device(tokens, table.device)]
        column = to_device(mask[..., None].astype(np.float32), table.device)
        return labels, (torch.cat([embeddings, column], dim=-1),)

    def make(self, latents: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """Soft texts (n, L, d + 1): the prompts, always active, before each sequence."""
        (sequences,) = latents
        prompts = torch.cat([self.prompts, self.prompts.new_ones(len(self.prompts), 1)], dim=-1)
        return torch.cat([prompts.expand(len(sequences), -1, -1), sequences], dim=1)

    def measure(self, h: Tensor) -> Tensor:
        """The [CLS] states (n, d) themselves."""
        return h

    def distances(self, seen: dict[str, Any], teacher: dict[str, Tensor]) -> Iterator[Tensor]:
        """Mean over samples of |h - running_mean|_2 at the middle and the last layer, each divided by the layers.

        Of six layers, counted from 0, these are the authors' 2 and 5.
        """
        names = list(seen)
        for number in sorted({max(len(names) // 2 - 1, 0), len(names) - 1} if names else ()):
            gap = seen[names[number]] - teacher[f"{names[number]}.running_mean"]
            yield torch.linalg.vector_norm(gap, dim=1).mean() / len(names)


def nearest_tokens(samples: Tensor, embedding: Tensor) -> np.ndarray:
    """The nearest token (Euclidean) at each position of soft texts (n, L, d + 1): its number, int32 (n, L), or -1.

    `embedding` (V, d) are the tokens to choose from.
    """
    squares = embedding.square().sum(dim=1)
    # One text at a time: all distances at once would be n x L x V numbers.
    nearest = torch.stack([(squares - 2 * text[:, :-1] @ embedding.T).argmin(dim=1) for text in samples])
    return torch.where(samples[..., -1] > 0.5, nearest, -1).int().cpu().numpy()


def seed_source(
    kind: str, usual: np.ndarray, class_names: Sequence[str], split: Callable[[str], list[int]]
) -> SeedSource:
    """Where texts begin: 'random-tokens', 'class-words' or a .jsonl file of texts with labels.

    Args:
        usual: token numbers that texts are made of. split: text to token numbers.

    Words of a class name and tokens of the vocabulary are drawn with repetition; a text of the file that is too short
    is repeated. Raises ConfigError if a class has no seed.
    """
    if kind == "random-tokens":
        return lambda rng, label, count: rng.choice(usual, size=count)
    if kind == "class-words":
        words = [np.intersect1d(split(name.replace(".", " ").replace("_", " ")), usual) for name in class_names]
        for name, tokens in zip(class_names, words, strict=True):
            if len(tokens) == 0:
                raise ConfigError(f"synthesis.seeds = 'class-words': no word of '{name}' is in the vocabulary")
        return lambda rng, label, count: rng.choice(words[label], size=count)
    texts = [[np.array(split(text)) for text in of_class] for of_class in read_seeds(Path(kind), class_names)]
    for name, of_class in zip(class_names, texts, strict=True):
        if any(len(tokens) == 0 for tokens in of_class):
            raise ConfigError(f"synthesis.seeds = '{kind}': a text of '{name}' has no token of the vocabulary")
    return lambda rng, label, count: np.resize(texts[label][rng.integers(len(texts[label]))], count)


def read_seeds(path: Path, class_names: Sequence[str]) -> list[list[str]]:
    """Texts of each class in a file with one JSON object a line: {"text": "...", "label": "a class name"}.

    Raises ConfigError naming the line that is wrong, or the classes that are missing.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"synthesis.seeds = '{path}' cannot be read: {error}") from None
    texts: dict[str, list[str]] = {name: [] for name in class_names}
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            text, label = row["text"].strip(), row["label"]
        except (json.JSONDecodeError, TypeError, KeyError, AttributeError):
            raise ConfigError(f'{path}, line {number} is not {{"text": "...", "label": "..."}}') from None
        if label not in texts:
            raise ConfigError(f"{path}, line {number} has the label '{label}', not one of {', '.join(class_names)}")
        if not text:
            raise ConfigError(f"{path}, line {number} has an empty text")
        texts[label].append(text)
    missing = [name for name, of_class in texts.items() if not of_class]
    if missing:
        raise ConfigError(f"{path} has no seed texts of {', '.join(missing)}")
    return list(texts.values())
