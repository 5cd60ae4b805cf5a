"""Where on a slide there is tissue: a mask of its small picture, without glass, pen marks, black borders and specks.

Pure functions of one array. Saturation is smoothed by a median and split by Otsu's threshold (IEEE Trans. SMC 9, 1979),
then cleaned by the area of pieces and holes, as CLAM does (Lu and others, Nature Biomedical Engineering 5, 2021).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from osler.errors import SourceError

__all__ = ["otsu", "tissue_mask"]

# CLAM's own fixed threshold: no stain is so faint, and what scanners and JPEG leave on bare glass is below it.
_LEAST_SATURATION = 8
# Glass is not so colourful: a lower class that is above this is pale tissue, and there is no glass in the picture.
_MOST_OF_GLASS = 30
# Where a strong stain lies beside a pale one, Otsu parts the two: what is this much above the glass is tissue as well.
_ABOVE_GLASS = 12
# Values of HSV in 0..255. Darker than any stain that light comes through: a border, or a mark that lets none through.
_BLACK = 40
# Black ink is grey where it is thin, and stains that are as dark have colour.
_GREY_VALUE, _GREY_SATURATION = 100, 60
# Inks: hue from and to in degrees, and the least saturation. Haematoxylin is bluer than 235 degrees and paler than ink,
# eosin and blood are redder than green and paler than red ink.
_INKS = ((70, 165, 115), (165, 232, 140), (345, 375, 190))
# The edge of a mark is mixed with what is beside it.
_INK_MARGIN_UM = 32.0
# Pieces and holes of less than this area are noise: 100 micrometres squared.
_LEAST_AREA_UM2 = 1e4


def tissue_mask(picture: NDArray[Any], um: float) -> NDArray[np.bool_]:
    """Return where a small picture of a slide shows tissue.

    The same picture gives the same mask on every machine. Fields that are black, or marked with black, green or blue
    ink, are left out; red ink is, too, where it is stronger than blood and eosin are. A picture that is tissue
    everywhere is taken as a whole; one without colour has none.

    Parameters
    ----------
    picture : ndarray (H, W, 3)
        uint8, red, green and blue.
    um : float
        Micrometres that one of its pixels shows; 4 to 16 serve well.

    Returns
    -------
    ndarray (H, W)
        bool.

    Raises
    ------
    SourceError
        ``missing_decoder``: the package SciPy is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.sources.tissue import tissue_mask
    >>> picture = np.full((60, 80, 3), 243, np.uint8)
    >>> picture[20:40, 30:60] = (200, 90, 160)
    >>> mask = tissue_mask(picture, um=8.0)
    >>> bool(mask[30, 45]), bool(mask[5, 5]), round(float(mask.mean()), 3)
    (True, False, 0.122)
    """
    try:
        from scipy import ndimage
    except ImportError:
        raise SourceError(
            'finding tissue needs the package scipy, which is not installed; run pip install "osler[slides]"',
            code="missing_decoder",
        ) from None
    hue, saturation, value = _hsv(picture)
    saturation = ndimage.median_filter(saturation, size=min(7, 2 * max(1, round(12 / um)) + 1))
    black = (value <= _BLACK) | ((value < _GREY_VALUE) & (saturation < _GREY_SATURATION))
    left_out = _grown(black | _ink(hue, saturation), max(1, round(_INK_MARGIN_UM / um)), ndimage, seeds=black)
    seen = saturation[~left_out]
    if not seen.size:
        return np.zeros(left_out.shape, bool)
    tissue = (saturation > _threshold(seen)) & ~left_out
    least = max(2.0, _LEAST_AREA_UM2 / um**2)
    # Holes first: a speck in a hole must not keep it.
    tissue = ~_large(~tissue, least, ndimage) & ~left_out
    return _large(tissue, least, ndimage)


def otsu(values: NDArray[Any]) -> int:
    """Return the threshold that parts 8-bit values into two classes that differ most: the last value of the lower.

    Parameters
    ----------
    values : ndarray
        uint8, of any shape, at least one.

    Returns
    -------
    int

    Examples
    --------
    >>> import numpy as np
    >>> from osler.sources.tissue import otsu
    >>> 3 <= otsu(np.array([2, 3, 3, 90, 91], np.uint8)) < 90
    True
    """
    counts = np.bincount(values.reshape(-1), minlength=256).astype(np.float64)
    below = np.cumsum(counts)
    mass = np.cumsum(counts * np.arange(256))
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mass[-1] * below - mass * below[-1]) ** 2 / (below * above)
    between = np.nan_to_num(between, nan=-1.0, posinf=-1.0)
    # Between two far classes all thresholds are as good: the middle one is least moved by noise.
    best = np.flatnonzero(between == between.max())
    return int(best[len(best) // 2])


def _threshold(saturation: NDArray[Any]) -> int:
    """Return Otsu's threshold, but none that lies in the noise of glass or far above glass."""
    threshold = otsu(saturation)
    glass = np.bincount(saturation[saturation <= threshold])
    usual = int(glass.argmax()) if glass.size else 0
    if usual > _MOST_OF_GLASS:
        return _LEAST_SATURATION
    return max(_LEAST_SATURATION, min(threshold, usual + _ABOVE_GLASS))


def _hsv(picture: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return hue in degrees, and saturation and value in 0..255."""
    from PIL import Image

    planes = np.asarray(Image.fromarray(np.ascontiguousarray(picture)).convert("HSV"))
    return planes[..., 0] * (360.0 / 256.0), planes[..., 1], planes[..., 2]


def _ink(hue: NDArray[Any], saturation: NDArray[Any]) -> NDArray[np.bool_]:
    found = np.zeros(hue.shape, bool)
    for low, high, least in _INKS:
        found |= ((hue - low) % 360.0 <= high - low) & (saturation >= least)
    return found


def _grown(found: NDArray[np.bool_], margin: int, ndimage: Any, seeds: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return ink with a margin around it; what is too small to be a stroke or a border is no ink."""
    strokes: NDArray[np.bool_] = ndimage.binary_opening(found, np.ones((3, 3), bool), border_value=0)
    # A border may be narrower than a stroke, and black tissue is not to be had anyway.
    grown: NDArray[np.bool_] = ndimage.binary_dilation(strokes, iterations=margin) | seeds
    return grown


def _large(mask: NDArray[np.bool_], least: float, ndimage: Any) -> NDArray[np.bool_]:
    """Keep connected pieces of at least so many pixels."""
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.reshape(-1))
    sizes[0] = 0
    kept: NDArray[np.bool_] = (sizes >= least)[labels]
    return kept
