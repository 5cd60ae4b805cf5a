"""Slides for tests: pyramids in TIFF and SVS written from pictures, and what a researcher's glass may look like.

Tissue comes from one real tile, stained with haematoxylin and eosin (tests/fixtures/histology); all else is drawn from
a generator of random numbers.
"""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, VLWholeSlideMicroscopyImageStorage, generate_uid

__all__ = ["TISSUE", "draw_slide", "real_tissue", "shrunk", "tissue_picture", "write_dicom_slide", "write_slide"]

TISSUE = Path(__file__).parent / "fixtures" / "histology" / "he-240.png"
GLASS = 243


@cache
def real_tissue() -> np.ndarray:
    """A real tile, (240, 240, 3) uint8, about 0.5 micrometres per pixel."""
    return np.asarray(Image.open(TISSUE).convert("RGB"))


def tissue_picture(height: int, width: int, seed: int) -> np.ndarray:
    """Tissue of any size: pieces of the real tile, as large, turned and stained as a seed says, as slides differ."""
    rng = np.random.default_rng(seed)
    whole = Image.fromarray(real_tissue()[:, :150])
    # Seeds that follow each other give slides that are told apart: magnification and stain are spread, not drawn.
    zoom = (0.6, 1.7, 1.0, 1.35, 0.8)[seed % 5]
    tile = np.asarray(whole.resize((round(150 * zoom), round(240 * zoom)), Image.Resampling.BICUBIC)).astype(np.float32)
    # Stains differ in how much of each colour they take, and green is what these take most of.
    taken = [(0.3, 0.9, 0.3), (0.9, 1.2, 0.4), (0.4, 1.2, 0.9), (0.7, 0.9, 0.7)][seed % 4]
    tile = (np.maximum(tile, 1) / 255) ** taken * 255
    side = 80
    found = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, side):
        for left in range(0, width, side):
            at = rng.integers(0, [tile.shape[0] - side + 1, tile.shape[1] - side + 1])
            piece = np.rot90(tile[at[0] : at[0] + side, at[1] : at[1] + side], int(rng.integers(4)))
            piece = np.clip(piece * rng.uniform(0.9, 1.1), 0, 255).astype(np.uint8)
            found[top : top + side, left : left + side] = piece[: height - top, : width - left]
    return found


def draw_slide(
    height: int, width: int, seed: int, where: tuple[float, float, float, float] = (0.2, 0.2, 0.7, 0.8)
) -> tuple[np.ndarray, np.ndarray]:
    """Glass with one oval piece of tissue in a box of shares; the picture, and where the tissue is."""
    rng = np.random.default_rng(seed)
    mask = Image.new("1", (width, height))
    box = [where[0] * width, where[1] * height, where[2] * width, where[3] * height]
    ImageDraw.Draw(mask).ellipse(box, fill=1)
    truth = np.asarray(mask)
    picture = (GLASS + rng.integers(-2, 3, (height, width, 1))).astype(np.uint8).repeat(3, axis=2)
    picture[truth] = tissue_picture(height, width, seed)[truth]
    return picture, truth


def shrunk(picture: np.ndarray, factor: int) -> np.ndarray:
    """The means of squares of pixels, cut to whole ones as scanners do."""
    height, width = picture.shape[0] // factor * factor, picture.shape[1] // factor * factor
    return np.asarray(Image.fromarray(picture[:height, :width]).reduce(factor))


