"""ONNX Runtime missing, installed twice, without CUDA, or with one that does not start: each says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import osler
import pytest
from osler import EncoderError
from osler.encoders import providers, session
from osler.encoders.providers import runtime, thread_count
from osler.encoders.session import Session

PICTURE = [np.zeros((4, 4), dtype=np.uint8)]


def install(folder: Path, name: str) -> None:
    """Make what pip leaves behind for a package, so far as importlib.metadata looks at it."""
    info = folder / f"{name.replace('-', '_')}-9.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n")


def test_no_runtime_names_both_installations(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.save()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EncoderError) as caught:
        osler.load_encoder(folder)
    assert caught.value.code == "runtime_missing"
    assert 'pip install "osler[cpu]"' in str(caught.value) and 'pip install "osler[gpu]"' in str(caught.value)
    states = {info.name: info.state for info in osler.list_encoders()}
    assert all(states[name].startswith("needs: ") and "osler[cpu]" in states[name] for name in ("minilm", "reference"))


def test_both_distributions_are_an_error(tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.save()
    install(tmp_path / "site", "onnxruntime-gpu")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(EncoderError, match="pip uninstall onnxruntime onnxruntime-gpu") as caught:
        osler.load_encoder(folder)
    assert caught.value.code == "runtime_twice"


def test_no_tokenizers_is_said(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = osler.load_encoder(tiny.save())
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(EncoderError, match=r'pip install "osler\[cpu\]"'):
        encoder.encode_texts(["lung"])
    assert encoder.encode_images(PICTURE).shape == (1, 5)


@pytest.mark.parametrize("device", ["gpu", "cuda:0", "", None])
def test_unknown_devices(tiny, device: Any) -> None:
    with pytest.raises(ValueError, match="must be 'auto', 'cpu', 'cuda' or 'tensorrt'"):
        osler.load_encoder(tiny.save(), device=device)


class FakeRuntime:
    """ONNX Runtime of a GPU build; `started` are the providers that a session says it got."""

    def __init__(self, started: list[str]) -> None:
        self.started = started
        self.asked: list[list[str]] = []
        self.preloaded = 0

    def get_available_providers(self) -> list[str]:
        return ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]

    def preload_dlls(self) -> None:
        self.preloaded += 1

    def SessionOptions(self) -> Any:
        return SimpleNamespace(add_session_config_entry=lambda name, value: None)

    def InferenceSession(self, content: bytes, sess_options: Any, providers: list[Any]) -> Any:
        names = [one if isinstance(one, str) else one[0] for one in providers]
        self.asked.append(names)
        self.options = {one[0]: one[1] for one in providers if not isinstance(one, str)}
        got = [name for name in names if name in self.started]
        return SimpleNamespace(get_providers=lambda: got, get_inputs=list, get_outputs=list)


@pytest.fixture
def gpu_build(monkeypatch: pytest.MonkeyPatch):
    def install(started: list[str]) -> FakeRuntime:
        fake = FakeRuntime(started)
        monkeypatch.setattr(session, "_on_gpu", set())
        for module in (providers, session):
            monkeypatch.setattr(module, "runtime", lambda: fake)
        providers.load_libraries.cache_clear()
        providers.say.cache_clear()
        return fake

    yield install
    providers.load_libraries.cache_clear()


def test_cuda_without_a_gpu_build_names_the_package(tiny) -> None:
    with pytest.raises(EncoderError, match="needs the package onnxruntime-gpu") as caught:
        osler.load_encoder(tiny.save(), device="cuda")
    assert caught.value.code == "cuda_missing"


def test_cuda_that_does_not_start_is_an_error(tiny, gpu_build) -> None:
    fake = gpu_build(["CPUExecutionProvider"])
    with pytest.raises(EncoderError, match="driver, CUDA or cuDNN is missing") as caught:
        Session((tiny.folder / "image.onnx").read_bytes(), "cuda")
    assert caught.value.code == "cuda_failed"
    assert fake.preloaded == 1


def test_auto_falls_back_and_says_so(tiny, gpu_build, capsys: pytest.CaptureFixture[str]) -> None:
    fake = gpu_build(["CPUExecutionProvider"])
    assert Session((tiny.folder / "image.onnx").read_bytes(), "auto").device == "cpu"
    assert fake.asked[-1] == ["CPUExecutionProvider"]
    assert "CUDA could not be started, encoding on cpu" in capsys.readouterr().err


def test_auto_takes_cuda_that_starts(tiny, gpu_build, capsys: pytest.CaptureFixture[str]) -> None:
    gpu_build(["CUDAExecutionProvider", "CPUExecutionProvider"])
    content = (tiny.folder / "image.onnx").read_bytes()
    assert Session(content, "auto").device == "cuda"
    assert Session(content, "auto").device == "cuda"
    assert capsys.readouterr().err.count("encoding on cuda") == 1
    assert Session(content, "cpu").device == "cpu"


def test_tensorrt_keeps_its_engines_and_falls_back_to_nothing(
    tiny, gpu_build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OSLER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OSLER_GPU_BYTES", "1000000")
    content = (tiny.folder / "image.onnx").read_bytes()
    fake = gpu_build(["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"])
    assert Session(content, "tensorrt", half=True).device == "tensorrt"
    assert fake.asked[-1] == ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    engines = fake.options["TensorrtExecutionProvider"]
    assert engines["trt_layer_norm_fp32_fallback"] == "1"
    assert engines["trt_engine_cache_path"] == str(tmp_path / "home" / "tensorrt") and engines["trt_fp16_enable"] == "1"
    assert fake.options["CUDAExecutionProvider"]["gpu_mem_limit"] == "1000000"
    gpu_build(["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(
        EncoderError, match="device 'tensorrt' was asked, but ONNX Runtime could not start it"
    ) as caught:
        Session(content, "tensorrt")
    assert caught.value.code == "cuda_failed"


def test_engines_of_one_graph_with_other_tensors_are_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSLER_HOME", str(tmp_path / "home"))
    prefixes = {
        providers.providers("tensorrt", b"graph", False, tensors)[0][1]["trt_engine_cache_prefix"]
        for tensors in ({}, {"a.data": b"1"}, {"a.data": b"2"}, {"b.data": b"1"})
    }
    assert len(prefixes) == 4


def test_a_process_forked_from_one_on_the_gpu_is_told_what_to_do(
    tiny, gpu_build, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu_build(["CUDAExecutionProvider", "CPUExecutionProvider"])
    content = (tiny.folder / "image.onnx").read_bytes()
    assert Session(content, "cuda").device == "cuda" and Session(content, "auto").device == "cuda"
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    with pytest.raises(EncoderError, match=r"forked from one that uses the GPU.*start it by spawn") as caught:
        Session(content, "cuda")
    assert caught.value.code == "cuda_forked"
    assert Session(content, "auto").device == "cpu"
    assert "encoding on cpu" in capsys.readouterr().err


def test_bound_buffers_give_the_same_vectors(tiny) -> None:
    content = (tiny.folder / "image.onnx").read_bytes()
    plain, bound = Session(content, "cpu"), Session(content, "cpu", bind=True)
    rng = np.random.default_rng(3)
    for rows in (3, 3, 1, 3):
        batch = rng.standard_normal((rows, 3, 4, 4)).astype(np.float32)
        assert np.array_equal(plain.run({"pixels": batch}, "vector"), bound.run({"pixels": batch}, "vector"))
    assert len(bound._buffers.__dict__) == 1


def test_the_device_is_the_one_that_runs(tiny) -> None:
    encoder = osler.load_encoder(tiny.save(), device="auto")
    expected = "cuda" if "CUDAExecutionProvider" in runtime().get_available_providers() else "cpu"
    assert encoder.device == expected


def test_threads_follow_the_environment_and_the_cpu_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSLER_THREADS", "3")
    assert thread_count() == 3
    monkeypatch.delenv("OSLER_THREADS")
    assert 1 <= thread_count() <= len(os.sched_getaffinity(0))
    monkeypatch.setattr(providers, "_quota", lambda: 1)
    assert thread_count() == 1


def test_the_runtime_reports_nothing_to_its_maker(tmp_path: Path) -> None:
    script = (
        "import os, osler; osler.load_encoder('minilm').encode_texts(['lung']);"
        "print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "OSLER_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert found.stdout.split() == ["1"]
    assert not list(tmp_path.rglob("*[Mm]icrosoft*"))
