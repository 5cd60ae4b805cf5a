"""Reads the tensors of a checkpoint and nothing else: safetensors, or a PyTorch file with ``weights_only``.

Opens the files that it is given. Needs PyTorch (extra ``export``); nothing of a checkpoint is run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osler.config import settings
from osler.errors import EncoderError

__all__ = ["Checkpoint", "load_into", "read_weights"]

_BLOCK = 1 << 20
_NESTED = ("state_dict", "model_state_dict", "model", "net", "network_weights")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".tar", ".torch")
# settings that training programs save beside their tensors; what they say is not needed
_SETTINGS = ("argparse.", "lightning_fabric.", "pytorch_lightning.", "lightning.", "omegaconf.", "pathlib.", "typing.",
             "collections.defaultdict", "yacs.", "ml_collections.", "builtins.dict")  # fmt: skip
_INDEX = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Tensors by name, and what they were read from.

    Attributes
    ----------
    tensors : dict of str to torch.Tensor
        On the CPU, in the type they were stored in.
    hashes : tuple of str
        SHA-256 of each file.
    folder : Path
        Where the files lie; tokenizers and configurations are looked for there.
    """

    tensors: dict[str, Any]
    hashes: tuple[str, ...]
    folder: Path


def read_weights(
    path: Path, expected: Iterable[str], together: Mapping[str, Sequence[str]] | None = None
) -> Checkpoint:
    """Read a checkpoint file, or the one of a folder that the registry expects there.

    Parameters
    ----------
    path : Path
        A file, which may lie alone in a zip or tar archive; or a folder, which holds one of `expected`, or a file split
        by an index as transformers writes it.
    expected : iterable of str
        Names of weight files, the best first; the last part of each counts.
    together : mapping of str to sequence of str, optional
        Where an encoder is published in several files of one folder: each file, and the beginnings of the names that
        are taken from it.

    Returns
    -------
    Checkpoint

    Raises
    ------
    FileNotFoundError
        There is no such file.
    EncoderError
        The folder holds none of them, or a file is damaged or asks for code (code ``refused_pickle``).
    """
    wanted = list(expected)
    files = _together(path, together) if together else _files(path, wanted)
    tensors: dict[str, Any] = {}
    for file in files:
        found = _plain(_load(file, wanted))
        begins = next((tuple(names) for name, names in (together or {}).items() if Path(name).name == file.name), ("",))
        tensors |= {key: value for key, value in found.items() if key.startswith(begins)}
    if not tensors:
        raise EncoderError(f"{files[0].name} holds no tensors; take the checkpoint that the registry names")
    folder = path if path.is_dir() else path.parent
    return Checkpoint(tensors, tuple(_hash(file) for file in files), folder)


def load_into(module: Any, tensors: Mapping[str, Any], name: str, *, unused: Iterable[str] = ()) -> None:
    """Put the tensors into a module, every one of them in its place.

    Parameters
    ----------
    module : torch.nn.Module
    tensors : mapping of str to torch.Tensor
        Under the module's own names.
    name : str
        The encoder, for messages.
    unused : iterable of str
        Beginnings of names that may be there and are not needed.

    Raises
    ------
    EncoderError
        Tensors are missing, left over or of another shape (code ``wrong_checkpoint``).
    """
    wanted = module.state_dict()
    prefixes = tuple(unused)
    # counters and index tables are recomputed; libraries write them or not, depending on their version
    given = {key: value for key, value in tensors.items() if key in wanted or not _optional(key, prefixes)}
    missing = sorted(key for key in wanted if key not in given and not _optional(key, ()))
    extra = sorted(key for key in given if key not in wanted)
    shapes = sorted(key for key in given if key in wanted and given[key].shape != wanted[key].shape)
    for keys, what in ((missing, "lacks"), (extra, "has unknown"), (shapes, "has, in another shape,")):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise EncoderError(
                f"this is not a checkpoint of {name}: it {what} {keys[0]}{more}; take the file that "
                f"`osler encoder info {name}` names",
                code="wrong_checkpoint",
            )
    typed = {key: value.to(wanted[key].dtype) for key, value in given.items()}
    # assigned and not copied: what is mapped from the file takes no memory of its own
    module.load_state_dict(typed, strict=False, assign=True)


def _optional(key: str, prefixes: tuple[str, ...]) -> bool:
    derived = ("num_batches_tracked", "position_ids", "relative_position_index", "attn_mask", "token_type_ids")
    return key.startswith(prefixes) or key.rpartition(".")[2] in derived


def _files(path: Path, expected: list[str]) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError("the checkpoint is not there; check its path")
    if path.is_file():
        return [path]
    for index in _INDEX:
        if (path / index).is_file():
            try:
                names = sorted(set(json.loads((path / index).read_bytes())["weight_map"].values()))
            except (ValueError, KeyError, TypeError, AttributeError):
                raise EncoderError(f"{index} is not an index of weight files; download it again") from None
            if not all(isinstance(name, str) and Path(name).name == name for name in names):
                raise EncoderError(f"{index} names files outside its folder and was refused")
            return [path / name for name in names]
    for name in expected:
        for candidate in (path / name, path / Path(name).name):
            if candidate.is_file():
                return [candidate]
    wanted = ", ".join(expected) or "a checkpoint"
    raise EncoderError(f"the folder holds none of {wanted}; pass the file itself", code="file_missing")


