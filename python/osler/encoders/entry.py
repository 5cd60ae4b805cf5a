"""An encoder that others publish, as data: where its weights come from, on what terms, and how its authors ran it.

Reads models/registry/*.json and models/recipes.json and nothing else. An entry becomes a folder with manifest.json once
its weights are there: `fetch` brings ready ONNX files, `export` makes them from a checkpoint.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from osler.encoders.clean import Clean
from osler.encoders.manifest import Licence, Name, Pooling, Sha256, TextInputs, TextPooling, Words, first_finding
from osler.encoders.recipe import Strict
from osler.encoders.volume_recipe import AnyStep
from osler.errors import EncoderError

__all__ = [
    "Anchor",
    "Entry",
    "HubFile",
    "ReadyImage",
    "ReadyText",
    "Source",
    "TokenizerSource",
    "entries",
    "recipe",
    "registry_root",
]

Revision = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
HubName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+$")]

# Lies in open_clip, without which nothing is exported.
_COMES_WITH_EXPORT = frozenset({"bpe_simple_vocab_16e6.txt.gz"})
# What `export` compares with published files, for each field of an entry that these settle when all of it agrees.
_SETTLED_BY = {"architecture": {"activation"}, "image.recipe": {"size", "mode", "filter", "mean", "std"}}


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if path.startswith("/") or "\\" in path or ".." in parts or path != "/".join(parts):
        raise ValueError("must be a plain relative path inside the repository")
    return path


class HubFile(Strict):
    """A file of a source repository; size in bytes and SHA-256 are None until they were checked against a file."""

    path: str = Field(min_length=1, max_length=255)
    size: int | None = Field(default=None, gt=0)
    sha256: Sha256 | None = None

    _plain = field_validator("path")(_inside)


class ReadyImage(Strict):
    """The image tower of a repository that holds ONNX files: names in its graph, and what the graph leaves to do."""

    file: str
    external: tuple[str, ...] = ()
    input: Words
    output: Words
    pooling: Pooling = "none"
    precision: Literal["fp32", "fp16", "int8"] = "fp32"


class ReadyText(Strict):
    """The text tower of a repository that holds ONNX files."""

    file: str
    external: tuple[str, ...] = ()
    inputs: TextInputs
    output: Words
    pooling: TextPooling = "none"
    pool_id: int | None = Field(default=None, ge=0)
    layers: tuple[Words, ...] = ()
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    tokenizer: str


class Source(Strict):
    """One place that weights come from.

    Attributes
    ----------
    kind : {"checkpoint", "onnx"}
        A checkpoint is turned into ONNX files by `osler encoder export`; ONNX files run as they are.
    hub : str or None
        ``owner/name`` of a model repository on a hub.
    page : str or None
        Where a person gets the files when there is no such repository, or what must be read first.
    revision : str or None
        Commit of the repository, 40 hexadecimal digits; None until one was checked. A download then takes the newest,
        says which, and writes it down.
    files : tuple of HubFile
    image, text : ReadyImage, ReadyText or None
        For "onnx": how the graphs are used.
    """

    kind: Literal["checkpoint", "onnx"]
    hub: HubName | None = None
    page: Words | None = None
    revision: Revision | None = None
    files: tuple[HubFile, ...] = ()
    image: ReadyImage | None = None
    text: ReadyText | None = None

    @model_validator(mode="after")
    def _complete(self) -> Source:
        if self.hub is None and self.page is None:
            raise ValueError("needs a hub repository or a page")
        if self.hub is not None and not self.files:
            raise ValueError("names a repository but no file of it")
        named = {file.path for file in self.files}
        graphs = [graph for graph in (self.image, self.text) if graph is not None]
        if (self.kind == "onnx") != bool(graphs):
            raise ValueError("ONNX files need image or text, a checkpoint has neither")
        used = {path for graph in graphs for path in (graph.file, *graph.external)}
        used |= {self.text.tokenizer} if self.text is not None else set()
        if not used <= named:
            raise ValueError("a graph names a file that is not in files")
        return self


class ImageSpec(Strict):
    """How the authors prepare a picture or a volume.

    Attributes
    ----------
    recipe : str
        A name of models/recipes.json.
    batch_size : int
        Inputs in one run of the model.
    """

    recipe: Name
    batch_size: int = Field(default=16, ge=1, le=4096)


class TokenizerSource(Strict):
    """Where the tokenizer comes from, and what kind it is.

    Attributes
    ----------
    kind : str
        See `osler.encoders.tokenizer_files`.
    files : tuple of str
        In the checkpoint's folder, or in `hub` where that is set.
    hub : str or None
        Another repository than that of the checkpoint.
    revision : str or None
        Commit of `hub`; as in `Source`, a download takes the newest where it is None, says which, and writes it down.
    sha256 : dict of str to str
        SHA-256 of files of `hub` that were checked.
    """

    kind: Literal["tokenizer.json", "wordpiece", "clip", "byte-bpe", "sentencepiece"]
    files: tuple[str, ...] = Field(min_length=1)
    hub: HubName | None = None
    revision: Revision | None = None
    sha256: dict[str, Sha256] = Field(default_factory=dict)
    lower_case: bool | None = None

    @model_validator(mode="after")
    def _of_one_place(self) -> TokenizerSource:
        if self.hub is None and (self.revision is not None or self.sha256):
            raise ValueError(
                "revision and sha256 are of a repository in hub; beside the weights, those of the source count"
            )
        if not set(self.sha256) <= set(self.files):
            raise ValueError("sha256 names a file that is not in files")
        return self


class TextSpec(Strict):
    """How the authors prepare a text; lengths are in tokens, special ones included."""

    tokenizer: TokenizerSource
    max_length: int = Field(ge=4, le=65536)
    pad_to_max: bool = False
    pad_id: int | None = Field(default=None, ge=0)
    clean: Clean = "none"
    batch_size: int = Field(default=16, ge=1, le=4096)


class Anchor(Strict):
    """A published figure by which a user can see that the encoder runs as its authors ran it, and where it stands."""

    figure: Words
    source: Words


class Architecture(Strict):
    """What the exporter builds.

    Attributes
    ----------
    builder : str
        Which module of `osler.encoders.export` reads the checkpoint.
    options : dict
        What that builder takes: a model configuration, names of towers, shapes.
    """

    builder: Name
    options: dict[str, Any] = Field(default_factory=dict)


class Entry(Strict):
    """All that is known of an encoder before its weights are here.

    Attributes
    ----------
    domain : str
        What it was trained on, in a few words: "chest X-ray", "histology", "general".
    licence : Licence
        Of the weights.
    gate : str or None
        What a user must accept or ask for before the weights may be had.
    anchor : Anchor or None
    dim : int or None
        None where it is not known; then `impossible` says why it cannot run.
    image : ImageSpec or None
    text : TextSpec or None
    logit_scale, logit_bias : float, "checkpoint" or None
        "checkpoint": the exporter reads it from the weights.
    architecture : Architecture or None
    sources : tuple of Source
        The best one first.
    impossible : str or None
        Why it cannot run, in words for a person.
    uncertain : dict of str to str
        Field, in dotted form, to what about it was not checked against a file or the authors' code.

    Examples
    --------
    >>> from osler.encoders.entry import entries
    >>> entry = entries()["biomedclip"]
    >>> entry.dim, entry.text.max_length, entry.licence.id
    (512, 256, 'MIT')
    """

    version: Literal[1]
    name: Name
    title: Words
    purpose: Words
    domain: Words
    licence: Licence
    gate: Words | None = None
    citation: Words
    anchor: Anchor | None = None
    dim: int | None = Field(default=None, ge=1, le=65536)
    image: ImageSpec | None = None
    text: TextSpec | None = None
    logit_scale: float | Literal["checkpoint"] | None = None
    logit_bias: float | Literal["checkpoint"] | None = None
    architecture: Architecture | None = None
    sources: tuple[Source, ...] = ()
    impossible: Words | None = None
    uncertain: dict[str, Words] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _complete(self) -> Entry:
        if self.impossible is None and (self.dim is None or not self.sources or not (self.image or self.text)):
            raise ValueError("needs dim, sources and a tower, or a reason in impossible")
        runs = self.architecture is not None or any(source.kind == "onnx" for source in self.sources)
        if self.impossible is None and not runs:
            raise ValueError("needs an architecture or a source of ONNX files, or a reason in impossible")
        tokenizer = self.text.tokenizer if self.text is not None else None
        pinned = tokenizer is not None and (tokenizer.revision is not None or tokenizer.sha256)
        if tokenizer is not None and pinned and tokenizer.hub in {source.hub for source in self.sources}:
            raise ValueError("a tokenizer in the repository of the weights is of their commit: name it in their files")
        return self

    @property
    def modalities(self) -> tuple[str, ...]:
        """Which of "image" and "text" it takes."""
        return tuple(kind for kind in ("image", "text") if getattr(self, kind) is not None)

    def source(self, kind: Literal["checkpoint", "onnx"]) -> Source | None:
        """Return the first source of that kind which lies on a hub, else the first of that kind, else None."""
        fitting = [source for source in self.sources if source.kind == kind]
        return next((source for source in fitting if source.hub is not None), fitting[0] if fitting else None)

    def to_bring(self, source: Source) -> tuple[str, ...]:
        """Return the names of the tokenizer's files that an export from a source needs and no repository has.

        Examples
        --------
        >>> from osler.encoders.entry import entries
        >>> conch = entries()["conch"]
        >>> conch.to_bring(conch.sources[0])
        ('conch_byte_level_bpe_uncased.json',)
        """
        if source.kind == "onnx" or self.text is None or self.text.tokenizer.hub is not None:
            return ()
        beside = {file.path for file in source.files}
        names = {path: PurePosixPath(path).name for path in self.text.tokenizer.files}
        return tuple(
            name for path, name in names.items() if not {path, name} & beside and name not in _COMES_WITH_EXPORT
        )

    def still_uncertain(self, confirmed: Collection[str]) -> dict[str, str]:
        """Return what stays uncertain once files have confirmed something.

        Parameters
        ----------
        confirmed : collection of str
            Fields of the entry, and what `export` compares with published files: "size", "mode", "filter", "mean",
            "std" and "activation".

        Returns
        -------
        dict of str to str
            As `uncertain`.

        Examples
        --------
        >>> from osler.encoders.entry import entries
        >>> "logit_scale" in entries()["conch"].still_uncertain({"logit_scale"})
        False
        """
        found = set(confirmed)
        settled = found | {field for field, needed in _SETTLED_BY.items() if needed <= found}
        return {field: why for field, why in self.uncertain.items() if field not in settled}


def registry_root() -> Path:
    """Return the folder of what ships with osler: models/ of a source tree, else the package's _models/."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parents[1]
    return checkout / "models" if (checkout / "pyproject.toml").is_file() else package / "_models"


