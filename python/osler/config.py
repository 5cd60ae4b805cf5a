"""Settings from the environment and the table of limits, read when asked for.

`settings()` is one immutable value; nothing in the package keeps a setting in a module variable.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LIMITS", "Limits", "Settings", "settings"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what is read from files, so that a hostile one costs little.

    Each can be set in the environment, as in ``OSLER_LIMIT_FRAMES``, before the package is imported.

    Attributes
    ----------
    pixels_per_frame : int
        Rows times columns of one picture or frame.
    frames : int
        Frames of one file.
    pixels_per_file : int
        Pixels of all of them.
    voxels : int
        Voxels of one volume.
    bytes_per_file : int
        Size of one source file, but of slides, which are never read as a whole.
    tiles : int
        Tiles of one slide.
    elements, sequence_depth, element_bytes : int
        Elements of a DICOM header, how deep its sequences may be nested, and bytes of one element but pixels.
    text_bytes : int
        UTF-8 bytes of one text.
    metadata_row_bytes : int
        Bytes of the values of one row of metadata, text as UTF-8 and all else as 8 each.
    metadata_columns : int
        Columns of a collection.
    answer_bytes, listed : int
        Bytes of one answer of a server that lists what it has, and instances that it may list.
    decode_bytes, decode_seconds : int
        Memory and processor time that decoding one file may take in a process of its own, beyond three times the
        file's size and a second for each MiB of it.
    decode_processes : int
        How many of these processes there are at most; no more than there are processors.
    """

    pixels_per_frame: int = 200_000_000
    frames: int = 10_000
    pixels_per_file: int = 10_000_000_000
    voxels: int = 2_000_000_000
    bytes_per_file: int = 4 << 30
    tiles: int = 100_000
    elements: int = 50_000
    sequence_depth: int = 32
    element_bytes: int = 256 << 20
    text_bytes: int = 1 << 20
    metadata_row_bytes: int = 64 << 10
    metadata_columns: int = 2_000
    answer_bytes: int = 256 << 20
    listed: int = 10_000_000
    decode_bytes: int = 4 << 30
    decode_seconds: int = 60
    decode_processes: int = 4


def _limits() -> Limits:
    given = {name: os.environ.get(f"OSLER_LIMIT_{name.upper()}", "").strip() for name in Limits.__slots__}
    for name, text in given.items():
        if text and not (text.isdigit() and int(text) > 0):
            raise ValueError(f"OSLER_LIMIT_{name.upper()} is {text!r}; set it to a whole number of at least 1")
    return Limits(**{name: int(text) for name, text in given.items() if text})


LIMITS = _limits()


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment asks for.

    Attributes
    ----------
    home : Path
        Caches (``OSLER_HOME``; else ``$XDG_CACHE_HOME/osler`` or ``~/.cache/osler``), made with mode 0700 on first use.
    offline : bool
        ``OSLER_OFFLINE`` or ``HF_HUB_OFFLINE`` is set: nothing is downloaded.
    threads : int or None
        ``OSLER_THREADS``; None means the CPU set and the cgroup's quota.
    gpu_bytes : int or None
        ``OSLER_GPU_BYTES``: the most memory of a GPU that one model may take; None means all that there is.
    debug : bool
        ``OSLER_DEBUG``: errors keep the exception that caused them, which may quote values of a file.
    dicomweb_insecure : bool
        ``OSLER_DICOMWEB_INSECURE``: a DICOMweb server on another machine may be asked over plain http.
    decode_in_process : bool
        ``OSLER_DECODE_IN_PROCESS``: files are decoded in this process and not in others, which need a Python
        interpreter that can be started.
    """

    home: Path
    offline: bool
    threads: int | None
    gpu_bytes: int | None
    debug: bool
    dicomweb_insecure: bool
    decode_in_process: bool

    def cache(self, *names: str) -> Path:
        """Return a folder below `home`, made with mode 0700 if it is missing."""
        path = self.home
        for name in ("", *names):
            path = path / name
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path


def _flag(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() not in ("", "0", "false", "no", "off")


def _whole(name: str) -> int | None:
    text = os.environ.get(name, "").strip()
    if text and not (text.isdigit() and int(text) > 0):
        raise ValueError(f"{name} is {text!r}; set it to a whole number of at least 1, or unset it")
    return int(text) if text else None


def settings() -> Settings:
    """Read the settings from the environment.

    Examples
    --------
    >>> from osler.config import settings
    >>> settings().threads is None or settings().threads > 0
    True
    """
    home = os.environ.get("OSLER_HOME")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Settings(
        home=Path(home) if home else base / "osler",
        offline=_flag("OSLER_OFFLINE") or _flag("HF_HUB_OFFLINE"),
        threads=_whole("OSLER_THREADS"),
        gpu_bytes=_whole("OSLER_GPU_BYTES"),
        debug=_flag("OSLER_DEBUG"),
        dicomweb_insecure=_flag("OSLER_DICOMWEB_INSECURE"),
        decode_in_process=_flag("OSLER_DECODE_IN_PROCESS"),
    )
