"""A published checkpoint to an encoder's folder: ONNX files, tokenizer, manifest, golden vectors, with parity measured.

Writes one folder, whole or not at all. Needs the extra ``export``; nothing here is needed to run an encoder.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from osler.encoders.entry import Entry, entries, recipe, recipe_json, registry_root
from osler.encoders.recipe import Exact
from osler.encoders.registry import describe, home_folder, what_to_do
from osler.encoders.staging import check_free, staged
from osler.encoders.volume_recipe import takes_volumes
from osler.errors import EncoderError
from osler.items import Volume
from osler.progress import notice

if TYPE_CHECKING:
    from osler.encoders.export.graph import Written
    from osler.encoders.export.parity import Compared
    from osler.encoders.export.towers import Towers
    from osler.encoders.export.weights import Checkpoint

__all__ = ["VERSION", "Exported", "export_encoder"]

VERSION = 1  # of what this package writes; it enters fingerprints
NEEDED = {"fp32": 0.99999, "fp16": 0.999, "int8": 0.95}
_PULLED = ("checkpoint",)  # where `pull` put the files that an encoder is made of
_GOLDEN = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.95}

Precision = Literal["fp32", "fp16", "int8"]
Path_ = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Exported:
    """What `export_encoder` made.

    Attributes
    ----------
    name : str
    folder : Path
    precision : {"fp32", "fp16", "int8"}
    image, text : float or None
        Least cosine between the original's vectors and the exported encoder's.
    image_centred, text_centred : float or None
        The same after the mean of the original's vectors was taken off both.
    tokens : float or None
        Least cosine of all patch tokens of a picture together, where the encoder gives any.
    inputs : dict of str to int
        How many pictures and texts were compared.
    against : str
        Libraries that ran the original, with versions.
    bytes : int
        Of the folder.
    confirmed : tuple of str
        What configuration files beside the checkpoint confirmed of the registry's entry: field and file.
    """

    name: str
    folder: Path
    precision: Precision
    image: float | None
    text: float | None
    image_centred: float | None
    text_centred: float | None
    inputs: dict[str, int]
    against: str
    bytes: int
    tokens: float | None = None
    confirmed: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        names = ("name", "precision", "image", "text", "image_centred", "text_centred", "tokens", "inputs", "against",
                 "bytes")  # fmt: skip
        values = {name: getattr(self, name) for name in names}
        return {**values, "folder": str(self.folder), "confirmed": list(self.confirmed)}


def export_encoder(
    name: str,
    checkpoint: Path_,
    out: Path_ | None = None,
    *,
    precision: Precision = "fp32",
    tokenizer: Path_ | None = None,
    preparation: str | None = None,
    pictures: Sequence[Any] | None = None,
    texts: Sequence[str] | None = None,
    entry: Entry | None = None,
) -> Exported:
    """Turn a checkpoint of the registry into a folder that `load_encoder` opens.

    Parameters
    ----------
    name : str
        An entry of the registry.
    checkpoint : path
        The weight file, or the folder of the published repository.
    out : path, optional
        The folder to make; by default where `load_encoder` finds it by name.
    precision : {"fp32", "fp16", "int8"}
        Of the weights. Half precision keeps normalisations and softmax in single; 8 bits quantise matrix products, and
        make another encoder, with a fingerprint of its own.
    tokenizer : path, optional
        Folder of the tokenizer's files where they do not lie beside the checkpoint.
    preparation : str, optional
        A recipe of models/recipes.json instead of the entry's, where the published files say that another is right.
    pictures, texts : sequence, optional
        What original and export are compared on; by default the pictures of models/samples.npz, or three phantoms for
        an encoder of volumes, and eight sentences.
    entry : Entry, optional
        Instead of the registry's.

    Returns
    -------
    Exported

    Raises
    ------
    EncoderError
        The name is unknown or cannot be exported, PyTorch is missing, the checkpoint is of another model, its
        configuration files contradict the registry, or the least cosine is below 0.99999 (fp32), 0.999 (fp16) or 0.95
        (int8).
    FileNotFoundError, FileExistsError
        The checkpoint is not there; `out` exists and is not empty.
    """
    if precision not in NEEDED:
        raise ValueError(f"precision is {precision!r:.40}; it must be 'fp32', 'fp16' or 'int8'")
    entry = entry or _entry(name)
    if preparation is not None and entry.image is not None:
        recipe(preparation)
        entry = entry.model_copy(update={"image": entry.image.model_copy(update={"recipe": preparation})})
    target = Path(out) if out is not None else home_folder(entry.name)
    check_free(target, but=_PULLED)
    _require()
    from osler.encoders.export.published import check_published
    from osler.encoders.export.weights import read_weights

    source = entry.source("checkpoint")
    weights = [file.path for file in source.files if _is_weight(file.path)] if source is not None else []
    notice(f"osler: reading the checkpoint of {entry.name}")
    assert entry.architecture is not None
    read = read_weights(Path(checkpoint), weights, entry.architecture.options.get("files", {}))
    confirmed = check_published(entry, recipe(entry.image.recipe) if entry.image is not None else (), read.folder)
    builder = importlib.import_module(f"osler.encoders.export.{entry.architecture.builder}")
    towers: Towers = builder.build(entry, read)
    with staged(target, keep=_PULLED) as folder:
        made = _write(entry, towers, read, folder, target, precision, tokenizer, pictures, texts, confirmed)
    return replace(made, confirmed=confirmed)


def _entry(name: str) -> Entry:
    entry = entries().get(name)
    if entry is None:
        raise EncoderError(
            f"the registry has no encoder {name!r:.60} to export; osler encoder list names them", code="unknown_encoder"
        )
    if entry.architecture is None:
        raise EncoderError(f"{name} cannot be exported ({what_to_do(entry)})", code="not_possible")
    return entry


def _require() -> None:
    for package in ("torch", "onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise EncoderError(
                f'exporting needs the package {package}; pip install "osler[export]", on any machine: the folder it '
                "makes runs without PyTorch",
                code="package_missing",
            )


def _is_weight(path: str) -> bool:
    return path.endswith((".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".tar", ".torch", ".zip"))


def _write(
    entry: Entry,
    towers: Towers,
    read: Checkpoint,
    folder: Path,
    target: Path,
    precision: Precision,
    tokenizer: Path_ | None,
    pictures: Sequence[Any] | None,
    texts: Sequence[str] | None,
    confirmed: tuple[str, ...],
) -> Exported:
    from osler.encoders.export.graph import write_image, write_text
    from osler.encoders.export.parity import TEXTS, compare, golden_bytes, versions

    written: dict[str, Written] = {}
    if towers.image is not None:
        notice(f"osler: tracing the image tower of {entry.name}")
        written["image"] = write_image(towers.image, folder, precision)
    if towers.text is not None:
        notice(f"osler: tracing the text tower of {entry.name}")
        written["text"] = write_text(towers.text, folder, precision)
        _write_tokenizer(entry, Path(tokenizer) if tokenizer is not None else read.folder, folder)
    document = _document(entry, towers, read, folder, written, precision, confirmed)
    _save(document, folder)
    steps = recipe(entry.image.recipe) if entry.image is not None else ()
    volumes = bool(steps) and takes_volumes(steps)
    shown = list(pictures) if pictures is not None else _phantoms() if volumes else _samples(steps)
    said = list(texts) if texts is not None else list(TEXTS)
    notice("osler: comparing with the original")
    compared = compare(towers, *_opened(folder), shown, said)
    least, centred = _least(compared, ""), _least(compared, "_centred")
    tokens = None if compared.tokens is None else float(compared.tokens.min())
    worst = min((*least.values(), *(() if tokens is None else (tokens,))))
    if not worst >= NEEDED[precision]:
        raise EncoderError(
            f"the exported {entry.name} has cosine {worst:.6f} with its original, {NEEDED[precision]} is needed for "
            f"{precision}; export it in fp32, or report it with the versions {versions(towers)}",
            code="parity",
        )
    (folder / "golden.npz").write_bytes(golden_bytes(compared, shown, said))
    inputs = {kind: len(shown if kind == "image" else said) for kind in least}
    document["golden"] = {"file": _file(folder, "golden.npz"), "cosine": min(_GOLDEN[precision], _floor(worst))}
    document["parity"] = {**least, "inputs": inputs, "against": versions(towers)}
    _save(document, folder)
    total = sum(path.stat().st_size for path in folder.iterdir())
    return Exported(
        entry.name,
        target,
        precision,
        least.get("image"),
        least.get("text"),
        centred.get("image"),
        centred.get("text"),
        inputs,
        versions(towers),
        total,
        tokens,
    )


def _write_tokenizer(entry: Entry, source: Path, folder: Path) -> None:
    from osler.encoders.tokenizer_files import tokenizer_json

    assert entry.text is not None
    wanted = entry.text.tokenizer
    files = {}
    for name in wanted.files:
        places = (source / name, source / Path(name).name, _of_open_clip(name))
        found = next((path for path in places if path is not None and path.is_file()), None)
        if found is None:
            where = f" of {wanted.hub}" if wanted.hub is not None else ""
            raise EncoderError(
                f"the tokenizer's file {Path(name).name}{where} is not beside the checkpoint; put it there, or pass "
                "its folder as --tokenizer",
                code="file_missing",
            )
        # some authors give their tokenizer.json a name of its own
        own = wanted.kind == "tokenizer.json" and name == wanted.files[0]
        files["tokenizer.json" if own else Path(name).name] = found.read_bytes()
    (folder / "tokenizer.json").write_bytes(tokenizer_json(files, wanted.kind, lower_case=wanted.lower_case))


def _of_open_clip(name: str) -> Path | None:
    """Return where open_clip, which the export needs anyway, brings the vocabulary of CLIP."""
    package = importlib.util.find_spec("open_clip")
    if name != "bpe_simple_vocab_16e6.txt.gz" or package is None or package.origin is None:
        return None
    return Path(package.origin).with_name(name)


def _document(
    entry: Entry,
    towers: Towers,
    read: Checkpoint,
    folder: Path,
    written: dict[str, Written],
    precision: Precision,
    confirmed: tuple[str, ...],
) -> dict[str, Any]:
    from osler.encoders.export.graph import IDS, IMAGE, MASK, OUTPUT, TOKENS

    assert entry.architecture is not None
    exporter = entry.architecture.builder
    document: dict[str, Any] = {
        "version": 1,
        **{name: getattr(entry, name) for name in ("name", "title", "purpose", "domain", "gate", "citation", "dim")},
        "licence": entry.licence.model_dump(),
        "entry": entry.name,
    }

    def tower(kind: str, batch_size: int) -> dict[str, Any]:
        files = written[kind]
        return {
            "file": _file(folder, files.graph),
            "external": [_file(folder, name) for name in files.external],
            "origin": {"weights": list(read.hashes), "exporter": exporter, "version": VERSION},
            "output": OUTPUT,
            "precision": precision,
            "batch_size": batch_size,
            # dynamic quantisation takes one scale for all rows of a run
            "rows_interact": precision == "int8",
        }

    if towers.image is not None and entry.image is not None:
        document["image"] = {
            **tower("image", entry.image.batch_size),
            "input": IMAGE,
            "layout": "NCDHW" if takes_volumes(recipe(entry.image.recipe)) else "NCHW",
            "recipe": recipe_json(entry.image.recipe),
        }
        if towers.image.tokens is not None:
            document["image"]["tokens"] = {"output": TOKENS, "grid": towers.image.tokens.grid}
    if towers.text is not None and entry.text is not None:
        spec = entry.text
        document["text"] = {
            **tower("text", spec.batch_size),
            "inputs": {"ids": IDS, **({"mask": MASK} if towers.text.masked else {})},
            "tokenizer": _file(folder, "tokenizer.json"),
            "max_length": spec.max_length,
            "pad_to_max": not towers.text.dynamic,
            "clean": spec.clean,
            **({} if spec.pad_id is None else {"pad_id": spec.pad_id}),
        }
    for field, found in (("logit_scale", towers.logit_scale), ("logit_bias", towers.logit_bias)):
        stated = getattr(entry, field)
        document[field] = found if stated == "checkpoint" else stated
    read_off = [name for name in ("logit_scale", "logit_bias") if getattr(entry, name) == "checkpoint"]
    told = [name for name in read_off if document[name] is not None]
    document["uncertain"] = entry.still_uncertain([*told, *(one.partition(":")[0] for one in confirmed)])
    return document


def _file(folder: Path, name: str) -> dict[str, Any]:
    digest = hashlib.sha256()
    with (folder / name).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return {"path": name, "sha256": digest.hexdigest(), "size": (folder / name).stat().st_size}


def _save(document: dict[str, Any], folder: Path) -> None:
    (folder / "manifest.json").write_text(json.dumps(document, indent=2) + "\n")


def _opened(folder: Path) -> tuple[Any, Any]:
    from osler.encoders.tower import open_tower

    described = describe(folder)
    image = open_tower(described.image, "cpu") if described.image is not None else None
    text = open_tower(described.text, "cpu") if described.text is not None else None
    return image, text


def _samples(steps: Sequence[object]) -> list[np.ndarray]:
    """Return the sample pictures, repeated to the size that the recipe insists on, where it does."""
    with np.load(registry_root() / "samples.npz", allow_pickle=False) as archive:
        pictures = [archive[name] for name in archive.files]
    exact = next((step for step in steps if isinstance(step, Exact)), None)
    if exact is None:
        return pictures
    repeats = [(-(-exact.height // one.shape[0]), -(-exact.width // one.shape[1]), 1)[: one.ndim] for one in pictures]
    return [np.tile(one, count)[: exact.height, : exact.width] for one, count in zip(pictures, repeats, strict=True)]


def _phantoms() -> list[Volume]:
    """Return three small scans of ellipsoids in Hounsfield units, of different shape, spacing and orientation."""
    found = []
    for seed, (shape, spacing) in enumerate((((56, 48, 40), (6.0, 6.0, 9.0)), ((40, 52, 30), (-7.0, 6.5, 12.0)),
                                             ((48, 48, 24), (6.5, -6.5, 15.0)))):  # fmt: skip
        rng = np.random.default_rng(seed)
        grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij"))
        values = np.full(shape, -1000.0)
        for radius, units in ((0.9, 40.0), (0.5, -700.0), (0.3, 300.0), (0.2, 900.0)):
            centre = rng.uniform(-0.4, 0.4, 3)[:, None, None, None] * (1 - radius)
            stretch = rng.uniform(0.7, 1.0, 3)[:, None, None, None]
            values[(((grid - centre) / (radius * stretch)) ** 2).sum(axis=0) < 1] = units
        values += rng.normal(0, 15, shape)
        found.append(Volume(np.round(values).astype(np.int16), np.diag([*spacing, 1.0]), units="HU"))
    return found


def _least(compared: Compared, suffix: str) -> dict[str, float]:
    cosines = {kind: getattr(compared, kind + suffix) for kind in ("image", "text")}
    return {kind: float(values.min()) for kind, values in cosines.items() if values is not None}


def _floor(cosine: float) -> float:
    """Leave room below a measured cosine for the arithmetic of other processors."""
    return math.floor((cosine - 0.002) * 1000) / 1000
