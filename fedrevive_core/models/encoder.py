"""Pretrained text encoders from `transformers`: T5's, MiniLM, and any other that accepts `inputs_embeds`."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from fedrevive_core.models.probes import StatisticProbe
from fedrevive_core.models.text import TextModel

DROPOUT = 0.1  # of the head (authors' settings); the encoder keeps its dropout


class EncoderText(TextModel):
    """An encoder with frozen embeddings, a prefix token whose state serves as [CLS], and a head of two layers.

    A probe sees the prefix's state after every layer. Source: the authors' settings, where the encoder is T5-small's
    and the prefix token 3200. Frozen embeddings are not part of the state.

    Args:
        encoder: a `transformers` model. pad, prefix: ids of tokens.

    Raises ValueError if the encoder takes no `inputs_embeds`.
    """

    def __init__(self, encoder: Any, pad: int, prefix: int, num_classes: int) -> None:
        parameters = inspect.signature(encoder.forward).parameters
        if "inputs_embeds" not in parameters:
            raise ValueError(f"{type(encoder).__name__} takes no inputs_embeds")
        super().__init__(encoder.get_input_embeddings(), pad)
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # not used
        self.encoder = encoder
        self.prefix = prefix
        dim = self.embedding.embedding_dim
        self.probes = nn.ModuleList(StatisticProbe(dim) for _ in range(encoder.config.num_hidden_layers))
        self.head = nn.Sequential(
            nn.Dropout(DROPOUT), nn.Linear(dim, dim), nn.Tanh(), nn.Dropout(DROPOUT), nn.Linear(dim, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Token numbers (B, L) or soft texts (B, L, d + 1) to logits (B, num_classes)."""
        tokens, mask = self.embed(x)
        prefix = self.embedding.weight[self.prefix].expand(len(tokens), 1, -1)
        seen = self.encoder(
            inputs_embeds=torch.cat([prefix, tokens], dim=1),
            attention_mask=torch.cat([mask.new_ones(len(mask), 1), mask], dim=1),
            output_hidden_states=True,
        )
        states = [layer[:, 0] for layer in seen.hidden_states[1:]]
        for probe, state in zip(self.probes, states, strict=True):
            probe(state)
        return self.head(states[-1])


def load_encoder(path: str) -> Any:
    """The encoder (for an encoder-decoder, its encoder) in the folder or with the name `path`; safetensors only.

    Raises OSError or ValueError if it is not available.
    """
    from transformers import AutoModelForTextEncoding

    return AutoModelForTextEncoding.from_pretrained(path, use_safetensors=True, dtype=torch.float32)