def _together(path: Path, files: Mapping[str, Sequence[str]]) -> list[Path]:
    names = ", ".join(files)
    if not path.exists():
        raise FileNotFoundError("the checkpoint is not there; check its path")
    if not path.is_dir():
        raise EncoderError(f"this encoder is published in several files ({names}); pass the folder that holds them")
    places = [next((at for at in (path / name, path / Path(name).name) if at.is_file()), None) for name in files]
    missing = [name for name, place in zip(files, places, strict=True) if place is None]
    if missing:
        raise EncoderError(f"the folder lacks {missing[0]}; this encoder needs {names}", code="file_missing")
    return [place for place in places if place is not None]


def _load(path: Path, expected: Sequence[str] = ()) -> Any:
    import torch

    try:
        with path.open("rb") as stream:
            start = stream.read(9)
    except OSError as error:
        reason = (error.strerror or "input/output error").lower()
        raise EncoderError(f"{path.name} cannot be read: {reason}; check its permissions") from None
    # some authors give a safetensors file the name of a PyTorch file
    if start[8:9] == b"{":
        try:
            from safetensors.torch import load_file

            return load_file(str(path))
        except Exception as error:  # the library raises its own class, with the file's text
            raise _damaged(path, error) from None
    import pickle

    try:
        with _unpacked(path, expected) as inner:
            if inner is not None:
                return _load(inner)
        with _settings_ignored(path):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=start[:2] == b"PK")
    except EncoderError:
        raise
    except pickle.UnpicklingError as error:
        raise EncoderError(
            f"{path.name} asks for code beyond tensors and was refused, or is damaged; ask its authors for a "
            "safetensors file, or download it again",
            code="refused_pickle",
        ) from (error if settings().debug else None)
    except Exception as error:  # a damaged archive shows as one of many exceptions
        raise _damaged(path, error) from None


@contextlib.contextmanager
def _unpacked(path: Path, expected: Sequence[str]) -> Iterator[Path | None]:
    """Give the weight file of an archive, unpacked for as long as it is read; None where the file is no archive."""
    names: list[str] = []
    archive: zipfile.ZipFile | tarfile.TarFile
    if zipfile.is_zipfile(path):
        archive = zipfile.ZipFile(path)
        names = archive.namelist()
        if any(name.endswith("data.pkl") for name in names):  # what torch.save writes is a zip file as well
            names = []
    elif tarfile.is_tarfile(path):
        archive = tarfile.open(path)  # noqa: SIM115
        names = [member.name for member in archive.getmembers() if member.isfile()]
    found = [name for name in names if name.endswith(_WEIGHTS) and not name.startswith("__MACOSX")]
    if not found:
        yield None
        return
    last = {Path(name).name for name in expected}
    found = [name for name in found if Path(name).name in last] or found
    if len(found) > 1:
        some = ", ".join(Path(name).name for name in found[:8])
        raise EncoderError(f"{path.name} holds several weight files ({some}); unpack it and pass the one you mean")
    with archive, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        place = Path(folder) / Path(found[0]).name
        source = archive.open(found[0]) if isinstance(archive, zipfile.ZipFile) else archive.extractfile(found[0])
        assert source is not None
        with source, place.open("wb") as target:
            shutil.copyfileobj(source, target, _BLOCK)
        yield place


class _Setting:
    """Takes the place of a class of settings: whatever it is made of is dropped."""

    def __new__(cls, *_: Any) -> _Setting:
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass


class _Entries:
    """Takes the place of a class of dicts, whose items follow one by one."""

    def __new__(cls, *_: Any) -> Any:
        return {}


@contextlib.contextmanager
def _settings_ignored(path: Path) -> Iterator[None]:
    """Let a checkpoint hold objects of settings; their classes are neither imported nor called."""
    import torch

    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # of the older form, or damaged: reading it says what is wrong
        found = []
    known = [(_Entries if name.endswith(("dict", "Dict")) else _Setting, name)
             for name in found if name.startswith(_SETTINGS)]  # fmt: skip
    with torch.serialization.safe_globals(known):
        yield


def _damaged(path: Path, error: Exception) -> EncoderError:
    found = EncoderError(f"{path.name} is no PyTorch or safetensors file, or is damaged; download it again")
    if settings().debug:
        found.__cause__ = error
    return found


def _plain(content: Any) -> dict[str, Any]:
    """Find the state dict among what training scripts wrap around it, and take parallel wrappers off its names."""
    import torch

    for _ in range(3):
        nested = next((key for key in _NESTED if isinstance(content, Mapping) and _is_state(content.get(key))), None)
        if nested is None:
            break
        content = content[nested]
    if not isinstance(content, Mapping):
        return {}
    tensors = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if tensors and all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def _is_state(content: Any) -> bool:
    import torch

    return isinstance(content, Mapping) and any(
        isinstance(value, (torch.Tensor, Mapping)) for value in content.values()
    )


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
