"""Turns a checkpoint from an installed package into an ONNX file in the user's cache, once, under a lock.

Reads one package file, writes below ``OSLER_HOME``/encoders. Needs `onnx` and no deep-learning framework.
The network is EfficientNet-Lite0 (Tan and Le 2019, without squeeze-and-excitation, with ReLU6), TensorFlow's SAME
padding at 224 x 224, batch normalisation folded into the convolutions.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from osler.config import settings
from osler.encoders.checkpoint import read_checkpoint
from osler.encoders.files import read_checked
from osler.encoders.manifest import Converter, ImageTower, TextTower
from osler.errors import EncoderError
from osler.progress import notice

__all__ = ["cached_model", "is_converted"]

_LITE0_SIDE = 224
# kernel, stride, expansion, channels in, channels out, repeats
_LITE0_BLOCKS = (
    (3, 1, 1, 32, 16, 1),
    (3, 2, 6, 16, 24, 2),
    (5, 2, 6, 24, 40, 2),
    (3, 2, 6, 40, 80, 3),
    (5, 1, 6, 80, 112, 3),
    (5, 2, 6, 112, 192, 4),
    (3, 1, 6, 192, 320, 1),
)
_EPSILON = 1e-3  # batch normalisation as trained, not PyTorch's default
_OPSET = 13  # the oldest that has every operator used, so that old runtimes load the file


class _Graph:
    """Appends nodes one after another and remembers the name and side of what the last one gives."""

    def __init__(self, state: dict[str, np.ndarray], name: str, side: int) -> None:
        self.state, self.last, self.side = state, name, side
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []

    def constant(self, name: str, values: np.ndarray) -> str:
        from onnx import numpy_helper

        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(values, dtype=np.float32), name))
        return name

    def node(self, kind: str, inputs: list[str], **attributes: Any) -> None:
        from onnx import helper

        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [self.last, *inputs], [output], **attributes))
        self.last = output

    def convolve(self, conv: str, norm: str, *, stride: int = 1, clip: bool = True) -> None:
        weight = self.state[f"{conv}.weight"].astype(np.float64)
        scale = self.state[f"{norm}.weight"] / np.sqrt(self.state[f"{norm}.running_var"].astype(np.float64) + _EPSILON)
        bias = self.state[f"{norm}.bias"] - self.state[f"{norm}.running_mean"] * scale
        kernel = weight.shape[2]
        after = -(-self.side // stride)
        padding = max((after - 1) * stride + kernel - self.side, 0)
        before = padding // 2
        self.node(
            "Conv",
            [self.constant(f"{conv}.w", weight * scale[:, None, None, None]), self.constant(f"{conv}.b", bias)],
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[before, before, padding - before, padding - before],
            group=weight.shape[0] if weight.shape[1] == 1 and kernel > 1 else 1,
        )
        self.side = after
        if clip:
            self.node("Clip", ["zero", "six"])


def _efficientnet_lite0(state: dict[str, np.ndarray]) -> bytes:
    """Return the network up to its pooled features as a serialised ONNX model."""
    from onnx import TensorProto, helper, numpy_helper

    graph = _Graph(state, "image", _LITE0_SIDE)
    for name, value in (("zero", 0.0), ("six", 6.0)):
        graph.tensors.append(numpy_helper.from_array(np.array(value, dtype=np.float32), name))
    graph.convolve("_conv_stem", "_bn0", stride=2)
    number = 0
    for _, first_stride, expansion, channels_in, channels_out, repeats in _LITE0_BLOCKS:
        for repeat in range(repeats):
            block, entry = f"_blocks.{number}", graph.last
            stride = first_stride if repeat == 0 else 1
            if expansion != 1:
                graph.convolve(f"{block}._expand_conv", f"{block}._bn0")
            graph.convolve(f"{block}._depthwise_conv", f"{block}._bn1", stride=stride)
            graph.convolve(f"{block}._project_conv", f"{block}._bn2", clip=False)
            if stride == 1 and (repeat > 0 or channels_in == channels_out):
                graph.node("Add", [entry])
            number += 1
    graph.convolve("_conv_head", "_bn1")
    graph.node("GlobalAveragePool", [])
    graph.node("Flatten", [], axis=1)
    graph.nodes[-1].output[0] = "embedding"
    width = graph.state["_conv_head.weight"].shape[0]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "efficientnet-lite0",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, _LITE0_SIDE, _LITE0_SIDE])],
            [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", width])],
            graph.tensors,
        ),
        producer_name="osler",
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=8,
    )
    return bytes(model.SerializeToString(deterministic=True))


def _convert(converter: Converter, checkpoint: bytes) -> bytes:
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise EncoderError(
            'converting this encoder needs the package onnx; pip install "osler[models]"', code="package_missing"
        ) from None
    if converter.version != 1:
        raise EncoderError(
            f"converter {converter.name} version {converter.version} is not in this release of osler; upgrade osler"
        )
    try:
        return _efficientnet_lite0(read_checkpoint(checkpoint))
    except KeyError:
        raise EncoderError("the checkpoint lacks tensors of EfficientNet-Lite0; install its package again") from None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _stored(path: Path) -> bytes | None:
    """Return a model of the cache if its record says that these bytes passed, else None: it is made anew."""
    try:
        record = json.loads(path.with_suffix(".json").read_bytes())
        content = path.read_bytes()
        return content if hashlib.sha256(content).hexdigest() == record["sha256"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, content: bytes) -> None:
    """Put the file in place whole or not at all, readable by its owner only."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def _place(tower: ImageTower | TextTower, name: str) -> Path:
    version = tower.converter.version if tower.converter is not None else 0
    return settings().home / "encoders" / name / f"{tower.file.sha256[:16]}-v{version}.onnx"


