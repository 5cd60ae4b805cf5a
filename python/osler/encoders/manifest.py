"""What an encoder is, as data: manifest.json as pydantic models, and the fingerprint over all that shapes a vector.

Reads manifest.json and nothing else; other files are named here and opened by `files`. The recipe of an image
tower is declared in `recipe`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationError, field_validator, model_validator

from osler.encoders.clean import Clean
from osler.encoders.recipe import Strict
from osler.encoders.volume_recipe import AnyStep, check_order, takes_volumes
from osler.errors import EncoderError

__all__ = [
    "VERSION",
    "BorrowedTower",
    "Classes",
    "FolderFile",
    "ImageTower",
    "JoinedFile",
    "Manifest",
    "Origin",
    "PackageFile",
    "Parity",
    "Projection",
    "SlicePooling",
    "TextTower",
    "Tokens",
    "fingerprint",
    "first_finding",
    "read_manifest",
]

VERSION = 1
_BIGGEST_MANIFEST = 1 << 20
_TAGS = ("own", "borrowed", "package", "folder", "joined")  # of unions below; no part of the file

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
Words = Annotated[str, Field(min_length=1, max_length=2000)]
Pooling = Literal["none", "mean", "cls"]
TextPooling = Literal["none", "mean", "cls", "eot", "eos", "last", "end", "token"]


class _File(Strict):
    path: str = Field(min_length=1, max_length=255)
    sha256: Sha256
    size: int = Field(gt=0)

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        parts = PurePosixPath(path).parts
        if path.startswith("/") or "\\" in path or "\0" in path or ".." in parts or path != "/".join(parts):
            raise ValueError("must be a plain relative path inside the folder")
        return path


class FolderFile(_File):
    """A file beside manifest.json; `size` is in bytes."""


class PackageFile(_File):
    """A file of an installed Python package, found by the package's own file list; the package is never imported.

    Attributes
    ----------
    package, version : str
        Distribution name and the version that the manifest's author saw; the hash decides, not the version.
    install : str or None
        What to type after ``pip install``; by default the extra `models`, or the package itself.
    """

    package: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: Words
    install: str | None = Field(default=None, pattern=r'^[A-Za-z0-9\[\]"=,. _-]{1,300}$')


class JoinedFile(_File):
    """A file that is too big for one package: the `parts` one after another; `sha256` and `size` are of the whole."""

    parts: tuple[PackageFile, ...] = Field(min_length=2, max_length=64)

    @model_validator(mode="after")
    def _whole(self) -> JoinedFile:
        if sum(part.size for part in self.parts) != self.size:
            raise ValueError("size must be the sum of the sizes of the parts")
        return self


def _file_kind(value: Any) -> str:
    if isinstance(value, dict):
        return "joined" if "parts" in value else "package" if "package" in value else "folder"
    return "joined" if isinstance(value, JoinedFile) else "package" if isinstance(value, PackageFile) else "folder"


AnyFile = Annotated[
    Annotated[PackageFile, Tag("package")]
    | Annotated[FolderFile, Tag("folder")]
    | Annotated[JoinedFile, Tag("joined")],
    Discriminator(_file_kind),
]


class Converter(Strict):
    """Which converter of this package turns the source file into ONNX; its version changes when its output does."""

    name: Literal["efficientnet-lite0", "keras-densenet121", "keras-xception", "i3resnet152"]
    version: int = Field(ge=1)


class Projection(Strict):
    """An npz file with any of ``centre`` (in,), ``matrix`` (in, out) and ``bias`` (out,).

    A pooled vector x becomes ``(x / |x| - centre) @ matrix + bias``; the result is normalised again. ``centre`` removes
    what all vectors of one modality share, which would otherwise drown the differences between two modalities.
    """

    file: FolderFile


class Origin(Strict):
    """The published weights that an exported model was made of; its fingerprint covers these and not the ONNX file.

    Attributes
    ----------
    weights : tuple of str
        SHA-256 of each file of the checkpoint.
    exporter : str
        What of `osler.encoders.export` made the model.
    version : int
        Of that exporter; changes when what it makes does.
    """

    weights: tuple[Sha256, ...] = Field(min_length=1)
    exporter: Name
    version: int = Field(ge=1)


class _Tower(Strict):
    file: AnyFile
    converter: Converter | None = None
    origin: Origin | None = None
    external: tuple[FolderFile, ...] = ()
    output: Words
    projection: Projection | None = None
    precision: Literal["fp32", "fp16", "int8"]
    batch_size: int = Field(default=16, ge=1, le=4096)
    rows_interact: bool = False

    @model_validator(mode="after")
    def _convertible(self) -> _Tower:
        if self.converter is not None and self.external:
            raise ValueError("a converted model has no external data")
        if self.external and not isinstance(self.file, FolderFile):
            raise ValueError("external data lies beside a model in the folder only")
        return self

    @property
    def external_names(self) -> dict[str, FolderFile]:
        """Each file of `external` by the name that the model knows it by, which starts at the model's own folder."""
        start = f"{PurePosixPath(self.file.path).parent}/" if isinstance(self.file, FolderFile) else ""
        return {file.path.removeprefix(start): file for file in self.external}


