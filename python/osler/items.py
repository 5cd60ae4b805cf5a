"""The vocabulary that sources, encoders and collections share: `Locator`, `Part`, `Item`, `Hit`.

Small frozen values without behaviour; imports nothing of the package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

__all__ = ["Hit", "Item", "Kind", "Locator", "Part"]

Kind = Literal["image", "text"]


@dataclass(frozen=True, slots=True)
class Locator:
    """Where in an item a part lies; a field that does not apply is None.

    Attributes
    ----------
    frame : int or None
        Zero-based frame of a multi-frame file.
    box : tuple of int or None
        Region in pixels: left, top, right, bottom; right and bottom are outside it.
    span : tuple of int or None
        Characters of a text: start, end; end is outside it.

    Examples
    --------
    >>> from osler.items import Locator
    >>> Locator(frame=3).to_dict()
    {'frame': 3}
    """

    frame: int | None = None
    box: tuple[int, int, int, int] | None = None
    span: tuple[int, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are set."""
        pairs = (("frame", self.frame), ("box", self.box), ("span", self.span))
        return {name: value for name, value in pairs if value is not None}


# One for all parts that are the whole of their item, as most are.
WHOLE = Locator()


@dataclass(frozen=True, slots=True)
class Part:
    """One searchable part of an item: an image, a frame, a region or a passage of text.

    Attributes
    ----------
    position : int
        Zero-based position among the item's parts.
    kind : {"image", "text"}
    locator : Locator
    """

    position: int = 0
    kind: Kind = "image"
    locator: Locator = WHOLE


@dataclass(frozen=True, slots=True, repr=False)
class Item:
    """What a source yields for one file: its pixels or texts, part by part, and its metadata.

    Attributes
    ----------
    key : str or None
        The user's name for it; None where the collection must make a pseudonym from `content`.
    locator : str
        Where the file lies, relative to the root of its source. It may identify a patient: never shown by default.
    content : bytes
        The file's bytes, or a BLAKE3-ready digest of them: equal bytes give an equal value.
    values : sequence
        One entry a part: an array (H, W) or (H, W, 3) of uint8, uint16 or float32 for an image, a str for a text.
    parts : tuple of Part
        As long as `values`.
    metadata : mapping of str to value
        Columns that may be stored as they are. A name that is absent was never set; None is null.
    identifiers : mapping of str to str
        Raw identifiers (``patient_id``, ``study_id``, ``series_id``, ``instance_id``), to be stored as keyed
        pseudonyms only.
    """

    key: str | None
    locator: str
    content: bytes
    values: Sequence[Any]
    parts: tuple[Part, ...]
    metadata: Mapping[str, Any]
    identifiers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __repr__(self) -> str:
        return f"<osler Item with {len(self.parts)} parts>"


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer of a search over a collection.

    Attributes
    ----------
    key : str
    score : float
        Higher is nearer.
    metadata : dict
        The item's columns; a column that was never set for it is absent.
    part : Part
        The part that matched best.
    """

    key: str
    score: float
    metadata: dict[str, Any]
    part: Part
