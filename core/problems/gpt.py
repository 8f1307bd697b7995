"""A language model of characters, small enough to train and analyse in a minute: ``char-gpt``.

It is a decoder as nanoGPT's and GPT-2's (Radford et al. 2019): pre-norm blocks of causal attention and a
perceptron with GELU, learned positions, and an output layer that shares its weights with the embedding. All
heads have ``HEAD`` units, so that the shapes of its tensors tell all of its options.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

HEAD = 16


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.expansion = nn.Linear(width, 4 * width)
        self.contraction = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        samples, tokens, width = x.shape
        q, k, v = (
            each.view(samples, tokens, -1, HEAD).transpose(1, 2)
            for each in self.attention(self.norm1(x)).split(width, dim=2)
        )
        attended = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.projection(attended.transpose(1, 2).reshape(samples, tokens, width))
        hidden: Tensor = self.contraction(nn.functional.gelu(self.expansion(self.norm2(x))))
        return x + hidden


class CharGPT(nn.Module):
    """A small GPT with tied embeddings, for the characters of ``python-docs``: 97 of them, in blocks of 64.

    Takes (N, T) tokens, T ≤ block, and gives (N, T, vocabulary) logits of the next ones.
    """

    def __init__(self, vocabulary: int = 97, block: int = 64, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        if width % HEAD:
            raise ValueError(f"the width must be a multiple of {HEAD}")
        self.vocabulary = vocabulary
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(block, width)
        self.blocks = nn.Sequential(*(_Block(width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        places = self.positions(torch.arange(x.shape[1], device=x.device))
        logits: Tensor = self.head(self.norm(self.blocks(self.embedding(x.clamp(min=0)) + places)))
        return logits
