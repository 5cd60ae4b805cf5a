"""Regions of slides are those that OpenSlide gives, to the pixel, in every format that both read; and those drawn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
from osler.errors import SourceError
from osler.sources.decoder import Here
from osler.sources.slides import SlideReader
from osler.sources.workers import Workers
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit
from slide_files import draw_slide, shrunk, write_dicom_slide, write_slide

FORMS: dict[str, dict[str, Any]] = {
    "svs, JPEG": {"kind": "svs", "compression": "jpeg"},
    "svs, JPEG of RGB": {"kind": "svs", "compression": "jpeg", "compressionargs": {"outcolorspace": "rgb"}},
    "svs, JPEG 2000": {"kind": "svs", "compression": 33005},
    "svs, JPEG 2000 of YCbCr": {"kind": "svs", "compression": 33003},
    "JPEG, subsampled": {"compression": "jpeg", "subsampling": (2, 2)},
    "LZW": {"compression": "lzw", "predictor": True},
    "deflate": {"compression": "zlib"},
    "plain": {},
    "BigTIFF": {"bigtiff": True, "compression": "jpeg"},
    "three levels": {"factors": (1, 2, 8), "compression": "jpeg"},
    "other tiles": {"tile": 176, "compression": "jpeg"},
}
LOSSLESS = ("JPEG 2000", "LZW", "deflate", "plain")
BOXES = [(100, 200, 324, 424), (0, 0, 64, 64), (1_000, 700, 1_150, 850), (255, 255, 257, 257)]


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return draw_slide(904, 1_256, 3)[0]


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    found = Workers(1)
    yield found
    found.close()


@pytest.mark.parametrize("form", FORMS)
def test_every_form(form: str, picture: np.ndarray, workers: Workers, tmp_path: Path) -> None:
    path = write_slide(tmp_path / "slide.svs", picture, **FORMS[form])
    here, there, oracle = Here().slide([path], "tiff"), workers.slide([path], "tiff"), openslide.OpenSlide(path)
    assert here.info == there.info
    assert here.info.mpp == (0.5, 0.5) == (float(oracle.properties["openslide.mpp-x"]),) * 2
    assert set(oracle.level_dimensions) <= set(here.info.levels)
    # The library's own rounding of YCbCr is off by one at most.
    slack = 1 if form.endswith("YCbCr") else 0
    for number, (width, height) in enumerate(oracle.level_dimensions):
        factor = round(oracle.level_downsamples[number])
        for left, top, right, bottom in BOXES:
            box = tuple(side // factor * factor for side in (left, top, right, bottom))
            size = (max(1, (box[2] - box[0]) // factor), max(1, (box[3] - box[1]) // factor))
            box = (box[0], box[1], box[0] + size[0] * factor, box[1] + size[1] * factor)
            if box[2] // factor > width or box[3] // factor > height:
                continue
            expected = np.asarray(oracle.read_region(box[:2], number, size).convert("RGB")).astype(int)
            found = here.region(box, *size)
            assert np.abs(found - expected).max() <= slack, (number, box)
            assert np.array_equal(found, there.region(box, *size))
    if any(form.endswith(one) for one in LOSSLESS):
        assert np.array_equal(here.region((0, 0, 1_256, 904), 1_256, 904), picture)
    oracle.close()
    there.close()


@pytest.mark.parametrize(
    "form",
    [
        {"syntax": JPEGBaseline8Bit},
        {"syntax": ExplicitVRLittleEndian},
        {"sparse": True},
        {"sparse": True, "syntax": ExplicitVRLittleEndian},
    ],
    ids=str,
)
def test_dicom(form: dict[str, Any], picture: np.ndarray, workers: Workers, tmp_path: Path) -> None:
    paths = write_dicom_slide(tmp_path, picture, **form)
    here, there, oracle = Here().slide(paths, "dicom"), workers.slide(paths, "dicom"), openslide.OpenSlide(paths[0])
    assert here.info == there.info and here.info.levels == tuple(oracle.level_dimensions)
    assert here.info.mpp == (0.5, 0.5) and here.info.identifiers["patient_id"] == "4711"
    for box, size in (((100, 200, 324, 424), (224, 224)), ((1_106, 804, 1_256, 904), (150, 100))):
        expected = on_glass(oracle.read_region(box[:2], 0, size))
        assert np.array_equal(here.region(box, *size), expected)
        assert np.array_equal(there.region(box, *size), expected)
    expected = on_glass(oracle.read_region((0, 0), 1, (314, 226)))
    assert np.array_equal(here.region((0, 0, 1_256, 904), 314, 226), expected)
    oracle.close()
    there.close()


def on_glass(region: Image.Image) -> np.ndarray:
    """What was not scanned has no opacity there, and is white here."""
    glass = Image.new("RGBA", region.size, (255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(glass, region).convert("RGB"))


def test_dicom_that_openslide_does_not_take(picture: np.ndarray, tmp_path: Path) -> None:
    paths = write_dicom_slide(tmp_path, picture, syntax=ImplicitVRLittleEndian, label=False)
    found = Here().slide(paths, "dicom")
    assert np.array_equal(found.region((0, 0, 1_256, 904), 1_256, 904), picture)


def test_the_other_byte_order(picture: np.ndarray, tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.tif", picture, compression="zlib", byteorder=">")
    found = Here().slide([path], "tiff")
    assert found.info.levels == ((1_256, 904), (314, 226)) and found.info.mpp == (0.5, 0.5)
    assert np.array_equal(found.region((0, 0, 1_256, 904), 1_256, 904), picture)


def test_levels_in_subifds(picture: np.ndarray, tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.ome.tif", picture, kind="ome", factors=(1, 2, 4), compression="zlib")
    found = Here().slide([path], "tiff")
    assert (found.info.format, found.info.mpp) == ("ome-tiff", (0.5, 0.5))
    assert found.info.levels == ((1_256, 904), (628, 452), (314, 226))
    assert np.array_equal(found.region((0, 0, 1_256, 904), 314, 226), shrunk(picture, 4))


def test_levels_that_were_cut_to_whole_pixels_keep_their_place(picture: np.ndarray, tmp_path: Path) -> None:
    """1,250 / 312 is not 4, and a level's pixel is four of the finest all the same."""
    cut = picture[:900, :1_250]
    path = write_slide(tmp_path / "a.tif", cut, compression="zlib")
    slide = Here().slide([path], "tiff")
    assert slide.info.levels == ((1_250, 900), (312, 225))
    assert np.array_equal(slide.region((800, 400, 1_200, 800), 100, 100), shrunk(cut, 4)[100:200, 200:300])