class Classes(Strict):
    """A classifier on top of an image tower, in the same graph.

    Attributes
    ----------
    output : str
        Name in the graph of the scores (n, classes), probabilities where the graph ends in a softmax.
    names : tuple of str
        In the order of the columns.
    note : str
        What the scores are worth, in words for a person.
    """

    output: Words
    names: tuple[Words, ...] = Field(min_length=2, max_length=4096)
    note: Words

    @model_validator(mode="after")
    def _distinct(self) -> Classes:
        if len(set(self.names)) != len(self.names):
            raise ValueError("names must differ")
        return self


class Tokens(Strict):
    """Patch tokens of an image tower, in the space of its vectors, in the same graph.

    Attributes
    ----------
    output : str
        Name in the graph: a map (n, d, rows, columns), or (n, skip + rows * columns, d), row by row.
    grid : tuple of int or None
        Rows and columns of the second form, None for the first.
    skip : int
        Tokens before the patches: of the class, registers.
    """

    output: Words
    grid: tuple[Annotated[int, Field(ge=1, le=4096)], Annotated[int, Field(ge=1, le=4096)]] | None = None
    skip: int = Field(default=0, ge=0, le=4096)

    @model_validator(mode="after")
    def _of_one_form(self) -> Tokens:
        if self.skip and self.grid is None:
            raise ValueError("skip belongs to tokens in a row, which have a grid")
        return self


class ImageTower(_Tower):
    """Pictures or volumes to vectors.

    Attributes
    ----------
    file : FolderFile or PackageFile
        The ONNX model, or the checkpoint that `converter` turns into one.
    external : tuple of FolderFile
        Every file that holds tensors of the model.
    input, output : str
        Names in the ONNX graph.
    batch_size : int
        In one run on a processor; a GPU takes at least 64 pictures.
    layout : {"NCHW", "NHWC", "NCDHW"}
        The last one for volumes, whose axes are in the order in which the recipe leaves them.
    recipe : tuple of steps
        In this order; see `preprocess`, and `volume_steps` for volumes. What it starts from is what the tower takes.
    pooling : {"none", "mean", "cls"}
        The output is (n, d) already, or (n, tokens, d) to be averaged or cut to its first token.
    rows_interact : bool
        A vector depends on the rest of its batch (dynamic quantisation takes one scale for it), so pictures run singly.
    classes : Classes or None
        A classifier that the graph holds as well; no part of the fingerprint, since vectors do not depend on it.
    tokens : Tokens or None
        Patch tokens that the graph gives as well, out of which a region under a mask gets its vector. Part of the
        fingerprint where the manifest was written by hand; where a converter or an exporter made the graph, its version
        stands for them.
    """

    input: Words
    layout: Literal["NCHW", "NHWC", "NCDHW"]
    pooling: Pooling = "none"
    recipe: tuple[AnyStep, ...] = Field(min_length=1)
    classes: Classes | None = None
    tokens: Tokens | None = None

    @model_validator(mode="after")
    def _of_one_kind(self) -> ImageTower:
        check_order(self.recipe)
        if takes_volumes(self.recipe) != (self.layout == "NCDHW"):
            raise ValueError("layout NCDHW belongs to a recipe for volumes, and the others to one for pictures")
        if self.tokens is not None and self.takes == "volume":
            raise ValueError("tokens are of pictures, and the recipe is for volumes")
        return self

    @property
    def takes(self) -> Literal["picture", "volume"]:
        """What one input is."""
        return "volume" if self.layout == "NCDHW" else "picture"


