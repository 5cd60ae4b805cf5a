"""A tiny encoder of known arithmetic for tests: its ONNX graphs, its tokenizer and its folder.

Writes into the folder that it is given.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

__all__ = [
    "WORDS",
    "TinyEncoder",
    "image_model",
    "text_model",
    "tiny_encoder",
    "tiny_volume_encoder",
    "token_model",
    "volume_model",
]

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "lung", "heart", "brain", "clear"]


@dataclass
class TinyEncoder:
    """A folder, its manifest as a dict, and the weights in it."""

    folder: Path
    manifest: dict[str, Any]
    image_weights: np.ndarray
    token_weights: np.ndarray

    def enter(self, name: str) -> dict[str, Any]:
        """Return the manifest's entry for a file of the folder."""
        content = (self.folder / name).read_bytes()
        return {"path": name, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}

    def save(self) -> Path:
        """Write manifest.json as it stands and return the folder."""
        (self.folder / "manifest.json").write_text(json.dumps(self.manifest))
        return self.folder


def image_model(weights: np.ndarray, batch: int | str = "batch", domain: str = "") -> onnx.ModelProto:
    """(batch, 3, 4, 4) to (batch, 5): flatten, then one matrix; `domain` names the last operator's."""
    nodes = [
        helper.make_node("Flatten", ["pixels"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weights"], ["vector"], domain=domain),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [batch, 3, 4, 4])],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, [batch, 5])],
        [numpy_helper.from_array(weights, "weights")],
    )
    opsets = [helper.make_opsetid("", 13)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def token_model(kernel: np.ndarray, *, in_a_row: bool = False) -> onnx.ModelProto:
    """(batch, 3, 4, 4) to tokens (batch, 5, 2, 2), one for each quarter, and to their mean, the vector (batch, 5).

    `in_a_row`: the tokens are (batch, 1 + 4, 5), and the first of them is the vector.
    """
    nodes = [
        helper.make_node("Conv", ["pixels", "kernel"], ["map"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["map"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["vector"], axis=1),
    ]
    tensors = [numpy_helper.from_array(kernel, "kernel")]
    given = helper.make_tensor_value_info("map", TensorProto.FLOAT, ["batch", 5, 2, 2])
    if in_a_row:
        tensors.append(numpy_helper.from_array(np.array([0, 5, 4]), "flat"))
        tensors.append(numpy_helper.from_array(np.array([0, 5, 1]), "one"))
        nodes += [
            helper.make_node("Reshape", ["map", "flat"], ["patches"]),
            helper.make_node("Reshape", ["mean", "one"], ["first"]),
            helper.make_node("Concat", ["first", "patches"], ["joined"], axis=2),
            helper.make_node("Transpose", ["joined"], ["states"], perm=[0, 2, 1]),
        ]
        given = helper.make_tensor_value_info("states", TensorProto.FLOAT, ["batch", 5, 5])
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["batch", 5]), given],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def text_model(weights: np.ndarray) -> onnx.ModelProto:
    """(batch, tokens) ids to (batch, tokens, 5): one row of a table for each token."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["weights", "ids"], ["states"], axis=0)],
        "tiny",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info("states", TensorProto.FLOAT, ["batch", "tokens", 5])],
        [numpy_helper.from_array(weights, "weights")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def tiny_encoder(folder: Path, rng: np.random.Generator) -> TinyEncoder:
    """Make an encoder for both modalities in a folder; its manifest is not yet saved."""
    folder.mkdir()
    image_weights = rng.standard_normal((48, 5)).astype(np.float32)
    token_weights = rng.standard_normal((len(WORDS), 5)).astype(np.float32)
    (folder / "image.onnx").write_bytes(image_model(image_weights).SerializeToString())
    (folder / "text.onnx").write_bytes(text_model(token_weights).SerializeToString())
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    encoder = TinyEncoder(folder, {}, image_weights, token_weights)
    encoder.manifest = {
        "version": 1,
        "name": "tiny",
        "title": "tiny encoder of known arithmetic",
        "purpose": "tests",
        "licence": {"id": "Apache-2.0"},
        "citation": "none",
        "dim": 5,
        "image": {
            "file": encoder.enter("image.onnx"),
            "input": "pixels",
            "output": "vector",
            "layout": "NCHW",
            "recipe": [
                {"op": "window", "rule": "full"},
                {"op": "rgb"},
                {"op": "resize", "mode": "squash", "height": 4, "width": 4, "filter": "bilinear"},
                {"op": "normalise", "scale": 1 / 255, "mean": [0.5], "std": [0.25]},
            ],
            "precision": "fp32",
        },
        "text": {
            "file": encoder.enter("text.onnx"),
            "inputs": {"ids": "ids"},
            "output": "states",
            "tokenizer": encoder.enter("tokenizer.json"),
            "max_length": 6,
            "pooling": "mean",
            "precision": "fp32",
        },
        "logit_scale": 20.0,
    }
    return encoder


def volume_model(weights: np.ndarray, sides: tuple[int, int, int] = (6, 5, 4)) -> onnx.ModelProto:
    """(batch, 1, D, H, W) to (batch, 5, 1, 1, 1): a convolution as large as the volume."""
    kernel = np.ascontiguousarray(weights.T.reshape(5, 1, *sides))
    graph = helper.make_graph(
        [helper.make_node("Conv", ["voxels", "kernel"], ["vector"], kernel_shape=list(sides))],
        "tiny",
        [helper.make_tensor_value_info("voxels", TensorProto.FLOAT, ["batch", 1, *sides])],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["batch", 5, 1, 1, 1])],
        [numpy_helper.from_array(kernel, "kernel")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def tiny_volume_encoder(folder: Path, rng: np.random.Generator) -> TinyEncoder:
    """Make an encoder of volumes in a folder; its manifest is not yet saved."""
    folder.mkdir()
    weights = rng.standard_normal((120, 5)).astype(np.float32)
    (folder / "image.onnx").write_bytes(volume_model(weights).SerializeToString())
    encoder = TinyEncoder(folder, {}, weights, np.empty(0, np.float32))
    encoder.manifest = {
        "version": 1,
        "name": "tiny-3d",
        "title": "tiny encoder of volumes",
        "purpose": "tests",
        "licence": {"id": "Apache-2.0"},
        "citation": "none",
        "dim": 5,
        "image": {
            "file": encoder.enter("image.onnx"),
            "input": "voxels",
            "output": "vector",
            "layout": "NCDHW",
            "recipe": [
                {"op": "orient", "codes": "RAS"},
                {"op": "respace", "spacing": [2.0, 2.0, 2.0]},
                {"op": "intensity", "low": -1000.0, "high": 1000.0},
                {"op": "pad_volume", "shape": [6, 5, 4]},
                {"op": "crop_volume", "shape": [6, 5, 4]},
            ],
            "precision": "fp32",
            "batch_size": 2,
        },
    }
    return encoder
