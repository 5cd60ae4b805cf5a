"""An encoder of pictures as an encoder of volumes: a folder of its own whose manifest says how slices are pooled.

Reads an encoder's folder; writes one folder, whole or not at all. No weights are changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from osler.decode.volumes import Axis
from osler.encoders.files import locate
from osler.encoders.manifest import FolderFile, ImageTower, read_manifest
from osler.encoders.recipe import Strict
from osler.encoders.registry import describe
from osler.encoders.slices import STATISTICS, Learned, Pooling
from osler.encoders.staging import check_free, staged
from osler.errors import EncoderError

__all__ = ["make_slice_encoder"]


def make_slice_encoder(
    encoder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    pooling: Pooling | str | os.PathLike[str] = "mean",
    *,
    axis: Axis = "axial",
    window: tuple[float, float] | None = None,
) -> Path:
    """Make a folder whose encoder takes volumes: slices through an encoder of pictures, pooled to one vector.

    It has a fingerprint of its own, so that a collection holds vectors of one pooling, axis and window. Its text tower,
    where there is one, is that of the encoder.

    Parameters
    ----------
    encoder : str or Path
        A name of `list_encoders`, or a folder with manifest.json; files of its folder are linked, or copied where the
        file system has no such links.
    out : path
        The folder to make.
    pooling : {"mean", "median", "max", "std"}, or path
        A statistic, or an ONNX file, which is copied; see `osler.encoders.slices.pooler`.
    axis : {"axial", "coronal", "sagittal"}
    window : tuple of float, optional
        Values that are black and white; by default the 0.5th and the 99.5th percentile of each volume.

    Returns
    -------
    Path
        `out`, which `load_encoder` opens.

    Raises
    ------
    EncoderError
        There is no such encoder, it takes volumes already, or the pooler gives vectors of another length.
    ValueError
        `pooling` is no statistic and no file.
    FileExistsError
        `out` exists and is not empty.

    Examples
    --------
    >>> import tempfile, numpy as np, osler
    >>> from osler.encoders.slice_encoder import make_slice_encoder
    >>> from osler.items import Volume
    >>> folder = make_slice_encoder("efficientnet-lite0", tempfile.mkdtemp(), "max", window=(-160, 240))
    >>> scan = Volume(np.random.default_rng(0).integers(-1000, 1000, (32, 32, 3)), np.diag([-0.8, -0.8, 5, 1]))
    >>> osler.load_encoder(folder).encode_images([scan]).shape
    (1, 1280)
    """
    described, target = describe(encoder), Path(out)
    check_free(target)
    manifest = described.manifest
    tower = described.image.tower if described.image is not None else None
    if manifest.slices is not None or not isinstance(tower, ImageTower) or tower.takes == "volume":
        raise EncoderError(
            f"{manifest.name} has no tower of pictures whose slices could be pooled; name an encoder of pictures"
        )
    files = {file.path: file for file in _files(manifest)}
    rule: dict[str, Any] = {"axis": axis, "window": window}
    pooler = None
    if pooling in STATISTICS:
        rule["pooling"] = str(pooling)
    else:
        pooler = _learned(Path(pooling), manifest.dim)
        digest = hashlib.sha256(pooler).hexdigest()
        name = next(name for name in ("pooler.onnx", f"pooler-{digest}.onnx") if name not in files)
        rule["pooler"] = {"path": name, "sha256": digest, "size": len(pooler)}
    document = manifest.model_dump(mode="json", exclude_none=True)
    document["slices"] = {key: value for key, value in rule.items() if value is not None}
    document.pop("parity", None)  # of pictures, and told by the encoder that they were measured on
    with staged(target) as folder:
        for path, file in files.items():
            _link(locate(file, described.folder), folder / path)
        if pooler is not None:
            (folder / rule["pooler"]["path"]).write_bytes(pooler)
        (folder / "manifest.json").write_text(json.dumps(document, indent=2) + "\n")
        read_manifest(folder)
    return target


def _learned(path: Path, dim: int) -> bytes:
    if not path.is_file():
        raise ValueError(f"pooling is neither one of {', '.join(map(repr, STATISTICS))} nor an ONNX file that is there")
    content = path.read_bytes()
    shown = np.random.default_rng(0).normal(size=(3, dim))
    found = Learned(content, "cpu")(np.asarray(shown / np.linalg.norm(shown, axis=1)[:, None], np.float32), "a probe")
    if len(found) != dim:
        raise EncoderError(
            f"the pooler gives {len(found)} numbers, and the encoder's vectors have {dim}; use encode_volumes, which "
            "takes any"
        )
    return content


def _files(value: Any) -> Iterator[FolderFile]:
    """Yield the files of the folder that a manifest names."""
    if isinstance(value, FolderFile):
        yield value
    elif isinstance(value, Strict):
        for name in type(value).model_fields:
            yield from _files(getattr(value, name))
    elif isinstance(value, tuple):
        for one in value:
            yield from _files(one)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:
        with source.open("rb") as given, target.open("xb") as made:
            shutil.copyfileobj(given, made)
