"""The towers of MedImageInsight, under the names of its published weights: a DaViT and a text transformer.

DaViT: M. Ding et al., Dual Attention Vision Transformers, ECCV 2022, with the depthwise convolutions of the UniCL
release. Defines modules and runs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

__all__ = ["DaViT", "TextTransformer"]

_KERNELS, _STRIDES, _PADDINGS = (7, 3, 3, 3), (4, 2, 2, 2), (3, 1, 1, 1)


class DaViT(nn.Module):
    """Pictures to vectors by four stages of attention within windows and between channels.

    Parameters
    ----------
    depths, widths, heads : sequence of int
        Pairs of blocks, channels and heads (also groups of channels) of each stage.
    window : int
        Side of a window.
    """

    def __init__(self, depths: Sequence[int], widths: Sequence[int], heads: Sequence[int], window: int = 12) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            _ConvEmbed(widths[i - 1] if i else 3, widths[i], _KERNELS[i], _STRIDES[i], _PADDINGS[i], first=i == 0)
            for i in range(len(depths))
        )
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                nn.ModuleDict(
                    {
                        "spatial_block": _Block(
                            widths[i], "window_attn", _WindowAttention(widths[i], heads[i], window)
                        ),
                        "channel_block": _Block(widths[i], "channel_attn", _ChannelAttention(widths[i], heads[i])),
                    }
                )
                for _ in range(depths[i])
            )
            for i in range(len(depths))
        )
        self.norms = nn.LayerNorm(widths[-1])

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return (n, widths[-1]) for (n, 3, H, W)."""
        found = pictures
        for embed, stage in zip(self.convs, self.blocks, strict=True):
            found = embed(found)
            for pair in stage:
                found = pair["channel_block"](pair["spatial_block"](found))
        return self.norms(found.mean((1, 2)))


class _ConvEmbed(nn.Module):
    """A strided convolution; the first stage normalises after it, the others before. From then on (n, H, W, C)."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, padding: int, first: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(before, after, kernel, stride, padding)
        self.norm = nn.LayerNorm(after if first else before)
        self.first = first

    def forward(self, found: torch.Tensor) -> torch.Tensor:
        if self.first:
            return self.norm(self.proj(found).permute(0, 2, 3, 1))
        return self.proj(self.norm(found).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class _Block(nn.Module):
    """Four steps, each added to what it starts from: convolution, attention, convolution, two dense layers."""

    def __init__(self, width: int, name: str, attention: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.conv1 = _inside(dw=nn.Conv2d(width, width, 3, 1, 1, groups=width))
        self.add_module(name, nn.ModuleDict({"norm": nn.LayerNorm(width), "fn": attention}))
        self.conv2 = _inside(dw=nn.Conv2d(width, width, 3, 1, 1, groups=width))
        dense = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.ffn = nn.ModuleDict({"norm": nn.LayerNorm(width), **_inside(net=dense)})

    def forward(self, found: torch.Tensor) -> torch.Tensor:
        attention = getattr(self, self.name)
        found = found + _spread(self.conv1["fn"]["dw"], found)
        found = found + attention["fn"](attention["norm"](found))
        found = found + _spread(self.conv2["fn"]["dw"], found)
        net = self.ffn["fn"]["net"]
        return found + net["fc2"](functional.gelu(net["fc1"](self.ffn["norm"](found))))


class _WindowAttention(nn.Module):
    """Attention within windows; what pads the map to whole windows takes part as zeros."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.window = heads, window

    def forward(self, found: torch.Tensor) -> torch.Tensor:
        _, height, breadth, width = found.shape
        side = self.window
        padded = functional.pad(found, (0, 0, 0, -breadth % side, 0, -height % side))
        rows, columns = padded.shape[1] // side, padded.shape[2] // side
        windows = padded.reshape(-1, rows, side, columns, side, width).transpose(2, 3)
        tokens = windows.reshape(-1, side * side, width)
        query, key, value = _split(self.qkv(tokens), self.heads)
        weights = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        mixed = (weights.softmax(-1) @ value).transpose(1, 2).reshape(-1, side * side, width)
        windows = self.proj(mixed).reshape(-1, rows, columns, side, side, width).transpose(2, 3)
        return windows.reshape(-1, rows * side, columns * side, width)[:, :height, :breadth]


class _ChannelAttention(nn.Module):
    """Attention between the channels of a group, over all places."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.groups = groups

    def forward(self, found: torch.Tensor) -> torch.Tensor:
        _, height, breadth, width = found.shape
        places = height * breadth
        query, key, value = _split(self.qkv(found.reshape(-1, places, width)), self.groups)
        weights = (query * places**-0.5).transpose(-2, -1) @ key
        mixed = (weights.softmax(-1) @ value.transpose(-2, -1)).permute(0, 3, 1, 2)
        return self.proj(mixed.reshape(-1, height, breadth, width))


class TextTransformer(nn.Module):
    """Token ids to the states after the last normalisation; every token sees every other under the mask.

    Parameters
    ----------
    layers, width, heads : int
    length : int
        The greatest number of tokens.
    vocabulary : int
    """

    def __init__(self, layers: int, width: int, heads: int, length: int = 77, vocabulary: int = 49408) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.randn(length, width) * 0.02)
        self.resblocks = nn.ModuleList(_TextBlock(width, heads) for _ in range(layers))
        self.ln_final = nn.LayerNorm(width, eps=1e-12)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return (n, tokens, width) for (n, tokens) ids and mask."""
        found = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        bias = torch.where(mask[:, None, None, :] > 0, 0.0, torch.finfo(torch.float32).min)
        for block in self.resblocks:
            found = block(found, bias)
        return self.ln_final(found)


class _TextBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)  # for the names of its weights
        self.ln_1, self.ln_2 = nn.LayerNorm(width, eps=1e-12), nn.LayerNorm(width, eps=1e-12)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})
        self.heads = heads

    def forward(self, found: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        packed = functional.linear(self.ln_1(found), self.attn.in_proj_weight, self.attn.in_proj_bias)
        query, key, value = _split(packed, self.heads)
        weights = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5 + bias
        mixed = (weights.softmax(-1) @ value).transpose(1, 2)
        found = found + self.attn.out_proj(mixed.reshape(found.shape))
        hidden = self.mlp["c_fc"](self.ln_2(found))
        return found + self.mlp["c_proj"](hidden * torch.sigmoid(1.702 * hidden))


def _inside(**modules: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict({"fn": nn.ModuleDict(modules)})


def _spread(convolution: nn.Module, found: torch.Tensor) -> torch.Tensor:
    return convolution(found.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _split(packed: torch.Tensor, heads: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return query, key and value (n, heads, tokens, width of a head) of a joint projection."""
    tokens, width = packed.shape[1], packed.shape[2] // 3
    query, key, value = packed.reshape(-1, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    return query, key, value
