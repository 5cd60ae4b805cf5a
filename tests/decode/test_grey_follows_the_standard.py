"""Rescale, look-up tables, windows, padding and inversion do what DICOM PS3.3 says, against re-statements of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import build, path_of, sequence
from hypothesis import given
from hypothesis import strategies as st
from osler.decode import read_pixels
from osler.decode.display import Greys, Lut, Rule, Window, window
from pydicom.pixels import apply_modality_lut

finite = st.floats(-1e5, 1e5)


def _linear(x: float, c: float, w: float) -> float:
    """PS3.3 C.11.2.1.2.1, as its pseudo-code is written."""
    if x <= c - 0.5 - (w - 1) / 2:
        return 0.0
    if x > c - 0.5 + (w - 1) / 2:
        return 1.0
    return (x - (c - 0.5)) / (w - 1) + 0.5


def _linear_exact(x: float, c: float, w: float) -> float:
    if x <= c - w / 2:
        return 0.0
    return 1.0 if x > c + w / 2 else (x - c) / w + 0.5


def _sigmoid(x: float, c: float, w: float) -> float:
    return 1.0 / (1.0 + math.exp(min(-4.0 * (x - c) / w, 700.0)))


@given(finite, finite, st.floats(1.0, 1e5))
def test_windows_equal_their_formulae(x: float, centre: float, width: float) -> None:
    for curve, formula in (("LINEAR", _linear), ("LINEAR_EXACT", _linear_exact), ("SIGMOID", _sigmoid)):
        if curve == "LINEAR" and 1.0 < width < 1.0 + 1e-6:
            continue
        found = window(np.array([x]), Window(centre, width, curve))[0]  # type: ignore[arg-type]
        assert found == pytest.approx(formula(x, centre, width), abs=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    ["MR_small.dcm", "RG3_J2KR.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm", "bad_sequence.dcm", "MR2_J2KR.dcm",
     "examples_overlay.dcm", "JPGLosslessP14SV1_1s_1f_8b.dcm", "MR-SIEMENS-DICOM-WithOverlays.dcm"],
)  # fmt: skip
def test_windowed_files_agree_with_pydicom_and_the_formula(name: str) -> None:
    dataset = pydicom.dcmread(path_of(name))
    centre, width = (
        float(value[0] if isinstance(value, pydicom.multival.MultiValue) else value)
        for value in (dataset.WindowCenter, dataset.WindowWidth)
    )
    stored = dataset.pixel_array
    levels, where = np.unique(apply_modality_lut(stored, dataset), return_inverse=True)
    shown = np.array([_linear(level, centre, width) for level in levels])[where].reshape(stored.shape)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = 1.0 - shown
    if "PixelPaddingValue" in dataset:
        shown[stored == dataset.PixelPaddingValue] = 0.0
    frame = read_pixels(path_of(name)).frames[0]
    top = np.iinfo(frame.dtype).max
    assert np.abs(frame - shown * top).max() <= 0.5 + 1e-6


def test_look_up_tables_of_real_files() -> None:
    for name, holder in (("mlut_18.dcm", "ModalityLUTSequence"), ("vlut_04.dcm", "VOILUTSequence")):
        dataset = pydicom.dcmread(path_of(name))
        table = dataset[holder][0]
        count, first, _ = table.LUTDescriptor
        data = np.asarray(np.frombuffer(table.LUTData, "<u2") if isinstance(table.LUTData, bytes) else table.LUTData)
        assert len(data) == (count or 65536)
        looked_up = data[np.clip(dataset.pixel_array.astype(int) - first, 0, len(data) - 1)].astype(float)
        frame = read_pixels(path_of(name)).frames[0]
        if holder == "VOILUTSequence":
            expected = looked_up / (2 ** int(data.max()).bit_length() - 1)
        else:
            low, high = np.sort(looked_up.ravel())[[int(0.005 * looked_up.size), int(0.995 * looked_up.size)]]
            expected = np.clip((looked_up - low) / (high - low), 0, 1)
        assert np.abs(frame / np.iinfo(frame.dtype).max - expected).max() < 0.01


def _show(pixels: Any, **elements: Any) -> np.ndarray:
    frame: np.ndarray = read_pixels(build(pixels, **elements)).frames[0]
    return frame


RAMP = np.arange(0, 4096, dtype=np.uint16).reshape(64, 64)
TWELVE = {"BitsStored": 12, "HighBit": 11}


def test_monochrome1_is_the_inverse_of_monochrome2() -> None:
    two = _show(RAMP, WindowCenter=2048, WindowWidth=4096, **TWELVE)
    one = _show(RAMP, WindowCenter=2048, WindowWidth=4096, PhotometricInterpretation="MONOCHROME1", **TWELVE)
    assert two[0, 0] == 0 and two[-1, -1] == 65535
    np.testing.assert_array_equal(one, 65535 - two)


def test_rescale_comes_before_the_window_and_its_first_window_counts() -> None:
    frame = _show(
        RAMP, RescaleSlope="2", RescaleIntercept="-1000", WindowCenter=["0", "40"], WindowWidth=["1001", "80"], **TWELVE
    )
    # 2 x - 1000 = 0 half a step above the centre of the window.
    assert frame.ravel()[500] == round(65535 * (0.5 + 0.5 / 1000))
    assert frame.ravel()[0] == 0 and frame.ravel()[800] == 65535


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_stretch_the_range(photometric: str) -> None:
    stored = np.arange(1000, 1064, dtype=np.int16).repeat(8).reshape(16, 32)
    stored[:4] = -2000
    frame = _show(stored, PixelPaddingValue=-2000, PhotometricInterpretation=photometric)
    assert (frame[:4] == 0).all()
    assert len(np.unique(frame[4:])) > 40
    ranged = stored.copy()
    ranged[1] = -1900
    frame = _show(ranged, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1900, PhotometricInterpretation=photometric)
    assert (frame[:4] == 0).all()


def test_without_a_window_the_range_is_that_of_percentiles_over_all_frames() -> None:
    rng = np.random.default_rng(3)
    frames = rng.normal(500, 50, (3, 40, 40)).astype(np.uint16)
    frames[0, 0, 0] = 60000
    pixels = read_pixels(build(frames, NumberOfFrames=3)).frames
    ordered = np.sort(frames.ravel())
    low, high = ordered[int(np.ceil(0.005 * ordered.size)) - 1], ordered[int(np.ceil(0.995 * ordered.size)) - 1]
    for stored, frame in zip(frames, pixels, strict=True):
        expected = np.clip((stored.astype(float) - low) / (float(high) - low), 0, 1) * 65535
        assert np.abs(frame - expected).max() <= 0.5
    sparse = np.zeros((40, 40), np.uint16)
    sparse[0, 0] = 7
    assert _show(sparse)[0, 0] == 65535 and _show(sparse)[1, 1] == 0


def test_eight_bits_without_a_window_are_shown_as_they_are() -> None:
    stored = np.array([[3, 100, 200]], dtype=np.uint8)
    np.testing.assert_array_equal(_show(stored), stored)
    np.testing.assert_array_equal(_show(np.array([[0, 8, 15]], np.uint8), BitsStored=4, HighBit=3), [[0, 136, 255]])
    np.testing.assert_array_equal(_show(np.array([[-128, 0, 127]], np.int8)), [[0, 128, 255]])


def test_a_window_that_hides_everything_is_not_used() -> None:
    elsewhere = _show(RAMP, WindowCenter=60000, WindowWidth=10, **TWELVE)
    np.testing.assert_array_equal(elsewhere, _show(RAMP, **TWELVE))
    for width in (0, -5):
        np.testing.assert_array_equal(_show(RAMP, WindowCenter=5, WindowWidth=width, **TWELVE), elsewhere)


def test_overlay_bits_above_the_stored_ones_are_not_drawn() -> None:
    window_of = {"WindowCenter": 2048, "WindowWidth": 4096, **TWELVE}
    np.testing.assert_array_equal(_show(RAMP | 0x8000, **window_of), _show(RAMP, **window_of))


def test_frames_of_an_enhanced_file_have_their_own_windows() -> None:
    frames = np.stack([RAMP, RAMP])
    groups = sequence(FrameVOILUTSequence=sequence(WindowCenter=2048, WindowWidth=4096))
    groups.append(sequence(FrameVOILUTSequence=sequence(WindowCenter=100, WindowWidth=50))[0])
    shared = sequence(PixelValueTransformationSequence=sequence(RescaleSlope=1, RescaleIntercept=0))
    data = build(
        frames,
        NumberOfFrames=2,
        PerFrameFunctionalGroupsSequence=groups,
        SharedFunctionalGroupsSequence=shared,
        **TWELVE,
    )
    pixels = read_pixels(data).frames
    np.testing.assert_array_equal(pixels[0], _show(RAMP, WindowCenter=2048, WindowWidth=4096, **TWELVE))
    np.testing.assert_array_equal(pixels[1], _show(RAMP, WindowCenter=100, WindowWidth=50, **TWELVE))


@pytest.mark.parametrize("curve", ["LINEAR_EXACT", "SIGMOID"])
def test_the_stated_curve_is_used(curve: str) -> None:
    frame = _show(RAMP, WindowCenter=2000, WindowWidth=1000, VOILUTFunction=curve, **TWELVE)
    formula = _linear_exact if curve == "LINEAR_EXACT" else _sigmoid
    expected = np.array([formula(x, 2000, 1000) for x in RAMP.ravel().tolist()]).reshape(64, 64)
    assert np.abs(frame - expected * 65535).max() <= 0.5


def test_float_pixels_are_shown_between_their_percentiles() -> None:
    values = np.linspace(-3, 9, 4096, dtype=np.float32).reshape(64, 64)
    data = build(RAMP, FloatPixelData=values.tobytes(), PixelData=None, BitsAllocated=32, BitsStored=None)
    frame = read_pixels(data).frames[0]
    assert frame.dtype == np.uint16 and (np.diff(frame.ravel().astype(int)) >= 0).all() and len(np.unique(frame)) > 4000


SLOPES = st.floats(-4.0, 4.0).filter(lambda slope: abs(slope) > 1e-3)


@given(st.integers(0, 1), st.integers(9, 16), SLOPES, st.integers(-2000, 2000))
def test_the_table_of_grey_equals_the_arithmetic(signed: int, bits: int, slope: float, intercept: int) -> None:
    rng = np.random.default_rng(bits)
    low = -(1 << (bits - 1)) if signed else 0
    stored = rng.integers(low, low + (1 << bits), (7, 9)).astype(np.int16 if signed else np.uint16)
    values = stored * slope + intercept
    rule = Rule(slope, float(intercept), window=Window(float(values.mean()), float(np.ptp(values)) + 2.0))
    narrow = Greys(bits, bool(signed), False, None, lambda i: rule, [stored]).show(stored, 0)
    wide = Greys(bits, bool(signed), False, None, lambda i: rule, [stored.astype(np.int32)]).show(
        stored.astype(np.int32), 0
    )
    np.testing.assert_array_equal(narrow, wide)


def test_a_table_of_twelve_bit_entries_that_states_sixteen_reaches_white() -> None:
    rule = Rule(voi=Lut(0, np.arange(4096, dtype=np.uint16), 4095))
    assert Greys(12, False, False, None, lambda i: rule, [RAMP]).show(RAMP, 0).max() == 65535
    lut = sequence(LUTDescriptor=[4096, 0, 16], LUTData=np.arange(4096, dtype="<u2").tobytes())
    assert _show(RAMP, VOILUTSequence=lut, **TWELVE).max() == 65535
