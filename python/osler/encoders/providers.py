"""Which ONNX Runtime is installed, which device was asked for, and what the runtime is told about it.

Loads the runtime and the libraries of a GPU; opens no model. See `session` for what runs one.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.metadata
import importlib.util
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from osler.config import settings
from osler.errors import EncoderError
from osler.progress import notice

__all__ = ["PROVIDERS", "Device", "check_device", "load_libraries", "providers", "runtime", "say", "thread_count"]

Device = Literal["auto", "cpu", "cuda", "tensorrt"]

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_INSTALL = 'pip install "osler[cpu]" on a machine without an NVIDIA GPU, pip install "osler[gpu]" with one'


def _quota() -> int | None:
    """Return the CPUs that the cgroup (version 2) grants, rounded up, or None without a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else max(1, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        return None


def thread_count() -> int:
    """Return how many threads work may use: ``OSLER_THREADS``, else the CPU set and the cgroup's quota."""
    asked = settings().threads
    if asked is not None:
        return asked
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, _quota() or available)


def _installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def runtime() -> Any:
    """Return the module onnxruntime, its telemetry off unless ``ORT_DISABLE_TELEMETRY`` says otherwise.

    Raises
    ------
    EncoderError
        It is not installed (code ``runtime_missing``), or both of its distributions are (code ``runtime_twice``): they
        overwrite each other's files.
    """
    if _installed("onnxruntime") and _installed("onnxruntime-gpu"):
        raise EncoderError(
            "both onnxruntime and onnxruntime-gpu are installed and overwrite each other; "
            f"pip uninstall onnxruntime onnxruntime-gpu, then one of them again: {_INSTALL}",
            code="runtime_twice",
        )
    # released builds since 1.29 report usage to their maker unless told not to before they load
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError:
        raise EncoderError(
            f"encoding needs ONNX Runtime, which is not installed; {_INSTALL}", code="runtime_missing"
        ) from None
    return onnxruntime


def check_device(device: str) -> None:
    """Raise if the device is no known name, the runtime is missing, or a GPU is asked of a runtime without it.

    Raises
    ------
    ValueError
        The name is not one of "auto", "cpu", "cuda" and "tensorrt".
    EncoderError
        As `runtime`; or code ``cuda_missing``.
    """
    if device not in get_args(Device):
        raise ValueError(f"device is {device!r:.40}; it must be 'auto', 'cpu', 'cuda' or 'tensorrt'")
    if device in ("cuda", "tensorrt") and PROVIDERS[device] not in runtime().get_available_providers():
        raise EncoderError(
            f"device {device!r} needs the package onnxruntime-gpu, and the installed ONNX Runtime is one without it; "
            'pip uninstall onnxruntime, then pip install "osler[gpu]", or use device="cpu"',
            code="cuda_missing",
        )
    runtime()


def providers(
    device: Literal["cpu", "cuda", "tensorrt"], content: bytes, half: bool, external: Mapping[str, bytes]
) -> list[Any]:
    """Return what a session is asked to run on, the best first, with its options.

    Parameters
    ----------
    device : {"cpu", "cuda", "tensorrt"}
    content : bytes
        The ONNX file; engines that TensorRT builds of it are kept in ``OSLER_HOME``/tensorrt under a hash of it and of
        its tensors.
    half : bool
        The weights are in half precision; norms stay in single precision.
    external : mapping of str to bytes
        Files of tensors beside the ONNX file.

    Returns
    -------
    list
        Names, or pairs of a name and its options, as ``InferenceSession`` takes them.
    """
    if device == "cpu":
        return [PROVIDERS["cpu"]]
    # memory grows by what is asked and not by doubling, and single precision is single precision: TF32 has 10 bits
    options = {
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",
        **({} if settings().gpu_bytes is None else {"gpu_mem_limit": str(settings().gpu_bytes)}),
    }
    chosen: list[Any] = [(PROVIDERS["cuda"], options), PROVIDERS["cpu"]]
    if device == "tensorrt":
        # large models of one architecture have one graph, and differ in the tensors beside it alone
        digest = hashlib.sha256(content)
        for name in sorted(external):
            digest.update(name.encode() + b"\0" + hashlib.sha256(external[name]).digest())
        engines = {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(settings().cache("tensorrt")),
            "trt_engine_cache_prefix": digest.hexdigest()[:16],
            "trt_timing_cache_enable": "1",
            "trt_fp16_enable": "1" if half else "0",
            "trt_layer_norm_fp32_fallback": "1" if half else "0",
        }
        chosen.insert(0, (PROVIDERS["tensorrt"], engines))
    return chosen


@functools.cache
def load_libraries(device: Literal["cuda", "tensorrt"]) -> None:
    """Load the wheels of CUDA, cuDNN and TensorRT where pip put them, which is outside the loader's search path."""
    preload = getattr(runtime(), "preload_dlls", None)
    if preload is not None:
        with contextlib.redirect_stdout(sys.stderr):  # it prints what it does not find, and stdout is for results
            preload()
    wheel = importlib.util.find_spec("tensorrt_libs") if device == "tensorrt" else None
    for folder in wheel.submodule_search_locations or () if wheel is not None else ():
        for name in ("libnvinfer.so.10", "libnvinfer_plugin.so.10", "libnvonnxparser.so.10"):
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(Path(folder) / name), mode=ctypes.RTLD_GLOBAL)


@functools.cache
def say(text: str) -> None:
    """Tell the user once in this process."""
    notice(f"osler: {text}")
