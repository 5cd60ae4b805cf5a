"""Opens the files of a slide with the reader of its kind.

Reads the files that it is given; what OpenSlide is for is opened by a path, in `slide_openslide`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

from osler.decode.quiet import cause, quiet
from osler.errors import SourceError
from osler.sources.slide_dicom import dicom_slide
from osler.sources.slide_tiff import tiff_slide
from osler.sources.slides import Slide

__all__ = ["open_slide"]


def open_slide(files: Sequence[BinaryIO], kind: str) -> Slide:
    """Open the files of a slide with the reader of a kind.

    Parameters
    ----------
    files : sequence of binary files
        They can be read and sought, and stay open as long as the slide; one, or of DICOM one a level.
    kind : {"tiff", "dicom"}
        What `osler.sources.slide_kind.slide_kind` says; what it gives to OpenSlide is opened by a path.

    Returns
    -------
    Slide

    Raises
    ------
    SourceError
        ``missing_decoder``, ``bad_header``, ``unsupported_format``, ``truncated``, ``too_large``, ``decode_failed``.
    """
    try:
        with quiet():
            if kind == "dicom":
                return dicom_slide(files)
            return tiff_slide(files[0])
    except (SourceError, MemoryError):
        raise
    except Exception as error:
        raise SourceError(
            "the slide cannot be read, its header is damaged; get a whole copy of the file", code="bad_header"
        ) from cause(error)