@functools.cache
def entries() -> dict[str, Entry]:
    """Return every entry of the registry by name, in alphabetical order.

    Raises
    ------
    EncoderError
        A file of the registry is not right, which is a fault of osler or of its installation.
    """
    found = {}
    for path in sorted((registry_root() / "registry").glob("*.json")):
        try:
            entry = Entry.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise EncoderError(f"models/registry/{path.name}: {first_finding(error)}") from None
        if entry.name != path.stem:
            raise EncoderError(f"models/registry/{path.name} is named {entry.name}; name and file must agree")
        found[entry.name] = entry
    return found


@functools.cache
def _recipes() -> dict[str, tuple[AnyStep, ...]]:
    adapter: TypeAdapter[dict[str, tuple[AnyStep, ...]]] = TypeAdapter(dict[str, tuple[AnyStep, ...]])
    try:
        return adapter.validate_json((registry_root() / "recipes.json").read_bytes())
    except ValidationError as error:
        raise EncoderError(f"models/recipes.json: {first_finding(error)}") from None


def recipe(name: str) -> tuple[AnyStep, ...]:
    """Return the steps of a recipe of models/recipes.json.

    Raises
    ------
    EncoderError
        There is none of that name.

    Examples
    --------
    >>> from osler.encoders.entry import recipe
    >>> [step.op for step in recipe("open_clip-224")][-1]
    'normalise'
    """
    known = _recipes()
    if name not in known:
        raise EncoderError(f"models/recipes.json has no recipe {name!r}; it has {', '.join(known)}")
    return known[name]


def recipe_json(name: str) -> list[dict[str, Any]]:
    """Return the steps as they are written into a manifest.json."""
    return [json.loads(step.model_dump_json(exclude_defaults=False)) for step in recipe(name)]
