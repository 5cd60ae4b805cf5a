"""Colour samples of DICOM to RGB: YBR, palettes (whole, segmented and supplemental), more than 8 bits.

Works on arrays and on tables taken from a header; reads no file. DICOM PS3.3, C.7.6.3.1.2, C.7.9 and C.7.6.3.1.6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osler.decode.frames import full_range

__all__ = ["Palette", "expand", "upsampled", "ybr_to_rgb"]


def ybr_to_rgb(samples: NDArray[Any], bits: int) -> NDArray[Any]:
    """Convert full-range YCbCr (ITU-R BT.601) to RGB of the same type.

    Parameters
    ----------
    samples : ndarray of shape (H, W, 3)
    bits : int
        Bits stored.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.decode.colour import ybr_to_rgb
    >>> ybr_to_rgb(np.array([[[76, 85, 255]]], dtype=np.uint8), 8).tolist()
    [[[254, 0, 0]]]
    """
    if samples.dtype == np.uint8 and bits == 8:
        from PIL import Image

        # The same integer arithmetic as libjpeg's, so that a JPEG in DICOM and one beside it agree.
        image = Image.frombytes("YCbCr", samples.shape[1::-1], np.ascontiguousarray(samples).tobytes())
        return np.asarray(image.convert("RGB"))
    y, cb, cr = (samples[..., i].astype(np.float64) for i in range(3))
    half = float(1 << (bits - 1))
    cb, cr = cb - half, cr - half
    rgb = np.stack([y + 1.402 * cr, y - 0.344136286 * cb - 0.714136286 * cr, y + 1.772 * cb], axis=-1)
    return np.clip(np.rint(rgb), 0, (1 << bits) - 1).astype(samples.dtype)


def upsampled(packed: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    """Spread uncompressed YBR_FULL_422 samples, Y1 Y2 Cb Cr for two pixels of a row, to (H, W, 3).

    Examples
    --------
    >>> import numpy as np
    >>> from osler.decode.colour import upsampled
    >>> upsampled(np.array([1, 2, 8, 9], dtype=np.uint8), 1, 2).tolist()
    [[[1, 8, 9], [2, 8, 9]]]
    """
    quads = packed.reshape(rows, columns // 2, 4)
    out = np.empty((rows, columns // 2, 2, 3), dtype=packed.dtype)
    out[..., 0] = quads[..., :2]
    out[..., 1:] = quads[..., None, 2:]
    return out.reshape(rows, columns, 3)


def expand(segments: NDArray[Any], bits: int) -> NDArray[Any]:
    """Expand a segmented palette (discrete, linear and indirect segments) to its entries. PS3.3, C.7.9.2.

    Raises
    ------
    ValueError
        The segments are not well formed.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.decode.colour import expand
    >>> expand(np.array([0, 2, 5, 6, 1, 3, 9], dtype=np.uint16), 16).tolist()
    [5, 6, 7, 8, 9]
    """
    entries: list[int] = []
    at = 0
    words = [int(word) for word in segments]
    while at + 1 < len(words):
        code = words[at]
        if code in (0, 1):
            at = _segment(words, at, entries)
        elif code == 2 and at + 3 < len(words):
            # The offset counts bytes of the segmented data; it is stored in two words, of 8 or 16 bits by the table.
            low, high = words[at + 2], words[at + 3]
            back = (low | high << 16) // 2 if bits > 8 else low | high << 8
            count = words[at + 1]
            at += 4 if bits > 8 else 6
            for _ in range(count):
                if back + 1 >= len(words) or words[back] not in (0, 1):
                    raise ValueError("an indirect segment must point at a plain one")
                back = _segment(words, back, entries)
        else:
            raise ValueError("a segment has no known kind")
        if len(entries) > 1 << 16:
            raise ValueError("the segments give too many entries")
    return np.array(entries, dtype=np.uint16)


def _segment(words: list[int], at: int, entries: list[int]) -> int:
    code, count = words[at], words[at + 1]
    if code == 0:
        if at + 2 + count > len(words):
            raise ValueError("a discrete segment ends too early")
        entries.extend(words[at + 2 : at + 2 + count])
        return at + 2 + count
    if at + 2 >= len(words) or not entries:
        raise ValueError("a linear segment has no start or end")
    start, end = entries[-1], words[at + 2]
    entries.extend(round(start + (end - start) * step / count) for step in range(1, count + 1))
    return at + 3


@dataclass(frozen=True, eq=False)
class Palette:
    """Red, green and blue tables over stored values.

    Attributes
    ----------
    first : int
        Stored value of the first entry; values outside take the nearest entry.
    entries : ndarray of shape (n, 3)
    bits : int
        Bits of an entry.
    """

    first: int
    entries: NDArray[Any]
    bits: int

    def show(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Look stored values (H, W) up: (H, W, 3), uint8 for entries of up to 8 bits, else uint16."""
        at = np.clip(stored.astype(np.int64) - self.first, 0, len(self.entries) - 1)
        return full_range(self.entries, self.bits)[at]

    def over(self, grey: NDArray[Any], stored: NDArray[Any]) -> NDArray[Any]:
        """Colour the pixels from the first entry on, and leave those below it grey (a supplemental palette)."""
        covered = stored.astype(np.int64) >= self.first
        colours = self.show(stored)
        wide = grey.dtype == np.uint16
        if wide and colours.dtype == np.uint8:
            colours = colours.astype(np.uint16) * 257
        elif not wide and colours.dtype == np.uint16:
            colours = (colours >> 8).astype(np.uint8)
        return np.where(covered[..., None], colours, grey[..., None])
