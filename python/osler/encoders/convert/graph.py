"""An ONNX graph as a converter writes it: tensors, nodes one after another, and the model around them.

Needs `onnx`; touches no file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from osler.encoders.checkpoint import BFLOAT16

__all__ = ["OPSET", "Graph"]

OPSET = 13  # the oldest that has every operator used, so that old runtimes load the file


class Graph:
    """Collects nodes and tensors; every node has one output, named by its number."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []

    def constant(self, name: str, values: np.ndarray) -> str:
        """Add a tensor in its own type and return its name; float64, in which weights are folded, becomes float32."""
        from onnx import TensorProto, helper, numpy_helper

        dtype = np.dtype(np.float32) if values.dtype == np.float64 else values.dtype
        array = np.asarray(values, dtype=dtype, order="C")
        if dtype == BFLOAT16:
            tensor = helper.make_tensor(name, TensorProto.BFLOAT16, array.shape, array.tobytes(), raw=True)
        else:
            tensor = numpy_helper.from_array(array, name)
        self.tensors.append(tensor)
        return name

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        from onnx import helper

        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def rename(self, output: str, name: str) -> None:
        """Give the output of a node, and whatever takes it, another name."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for place, current in enumerate(names):
                    if current == output:
                        names[place] = name

    def model(self, name: str, inputs: Mapping[str, Sequence[Any]], outputs: Mapping[str, Sequence[Any]]) -> bytes:
        """Return the serialised model and let go of the tensors; shapes hold numbers, and names where any size fits."""
        from onnx import TensorProto, helper

        def declared(values: Mapping[str, Sequence[Any]]) -> list[Any]:
            return [helper.make_tensor_value_info(key, TensorProto.FLOAT, list(shape)) for key, shape in values.items()]

        graph = helper.make_graph(self.nodes, name, declared(inputs), declared(outputs))
        model = helper.make_model(
            graph, producer_name="osler", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8
        )
        self.tensors.reverse()
        while self.tensors:  # moved one by one, since a model's weights may be a large part of the memory
            model.graph.initializer.add().CopyFrom(self.tensors.pop())
        return bytes(model.SerializeToString(deterministic=True))