def write_slide(
    path: Path,
    picture: np.ndarray,
    *,
    mpp: float | None = 0.5,
    kind: str = "tiff",
    factors: tuple[int, ...] = (1, 4),
    tile: int = 256,
    **options: Any,
) -> Path:
    """Write a pyramid as ``tiff``, ``svs`` (with thumbnail, label and macro) or ``ome`` (levels in SubIFDs)."""
    levels = [picture if factor == 1 else shrunk(picture, factor) for factor in factors]
    options = {"tile": (tile, tile), "photometric": "rgb", "metadata": None} | options
    if mpp is not None and kind == "tiff":
        options |= {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    # Readers take this order from Aperio: the picture, a thumbnail that is not tiled, the other levels.
    about = f"Aperio Image Library v11.2.1\n{picture.shape[1]}x{picture.shape[0]}"
    if mpp is not None:
        about += f"|AppMag = {10 / mpp:g}|MPP = {mpp:.4f}"
    described = {"description": about} if kind == "svs" else {}
    with tifffile.TiffWriter(
        path, bigtiff=options.pop("bigtiff", False), byteorder=options.pop("byteorder", None)
    ) as tiff:
        if kind == "ome":
            about = (
                '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
                '<Image ID="Image:0">'
                f'<Pixels ID="Pixels:0" Type="uint8" SizeX="{picture.shape[1]}" SizeY="{picture.shape[0]}" SizeZ="1" '
                f'SizeC="3" SizeT="1" DimensionOrder="XYCZT" PhysicalSizeX="{mpp}" PhysicalSizeXUnit="µm" '
                f'PhysicalSizeY="{mpp}" PhysicalSizeYUnit="µm"/></Image></OME>'
            )
            tiff.write(levels[0], subifds=len(levels) - 1, description=about.encode(), **options)
            for level in levels[1:]:
                tiff.write(level, subfiletype=1, **options)
            return path
        for number, level in enumerate(levels):
            reduced = {"subfiletype": 1} if number and kind == "tiff" else {}
            tiff.write(level, **options, **reduced, **described)
            if number == 0 and kind == "svs":
                thumbnail = shrunk(picture, 8)
                tiff.write(
                    thumbnail, photometric="rgb", metadata=None, compression="jpeg", rowsperstrip=16, **described
                )
        if kind == "svs":
            label = np.full((120, 100, 3), (250, 240, 90), np.uint8)
            macro = np.full((100, 300, 3), (90, 90, 90), np.uint8)
            other = {"photometric": "rgb", "metadata": None}
            tiff.write(label, subfiletype=1, compression="lzw", description="Aperio\nlabel 100x120", **other)
            tiff.write(macro, subfiletype=9, compression="jpeg", description="Aperio\nmacro 300x100", **other)
    return path


def write_dicom_slide(
    folder: Path,
    picture: np.ndarray,
    *,
    mpp: float | None = 0.5,
    factors: tuple[int, ...] = (1, 4),
    tile: int = 128,
    syntax: Any = JPEGBaseline8Bit,
    sparse: bool = False,
    label: bool = True,
) -> list[Path]:
    """Write slide microscopy: a file a level, tiled in full order, and a label that names a patient."""
    folder.mkdir(parents=True, exist_ok=True)
    series = generate_uid()
    study = generate_uid()
    frame_of_reference = generate_uid()
    paths = []
    kinds = [("VOLUME", shrunk(picture, factor) if factor > 1 else picture, factor) for factor in factors]
    if label:
        kinds.append(("LABEL", np.full((tile, tile, 3), 80, np.uint8), 1))
    for number, (kind, pixels, factor) in enumerate(kinds):
        height, width = pixels.shape[:2]
        across, down = -(-width // tile), -(-height // tile)
        padded = np.full((down * tile, across * tile, 3), 255, np.uint8)
        padded[:height, :width] = pixels
        frames = [
            padded[row * tile : (row + 1) * tile, column * tile : (column + 1) * tile]
            for row in range(down)
            for column in range(across)
        ]
        places = [(row, column) for row in range(down) for column in range(across)]
        if sparse:
            # Only frames that are not all white.
            kept = [at for at, frame in enumerate(frames) if (frame < 235).any()]
            frames, places = [frames[at] for at in kept], [places[at] for at in kept]
        file = _dicom_header(kind, series, study, frame_of_reference, number)
        file.Rows = file.Columns = tile
        file.TotalPixelMatrixRows, file.TotalPixelMatrixColumns = height, width
        file.NumberOfFrames = len(frames)
        file.ImagedVolumeWidth, file.ImagedVolumeHeight = width * 0.0005, height * 0.0005
        file.DimensionOrganizationType = "TILED_SPARSE" if sparse else "TILED_FULL"
        if mpp is not None:
            measures = Dataset()
            measures.PixelSpacing = [mpp * factor / 1_000] * 2
            measures.SliceThickness = 0.001
            shared = Dataset()
            shared.PixelMeasuresSequence = [measures]
            file.SharedFunctionalGroupsSequence = [shared]
        if sparse:
            file.PerFrameFunctionalGroupsSequence = [
                _place(row * tile + 1, column * tile + 1) for row, column in places
            ]
        file.file_meta.TransferSyntaxUID = syntax
        if syntax == JPEGBaseline8Bit:
            file.PhotometricInterpretation = "YBR_FULL_422"
            file.PixelData = encapsulate([_jpeg(frame) for frame in frames])
            file.LossyImageCompression = "01"
        else:
            file.PhotometricInterpretation = "RGB"
            file.PixelData = b"".join(frame.tobytes() for frame in frames)
        path = folder / f"{number}.dcm"
        file.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _dicom_header(kind: str, series: str, study: str, frame_of_reference: str, number: int) -> Dataset:
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    file.StudyInstanceUID, file.SeriesInstanceUID, file.FrameOfReferenceUID = study, series, frame_of_reference
    file.PatientName, file.PatientID, file.PatientSex = "Doe^Jane", "4711", "F"
    file.Modality, file.Manufacturer, file.InstanceNumber = "SM", "Osler", number + 1
    file.ContainerIdentifier, file.BurnedInAnnotation = "S 2026 1", "NO"
    file.ImageType = ["ORIGINAL" if number == 0 else "DERIVED", "PRIMARY", kind, "NONE" if number == 0 else "RESAMPLED"]
    file.SamplesPerPixel, file.PlanarConfiguration = 3, 0
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 8, 8, 7, 0
    file.NumberOfOpticalPaths = file.TotalPixelMatrixFocalPlanes = 1
    return file


def _place(top: int, left: int) -> Dataset:
    place = Dataset()
    place.RowPositionInTotalImagePixelMatrix, place.ColumnPositionInTotalImagePixelMatrix = top, left
    group = Dataset()
    group.PlanePositionSlideSequence = [place]
    return group


def _jpeg(frame: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, "JPEG", quality=92, subsampling=1)
    return stream.getvalue()
