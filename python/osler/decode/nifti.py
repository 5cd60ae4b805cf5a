"""NIfTI-1 and NIfTI-2 files to volumes; what a header states is checked against the limits and the bytes first.

Parses bytes with nibabel. Of the header only sizes, types, scaling and geometry are looked at: its free text (descrip,
aux_file, intent_name, db_name) and its extensions may name a patient and are never read.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from io import BytesIO
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osler.config import LIMITS
from osler.decode.quiet import cause, quiet
from osler.errors import SourceError
from osler.items import Volume

__all__ = ["nifti_volume", "require_nibabel"]

_PIECE = 16 << 20
# Bytes behind the voxels that are looked at: some programs pad a file, and a checksum of gzip is at its very end.
_BEHIND = 1 << 20
# Millimetres of what xyzt_units may state, by its three lowest bits.
_MILLIMETRES = {1: 1_000.0, 2: 1.0, 3: 0.001}


def require_nibabel() -> Any:
    """Return nibabel.

    Raises
    ------
    SourceError
        ``missing_decoder``.

    Examples
    --------
    >>> from osler.decode.nifti import require_nibabel
    >>> require_nibabel().__name__
    'nibabel'
    """
    try:
        import nibabel
    except ImportError:
        raise SourceError(
            'reading volumes needs the package nibabel, which is not installed; run pip install "osler[volumes]"',
            code="missing_decoder",
        ) from None
    return nibabel


def nifti_volume(data: bytes, *, time: int | None = None, name: str = "the file") -> Volume:
    """Read a NIfTI file, plain or compressed with gzip.

    Values are ``scl_slope * stored + scl_inter``. The affine is that of sform where its code is set, else that of
    qform, else the size of the voxels with the first axis to the left; metres and micrometres become millimetres.

    Parameters
    ----------
    data : bytes
        The whole file.
    time : int, optional
        Which of several volumes (time points, echoes, directions); a file with several is refused without it.
    name : str
        How messages call the file.

    Returns
    -------
    Volume
        Axes as they are stored. Without a unit: NIfTI has no field for that of CT.

    Raises
    ------
    SourceError
        ``missing_decoder`` (nibabel), ``bad_header``, ``truncated``, ``too_large``, ``decode_failed``,
        ``several_volumes``, ``not_finite`` or ``unsupported_type``.

    Examples
    --------
    >>> import nibabel, numpy as np
    >>> from osler.decode.nifti import nifti_volume
    >>> image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.diag([-1.0, 1.0, 2.5, 1.0]))
    >>> nifti_volume(image.to_bytes())
    <osler Volume 4 x 5 x 6, int16>
    """
    require_nibabel()
    with quiet():
        try:
            return _Nifti(data, name).volume(time)
        except SourceError:
            raise
        except MemoryError as error:
            raise SourceError(f"{name} is too large to read here", code="too_large") from cause(error)
        except Exception as error:
            raise SourceError(
                f"{name} is a NIfTI file that cannot be read; check that it opens elsewhere", code="decode_failed"
            ) from cause(error)


class _Nifti:
    def __init__(self, data: bytes, name: str) -> None:
        self._name = name
        self._data = data
        self._packed = data[:2] == b"\x1f\x8b"
        # gzip knows files of several members, and compares the checksum of each.
        self._stream: Any = gzip.GzipFile(fileobj=BytesIO(data)) if self._packed else BytesIO(data)

    def volume(self, time: int | None) -> Volume:
        head = self._read(540)
        header = self._header(head)
        shape, several = self._shape(header)
        kind, slope, intercept = self._values(header)
        first = self._first_byte(header)
        affine, findings = self._affine(header)
        chosen = self._chosen(time, several)
        stored = self._stored(head, first, prod(shape) * max(several, 1) * kind.itemsize)
        from nibabel.arrayproxy import ArrayProxy

        proxy = ArrayProxy(BytesIO(stored), ((*shape, max(several, 1)), kind, 0, slope, intercept))
        values = np.asanyarray(proxy[..., chosen])
        try:
            return Volume(values, affine, findings=findings)
        except ValueError as error:
            if "affine" in str(error):
                raise self._bad("the axes of its orientation do not span space") from None
            raise SourceError(str(error).replace("the volume", self._name, 1), code="not_finite") from None

    def _header(self, head: bytes) -> Any:
        from nibabel.nifti1 import Nifti1Header
        from nibabel.nifti2 import Nifti2Header

        kind = Nifti2Header if head[4:6] == b"n+" else Nifti1Header
        if len(head) < kind.sizeof_hdr:
            raise self._truncated("its header ends too early")
        return kind(head[: kind.sizeof_hdr], check=False)

    def _shape(self, header: Any) -> tuple[tuple[int, int, int], int]:
        """Return the shape of one volume, and how many the file holds; 0 where it says nothing of further axes."""
        rank, *sides = (int(number) for number in header["dim"])
        if not 1 <= rank <= 7 or any(side < 1 for side in sides[:rank]):
            raise self._bad("the number or the length of its axes is not above 0")
        x, y, z, *more = (*sides[:rank], *[1] * (3 - rank))
        several = prod(more) if more else 0
        if x * y * z * max(several, 1) > LIMITS.voxels:
            times = f"{several} x " if several > 1 else ""
            raise SourceError(
                f"{self._name} states {times}{x} x {y} x {z} voxels, the limit is {LIMITS.voxels}; set "
                "OSLER_LIMIT_VOXELS to raise it",
                code="too_large",
            )
        return (x, y, z), several

    def _values(self, header: Any) -> tuple[np.dtype[Any], float, float]:
        try:
            kind = header.get_data_dtype()
        except Exception:
            raise self._bad("its type of values is not known") from None
        if kind.kind not in "iuf" or kind.itemsize > 8:
            raise SourceError(
                f"{self._name} holds colours or complex numbers, not one real value a voxel; convert it",
                code="unsupported_type",
            )
        try:
            slope, intercept = header.get_slope_inter()
        except Exception:
            raise self._bad("its scaling is not finite") from None
        return kind, 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)

    def _first_byte(self, header: Any) -> int:
        # A file may state 0 for the least that there can be.
        stated, least = float(header["vox_offset"]), int(header.sizeof_hdr) + 4
        if not (stated == 0 or least <= stated <= LIMITS.bytes_per_file) or stated != int(stated):
            raise self._bad("its voxels begin nowhere in the file")
        return int(stated) or least

    def _affine(self, header: Any) -> tuple[NDArray[np.float64], dict[str, str]]:
        try:
            affine = np.array(header.get_best_affine(), dtype=np.float64)
        except Exception:
            raise self._bad("its orientation cannot be read") from None
        affine[:3] *= _MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
        if int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0:
            return affine, {}
        words = "the file states no orientation; its first axis is taken to point to the left, as NIfTI's default is"
        return affine, {"orientation_unknown": words}

    def _chosen(self, time: int | None, several: int) -> int:
        count = max(several, 1)
        if time is None and count > 1:
            raise SourceError(
                f"{self._name} holds {count} volumes (time points, echoes or directions); read one of them with "
                f"osler.decode.read_volume(path, time=0) and pass that",
                code="several_volumes",
            )
        if time is not None and not 0 <= time < count:
            raise SourceError(
                f"time is {time}, and {self._name} holds {count} volumes; give a number from 0 to {count - 1}",
                code="several_volumes",
            )
        return time or 0

    def _stored(self, head: bytes, first: int, length: int) -> Any:
        """Return the bytes of the voxels, once the whole file was seen to hold no more and no less."""
        if not self._packed:
            if len(self._data) < first + length:
                raise self._truncated(f"it has {max(0, len(self._data) - first)} of {length} bytes of voxels")
            return self._data[first : first + length]
        pieces = [head[first:]]
        if first > len(head):
            self._read(first - len(head))
        missing = length - len(pieces[0])
        while missing > 0:
            piece = self._read(min(missing, _PIECE))
            if not piece:
                raise self._truncated(f"it has {length - missing} of {length} bytes of voxels")
            pieces.append(piece)
            missing -= len(piece)
        behind = 0
        # To the end, since gzip's checksum is there.
        while piece := self._read(_PIECE):
            behind += len(piece)
            if behind > _BEHIND:
                raise SourceError(
                    f"{self._name} is compressed and grows far beyond the {length} bytes of voxels that its header "
                    "states; it is refused",
                    code="too_large",
                )
        return b"".join(pieces)[:length]

    def _read(self, count: int) -> bytes:
        found: bytes = self._guarded(lambda: self._stream.read(count))
        return found

    def _guarded(self, work: Callable[[], bytes]) -> bytes:
        try:
            return work()
        except EOFError as error:
            raise self._truncated("its compressed bytes end too early") from cause(error)
        except (OSError, zlib.error) as error:
            raise SourceError(
                f"{self._name} is compressed with gzip and damaged; get a whole copy", code="decode_failed"
            ) from cause(error)

    def _truncated(self, what: str) -> SourceError:
        return SourceError(f"{self._name} is truncated: {what}; get a whole copy", code="truncated")

    def _bad(self, what: str) -> SourceError:
        return SourceError(f"{self._name} has a damaged header: {what}", code="bad_header")
