"""`Volume`: checked when it is made, unchanged afterwards, and the same after a trip to another process."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from osler.items import Volume

AFFINE = np.array([[-0.8, 0, 0, 10], [0, -0.8, 0.3, 20], [0, 0, 3, -30], [0, 0, 0, 1.0]])


@pytest.mark.parametrize("dtype", ["bool", "u1", "i1", "i2", ">i2", "u2", "i4", "i8", "f2", "f4", "f8"])
def test_values_keep_their_type_up_to_16_bits(dtype: str) -> None:
    values = np.array([[[0, 1], [1, 0]]], dtype)
    volume = Volume(values, AFFINE)
    kept = np.dtype(dtype).newbyteorder("=") if dtype in ("u1", "i1", "i2", ">i2", "u2") else np.dtype("f4")
    assert volume.array.dtype == (np.dtype("u1") if dtype == "bool" else kept)
    np.testing.assert_array_equal(volume.array, values)


def test_spacing_is_the_length_of_the_axes() -> None:
    volume = Volume(np.zeros((2, 3, 4)), AFFINE, units="HU")
    np.testing.assert_allclose(volume.spacing, (0.8, 0.8, np.hypot(0.3, 3)))
    assert volume.shape == (2, 3, 4) and repr(volume) == "<osler Volume 2 x 3 x 4, float32, HU>"


def test_it_cannot_be_changed() -> None:
    given, affine = np.zeros((2, 3, 4), np.int16), AFFINE.copy()
    volume = Volume(given, affine, findings={"gantry_tilt": "x"})
    for array in (volume.array, volume.affine):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    for name in ("array", "affine", "units", "findings"):
        with pytest.raises(AttributeError):
            setattr(volume, name, None)
    with pytest.raises(TypeError):
        volume.findings["more"] = "y"  # type: ignore[index]
    # What was given stays the caller's.
    given[0, 0, 0] = 5
    affine[0, 0] = 9.0
    assert volume.affine[0, 0] == -0.8


def test_it_pickles() -> None:
    volume = Volume(np.arange(24, dtype=np.int16).reshape(2, 3, 4), AFFINE, units="HU", findings={"gantry_tilt": "x"})
    again = pickle.loads(pickle.dumps(volume))
    np.testing.assert_array_equal(again.array, volume.array)
    np.testing.assert_array_equal(again.affine, volume.affine)
    assert (again.units, dict(again.findings)) == ("HU", {"gantry_tilt": "x"})


@pytest.mark.parametrize(
    ("array", "affine", "words"),
    [
        (np.zeros((2, 3)), AFFINE, r"has shape \(2, 3\); it must have three axes"),
        (np.zeros((2, 0, 3)), AFFINE, "at least one voxel"),
        (np.zeros((2, 3, 4), complex), AFFINE, "has dtype complex128; convert it"),
        (np.full((2, 2, 2), np.nan), AFFINE, "NaN or infinity"),
        (np.full((2, 2, 2), 1e300), AFFINE, "NaN or infinity"),
        (np.zeros((2, 2, 2)), np.eye(3), r"no \(4, 4\) matrix"),
        (np.zeros((2, 2, 2)), np.full((4, 4), np.nan), r"no \(4, 4\) matrix"),
        (np.zeros((2, 2, 2)), np.ones((4, 4)), r"no \(4, 4\) matrix"),
        (np.zeros((2, 2, 2)), np.diag([1.0, 0.0, 1.0, 1.0]), "do not span space"),
        (
            np.zeros((2, 2, 2)),
            np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
            "do not span space",
        ),
    ],
)
def test_what_is_no_volume_is_refused(array: Any, affine: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Volume(array, affine)
