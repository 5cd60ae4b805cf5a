"""Towers to ONNX files: tracing, precision, external data, checked by the house's own reader of ONNX files.

Writes into the folder that it is given. Needs PyTorch and onnx (extra ``export``).
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from osler.config import settings
from osler.encoders.export.attention import lean_attention
from osler.encoders.export.towers import ImageModel, TextModel
from osler.errors import EncoderError

__all__ = ["IDS", "IMAGE", "MASK", "OPSET", "OUTPUT", "TOKENS", "Written", "write_image", "write_text"]

IDS, IMAGE, MASK, OUTPUT, TOKENS = "ids", "image", "mask", "vector", "tokens"
OPSET = 20  # the first with Gelu, which else is five operators that each go through the memory
_LARGEST = 1_800_000_000  # protobuf ends at 2 GiB, and the graph needs room beside its tensors
# what loses digits in half precision, and costs little in single
_SINGLE = ("LayerNormalization", "BatchNormalization", "InstanceNormalization", "Softmax", "ReduceMean", "ReduceSum",
           "Pow", "Sqrt", "Exp", "Erf", "Gelu", "ArgMax", "Range", "Resize", "ReduceL2", "LpNormalization")  # fmt: skip

Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True, slots=True)
class Written:
    """Names of the files that were written, the graph first, then those with its tensors."""

    graph: str
    external: tuple[str, ...]


def write_image(model: ImageModel, folder: Path, precision: Precision) -> Written:
    """Write ``image.onnx``: input `IMAGE`, any number of rows, output `OUTPUT` and, where there are any, `TOKENS`.

    Raises
    ------
    EncoderError
        PyTorch cannot trace the tower.
    """
    import torch

    example = torch.zeros((2, *model.shape), dtype=torch.float32)
    rows = torch.export.Dim("batch", min=1, max=65536)
    module, outputs = model.module, [OUTPUT]
    if model.tokens is not None:
        module, outputs = model.tokens.module, [OUTPUT, TOKENS]
    return _write(module, (example,), [IMAGE], outputs, ({0: rows},), folder, "image", precision)


def write_text(model: TextModel, folder: Path, precision: Precision) -> Written:
    """Write ``text.onnx``: inputs `IDS` and, where the tower takes it, `MASK`; output `OUTPUT`.

    Raises
    ------
    EncoderError
        PyTorch cannot trace the tower.
    """
    import torch

    length = min(model.length, 16) if model.dynamic else model.length
    ids = torch.ones((2, length), dtype=torch.int64)
    rows = torch.export.Dim("batch", min=1, max=65536)
    axes: dict[int, Any] = {0: rows}
    if model.dynamic:
        axes[1] = torch.export.Dim("tokens", min=2, max=model.length)
    names, inputs = [IDS], [ids]
    if model.masked:
        names, inputs = [IDS, MASK], [ids, torch.ones_like(ids)]
    return _write(model.module, tuple(inputs), names, [OUTPUT], (axes,) * len(names), folder, "text", precision)


def _write(
    module: Any,
    inputs: tuple[Any, ...],
    names: list[str],
    outputs: list[str],
    axes: tuple[dict[int, Any], ...],
    folder: Path,
    name: str,
    precision: Precision,
) -> Written:
    import torch

    try:
        with _quiet(), torch.no_grad(), lean_attention():
            program = torch.onnx.export(
                module,
                inputs,
                input_names=names,
                output_names=outputs,
                dynamic_shapes=axes,
                opset_version=OPSET,
                dynamo=True,
                optimize=True,
            )
        assert program is not None
        model = program.model_proto
    except Exception as error:  # the exporter has a class for each of its stages
        reason = EncoderError(
            f"PyTorch {torch.__version__} cannot turn the {name} tower into ONNX; use the release that osler's extra "
            "export names, or set OSLER_DEBUG=1 to see why"
        )
        raise reason from (error if settings().debug else None)
    model.producer_name, model.doc_string = "osler", ""
    # traces quote the paths of the machine that exported
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    if precision == "fp16":
        model = _half(model)
    return _save(model, folder, name, precision)


def _half(model: Any) -> Any:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with _quiet():
        return convert_float_to_float16(
            model, keep_io_types=True, disable_shape_infer=True, op_block_list=list(_SINGLE), min_positive_val=5.96e-8
        )


def _save(model: Any, folder: Path, name: str, precision: Precision) -> Written:
    import onnx

    graph, tensors = f"{name}.onnx", f"{name}.onnx.data"
    outside = _size(model) > _LARGEST  # ByteSize of protobuf fails above its limit
    path = folder / graph
    if precision == "int8":
        return _quantised(model, folder, name, outside)
    onnx.save_model(
        model,
        str(path),
        save_as_external_data=outside,
        all_tensors_to_one_file=True,
        location=tensors,
        size_threshold=1024,
    )
    return Written(graph, (tensors,) if outside else ())


def _size(model: Any) -> int:
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def _quantised(model: Any, folder: Path, name: str, outside: bool) -> Written:
    """Quantise the weights of matrix products to 8 bits, one scale a column; activations get theirs in each run."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph, tensors = f"{name}.onnx", f"{name}.onnx.data"
    source = folder / f".{name}.fp32.onnx"
    onnx.save_model(model, str(source), save_as_external_data=outside, location=f".{name}.fp32.data")
    try:
        with _quiet():
            quantize_dynamic(
                str(source),
                str(folder / graph),
                op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True,
                weight_type=QuantType.QInt8,
                use_external_data_format=outside,
                extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
            )
    finally:
        source.unlink(missing_ok=True)
        (folder / f".{name}.fp32.data").unlink(missing_ok=True)
    return Written(graph, (tensors,) if (folder / tensors).is_file() else ())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and advice, which it prints and logs, from the user's terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        swallowed = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(swallowed), contextlib.redirect_stderr(swallowed):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