def is_converted(tower: ImageTower | TextTower, name: str) -> bool:
    """Tell whether `cached_model` has nothing to convert: the tower needs no converter, or the cache has its model."""
    return tower.converter is None or _place(tower, name).is_file()


def cached_model(
    tower: ImageTower | TextTower, folder: Path, name: str, verify: Callable[[bytes], dict[str, float]]
) -> bytes:
    """Return the ONNX model that a tower's converter makes, from the cache if it is there.

    Of several processes that need it at once, one converts and the others wait. A damaged cache file is made again.

    Parameters
    ----------
    tower : ImageTower or TextTower
        With a `converter`.
    folder : Path
        Where its manifest lies.
    name : str
        Encoder's name, a folder of the cache.
    verify : callable
        Gets the new model's bytes before they are stored, raises if they are not right, and returns what it measured.

    Returns
    -------
    bytes

    Raises
    ------
    EncoderError
        The checkpoint is missing, changed or refused, `onnx` is not installed, the model fails its golden vectors, or
        the cache cannot be written.
    """
    converter = tower.converter
    if converter is None:
        raise ValueError("the tower has no converter")
    try:
        path = _place(tower, name)
        settings().cache("encoders", name)
        content = _stored(path)
        if content is not None:
            return content
        with _locked(path.with_suffix(".lock")):
            content = _stored(path)
            if content is None:
                notice(f"osler: converting {name} to ONNX, once")
                content = _convert(converter, read_checked(tower.file, folder))
                record = {"sha256": hashlib.sha256(content).hexdigest(), "source": tower.file.sha256, **verify(content)}
                _write(path, content)
                _write(path.with_suffix(".json"), json.dumps(record, indent=1).encode())
            return content
    except OSError as error:
        reason = (error.strerror or "input/output error").lower()
        raise EncoderError(
            f"the converted model cannot be kept in the cache: {reason}; free space there, or set OSLER_HOME to a "
            "folder that can be written",
            code="cache",
        ) from None
