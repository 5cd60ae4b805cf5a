"""YBR, palettes and planes become RGB, against plain re-statements of the standard and files with known pixels."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pydicom
import pytest
from dicom_files import build, path_of
from hypothesis import given
from hypothesis import strategies as st
from osler.decode import read_pixels
from osler.decode.colour import expand, ybr_to_rgb
from pydicom.pixels import apply_color_lut


def _rgb(ybr: np.ndarray) -> np.ndarray:
    """PS3.3 C.7.6.3.1.2, solved for R, G and B."""
    matrix = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
    return np.clip((ybr.astype(float) - [0, 128, 128]) @ np.linalg.inv(matrix).T, 0, 255)


@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=20))
def test_ybr_is_solved_for_rgb(values: list[tuple[int, int, int]]) -> None:
    ybr = np.array([values], dtype=np.uint8)
    assert np.abs(ybr_to_rgb(ybr, 8) - _rgb(ybr)).max() <= 1.6
    deep = ybr_to_rgb(ybr.astype(np.uint16) * 16, 12)
    assert np.abs(deep / 16 - _rgb(ybr)).max() <= 1.6


@pytest.mark.parametrize(
    ("name", "plain", "most"),
    [
        ("SC_ybr_full_uncompressed.dcm", "SC_rgb.dcm", 4),
        ("SC_ybr_full_422_uncompressed.dcm", "SC_rgb.dcm", 4),
        ("SC_rgb_dcmtk_+eb+cy+n1.dcm", "SC_rgb_dcmtk_ebcyn1_dcmd.dcm", 1),
        ("SC_rgb_dcmtk_+eb+cy+n2.dcm", "SC_rgb_dcmtk_ebcyn2_dcmd.dcm", 1),
        ("SC_rgb_dcmtk_+eb+cy+np.dcm", "SC_rgb_dcmtk_ebcynp_dcmd.dcm", 1),
        ("SC_rgb_dcmtk_+eb+cy+s2.dcm", "SC_rgb_dcmtk_ebcys2_dcmd.dcm", 1),
        ("SC_rgb_dcmtk_+eb+cy+s4.dcm", "SC_rgb_dcmtk_ebcys4_dcmd.dcm", 1),
        ("SC_rgb_dcmtk_+eb+cr.dcm", "SC_rgb_dcmtk_ebcr_dcmd.dcm", 1),
        ("SC_rgb_jpeg.dcm", "SC_rgb_jpeg_dcmd.dcm", 1),
        ("SC_jpeg_no_color_transform.dcm", "SC_rgb_jpeg_dcmd.dcm", 1),
        ("SC_rgb_gdcm_KY.dcm", "SC_rgb_gdcm2k_uncompressed.dcm", 0),
    ],
)
def test_encoded_colour_equals_the_same_file_decoded_by_another_program(name: str, plain: str, most: int) -> None:
    found, wanted = (read_pixels(path_of(file)).frames[0].astype(int) for file in (name, plain))
    difference = np.abs(found - wanted)
    # Chroma that was subsampled is spread by different filters at the edges of the colour bars.
    assert np.quantile(difference, 0.95) <= most and difference.mean() < 1.0


@pytest.mark.parametrize("name", ["SC_rgb_jpeg_app14_dcmd.dcm", "SC_jpeg_no_color_transform_2.dcm"])
def test_a_marker_that_denies_a_colour_transform_is_believed(name: str) -> None:
    encoded = next(pydicom.encaps.generate_frames(pydicom.dcmread(path_of(name)).PixelData, number_of_frames=1))
    np.testing.assert_array_equal(read_pixels(path_of(name)).frames[0], imagecodecs.jpeg_decode(encoded))


def test_a_cine_of_jpeg_frames_agrees_with_another_decoder() -> None:
    dataset = pydicom.dcmread(path_of("examples_ybr_color.dcm"))
    frames = read_pixels(path_of("examples_ybr_color.dcm")).frames
    assert len(frames) == 30
    encoded = list(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=30))
    for i in (0, 29):
        assert np.abs(frames[i].astype(int) - imagecodecs.jpeg_decode(encoded[i])).max() <= 1


def test_a_large_cine_is_decoded_again_and_stays_the_same() -> None:
    frames = read_pixels(path_of("color3d_jpeg_baseline.dcm")).frames
    assert len(frames) == 120 and frames[-1].shape == (480, 640, 3)
    np.testing.assert_array_equal(frames[7], frames[7])
    assert len(frames[3:5]) == 2
    with pytest.raises(IndexError):
        frames[120]


@pytest.mark.parametrize("name", ["OBXXXX1A.dcm", "examples_palette.dcm", "gdcm-US-ALOKA-16.dcm"])
def test_palettes_agree_with_pydicom(name: str) -> None:
    dataset = pydicom.dcmread(path_of(name))
    wanted = apply_color_lut(dataset.pixel_array, dataset)
    found = read_pixels(path_of(name)).frames[0]
    if found.dtype != wanted.dtype:
        wanted = (wanted >> 8).astype(np.uint8)
    # A linear segment may be rounded up or down.
    assert np.abs(found.astype(int) - wanted).max() <= (0 if "ALOKA" not in name else 1)


def test_a_supplemental_palette_colours_from_its_first_entry_on() -> None:
    dataset = pydicom.dcmread(path_of("eCT_Supplemental.dcm"))
    stored, first = dataset.pixel_array[0], dataset.RedPaletteColorLookupTableDescriptor[1]
    frame = read_pixels(path_of("eCT_Supplemental.dcm")).frames[0]
    grey = (frame == frame[..., :1]).all(axis=-1)
    covered = stored >= first
    assert covered.any() and grey[~covered].all()
    tables = [getattr(dataset, f"{colour}PaletteColorLookupTableData") for colour in ("Red", "Green", "Blue")]
    palette = np.stack([np.frombuffer(table, "<u2") for table in tables], axis=-1)
    wanted = palette[np.minimum(stored[covered] - first, len(palette) - 1)]
    np.testing.assert_array_equal(frame[covered], wanted if (palette & 0xFF).any() else (wanted >> 8) * 257)


def test_planes_of_sixteen_bits_are_put_together() -> None:
    pixels = np.random.default_rng(2).integers(0, 4096, (5, 7, 3)).astype(np.uint16)
    planes = pixels.transpose(2, 0, 1).tobytes()
    data = build(pixels, PlanarConfiguration=1, PixelData=planes, BitsStored=12, HighBit=11)
    expected = np.rint(pixels * (65535 / 4095)).astype(np.uint16)
    np.testing.assert_array_equal(read_pixels(data).frames[0], expected)


def test_subsampled_colour_that_is_whole_is_read_as_it_is() -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    whole = read_pixels(build(pixels, PhotometricInterpretation="YBR_FULL")).frames[0]
    mislabelled = read_pixels(build(pixels, PhotometricInterpretation="YBR_FULL_422")).frames[0]
    np.testing.assert_array_equal(whole, mislabelled)


def test_segments_of_a_palette() -> None:
    discrete, linear = [0, 3, 10, 20, 30], [1, 5, 80]
    table = expand(np.array([*discrete, *linear], dtype=np.uint16), 16)
    np.testing.assert_array_equal(table, [10, 20, 30, 40, 50, 60, 70, 80])
    # Two segments again, from the start: a byte offset of 0 in two words.
    again = expand(np.array([*discrete, *linear, 2, 2, 0, 0], dtype=np.uint16), 16)
    np.testing.assert_array_equal(again, [*table, *table])
    for damaged in ([0, 9, 1], [1, 3, 5], [2, 1, 99, 0], [7, 1, 1]):
        with pytest.raises(ValueError, match="segment"):
            expand(np.array(damaged, dtype=np.uint16), 16)
