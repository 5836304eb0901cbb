"""LabText: a transformer with two small layers for laptops, and the base class of all text models.

A text model accepts either token numbers, int64 (B, L), or *soft texts*, float (B, L, d + 1): embeddings and, in the
last column, 1 for a token and 0 for padding. So a synthetic text is one tensor, like an image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedrevive_core.models.probes import StatisticProbe


class TextModel(nn.Module):
    """Base of the text models: a frozen table of embeddings (V, d), which is not part of the model's state."""

    def __init__(self, embedding: nn.Embedding, pad: int) -> None:
        super().__init__()
        self.embedding = embedding.requires_grad_(False)
        self.pad = pad

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (B, L, d) and mask (B, L), 1 at tokens, of token numbers or soft texts."""
        if x.is_floating_point():
            return x[..., :-1], x[..., -1].detach()
        return self.embedding(x), (x != self.pad).to(self.embedding.weight)


class LabText(TextModel):
    """A learned prefix, whose state serves as [CLS], and two pre-norm transformer layers; ours.

    A probe sees the prefix's state after each layer. The last layer computes only that state, because nothing else is
    used. The table of embeddings is random and frozen, because synthesis needs a space that all clients share.

    Args:
        vocabulary_size: V. length: largest number of tokens. pad: id of the padding token. dim: d. heads: number of
        attention heads.
    """

    def __init__(
        self, vocabulary_size: int, length: int, pad: int, num_classes: int, dim: int = 64, heads: int = 2
    ) -> None:
        super().__init__(nn.Embedding(vocabulary_size, dim), pad)
        self.prefix = nn.Parameter(torch.randn(1, dim))
        self.positions = nn.Parameter(0.1 * torch.randn(length + 1, dim))
        self.layer1, self.probe1 = Layer(dim, heads), StatisticProbe(dim)
        self.layer2, self.probe2 = Layer(dim, heads), StatisticProbe(dim)
        self.norm = nn.RMSNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Token numbers (B, L) or soft texts (B, L, d + 1) to logits (B, num_classes)."""
        tokens, mask = self.embed(x)
        h = torch.cat([self.prefix.expand(len(tokens), 1, -1), tokens], dim=1) + self.positions[: tokens.shape[1] + 1]
        mask = torch.cat([mask.new_ones(len(mask), 1), mask], dim=1)  # the prefix is always visible
        h = self.layer1(h, h, mask)
        self.probe1(h[:, 0])
        cls = self.layer2(h[:, :1], h, mask)[:, 0]
        self.probe2(cls)
        return self.head(self.norm(cls))


class Layer(nn.Module):
    """Pre-norm attention, then a feed-forward part of twice the width; each is added to its input."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(dim), nn.RMSNorm(dim)
        self.query, self.keys_values, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.feed = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, h: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """States `h` (B, Q, d) after attention to `context` (B, T, d) where `mask` (B, T) is 1."""
        batch, queries, dim = h.shape
        seen = self.norm1(context)
        q = self.query(self.norm1(h)).view(batch, queries, self.heads, -1).transpose(1, 2)
        k, v = self.keys_values(seen).view(batch, len(mask[0]), 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        # Written out, because vmap runs scaled_dot_product_attention one model at a time.
        scores = q @ k.transpose(-1, -2) / (dim // self.heads) ** 0.5
        scores = scores.masked_fill(mask[:, None, None] < 0.5, -1e9)
        h = h + self.out((scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(batch, queries, dim))
        return h + self.feed(self.norm2(h))
