"""One ONNX model in ONNX Runtime: which distribution is installed, which device was asked, which one really runs.

Checks the model's bytes before the runtime sees them, and the graph's inputs after. A session belongs to the process
that made it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.metadata
import math
import os
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from osler.config import settings
from osler.encoders.onnx_file import check_model
from osler.errors import EncoderError
from osler.progress import notice

__all__ = ["Device", "Session", "check_device", "runtime", "thread_count"]

Device = Literal["auto", "cpu", "cuda"]

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
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
    """Raise if the device is no known name, the runtime is missing, or CUDA is asked of a runtime without it.

    Raises
    ------
    ValueError
        The name is not one of "auto", "cpu" and "cuda".
    EncoderError
        As `runtime`; or code ``cuda_missing``.
    """
    if device not in get_args(Device):
        raise ValueError(f"device is {device!r:.40}; it must be 'auto', 'cpu' or 'cuda'")
    if device == "cuda" and "CUDAExecutionProvider" not in runtime().get_available_providers():
        raise EncoderError(
            "device 'cuda' needs the package onnxruntime-gpu, and the installed ONNX Runtime is one without CUDA; "
            'pip uninstall onnxruntime, then pip install "osler[gpu]", or use device="cpu"',
            code="cuda_missing",
        )
    runtime()


@functools.cache
def _load_cuda_libraries() -> None:
    """Load the CUDA and cuDNN wheels that the gpu extra installs; they lie outside the loader's search path."""
    preload = getattr(runtime(), "preload_dlls", None)
    if preload is not None:
        with contextlib.redirect_stdout(sys.stderr):  # it prints what it does not find, and stdout is for results
            preload()


@functools.cache
def _say(text: str) -> None:
    notice(f"osler: {text}")


_live: weakref.WeakSet[Session] = weakref.WeakSet()


def _keep_inherited() -> None:
    """In a forked child, keep what it inherited from ever being ended: that would wait for threads it does not have."""
    for session in _live:
        for part in (session.inner, getattr(session.inner, "_sess", None)):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(part))


os.register_at_fork(after_in_child=_keep_inherited)


class Session:
    """One model, opened.

    Parameters
    ----------
    content : bytes
        The ONNX file, already compared with its hash.
    device : {"auto", "cpu", "cuda"}
    external : mapping of str to bytes
        Files of tensors that the model may name, by that name.

    Raises
    ------
    EncoderError
        The model is damaged or not allowed, or CUDA was asked and does not run.
    """

    def __init__(self, content: bytes, device: Device, external: Mapping[str, bytes] | None = None) -> None:
        check_device(device)
        external = external or {}
        check_model(content, frozenset(external))
        self.inner = self._open(content, device, external)
        _live.add(self)
        self.device = "cuda" if self.inner.get_providers()[0] == "CUDAExecutionProvider" else "cpu"
        self._inputs = {node.name: node for node in self.inner.get_inputs()}
        self._outputs = {node.name: node for node in self.inner.get_outputs()}

    @staticmethod
    def _open(content: bytes, device: Device, external: Mapping[str, bytes]) -> Any:
        ort = runtime()

        def start(providers: list[str]) -> Any:
            options = ort.SessionOptions()
            options.intra_op_num_threads = thread_count()
            options.inter_op_num_threads = 1
            # idle threads must not spin: decoding needs the cores between two batches
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            options.log_severity_level = 4
            if external:
                names, contents = list(external), list(external.values())
                options.add_external_initializers_from_files_in_memory(names, contents, [len(c) for c in contents])
            return ort.InferenceSession(content, sess_options=options, providers=providers)

        try:
            if device != "cpu" and "CUDAExecutionProvider" in ort.get_available_providers():
                _load_cuda_libraries()
                session = start(["CUDAExecutionProvider", "CPUExecutionProvider"])
                if session.get_providers()[0] == "CUDAExecutionProvider":
                    if device == "auto":
                        _say("encoding on cuda")
                    return session
                if device == "cuda":
                    raise EncoderError(
                        "device 'cuda' was asked, but ONNX Runtime could not start CUDA: the driver, CUDA or cuDNN is "
                        'missing or of another version; see nvidia-smi, pip install -U "osler[gpu]", or use '
                        'device="cpu"',
                        code="cuda_failed",
                    )
                _say("CUDA could not be started, encoding on cpu")
            return start(["CPUExecutionProvider"])
        except EncoderError:
            raise
        except Exception as error:
            if settings().debug:
                raise EncoderError("ONNX Runtime cannot open the model") from error
            raise EncoderError(
                "ONNX Runtime cannot open the model: it is damaged or needs a newer release; export it again or "
                "upgrade onnxruntime"
            ) from None

    def shape(self, name: str, rank: int) -> list[int | None]:
        """Return the sides of an input, None where any size fits.

        Raises
        ------
        EncoderError
            There is no such input, its rank differs, or its type is not one that is fed.
        """
        node = self._inputs.get(name)
        if node is None:
            raise EncoderError(f"the model has no input {name!r}, it has {sorted(self._inputs)}; correct manifest.json")
        if node.type not in _TYPES or len(node.shape) != rank:
            raise EncoderError(
                f"input {name!r} of the model is {node.type} with {len(node.shape)} axes; this tower feeds {rank} axes"
            )
        return [side if isinstance(side, int) else None for side in node.shape]

    def require(self, inputs: set[str], output: str, ranks: tuple[int, ...]) -> None:
        """Raise unless the graph takes exactly these inputs and gives the output as floats with one of these ranks.

        Raises
        ------
        EncoderError
        """
        if set(self._inputs) != inputs:
            raise EncoderError(
                f"the model takes {sorted(self._inputs)}, the manifest names {sorted(inputs)}; correct manifest.json"
            )
        node = self._outputs.get(output)
        if node is None:
            raise EncoderError(
                f"the model has no output {output!r}, it has {sorted(self._outputs)}; correct manifest.json"
            )
        if node.type not in ("tensor(float)", "tensor(float16)") or len(node.shape) not in ranks:
            raise EncoderError(
                f"output {output!r} of the model is {node.type} with {len(node.shape)} axes, which does not fit the "
                "pooling of the manifest"
            )

    def run(self, feeds: Mapping[str, np.ndarray], output: str) -> np.ndarray:
        """Return one output in float32 for a batch; see `run_all`."""
        return self.run_all(feeds, [output])[0]

    def run_all(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """Return outputs in float32 for a batch; inputs are cast to the graph's types.

        Raises
        ------
        EncoderError
            The runtime refused the batch.
        """
        cast = {name: np.ascontiguousarray(array, _TYPES[self._inputs[name].type]) for name, array in feeds.items()}
        try:
            results = self.inner.run(list(outputs), cast)
        except Exception as error:
            if settings().debug:
                raise EncoderError("ONNX Runtime failed on a batch") from error
            raise EncoderError(
                "ONNX Runtime failed on a batch: too little memory, or a shape that the model does not take; try a "
                "smaller batch_size"
            ) from None
        return [np.asarray(result, dtype=np.float32) for result in results]