def test_openslide_itself_gives_the_same_where_it_is_asked_for(
    picture: np.ndarray, workers: Workers, tmp_path: Path
) -> None:
    path = write_slide(tmp_path / "slide.svs", picture, kind="svs", compression="jpeg")
    own, other = workers.slide([path], "tiff"), workers.slide([path], "openslide")
    assert other.info.format == "openslide aperio" and other.info.mpp == own.info.mpp
    for box in BOXES:
        size = (box[2] - box[0], box[3] - box[1])
        assert np.array_equal(own.region(box, *size), other.region(box, *size))
    own.close()
    other.close()


def test_a_region_is_made_from_the_nearest_finer_level(picture: np.ndarray, tmp_path: Path) -> None:
    """Each level has a colour of its own here, so that it shows where pixels come from."""
    import tifffile

    path = tmp_path / "colours.tif"
    with tifffile.TiffWriter(path) as tiff:
        for grey, factor in ((10, 1), (40, 4), (160, 16)):
            level = np.full((1_024 // factor, 1_024 // factor, 3), grey, np.uint8)
            tiff.write(level, tile=(64, 64), photometric="rgb", metadata=None, subfiletype=int(factor > 1))
    slide = Here().slide([path], "tiff")
    greys = {1: 10, 2: 10, 3.98: 40, 4: 40, 8: 40, 15: 40, 16: 160, 30: 160, 0.95: 10}
    for factor, grey in greys.items():
        assert set(np.unique(slide.region((0, 0, 1_000, 1_000), round(1_000 / factor), round(1_000 / factor)))) == {
            grey
        }


def test_resampling_sees_nothing_outside_its_box(picture: np.ndarray, tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.tif", picture, compression="zlib", factors=(1,))
    slide: SlideReader = Here().slide([path], "tiff")
    box = (100, 150, 548, 600)
    cut = Image.fromarray(picture[150:600, 100:548]).resize((224, 224), Image.Resampling.BICUBIC)
    assert np.array_equal(slide.region(box, 224, 224), np.asarray(cut))
    # Over the edge it is white.
    over = slide.region((1_206, 854, 1_306, 954), 100, 100)
    assert np.array_equal(over[:50, :50], picture[854:, 1_206:])
    assert (over[50:] == 255).all() and (over[:, 50:] == 255).all()
    assert (slide.region((-200, -200, -100, -100), 50, 50) == 255).all()


def test_a_large_region_is_read_in_bands(picture: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from osler.sources import slides

    path = write_slide(tmp_path / "a.tif", picture, compression="zlib", factors=(1,))
    at_once = Here().slide([path], "tiff").region((0, 0, 1_256, 904), 157, 113)
    monkeypatch.setattr(slides, "_BAND_PIXELS", 60_000)
    in_bands = Here().slide([path], "tiff").region((0, 0, 1_256, 904), 157, 113)
    assert np.abs(in_bands.astype(int) - at_once).mean() < 2
    monkeypatch.setattr(slides, "_MOST_REGION_PIXELS", 60_000)
    with pytest.raises(SourceError, match="no level that is coarse enough") as caught:
        Here().slide([path], "tiff").region((0, 0, 1_256, 904), 157, 113)
    assert caught.value.code == "no_level"


@pytest.mark.parametrize("samples", ["grey", "16 bits", "alpha", "planes", "white is zero"])
def test_other_samples(samples: str, picture: np.ndarray, tmp_path: Path) -> None:
    import tifffile

    small = picture[:300, :400]
    options: dict[str, Any] = {"tile": (128, 128), "compression": "zlib", "metadata": None, "photometric": "rgb"}
    stored, expected = small, small
    if samples in ("grey", "white is zero"):
        stored, options["photometric"] = small[..., 0], "minisblack" if samples == "grey" else "miniswhite"
        expected = np.repeat((small if samples == "grey" else 255 - small)[..., :1], 3, axis=2)
    elif samples == "16 bits":
        stored = small.astype(np.uint16) << 8
    elif samples == "alpha":
        stored = np.concatenate([small, np.full((300, 400, 1), 255, np.uint8)], axis=2)
        options["extrasamples"] = ["unassalpha"]
    else:
        stored, options["planarconfig"] = np.ascontiguousarray(small.transpose(2, 0, 1)), "separate"
    tifffile.imwrite(tmp_path / "a.tif", stored, **options)
    found = Here().slide([tmp_path / "a.tif"], "tiff")
    assert np.array_equal(found.region((0, 0, 400, 300), 400, 300), expected)
