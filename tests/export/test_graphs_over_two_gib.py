"""A tower whose tensors are over 2 GiB, where protobuf ends, is written beside its graph, and runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxscript", reason="the extra export is not installed here")
import onnx
from onnx import TensorProto, helper
from osler.encoders.export import graph
from osler.encoders.session import Session

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SIDE = 16_384


def large() -> onnx.ModelProto:
    """(n, SIDE) times two matrices of 1 GiB each, of which the second is that of all ones over SIDE."""
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", SIDE])] for name in (graph.IMAGE, graph.OUTPUT)
    )
    nodes = [
        helper.make_node("MatMul", [graph.IMAGE, "one"], ["between"]),
        helper.make_node("MatMul", ["between", "two"], [graph.OUTPUT]),
    ]
    made = helper.make_model(
        helper.make_graph(nodes, "large", inputs, outputs),
        opset_imports=[helper.make_opsetid("", graph.OPSET)],
        ir_version=9,
    )
    for name in ("one", "two"):
        tensor = made.graph.initializer.add()
        tensor.name, tensor.data_type = name, TensorProto.FLOAT
        tensor.dims.extend([SIDE, SIDE])
        weights = np.eye(SIDE, dtype=np.float32) if name == "one" else np.full((SIDE, SIDE), 1 / SIDE, np.float32)
        tensor.raw_data = weights.tobytes()
    return made


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_written_and_run(precision: Any, tmp_path: Path) -> None:
    model = large()
    assert graph._size(model) >= 2 << 30
    written = graph._save(graph._half(model) if precision == "fp16" else model, tmp_path, "image", precision)
    del model
    # half of it is below the limit again
    outside = () if precision == "fp16" else ("image.onnx.data",)
    assert written.external == outside
    assert {path.name for path in tmp_path.iterdir()} == {"image.onnx", *outside}
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size >= {"fp32": 2 << 30, "fp16": 1 << 30, "int8": 1 << 29}[precision]
    external = {name: (tmp_path / name).read_bytes() for name in outside}
    session = Session((tmp_path / "image.onnx").read_bytes(), "cpu", external, half=precision == "fp16")
    given = np.random.default_rng(0).random((2, SIDE)).astype(np.float32)
    found = session.run({graph.IMAGE: given}, graph.OUTPUT)
    np.testing.assert_allclose(found, np.broadcast_to(given.mean(1, keepdims=True), given.shape), rtol=0.02)