class TextInputs(Strict):
    """Names of the graph's inputs; the mask or the token types may not exist."""

    ids: Words
    mask: Words | None = None
    types: Words | None = None


class TextTower(_Tower):
    """Texts to vectors.

    Attributes
    ----------
    tokenizer : FolderFile
        A ``tokenizer.json``.
    max_length : int
        In tokens, special ones included; a longer text is split.
    pad_to_max : bool
        Every text is padded to `max_length`, else to the longest of its batch.
    pad_id : int or None
        The token that pads; None takes that of the tokenizer, or 0 where it states none.
    clean : str
        The rule that a text goes through before the tokenizer; see `clean.clean`.
    pooling : str
        Which state of an output (n, tokens, d) is the vector; see `pooling.pool`.
    pool_id : int or None
        The token that poolings ``eot``, ``eos`` and ``token`` look for.
    layers : tuple of str
        Further outputs of the graph, whose states are averaged with those of `output` before pooling.
    """

    inputs: TextInputs
    tokenizer: FolderFile
    max_length: int = Field(ge=4, le=65536)
    pad_to_max: bool = False
    pad_id: int | None = Field(default=None, ge=0, lt=1 << 31)
    clean: Clean = "none"
    pooling: TextPooling = "none"
    pool_id: int | None = Field(default=None, ge=0, lt=1 << 31)
    layers: tuple[Words, ...] = ()

    @model_validator(mode="after")
    def _poolable(self) -> TextTower:
        if (self.pool_id is not None) != (self.pooling in ("eot", "eos", "token")):
            raise ValueError("pool_id belongs to pooling 'eot', 'eos' and 'token', and to no other")
        if self.pooling == "end" and not self.pad_to_max:
            raise ValueError("pooling 'end' needs pad_to_max: else a vector would depend on the other texts of a batch")
        if self.layers and self.pooling == "none":
            raise ValueError("layers are averaged before pooling, and pooling is 'none'")
        if len({self.output, *self.layers}) <= len(self.layers):
            raise ValueError("layers and output must name different outputs")
        return self


class BorrowedTower(Strict):
    """The tower of another encoder of the registry, followed by a projection of one's own."""

    encoder: Name
    projection: Projection | None = None


def _tower_kind(value: Any) -> str:
    borrowed = "encoder" in value if isinstance(value, dict) else isinstance(value, BorrowedTower)
    return "borrowed" if borrowed else "own"


class SlicePooling(Strict):
    """How an encoder of pictures takes volumes: every slice along an axis, their vectors pooled to one.

    Attributes
    ----------
    pooling : {"mean", "median", "max", "std"} or None
        A statistic; see `slices.pool_slices`.
    pooler : FolderFile or None
        An ONNX network instead; see `slices.pooler`.
    axis : {"axial", "coronal", "sagittal"}
    window : tuple of float or None
        Values that are black and white; see `Encoder.encode_volumes`.
    """

    pooling: Literal["mean", "median", "max", "std"] | None = None
    pooler: FolderFile | None = None
    axis: Literal["axial", "coronal", "sagittal"] = "axial"
    window: tuple[_Finite, _Finite] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> SlicePooling:
        if (self.pooling is None) == (self.pooler is None):
            raise ValueError("name either a pooling or a pooler")
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ValueError("the window's first value must be below its second")
        return self


