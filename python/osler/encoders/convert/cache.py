"""Keeps converted models in the user's cache: each is made once, under a lock, and checked before it is kept.

Reads one weights file, writes below ``OSLER_HOME``/encoders. Needs `onnx` and no deep-learning framework.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from osler.config import settings
from osler.encoders.files import read_checked
from osler.encoders.manifest import Converter, ImageTower, TextTower
from osler.errors import EncoderError
from osler.progress import notice

__all__ = ["cached_model", "check_packages", "is_converted"]


# name: version, revision of what it gives beside the same vectors, and the module whose `convert` takes the bytes of
# the weights and returns those of the model
_CONVERTERS = {
    "efficientnet-lite0": (1, 1, "efficientnet_lite0"),
    "i3resnet152": (1, 0, "i3resnet"),
    "keras-densenet121": (1, 0, "keras"),
    "keras-xception": (1, 0, "keras"),
}
_EXTRAS = {"onnx": "models", "h5py": "models-more"}  # package: the extra that brings it


def check_packages(converter: Converter) -> None:
    """Raise unless the packages that a converter needs are installed.

    Raises
    ------
    EncoderError
        Code ``package_missing``; the message says what to install.
    """
    for package in ("onnx", "h5py") if converter.name.startswith("keras-") else ("onnx",):
        if importlib.util.find_spec(package) is None:
            raise EncoderError(
                f'converting this encoder needs the package {package}; pip install "osler[{_EXTRAS[package]}]"',
                code="package_missing",
            )


def _convert(converter: Converter, content: bytes) -> bytes:
    check_packages(converter)
    version, _, module = _CONVERTERS[converter.name]
    if converter.version != version:
        raise EncoderError(
            f"converter {converter.name} version {converter.version} is not in this release of osler; upgrade osler"
        )
    converted: bytes = importlib.import_module(f"osler.encoders.convert.{module}").convert(content, converter.name)
    return converted


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
    assert tower.converter is not None
    revision = _CONVERTERS[tower.converter.name][1]
    kept = f"v{tower.converter.version}" + (f".{revision}" if revision else "")
    return settings().home / "encoders" / name / f"{tower.file.sha256[:16]}-{kept}.onnx"


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
