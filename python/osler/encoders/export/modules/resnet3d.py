"""The 3-D residual networks of Merlin and MedicalNet, under the names of their published weights.

Defines modules and runs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

__all__ = ["ResNet3d"]

Triple = tuple[int, int, int]


class ResNet3d(nn.Module):
    """A residual network over volumes that ends in the mean over its last map.

    Attributes
    ----------
    width : int
        Length of a vector: 512 with basic blocks, 2048 with bottlenecks.

    Parameters
    ----------
    blocks : sequence of int
        Blocks in each of four layers.
    bottleneck : bool
        Three convolutions in a block, of which the middle one has the stride, instead of two.
    shortcut : {"A", "B"}
        Where the shape changes: "A" takes every second voxel and adds channels of zeros (K. He et al., 2016), "B" is a
        convolution with batch normalisation.
    channels : int
        Of the input.
    stem : tuple of tuple of int
        Kernel, stride and padding of the first convolution.
    strides, dilations : sequence of int
        Of each layer; the first block of a layer has its stride, all have its dilation.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        *,
        bottleneck: bool,
        shortcut: str = "B",
        channels: int = 1,
        stem: tuple[Triple, Triple, Triple] = ((7, 7, 7), (2, 2, 2), (3, 3, 3)),
        strides: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
    ) -> None:
        super().__init__()
        kernel, stride, padding = stem
        self.conv1 = nn.Conv3d(channels, 64, kernel, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        self.maxpool = nn.MaxPool3d(3, 2, 1)
        self.width = 64
        for number, count in enumerate(blocks):
            inner, step, dilation = 64 * 2**number, strides[number], dilations[number]
            layer = []
            for place in range(count):
                layer.append(_Block(self.width, inner, step if place == 0 else 1, dilation, bottleneck, shortcut))
                self.width = inner * 4 if bottleneck else inner
            self.add_module(f"layer{number + 1}", nn.Sequential(*layer))

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        """Return (n, width) for (n, channels, D, H, W)."""
        found = self.maxpool(functional.relu(self.bn1(self.conv1(volumes))))
        found = self.layer4(self.layer3(self.layer2(self.layer1(found))))
        return found.mean((2, 3, 4))


class _Block(nn.Module):
    def __init__(self, before: int, inner: int, stride: int, dilation: int, bottleneck: bool, shortcut: str) -> None:
        super().__init__()
        after = inner * 4 if bottleneck else inner
        if bottleneck:
            self.conv1 = nn.Conv3d(before, inner, 1, bias=False)
            self.conv2 = nn.Conv3d(inner, inner, 3, stride, dilation, dilation, bias=False)
            self.conv3 = nn.Conv3d(inner, after, 1, bias=False)
            self.bn3 = nn.BatchNorm3d(after)
        else:
            self.conv1 = nn.Conv3d(before, inner, 3, stride, dilation, dilation, bias=False)
            self.conv2 = nn.Conv3d(inner, inner, 3, 1, dilation, dilation, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm3d(inner), nn.BatchNorm3d(inner)
        self.bottleneck, self.stride, self.more = bottleneck, stride, after - before
        self.downsample = None
        if shortcut == "B" and (stride != 1 or self.more):
            self.downsample = nn.Sequential(nn.Conv3d(before, after, 1, stride, bias=False), nn.BatchNorm3d(after))

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        found = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(volumes)))))
        if self.bottleneck:
            found = self.bn3(self.conv3(functional.relu(found)))
        return functional.relu(found + self._shortcut(volumes))

    def _shortcut(self, volumes: torch.Tensor) -> torch.Tensor:
        if self.downsample is not None:
            return self.downsample(volumes)
        step = self.stride
        thinned = volumes[:, :, ::step, ::step, ::step] if step > 1 else volumes
        return functional.pad(thinned, (0, 0, 0, 0, 0, 0, 0, self.more)) if self.more else thinned
