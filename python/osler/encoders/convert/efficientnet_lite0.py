"""EfficientNet-Lite0 from its PyTorch state dict to ONNX, up to the last map and its mean.

Tan and Le 2019, without squeeze-and-excitation, with ReLU6; TensorFlow's SAME padding at 224 x 224, batch
normalisation folded into the convolutions. Works on bytes in memory.
"""

from __future__ import annotations

import numpy as np

from osler.encoders.checkpoint import read_checkpoint
from osler.encoders.convert.graph import Graph
from osler.errors import EncoderError

__all__ = ["convert"]

_SIDE = 224
# kernel, stride, expansion, channels in, channels out, repeats
_BLOCKS = (
    (3, 1, 1, 32, 16, 1),
    (3, 2, 6, 16, 24, 2),
    (5, 2, 6, 24, 40, 2),
    (3, 2, 6, 40, 80, 3),
    (5, 1, 6, 80, 112, 3),
    (5, 2, 6, 112, 192, 4),
    (3, 1, 6, 192, 320, 1),
)
_EPSILON = 1e-3  # batch normalisation as trained, not PyTorch's default


def convert(content: bytes, name: str) -> bytes:
    """Return the network as a serialised ONNX model.

    Parameters
    ----------
    content : bytes
        A PyTorch checkpoint.
    name : str
        Of the converter.

    Raises
    ------
    EncoderError
        The bytes are no checkpoint, or lack tensors of this network.
    """
    try:
        return _network(read_checkpoint(content), name)
    except KeyError:
        raise EncoderError("the checkpoint lacks tensors of EfficientNet-Lite0; install its package again") from None


class _Lite0(Graph):
    """Remembers the name and the side of what the last node gives."""

    def __init__(self, state: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.state, self.last, self.side = state, "image", _SIDE

    def then(self, kind: str, *inputs: str, **attributes: object) -> None:
        self.last = self.node(kind, [self.last, *inputs], **attributes)

    def convolve(self, conv: str, norm: str, *, stride: int = 1, clip: bool = True) -> None:
        weight = self.state[f"{conv}.weight"].astype(np.float64)
        scale = self.state[f"{norm}.weight"] / np.sqrt(self.state[f"{norm}.running_var"].astype(np.float64) + _EPSILON)
        bias = self.state[f"{norm}.bias"] - self.state[f"{norm}.running_mean"] * scale
        kernel = weight.shape[2]
        after = -(-self.side // stride)
        padding = max((after - 1) * stride + kernel - self.side, 0)
        before = padding // 2
        self.then(
            "Conv",
            self.constant(f"{conv}.w", weight * scale[:, None, None, None]),
            self.constant(f"{conv}.b", bias),
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[before, before, padding - before, padding - before],
            group=weight.shape[0] if weight.shape[1] == 1 and kernel > 1 else 1,
        )
        self.side = after
        if clip:
            self.then("Clip", "zero", "six")


def _network(state: dict[str, np.ndarray], name: str) -> bytes:
    graph = _Lite0(state)
    for bound, value in (("zero", 0.0), ("six", 6.0)):
        graph.constant(bound, np.array(value))
    graph.convolve("_conv_stem", "_bn0", stride=2)
    number = 0
    for _, first_stride, expansion, channels_in, channels_out, repeats in _BLOCKS:
        for repeat in range(repeats):
            block, entry = f"_blocks.{number}", graph.last
            stride = first_stride if repeat == 0 else 1
            if expansion != 1:
                graph.convolve(f"{block}._expand_conv", f"{block}._bn0")
            graph.convolve(f"{block}._depthwise_conv", f"{block}._bn1", stride=stride)
            graph.convolve(f"{block}._project_conv", f"{block}._bn2", clip=False)
            if stride == 1 and (repeat > 0 or channels_in == channels_out):
                graph.then("Add", entry)
            number += 1
    graph.convolve("_conv_head", "_bn1")
    graph.rename(graph.last, "map")
    graph.last = "map"
    graph.then("GlobalAveragePool")
    graph.then("Flatten", axis=1)
    graph.rename(graph.last, "embedding")
    width = state["_conv_head.weight"].shape[0]
    return graph.model(
        name,
        {"image": ["batch", 3, _SIDE, _SIDE]},
        {"embedding": ["batch", width], "map": ["batch", width, graph.side, graph.side]},
    )
