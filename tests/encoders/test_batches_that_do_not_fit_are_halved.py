"""A batch that memory does not hold is halved and said; a device sees few shapes; nothing is lost or mixed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import osler
import pytest
from onnx import TensorProto, helper, numpy_helper
from osler import EncoderError
from osler.encoders.session import Session

HUNGRY = """
import resource, sys
import numpy as np, osler
encoder = osler.load_encoder(sys.argv[1], device="cpu")
images = [np.full((4, 4, 3), value, dtype=np.uint8) for value in range(24)]
alone = encoder.encode_images(images[:1])
with open("/proc/self/statm") as stream:
    now = int(stream.read().split()[0]) * resource.getpagesize()
limit = now + 700_000_000
free = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (limit, free[1]))
vectors = encoder.encode_images(images, batch_size=16)
resource.setrlimit(resource.RLIMIT_AS, free)
assert vectors.shape == (24, 5) and np.array_equal(vectors[:1], alone)
assert np.allclose(vectors, encoder.encode_images(images, batch_size=1), atol=1e-6)
"""


def pictures(count: int) -> list[np.ndarray]:
    return [np.full((4, 4, 3), 10 * value, dtype=np.uint8) for value in range(1, count + 1)]


def limited(encoder: osler.Encoder, rows: int, words: str) -> list[int]:
    """Make the encoder's session refuse more rows than that; gives the sizes that it was asked for."""
    inner = encoder._tower("image").session.inner
    asked: list[int] = []

    class Small:
        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

        def run(self, outputs: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            asked.append(len(feeds["pixels"]))
            if asked[-1] > rows:
                raise RuntimeError(words)
            return inner.run(outputs, feeds)

    encoder._tower("image").session.inner = Small()
    return asked


@pytest.mark.parametrize(
    "words",
    [
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size 1024",
        "CUDA failure 2: out of memory",
        "std::bad_alloc",
    ],
)
def test_smaller_batches_give_the_same_vectors(tiny, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = osler.load_encoder(tiny.save())
    images = pictures(21)
    expected = encoder.encode_images(images, batch_size=1)
    asked = limited(encoder, 3, words)
    assert np.allclose(encoder.encode_images(images, batch_size=8), expected, atol=1e-6)
    assert asked[:3] == [8, 4, 2] and max(asked[3:]) <= 4 and sum(size for size in asked if size <= 3) == 21
    said = capsys.readouterr().err
    assert "a batch of 8 does not fit into memory, going on with 4" in said
    assert "a batch of 4 does not fit into memory, going on with 2" in said
    assert asked.count(8) == 1


def test_one_that_does_not_fit_is_an_error(tiny) -> None:
    encoder = osler.load_encoder(tiny.save())
    limited(encoder, 0, "std::bad_alloc")
    with pytest.raises(EncoderError, match="a single input does not fit into memory") as caught:
        encoder.encode_images(pictures(4))
    assert caught.value.code == "out_of_memory"


def test_other_failures_are_not_tried_again(tiny) -> None:
    encoder = osler.load_encoder(tiny.save())
    asked = limited(encoder, 0, "Got invalid dimensions for input")
    with pytest.raises(EncoderError, match="a shape that the model does not take"):
        encoder.encode_images(pictures(4))
    assert asked == [4]


def hungry_model(weights: np.ndarray) -> onnx.ModelProto:
    """(batch, 3, 4, 4) to (batch, 5), by way of 50 MB for each row that no optimisation can leave out."""
    nodes = [
        helper.make_node("Flatten", ["pixels"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weights"], ["small"]),
        helper.make_node("Unsqueeze", ["small", "two"], ["tall"]),
        helper.make_node("Mul", ["tall", "ramp"], ["wide"]),  # (batch, 5, 2500000)
        helper.make_node("ReduceMax", ["wide"], ["vector"], axes=[2], keepdims=0),
    ]
    ramp = np.ones((1, 1, 2_500_000), dtype=np.float32)
    graph = helper.make_graph(
        nodes,
        "hungry",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["batch", 5])],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(ramp, "ramp"),
            numpy_helper.from_array(np.array([2], dtype=np.int64), "two"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_a_process_that_really_runs_out_goes_on_with_less(tiny) -> None:
    (tiny.folder / "image.onnx").write_bytes(hungry_model(tiny.image_weights).SerializeToString())
    tiny.manifest["image"]["file"] = tiny.enter("image.onnx")
    folder = tiny.save()
    done = subprocess.run(
        [sys.executable, "-c", HUNGRY, str(folder)],
        env={"OSLER_THREADS": "2", "PATH": "/usr/bin:/bin", "HOME": str(Path(folder).parent)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "a batch of 16 does not fit into memory, going on with 8" in done.stderr


def test_a_device_sees_powers_of_two(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = osler.load_encoder(tiny.save())
    images, texts = pictures(11), ["lung", "lung heart brain", "lung heart brain clear"]
    expected = encoder.encode_images(images), encoder.encode_texts(texts)
    shapes: list[tuple[int, ...]] = []
    plain = Session.run_all

    def run_all(self: Session, feeds: dict[str, np.ndarray], outputs: list[str]) -> list[np.ndarray]:
        shapes.extend(array.shape for array in feeds.values())
        return plain(self, feeds, outputs)

    monkeypatch.setattr(Session, "few_shapes", property(lambda self: True))
    monkeypatch.setattr(Session, "run_all", run_all)
    assert np.allclose(encoder.encode_images(images, batch_size=5), expected[0], atol=1e-6)
    assert np.allclose(encoder.encode_texts(texts), expected[1], atol=1e-6)
    assert all(side & (side - 1) == 0 or side in (3, 6) for shape in shapes for side in shape[:2])
    assert {shape[0] for shape in shapes} == {8, 1, 4}
