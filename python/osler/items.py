"""What sources, encoders and collections share: `Locator`, `Part`, `Item`, `Hit`, `MaskedPicture`, `Volume`.

Small frozen values without behaviour; imports nothing of the package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Hit", "Item", "Kind", "Locator", "MaskedPicture", "Part", "Volume"]

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
        One entry a part: an array (H, W) or (H, W, 3) of uint8, uint16 or float32 for an image, a `MaskedPicture`, a
        `Volume`, or a str for a text.
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


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class MaskedPicture:
    """A region of a picture as an encoder sees it within the whole: the patch tokens under a mask, see `encode_images`.

    Parameters
    ----------
    picture : path, PIL image or array
        As `osler.encoders.Encoder.encode_images` takes it.
    mask : ndarray (H, W)
        Of the picture's size, or of `box`; what is not 0 is the region.
    box : tuple of int, optional
        Where in the picture the mask lies: left, top, right, bottom; right and bottom are outside it.

    Examples
    --------
    >>> import numpy as np, osler
    >>> from osler.items import MaskedPicture
    >>> picture = np.random.default_rng(0).integers(0, 256, (90, 120), dtype=np.uint8)
    >>> mask = np.zeros((90, 120), bool)
    >>> mask[30:60, 40:80] = True
    >>> osler.load_encoder("efficientnet-lite0").encode_images([MaskedPicture(picture, mask)]).shape
    (1, 1280)
    """

    picture: Any
    mask: NDArray[Any]
    box: tuple[int, int, int, int] | None = None

    def __repr__(self) -> str:
        return "<osler MaskedPicture>"


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Volume:
    """A scan in three dimensions: its values, and where each of them lies in the patient.

    Parameters
    ----------
    array : array_like
        (I, J, K), any order of axes; integers or floats, in the units of the modality.
    affine : array_like
        (4, 4): (i, j, k, 1) to (x, y, z, 1) in millimetres, x to the patient's right, y to the front, z to the head
        (RAS+, as in NIfTI).
    units : str
        "HU" for Hounsfield units; empty where the values have no unit, as in MR.
    findings : mapping of str to str
        What was found wrong or left out while it was read: a stable code, and one sentence without any value of the
        patient.

    Attributes
    ----------
    array : ndarray
        A read-only view of what was given; integers of up to 16 bits as they are, everything else as float32.
    affine : ndarray
        (4, 4) float64, read-only.

    Raises
    ------
    ValueError
        The array has not three axes or holds no voxel, NaN or infinity, or the affine is no (4, 4) matrix that can be
        inverted.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.items import Volume
    >>> volume = Volume(np.zeros((64, 64, 20), np.int16), np.diag([-0.8, -0.8, 3.0, 1.0]), units="HU")
    >>> volume, volume.spacing
    (<osler Volume 64 x 64 x 20, int16, HU>, (0.8, 0.8, 3.0))
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]
    units: str
    findings: Mapping[str, str]

    def __init__(
        self,
        array: ArrayLike,
        affine: ArrayLike,
        *,
        units: str = "",
        findings: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        values = np.asarray(array)
        if values.ndim != 3 or values.size == 0:
            raise ValueError(f"the volume has shape {values.shape}; it must have three axes and at least one voxel")
        if values.dtype.kind not in "biuf":
            raise ValueError(f"the volume has dtype {values.dtype}; convert it to whole or floating-point numbers")
        if values.dtype.kind == "b":
            values = values.astype(np.uint8)
        elif values.dtype.kind == "f" or values.dtype.itemsize > 2:
            with np.errstate(over="ignore"):
                values = values.astype(np.float32, copy=False)
            if not np.isfinite(values).all():
                raise ValueError("the volume holds NaN or infinity; replace them first")
        elif not values.dtype.isnative:
            values = values.astype(values.dtype.newbyteorder("="))
        matrix = np.array(affine, dtype=np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or (matrix[3] != (0, 0, 0, 1)).any():
            raise ValueError("the affine is no (4, 4) matrix whose last row is 0, 0, 0, 1")
        lengths = np.sqrt((matrix[:3, :3] ** 2).sum(axis=0))
        if not lengths.all() or abs(np.linalg.det(matrix[:3, :3] / lengths)) < 1e-6:
            raise ValueError("the axes of the affine do not span space; correct the orientation of the volume")
        values = values.view()
        for frozen in (values, matrix):
            frozen.setflags(write=False)
        for name, value in (("array", values), ("affine", matrix), ("units", units)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "findings", MappingProxyType(dict(findings)))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        i, j, k = self.array.shape
        return i, j, k

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres from one voxel to the next along each axis."""
        i, j, k = (float(length) for length in np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0)))
        return i, j, k

    def __reduce__(self) -> tuple[Any, ...]:
        return _volume, (self.array, self.affine, self.units, dict(self.findings))

    def __repr__(self) -> str:
        size = " x ".join(str(side) for side in self.shape)
        return f"<osler Volume {size}, {', '.join(filter(None, (str(self.array.dtype), self.units)))}>"


def _volume(array: NDArray[Any], affine: NDArray[np.float64], units: str, findings: dict[str, str]) -> Volume:
    return Volume(array, affine, units=units, findings=findings)
