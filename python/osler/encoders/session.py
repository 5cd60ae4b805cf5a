"""One ONNX model, open in ONNX Runtime on the device that was asked for, or that really runs.

Checks the model's bytes before the runtime sees them, and the graph's inputs after. A session belongs to the process
that made it.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np

from osler.config import settings
from osler.encoders.onnx_file import check_model
from osler.encoders.providers import (
    PROVIDERS,
    Device,
    check_device,
    load_libraries,
    providers,
    runtime,
    say,
    thread_count,
)
from osler.errors import EncoderError

__all__ = ["OutOfMemory", "Session"]

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}
# what the allocators of the runtime, of CUDA and of C++ say
_MEMORY = re.compile(
    r"failed to allocate|out of memory|bad_?alloc|bad allocation|CUDA failure 2\b|CUBLAS_STATUS_ALLOC", re.I
)


# Of larger models the products are long enough to be shared among processors, and a second copy costs too much.
_SMALL_BYTES = 128 << 20
_MOST_LANES = 16


class OutOfMemory(EncoderError):
    """A batch did not fit into memory; fewer rows may."""


_live: weakref.WeakSet[Session] = weakref.WeakSet()
_on_gpu: set[int] = set()  # processes, this one and those it was forked from, that opened a session on a GPU


def _keep_inherited() -> None:
    """In a forked child, keep what it inherited from ever being ended.

    That would wait for threads it does not have, or free memory of a device that is not its own.
    """
    for session in _live:
        for inner in (session.inner, session.narrow):
            for part in (session, inner, getattr(inner, "_sess", None)):
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(part))


os.register_at_fork(after_in_child=_keep_inherited)


class Session:
    """One model, opened.

    Parameters
    ----------
    content : bytes
        The ONNX file, already compared with its hash.
    device : {"auto", "cpu", "cuda", "tensorrt"}
    external : mapping of str to bytes
        Files of tensors that the model may name, by that name.
    half : bool
        The weights are in half precision.
    bind : bool, optional
        Run with bound buffers; by default where the device is no CPU.

    Attributes
    ----------
    device : {"cpu", "cuda", "tensorrt"}
        What really runs.
    lanes : int
        How many runs side by side are faster than one after another: of a small model on a CPU one a processor, up to
        16, since its operators are too short to be shared among many.

    Raises
    ------
    EncoderError
        The model is damaged or not allowed, or CUDA was asked and does not run.
    """

    def __init__(
        self,
        content: bytes,
        device: Device,
        external: Mapping[str, bytes] | None = None,
        *,
        half: bool = False,
        bind: bool | None = None,
    ) -> None:
        check_device(device)
        external = external or {}
        check_model(content, frozenset(external))
        self.narrow: Any = None  # with a share of the threads, opened when it is first needed
        self.inner = self._open(content, device, external, half)
        _live.add(self)
        first = self.inner.get_providers()[0]
        self.device = next((name for name, provider in PROVIDERS.items() if provider == first), "cpu")
        self._bind = self.device != "cpu" if bind is None else bind
        self._share = 0
        self._here = threading.local()
        self._lock = threading.Lock()
        small = len(content) + sum(map(len, external.values())) <= _SMALL_BYTES
        self.lanes = min(thread_count(), _MOST_LANES) if small and self.device == "cpu" and not self._bind else 1
        self._narrowed = partial(self._start, "cpu", content, external, half) if self.lanes > 1 else None
        self._buffers = threading.local()
        self._inputs = {node.name: node for node in self.inner.get_inputs()}
        self._outputs = {node.name: node for node in self.inner.get_outputs()}

    @property
    def few_shapes(self) -> bool:
        """Whether a new shape of a batch costs: memory that is kept, kernels chosen, engines built."""
        return self.device != "cpu"

    def beside(self, most: int) -> int:
        """Make ready for runs side by side, in threads that each call `enter_lane`; return how many at once, or 1.

        Each has its share of the processors, and gives the same bits.
        """
        with self._lock:
            if self._narrowed is not None and self.narrow is None and min(self.lanes, most) > 1:
                share = -(-thread_count() // min(self.lanes, most))
                try:
                    self.narrow, self._share = self._narrowed(threads=share), share
                except Exception:  # as where memory is short: one at a time is slower and no less right
                    self._narrowed = None
            if self.narrow is None:
                return 1
            return max(1, min(self.lanes, most, -(-thread_count() // self._share)))

    def enter_lane(self) -> None:
        """Let what this thread runs from now on be one of several runs side by side; see `beside`."""
        self._here.lane = True

    @staticmethod
    def _start(
        on: Literal["cpu", "cuda", "tensorrt"],
        content: bytes,
        external: Mapping[str, bytes],
        half: bool,
        *,
        threads: int | None = None,
    ) -> Any:
        ort = runtime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or thread_count()
        options.inter_op_num_threads = 1
        # idle threads must not spin: decoding needs the cores between two batches
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4
        if external:
            names, contents = list(external), list(external.values())
            options.add_external_initializers_from_files_in_memory(names, contents, [len(c) for c in contents])
        return ort.InferenceSession(content, sess_options=options, providers=providers(on, content, half, external))

    @classmethod
    def _open(cls, content: bytes, device: Device, external: Mapping[str, bytes], half: bool) -> Any:
        ort = runtime()
        try:
            wanted: Literal["cuda", "tensorrt"] = "tensorrt" if device == "tensorrt" else "cuda"
            forked = bool(_on_gpu - {os.getpid()})
            if forked and device != "cpu":
                if device != "auto":
                    raise _forked(wanted)
                say("this process was forked from one that uses the GPU, which it cannot: encoding on cpu")
            elif device != "cpu" and PROVIDERS[wanted] in ort.get_available_providers():
                load_libraries(wanted)
                _on_gpu.add(os.getpid())  # CUDA may be up although the session is not
                session = cls._start(wanted, content, external, half)
                if session.get_providers()[0] == PROVIDERS[wanted]:
                    if device == "auto":
                        say("encoding on cuda")
                    return session
                if device != "auto":
                    raise _not_started(wanted)
                say("CUDA could not be started, encoding on cpu")
            return cls._start("cpu", content, external, half)
        except EncoderError:
            raise
        except Exception as error:
            if settings().debug:
                raise EncoderError("ONNX Runtime cannot open the model") from error
            if _MEMORY.search(str(error)):
                raise EncoderError(
                    "the model does not fit into memory; use a smaller one, or one in half precision"
                ) from None
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

    def sides(self, name: str) -> list[int | None]:
        """Return the sides of an output, None where any size may come."""
        return [side if isinstance(side, int) else None for side in self._outputs[name].shape]

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
        OutOfMemory
            The batch does not fit.
        EncoderError
            The runtime refused the batch.
        """
        cast = {name: np.ascontiguousarray(array, _TYPES[self._inputs[name].type]) for name, array in feeds.items()}
        try:
            inner = self.narrow if getattr(self._here, "lane", False) else self.inner
            results = self._bound(cast, outputs) if self._bind else inner.run(list(outputs), cast)
        except Exception as error:
            if _MEMORY.search(str(error)):
                raise OutOfMemory(
                    "a single input does not fit into memory beside the model; free memory, or use device='cpu'",
                    code="out_of_memory",
                ) from None
            if settings().debug:
                raise EncoderError("ONNX Runtime failed on a batch") from error
            raise EncoderError(
                "ONNX Runtime failed on a batch: a shape that the model does not take, or a fault of the device; run "
                "osler encoder check"
            ) from None
        return [np.asarray(result, dtype=np.float32) for result in results]

    def _bound(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """Run with inputs in buffers of the device that are used again for every batch of their shape."""
        ort = runtime()
        kept: dict[Any, Any] = self._buffers.__dict__
        place = "cpu" if self.device == "cpu" else "cuda"
        binding = self.inner.io_binding()
        for name, array in feeds.items():
            key = (name, array.shape, array.dtype.str)
            buffer = kept.get(key)
            if buffer is None:
                for other in [one for one in kept if one[0] == name]:  # one buffer an input: shapes seldom change
                    del kept[other]
                buffer = kept[key] = ort.OrtValue.ortvalue_from_numpy(array, place, 0)
            else:
                buffer.update_inplace(array)
            binding.bind_ortvalue_input(name, buffer)
        for name in outputs:
            binding.bind_output(name, "cpu")
        self.inner.run_with_iobinding(binding)
        return [np.array(result) for result in binding.copy_outputs_to_cpu()]


def _forked(device: Literal["cuda", "tensorrt"]) -> EncoderError:
    return EncoderError(
        f"device {device!r} was asked in a process that was forked from one that uses the GPU, and CUDA does not work "
        'in such a process; start it by spawn, as multiprocessing.get_context("spawn") does, or use device="cpu"',
        code="cuda_forked",
    )


def _not_started(device: Literal["cuda", "tensorrt"]) -> EncoderError:
    libraries = "CUDA or cuDNN" if device == "cuda" else "CUDA, cuDNN or TensorRT"
    also = "" if device == "cuda" else ", pip install tensorrt"
    return EncoderError(
        f"device {device!r} was asked, but ONNX Runtime could not start it: the driver, {libraries} is missing or of "
        f'another version; see nvidia-smi, pip install -U "osler[gpu]"{also}, or use device="cpu"',
        code="cuda_failed",
    )