class Parity(Strict):
    """How near an exported model is to its original: the least cosine over the pictures and texts that were compared.

    Attributes
    ----------
    image, text : float or None
    inputs : dict of str to int
        How many of each kind were compared.
    against : str
        The libraries of the original, with versions.
    """

    image: float | None = Field(default=None, ge=-1, le=1.000001)
    text: float | None = Field(default=None, ge=-1, le=1.000001)
    inputs: dict[str, int]
    against: Words


class Golden(Strict):
    """Inputs and the vectors they must give.

    The npz file has ``image_0``, ``image_1``, ... with ``image_vectors``, and ``texts`` with ``text_vectors``; a volume
    has its affine in ``image_0_affine``. `cosine` is the least that passes.
    """

    file: FolderFile
    cosine: float = Field(gt=0, le=1)


class Licence(Strict):
    """Terms of the weights: an SPDX expression, or ``LicenseRef-...`` with `note` saying what it asks."""

    id: Words
    note: str = ""


class Manifest(Strict):
    """All of manifest.json.

    Attributes
    ----------
    version : int
        Of this format.
    purpose : str
        What the encoder may be used for, in words for a person.
    domain : str
        What it was trained on, in a few words.
    gate : str or None
        What a user must accept or ask for before the weights may be had.
    dim : int
        Length of the vectors of every tower.
    logit_scale, logit_bias : float or None
        Softmax over texts takes ``logit_scale * cosine + logit_bias``; None where the encoder has no such pair.
    slices : SlicePooling or None
        Where an encoder of pictures is to take volumes.
    entry : str or None
        The entry of the registry that the folder was made from.
    parity : Parity or None
        What the export measured.
    uncertain : dict of str to str
        Field of the entry to what about it no file has settled yet; no part of the fingerprint.

    Examples
    --------
    >>> import osler
    >>> manifest = osler.load_encoder("minilm").manifest
    >>> manifest.modalities, manifest.dim, manifest.licence.id
    (('text',), 384, 'Apache-2.0')
    """

    version: Literal[1]
    name: Name
    title: Words
    purpose: Words
    domain: Words = "general"
    licence: Licence
    gate: str | None = None
    citation: Words
    dim: int = Field(ge=1, le=65536)
    image: (
        Annotated[
            Annotated[ImageTower, Tag("own")] | Annotated[BorrowedTower, Tag("borrowed")], Discriminator(_tower_kind)
        ]
        | None
    ) = None
    text: (
        Annotated[
            Annotated[TextTower, Tag("own")] | Annotated[BorrowedTower, Tag("borrowed")], Discriminator(_tower_kind)
        ]
        | None
    ) = None
    logit_scale: float | None = Field(default=None, gt=0)
    logit_bias: float | None = None
    slices: SlicePooling | None = None
    golden: Golden | None = None
    entry: Name | None = None
    parity: Parity | None = None
    uncertain: dict[str, Words] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _complete(self) -> Manifest:
        if self.image is None and self.text is None:
            raise ValueError("needs an image tower, a text tower or both")
        tower = self.image
        if isinstance(tower, ImageTower) and tower.converter is not None and self.golden is None:
            raise ValueError("a converted model needs golden vectors")
        if self.slices is not None and (tower is None or (isinstance(tower, ImageTower) and tower.takes == "volume")):
            raise ValueError("slices are of an encoder of pictures")
        return self

    @property
    def modalities(self) -> tuple[str, ...]:
        """Which of "image" and "text" the encoder takes."""
        return tuple(kind for kind in ("image", "text") if getattr(self, kind) is not None)


