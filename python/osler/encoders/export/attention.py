"""PyTorch's multi-head attention as few operators, for as long as a tower is traced.

Needs PyTorch. The library's own forward pass turns sequences and heads around eight times, each through the memory; the
arithmetic here is the same (A. Vaswani et al., NeurIPS 2017, equation 1), and the export measures that it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

__all__ = ["lean_attention"]


@contextlib.contextmanager
def lean_attention() -> Iterator[None]:
    """Give `torch.nn.MultiheadAttention` a leaner forward pass, where what it is asked is self-attention of a batch."""
    from torch import nn
    from torch.nn import functional

    kind: Any = nn.MultiheadAttention
    theirs = kind.forward

    def forward(self: Any, query: Any, key: Any, value: Any, *rest: Any, **more: Any) -> Any:
        mask = more.get("attn_mask")
        plain = (
            query is key is value
            and query.dim() == 3
            and self.batch_first
            and self._qkv_same_embed_dim
            and self.in_proj_bias is not None
            and self.bias_k is None
            and not (rest or self.training or self.add_zero_attn)
            and more.get("need_weights") is False
            and not (more.get("is_causal") or more.get("key_padding_mask") is not None)
            and (mask is None or (mask.dim() == 2 and mask.is_floating_point()))
        )
        if not plain:
            return theirs(self, query, key, value, *rest, **more)
        rows, tokens, width = query.shape
        each = width // self.num_heads
        flat = query.reshape(rows * tokens, width)
        packed = functional.linear(flat, self.in_proj_weight, self.in_proj_bias)
        parts = packed.reshape(rows, tokens, 3, self.num_heads, each).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (parts[0] * each**-0.5) @ parts[1].transpose(-2, -1)
        weights = weights if mask is None else weights + mask
        mixed = (weights.softmax(-1) @ parts[2]).transpose(1, 2).reshape(rows * tokens, width)
        return self.out_proj(mixed).reshape(rows, tokens, width), None

    kind.forward = forward
    try:
        yield
    finally:
        kind.forward = theirs
