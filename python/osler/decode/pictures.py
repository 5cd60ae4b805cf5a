"""PNG, JPEG, TIFF and BMP to arrays that can be shown; the recipe is named "picture-display/1".

Decodes bytes with Pillow, one plug-in chosen by the format that was told, its size checked before a pixel is decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from osler.config import LIMITS
from osler.decode.frames import Frames, full_range
from osler.decode.quiet import cause, quiet
from osler.errors import SourceError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

__all__ = ["RECIPE", "image_array", "picture_frames"]

T = TypeVar("T")

RECIPE = "picture-display/1"

_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258
_PHOTOMETRIC = 262
_NEW_SUBFILE_TYPE = 254
_DESCRIPTION = 270
_HAMAMATSU = 65420
# What EXIF 2.3 calls orientation 1 to 8, as steps on an array: mirror left-right first, then quarter turns.
_TURNS = {2: (True, 0), 3: (False, 2), 4: (True, 2), 5: (True, 1), 6: (False, 3), 7: (True, 3), 8: (False, 1)}


def picture_frames(data: bytes, kind: str, *, name: str = "the file") -> Sequence[NDArray[Any]]:
    """Decode a picture to display arrays.

    8-bit grey, 1-bit and grey palettes give (H, W) uint8; 16-bit grey gives (H, W) uint16; colour, CMYK and colour
    palettes give (H, W, 3) uint8 (of 16-bit colour the high byte). Grey values of another declared depth are scaled
    to the full range. Floating-point and 32-bit grey has no range of its own: values within [0, 1] are kept as
    float32, others are scaled from their least to their greatest. Alpha is composited on black. The orientation that
    EXIF states is applied. Each full page of a TIFF is a frame; reduced copies, and the label and macro pictures of a
    slide, are left out.

    Parameters
    ----------
    data : bytes
    kind : {"png", "jpeg", "tiff", "bmp"}
    name : str
        How messages call the file.

    Returns
    -------
    sequence of ndarray

    Raises
    ------
    SourceError
        ``too_large``, ``truncated`` or ``decode_failed``.

    Examples
    --------
    >>> import io
    >>> import numpy as np
    >>> from PIL import Image
    >>> from osler.decode.pictures import picture_frames
    >>> stream = io.BytesIO()
    >>> Image.fromarray(np.array([[0, 65535]], dtype=np.uint16)).save(stream, "PNG")
    >>> picture_frames(stream.getvalue(), "png")[0]
    array([[    0, 65535]], dtype=uint16)
    """
    with quiet():
        image = _guarded(lambda: _open(data, kind), kind, name)
        if kind == "tiff":
            return _pages(image, name)
        _check_size(image, name)
        frame = _guarded(lambda: _array(image), kind, name)
    frame.setflags(write=False)
    return (frame,)


def image_array(image: Any, *, name: str = "the picture") -> NDArray[Any]:
    """Turn a PIL image that is already open into the array that `picture_frames` gives for its file.

    Parameters
    ----------
    image : PIL.Image.Image
        Of several frames the current one is taken.
    name : str
        How messages call it.

    Returns
    -------
    ndarray
        Not to be written, as some are views of bytes.

    Raises
    ------
    SourceError
        ``too_large``, ``no_pixels``, ``truncated`` or ``decode_failed``.

    Examples
    --------
    >>> from PIL import Image
    >>> from osler.decode.pictures import image_array
    >>> image_array(Image.new("RGBA", (2, 1), (255, 0, 0, 255))).tolist()
    [[[255, 0, 0], [255, 0, 0]]]
    """
    with quiet():
        _check_size(image, name)
        return _guarded(lambda: _array(image), image.format or "PIL", name)


def _open(data: bytes, kind: str) -> ImageFile:
    # The plug-ins are called by name: `Image.open` would guess, and has a pixel limit that belongs to the process.
    from PIL import BmpImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

    opener: dict[str, Callable[[BytesIO], ImageFile]] = {
        "png": PngImagePlugin.PngImageFile,
        "jpeg": JpegImagePlugin.JpegImageFile,
        "tiff": TiffImagePlugin.TiffImageFile,
        "bmp": BmpImagePlugin.BmpImageFile,
    }
    return opener[kind](BytesIO(data))


def _guarded(work: Callable[[], T], kind: str, name: str) -> T:
    from PIL import Image

    label = kind.upper()
    try:
        return work()
    except SourceError:
        raise
    except (MemoryError, Image.DecompressionBombError) as error:
        raise SourceError(f"{name} is a {label} picture too large to decode here", code="too_large") from cause(error)
    except Exception as error:
        words = str(error).lower()
        if "truncated" in words or "broken png" in words or isinstance(error, EOFError):
            raise SourceError(
                f"{name} is a {label} picture that ends too early; get a whole copy", code="truncated"
            ) from cause(error)
        raise SourceError(f"{name} is a {label} picture that cannot be decoded", code="decode_failed") from cause(error)


def _check_size(image: ImageFile, name: str) -> None:
    width, height = image.size
    if width * height > LIMITS.pixels_per_frame:
        raise SourceError(
            f"{name} has {width} x {height} pixels, the limit is {LIMITS.pixels_per_frame}; make it smaller",
            code="too_large",
        )
    if width * height == 0:
        raise SourceError(f"{name} has no pixels ({width} x {height})", code="no_pixels")


def _pages(image: Any, name: str) -> Sequence[NDArray[Any]]:
    tags = image.tag_v2
    slide = _HAMAMATSU in tags or str(tags.get(_DESCRIPTION, "")).startswith("Aperio")
    pages: list[int] = []

    def list_pages() -> None:
        """Find the full pages, and check their sizes before any is decoded."""
        pixels = 0
        for page in range(LIMITS.frames + 1):
            try:
                image.seek(page)
            except EOFError:
                return
            if page == LIMITS.frames:
                raise SourceError(f"{name} has more than {LIMITS.frames} pages, the limit; split it", code="too_large")
            if page == 0 or not int(image.tag_v2.get(_NEW_SUBFILE_TYPE, 0)) & 5:
                _check_size(image, name)
                pages.append(page)
                pixels += image.size[0] * image.size[1]
            if pixels > LIMITS.pixels_per_file:
                raise SourceError(
                    f"{name} has pages of more than {LIMITS.pixels_per_file} pixels, the limit; split it",
                    code="too_large",
                )
            if slide:
                return

    _guarded(list_pages, "tiff", name)

    def decode(i: int) -> NDArray[Any]:
        def work() -> NDArray[Any]:
            image.seek(pages[i])
            _check_size(image, name)
            return _array(image)

        with quiet():
            return _guarded(work, "tiff", name)

    return Frames(len(pages), decode).kept()


def _array(image: Any) -> NDArray[Any]:
    image.load()
    # Pillow itself turns a TIFF while it loads and then forgets the tag, so ask only now.
    mirror, quarters = _TURNS.get(_orientation(image), (False, 0))
    if image.mode.startswith("I;16"):
        bits, white_is_zero = _grey_depth(image)
        frame = full_range(np.asarray(image).astype(np.uint16), bits)
        frame = 65535 - frame if white_is_zero else frame
    elif image.mode in ("I", "F"):
        frame = _spread(np.asarray(image))
    else:
        frame = _eight_bit(image)
    return np.ascontiguousarray(np.rot90(frame[:, ::-1] if mirror else frame, quarters))


def _orientation(image: Any) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1


def _grey_depth(image: Any) -> tuple[int, bool]:
    if image.format != "TIFF":
        return 16, False
    bits = image.tag_v2.get(_BITS_PER_SAMPLE, (16,))
    return int(bits[0] if isinstance(bits, tuple) else bits), image.tag_v2.get(_PHOTOMETRIC) == 0


def _spread(values: NDArray[Any]) -> NDArray[Any]:
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if finite.size == 0:
        return np.zeros(values.shape, dtype=np.float32)
    low, high = float(finite.min()), float(finite.max())
    if values.dtype.kind == "f" and low >= 0.0 and high <= 1.0:
        kept: NDArray[Any] = np.nan_to_num(values, nan=0.0, posinf=1.0, neginf=0.0).astype(np.float32)
        return kept
    span = high - low or 1.0
    shown = (np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low) - low) / span
    scaled: NDArray[Any] = shown.astype(np.float32)
    return scaled


def _eight_bit(image: Any) -> NDArray[Any]:
    from PIL import Image

    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        grey = image.mode in ("1", "L", "LA", "La")
        # Premultiplied modes convert to straight alpha first.
        straight = image.convert("LA" if image.mode == "La" else "RGBA" if image.mode == "RGBa" else image.mode)
        layer = straight.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer)
        layers: NDArray[Any] = np.asarray(image.convert("RGB"))
        return layers[..., 0] if grey else layers
    if image.mode == "P":
        colours = np.asarray(image.convert("RGB"))
        palette = np.asarray(image.getpalette("RGB") or [0, 0, 0]).reshape(-1, 3)
        return colours[..., 0] if (palette == palette[:, :1]).all() else colours
    mode = "L" if image.mode in ("1", "L") else "RGB"
    # converting to the mode that it has would copy
    shown: NDArray[Any] = np.asarray(image if image.mode == mode else image.convert(mode))
    return shown
