"""Makes samples.npz, the pictures that an export is compared on where its user names none: `python models/samples.py`.

Reads files of the packages pydicom and pydicom-data (MIT), each shrunk to at most 256 pixels a side by Pillow: CT of
a head and a spine, two MRI, two X-rays and an ultrasound frame in colour.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from osler.sources import open_source
from PIL import Image
from pydicom.data import get_testdata_file

FILES = (
    "CT_small.dcm",
    "693_UNCR.dcm",
    "MR_small.dcm",
    "MR2_UNCR.dcm",
    "RG1_UNCR.dcm",
    "RG3_UNCR.dcm",
    "color-px.dcm",
)
SIDE = 256


def eight_bits(picture: np.ndarray) -> np.ndarray:
    """Return the picture spread over 0..255 between its percentiles 0.5 and 99.5, or as it is if it has 8 bits."""
    if picture.dtype == np.uint8:
        return picture
    low, high = np.percentile(picture, (0.5, 99.5))
    return np.round(np.clip((picture.astype(np.float64) - low) / max(high - low, 1e-9), 0, 1) * 255).astype(np.uint8)


def main() -> None:
    """Write samples.npz beside this file."""
    arrays = {}
    for name in FILES:
        path = get_testdata_file(name, download=False)
        source = open_source(path)
        picture = Image.fromarray(eight_bits(np.asarray(source.read(source.entries[0]).values[0])))
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        arrays[Path(name).stem] = np.asarray(picture)
    np.savez_compressed(Path(__file__).with_name("samples.npz"), **arrays)


if __name__ == "__main__":
    main()
