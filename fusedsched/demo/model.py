# SPDX-License-Identifier: Apache-2.0
"""A small transformer that reads and writes bytes."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BYTES = 256


class Block(nn.Module):
    """Attention, then a two-layer network, each with a norm before it and a shortcut around it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(n, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(n, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class ByteModel(nn.Module):
    """Predicts the next byte: int64 [n, length] to logits [n, length, 256]. The embedding is also the output layer."""

    def __init__(self, width: int, heads: int, depth: int, length: int) -> None:
        super().__init__()
        self.length = length
        self.embedding, self.position = nn.Embedding(BYTES, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:  # the two layers that write into the shortcut start smaller, the deeper the more
                shrink = (2 * depth) ** -0.5 if name.endswith(("out.weight", "down.weight")) else 1.0
                nn.init.normal_(parameter, std=0.02 * shrink)

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.embedding(inputs) + self.position.weight[: inputs.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.embedding.weight)

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy in nats per byte."""
        return F.cross_entropy(self(inputs).flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def write(self, start: str, n: int, seed: int, temperature: float = 0.9) -> str:
        """Continues `start` by `n` bytes, drawn one after the other."""
        device = self.norm.weight.device
        generator = torch.Generator().manual_seed(seed)  # on the host: the same draws on every device
        text = list(start.encode())
        for _ in range(n):
            logits = self(torch.tensor([text[-self.length :]], device=device))[0, -1].float().cpu()
            text.append(int(torch.multinomial((logits / temperature).softmax(0), 1, generator=generator)))
        written = bytes(text).decode(errors="replace").expandtabs(4)
        # An untrained model writes control characters, which a terminal would obey.
        return "".join(c if c.isprintable() or c == "\n" else "\N{MIDDLE DOT}" for c in written)