def read_manifest(folder: Path) -> Manifest:
    """Read and check ``manifest.json`` of a folder.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    Manifest

    Raises
    ------
    EncoderError
        The file is missing, a symbolic link, too big, not JSON, of an unknown version, or says what it may not.

    Examples
    --------
    >>> from osler.encoders.manifest import read_manifest
    >>> from osler.encoders.registry import shipped
    >>> read_manifest(shipped()["efficientnet-lite0"]).dim
    1280
    """
    path = folder / "manifest.json"
    if path.is_symlink() or not path.is_file():
        raise EncoderError("the encoder's folder has no manifest.json; see models/README.md for what it holds")
    if path.stat().st_size > _BIGGEST_MANIFEST:
        raise EncoderError("manifest.json is larger than 1 MiB; weights and vectors belong in files of their own")
    text = path.read_bytes()
    try:
        version = json.loads(text)["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise EncoderError("manifest.json is not a JSON object with a version") from None
    if version != VERSION or isinstance(version, bool):
        raise EncoderError(
            f"manifest.json has version {version!r:.20}, this release of osler reads version {VERSION}; "
            "use a release that matches"
        )
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise EncoderError(f"manifest.json: {first_finding(error)}") from None


def first_finding(error: ValidationError) -> str:
    """Say the first finding of a validation with its place; the tags of unions are not part of the file."""
    finding = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in finding["loc"] if part not in _TAGS)
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    message = finding["msg"].removeprefix("Value error, ")
    return f"{place or 'as a whole'}: {message[:1].lower()}{message[1:]}{more}"


def _essence(tower: ImageTower | TextTower, projections: tuple[Projection, ...]) -> dict[str, Any]:
    """Return what shapes a vector; names, sizes, places and batch sizes do not."""
    converter: list[str | int] | None = None
    weights = [tower.file.sha256, *(file.sha256 for file in tower.external)]
    if tower.converter is not None:
        converter = [tower.converter.name, tower.converter.version]
    if tower.origin is not None:  # one source in fp32 and fp16 is one encoder, in int8 another
        weights, converter = list(tower.origin.weights), [tower.origin.exporter, tower.origin.version]
    essence: dict[str, Any] = {
        "weights": weights,
        "converter": converter,
        "output": tower.output,
        "pooling": tower.pooling,
        "projections": [projection.file.sha256 for projection in projections],
    }
    if tower.origin is not None and tower.precision == "int8":
        essence["precision"] = "int8"
    if isinstance(tower, ImageTower):
        essence["recipe"] = [step.model_dump(mode="json") for step in tower.recipe]
        essence["layout"] = tower.layout
        if tower.tokens is not None and tower.converter is None and tower.origin is None:
            essence["tokens"] = tower.tokens.model_dump(mode="json")
    else:
        essence["tokenizer"] = tower.tokenizer.sha256
        essence["max_length"] = tower.max_length
        essence["pad_to_max"] = tower.pad_to_max
        # only where set, so that manifests from before these fields keep their fingerprint
        added = {"clean": tower.clean, "pad_id": tower.pad_id, "pool_id": tower.pool_id, "layers": list(tower.layers)}
        essence |= {name: value for name, value in added.items() if value not in ("none", None, [])}
    return essence


def fingerprint(
    image: tuple[ImageTower, tuple[Projection, ...]] | None,
    text: tuple[TextTower, tuple[Projection, ...]] | None,
    slices: SlicePooling | None = None,
) -> str:
    """Return the SHA-256 over all that shapes the vectors of an encoder, as 64 hexadecimal digits.

    Parameters
    ----------
    image, text : tuple or None
        A tower and the projections that follow it, borrowed towers being resolved.
    slices : SlicePooling, optional

    Returns
    -------
    str

    Examples
    --------
    >>> import osler
    >>> len(osler.load_encoder("minilm").fingerprint)
    64
    """
    essence: dict[str, Any] = {"image": image and _essence(*image), "text": text and _essence(*text), "unit": True}
    if slices is not None:
        pooled = slices.pooling if slices.pooler is None else slices.pooler.sha256
        essence["slices"] = [pooled, slices.axis, slices.window]
    canonical = json.dumps(essence, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(b"osler encoder 1\n" + canonical.encode()).hexdigest()
