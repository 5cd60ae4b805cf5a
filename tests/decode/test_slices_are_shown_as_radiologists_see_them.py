"""Slices of a volume are turned as images are read, whatever the order and direction of its axes."""

from __future__ import annotations

from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from osler.decode.volumes import Slices, _percentiles, oriented
from osler.items import Volume

CODES = [
    "".join(pair[way] for pair, way in zip(pairs, ways, strict=True))
    for pairs in permutations(("RL", "AP", "SI"))
    for ways in product((0, 1), repeat=3)
]


def body() -> Volume:
    """A body in RAS with one bright voxel at the patient's right, in front, near the head."""
    values = np.zeros((6, 7, 8), np.int16)
    values[5, 6, 7] = 1000
    return Volume(values, np.diag([1.0, 2.0, 3.0, 1.0]))


def stored_as(volume: Volume, codes: str) -> Volume:
    array, affine = oriented(volume.array, volume.affine, codes)
    return Volume(array, affine)


@pytest.mark.parametrize("codes", CODES)
def test_any_storage_gives_the_same_slices(codes: str) -> None:
    volume, turned = body(), stored_as(body(), codes)
    for axis in ("axial", "coronal", "sagittal"):
        for one, other in zip(Slices(volume, axis), Slices(turned, axis), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("axis", "count", "shape", "slice_", "row", "column", "spacing"),
    [
        # Towards the head last; the front at the top; the patient's right at the left edge.
        ("axial", 8, (7, 6), 7, 0, 0, (2.0, 1.0, 3.0)),
        # Towards the front last; the head at the top; the patient's right at the left edge.
        ("coronal", 7, (8, 6), 6, 0, 0, (3.0, 1.0, 2.0)),
        # From right to left; the head at the top; the front at the left edge.
        ("sagittal", 6, (8, 7), 0, 0, 0, (3.0, 2.0, 1.0)),
    ],
)
def test_directions(axis: Any, count: int, shape: Any, slice_: int, row: int, column: int, spacing: Any) -> None:
    slices = Slices(body(), axis)
    assert len(slices) == count and slices.shape == slices[0].shape == shape
    assert (*slices.spacing, slices.distance) == spacing
    places = np.argwhere(np.stack(list(slices)))
    assert places.tolist() == [[slice_, row, column]]


def test_oriented_agrees_with_nibabel_on_its_affine() -> None:
    volume = body()
    for codes in CODES:
        _, affine = oriented(volume.array, volume.affine, codes)
        turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
        np.testing.assert_array_equal(affine, volume.affine @ inv_ornt_aff(turn, volume.shape))


def test_oblique_axes_take_the_nearest() -> None:
    affine = np.eye(4)
    angle = np.radians(30)
    affine[:2, :2] = [[-np.cos(angle), np.sin(angle)], [-np.sin(angle), -np.cos(angle)]]
    assert Slices(Volume(np.zeros((3, 4, 5)), affine)).shape == (4, 3)


def test_values_are_shown_between_two_percentiles_of_the_volume_or_in_a_window() -> None:
    values = np.random.default_rng(2).normal(50.0, 20.0, (20, 20, 20)).astype(np.float32)
    volume = Volume(values, np.eye(4))
    low, high = np.percentile(values, (0.5, 99.5))
    shown = np.stack(list(Slices(volume)))
    wanted = np.rint(np.clip((values - low) / (high - low), 0, 1) * 65535)[::-1, ::-1].transpose(2, 1, 0)
    assert np.abs(shown.astype(np.int64) - wanted).max() <= 1
    windowed = Slices(volume, window=(0.0, 100.0))
    np.testing.assert_array_equal(
        windowed[3], np.rint(np.clip(values.astype(np.float64) / 100.0, 0, 1) * 65535)[::-1, ::-1, 3].T
    )


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2"])
def test_counted_percentiles_are_those_of_numpy(dtype: str) -> None:
    rng = np.random.default_rng(9)
    limits = np.iinfo(dtype)
    for shape in ((1, 1, 1), (2, 1, 1), (5, 4, 3), (20, 30, 40)):
        for top in (limits.min + 3, limits.max):
            values = rng.integers(limits.min, top, shape, dtype=dtype, endpoint=True)
            found = _percentiles(values, (0.5, 99.5))
            wanted = np.percentile(values.astype(np.float64), (0.5, 99.5))
            np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_flat_and_nearly_flat_volumes() -> None:
    flat = Volume(np.full((2, 2, 2), 7), np.eye(4))
    assert not np.any(list(Slices(flat)))
    values = np.zeros((30, 30, 30))
    values[3, 3, 3] = 5.0
    assert np.stack(list(Slices(Volume(values, np.eye(4))))).max() == 65535


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"axis": "oblique"}, "axis is 'oblique'; use 'axial', 'coronal' or 'sagittal'"),
        ({"window": (3.0, 1.0)}, "the first is the lower"),
        ({"window": (float("nan"), 1.0)}, "the first is the lower"),
    ],
)
def test_wrong_options(options: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Slices(body(), **options)


def test_slices_are_a_sequence_that_cannot_be_written_to() -> None:
    slices = Slices(body())
    assert len(slices[2:4]) == 2
    with pytest.raises(IndexError):
        slices[8]
    with pytest.raises(ValueError, match="read-only"):
        slices[0][0, 0] = 1
