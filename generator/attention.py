"""Self-attention along one axis of tokens `[B, G, S, D]`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

# Up to this many keys, materialised logits beat the fused kernel: on the CPU, whose backward pass is slow for short
# sequences, and on the temporal axis of a GPU, where it wastes its tiles and has a limit on how many there are.
SHORT_SEQUENCE = 32
# Up to this many, a compiler fuses products, sums and softmax into passes over queries, keys and values where they lie.
FUSED_SEQUENCE = 8


class Attention(nn.Module):
    """Attention along `axis`: "spatial" within a group, "temporal" within a cell.

    Args:
        qk_norm: Root-mean-square norms of queries and keys, with a weight for every channel of a head, bound the logits
            (arXiv 2302.05442, section 2).
    """

    def __init__(self, hidden_size: int, num_heads: int, axis: str, qk_norm: bool = False):
        super().__init__()
        self.num_heads, self.axis = num_heads, axis
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)
        width = hidden_size // num_heads
        self.query_norm, self.key_norm = (nn.RMSNorm(width, eps=1e-6) if qk_norm else None for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        heads = rearrange(self.qkv(x), "b g s (three m d) -> three b g s m d", three=3, m=self.num_heads)
        if self.query_norm is not None:
            query, key, value = heads
            query, key = self.query_norm(query.float()), self.key_norm(key.float())
            heads = torch.stack([query.to(value.dtype), key.to(value.dtype), value])
        temporal = self.axis == "temporal"
        order = "three b g s m d -> three b s m g d" if temporal else "three b g s m d -> three b g m s d"
        back = "b s m g d -> b g s (m d)" if temporal else "b g m s d -> b g s (m d)"
        return self.proj(rearrange(attend(rearrange(heads, order)), back))


def attend(heads: Tensor) -> Tensor:
    """Attention of queries, keys and values `[3, B, n, heads, tokens, d]` -> `[B, n, heads, tokens, d]` of their type;
    logits and softmax are float32 (bfloat16 logits of standard deviation 9 would make the error twice as large)."""
    tokens, width = heads.shape[-2:]
    if tokens > SHORT_SEQUENCE:
        query, key, value = heads.flatten(1, 2)
        return F.scaled_dot_product_attention(query, key, value).unflatten(0, heads.shape[1:3])
    with torch.autocast(heads.device.type, enabled=False):
        if tokens <= FUSED_SEQUENCE and torch.compiler.is_compiling():
            query, key, value = heads.float()
            logits = (query[..., :, None, :] * key[..., None, :, :]).sum(-1)
            shares = (logits * width**-0.5).softmax(-1)
            return (shares[..., None] * value[..., None, :, :]).sum(-2).to(heads.dtype)
        # One copy brings all three into the order that batched products take.
        query, key, value = heads.contiguous().flatten(1, 3).float()
        shares = (torch.bmm(query, key.mT) * width**-0.5).softmax(-1)
        return torch.bmm(shares, value).view(heads.shape[1:]).to(heads.dtype)
