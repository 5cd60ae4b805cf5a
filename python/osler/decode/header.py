"""Elements of a parsed DICOM header as checked values: numbers, tables, padding, and the rule of grey of a frame.

Reads a pydicom data set in memory; an element that is absent or malformed gives None and never an error. DICOM PS3.3,
C.7.5.1.1.2, C.7.6.16.2, C.11.1 and C.11.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osler.decode.display import Lut, Rule, Window
from osler.decode.transfer import Layout

__all__ = ["listed", "number_of", "octets", "padding_of", "rule_of", "table_words", "value_of"]


def value_of(dataset: Any, keyword: str) -> Any:
    """Return an element's value by keyword, or None.

    Examples
    --------
    >>> from pydicom.dataset import Dataset
    >>> from osler.decode.header import value_of
    >>> dataset = Dataset()
    >>> dataset.Rows = 4
    >>> value_of(dataset, "Rows"), value_of(dataset, "Columns")
    (4, None)
    """
    try:
        return dataset[keyword].value
    except Exception:
        return None


def listed(values: Any) -> Sequence[Any]:
    """Return an element's value as a sequence, whether it has none, one or several.

    Examples
    --------
    >>> from osler.decode.header import listed
    >>> listed(40), listed(None)
    ((40,), ())
    """
    if values is None:
        return ()
    if isinstance(values, str | bytes | int | float):
        return (values,)
    try:
        return list(values)
    except TypeError:
        return (values,)


def number_of(dataset: Any, keyword: str) -> float | None:
    """Return the first value of an element as a finite number, or None.

    Examples
    --------
    >>> from pydicom.dataset import Dataset
    >>> from osler.decode.header import number_of
    >>> dataset = Dataset()
    >>> dataset.WindowCenter = ["40", "80"]
    >>> number_of(dataset, "WindowCenter")
    40.0
    """
    try:
        number = float(listed(value_of(dataset, keyword))[0])
    except (IndexError, TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def octets(data: bytes, swap: bool) -> NDArray[Any]:
    """Return bytes as an array, each pair exchanged where 8-bit values were written as big-endian words.

    Examples
    --------
    >>> from osler.decode.header import octets
    >>> octets(bytes([1, 2]), swap=True).tolist()
    [2, 1]
    """
    if not swap:
        return np.frombuffer(data, np.uint8)
    return np.frombuffer(data[: len(data) // 2 * 2], np.uint16).byteswap().view(np.uint8)


def table_words(data: Any, count: int | None, bits: int, big: bool) -> NDArray[Any]:
    """Return the entries of a look-up table, which come as numbers, as 16-bit words or as bytes.

    Examples
    --------
    >>> from osler.decode.header import table_words
    >>> table_words(bytes([1, 0, 2, 0]), 2, 16, big=False).tolist()
    [1, 2]
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        return np.array(listed(data), dtype=np.int64).astype(np.uint16)
    if bits <= 8 and (count is None or len(data) <= count + 1):
        return octets(bytes(data), big)
    return np.frombuffer(bytes(data)[: len(data) // 2 * 2], ">u2" if big else "<u2")


def padding_of(dataset: Any, layout: Layout) -> tuple[int, int] | None:
    """Return the least and the greatest stored value that mean no pixel, in the sign of the samples, or None.

    Examples
    --------
    >>> from pydicom.dataset import Dataset
    >>> from osler.decode.header import padding_of
    >>> from osler.decode.transfer import Layout
    >>> dataset = Dataset()
    >>> dataset.PixelPaddingValue = 63536
    >>> padding_of(dataset, Layout(1, 1, 1, 1, "MONOCHROME2", 16, 16, True, 0))
    (-2000, -2000)
    """
    value = number_of(dataset, "PixelPaddingValue")
    if value is None:
        return None
    limit = number_of(dataset, "PixelPaddingRangeLimit")
    wrap = 1 << layout.bits_allocated
    ends = [int(end) % wrap for end in (value, value if limit is None else limit)]
    if layout.signed:
        ends = [end - wrap if end >= wrap // 2 else end for end in ends]
    return min(ends), max(ends)


def _lut(item: Any, layout: Layout, big: bool) -> Lut | None:
    descriptor = listed(value_of(item, "LUTDescriptor"))
    data = value_of(item, "LUTData")
    if len(descriptor) != 3 or data is None:
        return None
    count, start, bits = (int(number) for number in descriptor)
    count = count % 65536 or 65536
    entries = table_words(data, count, bits, big)[:count]
    if len(entries) == 0:
        return None
    # Some state 16 bits for entries of 12: the least depth that holds them all is their range.
    top = (1 << max(int(entries.max()).bit_length(), 1)) - 1
    return Lut(start - 65536 if layout.signed and start >= 32768 else start, entries, max(top, 1))


def rule_of(dataset: Any, shared: Any, own: Any, layout: Layout, seen: dict[Any, Lut]) -> Rule:
    """Return how one frame's stored values become grey.

    Parameters
    ----------
    dataset, shared, own : Dataset
        The file's data set; the functional groups that all frames share and the frame's own, or None.
    layout : Layout
    seen : dict
        Tables that were already read, so that frames with one rule compare equal.

    Examples
    --------
    >>> from pydicom.dataset import Dataset
    >>> from osler.decode.header import rule_of
    >>> from osler.decode.transfer import Layout
    >>> dataset = Dataset()
    >>> dataset.RescaleSlope, dataset.WindowCenter, dataset.WindowWidth = "2", "40", "400"
    >>> rule = rule_of(dataset, None, None, Layout(1, 1, 1, 1, "MONOCHROME2", 16, 16, True, 0), {})
    >>> rule.slope, rule.window
    (2.0, Window(centre=40.0, width=400.0, curve='LINEAR'))
    """

    def macro(sequence: str) -> Any:
        for group in (own, shared):
            items = listed(value_of(group, sequence)) if group is not None else ()
            if items:
                return items[0]
        return dataset

    def table(holder: Any, sequence: str) -> Lut | None:
        items = listed(value_of(holder, sequence))
        if not items:
            return None
        key = (id(holder), sequence)
        if key not in seen:
            found = _lut(items[0], layout, not dataset.original_encoding[1])
            if found is None:
                return None
            seen[key] = found
        return seen[key]

    values, voi = macro("PixelValueTransformationSequence"), macro("FrameVOILUTSequence")
    modality = table(dataset, "ModalityLUTSequence")
    slope, intercept = number_of(values, "RescaleSlope"), number_of(values, "RescaleIntercept")
    centre, width = number_of(voi, "WindowCenter"), number_of(voi, "WindowWidth")
    curve = str(value_of(voi, "VOILUTFunction") or "LINEAR").strip().upper()
    chosen = None
    if centre is not None and width is not None and width > 0:
        kind: Any = curve if curve in ("LINEAR_EXACT", "SIGMOID") else "LINEAR"
        chosen = Window(centre, width, kind) if kind != "LINEAR" or width >= 1 else None
    return Rule(slope or 1.0, intercept or 0.0, modality, chosen, table(voi, "VOILUTSequence"))
