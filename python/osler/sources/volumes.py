"""Volumes as items: one part for a whole scan, from a NIfTI file, a multi-frame DICOM file or a DICOM series.

Reads the files that it is given, and leaves what is in them to a decoder; where slices lie is for `osler.decode.stack`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from osler.config import LIMITS
from osler.decode import read_bytes
from osler.decode.planes import Plane
from osler.decode.stack import Gaps, stack_of
from osler.decode.volumes import assembled
from osler.errors import SourceError
from osler.items import Item, Volume
from osler.sources.decoder import Decoder, Voxels
from osler.sources.images import Entry, agreed, parts_of

__all__ = ["series_volume", "stack_columns", "volume_item"]


def volume_item(
    entry: Entry,
    data: bytes,
    decoder: Decoder,
    keep: Sequence[str] = (),
    key: str | None = None,
    *,
    gaps: Gaps = "refuse",
) -> Item:
    """Return one file that is a volume by itself as one item of one part.

    Raises
    ------
    SourceError
        ``not_a_volume`` for a picture, ``one_slice`` for a DICOM file of one frame, and the codes of
        `osler.decode.nifti.nifti_volume` and `osler.decode.stack.stack_of`.

    Examples
    --------
    >>> import nibabel, numpy as np
    >>> from pathlib import Path
    >>> from osler.sources.decoder import Here
    >>> from osler.sources.images import Entry
    >>> from osler.sources.volumes import volume_item
    >>> data = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.diag([-0.8, 0.8, 3.0, 1.0])).to_bytes()
    >>> item = volume_item(Entry("a.nii", Path("a.nii"), len(data)), data, Here())
    >>> item.key, item.values, item.metadata["slice_spacing"]
    ('a.nii', (<osler Volume 4 x 5 x 6, int16>,), 3.0)
    """
    found = decoder.voxels(data, keep)
    if found.format == "nifti":
        volume = Volume(found.array, found.affine, units=found.unit, findings=found.findings)
        columns = found.columns
    else:
        if len(found.array) == 1:
            raise SourceError(
                "the file is one slice without the UID of a series, and this encoder takes volumes; give the whole "
                "series",
                code="one_slice",
            )
        volume = assembled(found.planes, list(found.array), found.unit, gaps=gaps)
        columns = found.columns | _columns_of(volume)
    return Item(
        key=entry.locator if key is None and found.format == "nifti" else key,
        locator=entry.locator,
        content=data,
        values=(volume,),
        parts=parts_of(1),
        metadata=MappingProxyType(columns),
        identifiers=MappingProxyType(found.identifiers),
    )


def series_volume(
    entry: Entry,
    decoder: Decoder,
    keep: Sequence[str] = (),
    key: str | None = None,
    *,
    load: Callable[[Path], bytes] = read_bytes,
    gaps: Gaps = "refuse",
) -> tuple[Item, list[str]]:
    """Return a DICOM series as one item of one part, and the SOPInstanceUIDs of its files.

    Its content and its columns are those of `osler.sources.series.series_item`, so that a series is known again.

    Raises
    ------
    SourceError
        A file of it cannot be read, or its slices are no whole stack: see `osler.decode.stack.stack_of`.
    """
    slices: dict[bytes, Voxels] = {}
    held = 0
    for number, path in enumerate(entry.members, start=1):
        try:
            data = load(path)
            digest = hashlib.sha256(data).digest()
            if digest not in slices:
                slices[digest] = decoder.voxels(data, keep)
                held += slices[digest].array.size
        except SourceError as error:
            raise SourceError(
                f"file {number} of the {len(entry.members)} files of a series fails: {error}", code=error.code
            ) from None
        if held > LIMITS.voxels:
            raise SourceError(
                f"the series has more than {LIMITS.voxels} voxels; set OSLER_LIMIT_VOXELS to raise the limit",
                code="too_large",
            )
    found = list(slices.values())
    planes = [plane for one in found for plane in one.planes]
    volume = assembled(planes, [frame for one in found for frame in one.array], found[0].unit, gaps=gaps)
    identifiers = [one.identifiers for one in found]
    item = Item(
        key=key,
        locator=entry.locator,
        content=b"".join(sorted(slices)),
        values=(volume,),
        parts=parts_of(1),
        metadata=MappingProxyType(agreed([one.columns for one in found]) | _columns_of(volume)),
        identifiers=MappingProxyType({k: v for k, v in agreed(identifiers).items() if k != "instance_id"}),
    )
    return item, [row["instance_id"] for row in identifiers if "instance_id" in row]


def stack_columns(planes: Sequence[Plane], shapes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Return what the places of slices say of a series: slice_spacing (mm) and volume_findings, each where it is known.

    Parameters
    ----------
    planes : sequence of Plane
    shapes : sequence of tuple of int
        Rows and columns of each.

    Examples
    --------
    >>> from osler.decode.planes import Plane
    >>> from osler.sources.volumes import stack_columns
    >>> planes = [Plane((1, 0, 0, 0, 1, 0), (0, 0, z), (0.5, 0.5), 2.0, False, ()) for z in (0, 2, 4, 6, 10)]
    >>> stack_columns(planes, [(64, 64)] * 5)
    {'slice_spacing': 2.0, 'volume_findings': 'missing_slices'}
    """
    try:
        stack = stack_of(planes, shapes, gaps="fill")
    except SourceError as error:
        # Radiographs of one series have no places, and one slice has no neighbours.
        return {} if error.code in ("no_geometry", "one_slice") else {"volume_findings": error.code}
    step = float((stack.affine[:3, 2] ** 2).sum() ** 0.5)
    return {"slice_spacing": round(step, 6)} | _told(stack.findings)


def _columns_of(volume: Volume) -> dict[str, Any]:
    columns, rows, frames = volume.shape
    counts = {"rows": rows, "columns": columns, "frames": frames, "slice_spacing": round(volume.spacing[2], 6)}
    return counts | _told(volume.findings)


def _told(findings: Any) -> dict[str, str]:
    return {"volume_findings": ", ".join(sorted(findings))} if findings else {}
