"""Look-ups and counts of the engine equal NumPy's, for each pair of types and order of memory, and refuse the rest."""

from __future__ import annotations

import numpy as np
import pytest
from osler.decode.lookup import count_values, look_up, look_up_planes

WHOLE = (np.uint8, np.uint16)


def arrays(rng: np.random.Generator, dtype: type, most: int) -> list[np.ndarray]:
    """Pictures with and without channels, noisy, with stretches of one value, and cut out of larger ones."""
    shapes = [(1, 1), (0, 4), (4, 0), (7, 5), (40, 33), (6, 9, 3), (5, 4, 1)]
    found = [rng.integers(0, most, shape).astype(dtype) for shape in shapes]
    found.append(np.repeat(rng.integers(0, most, (20, 3)).astype(dtype), 11, axis=1))
    return [*found, *(array[1:, ::-2] for array in found[3:]), found[4].T, np.asfortranarray(found[5])]


@pytest.mark.parametrize("dtype", WHOLE)
@pytest.mark.parametrize("made", [np.uint8, np.uint16, np.float32])
def test_values_become_their_entries(dtype: type, made: type, rng: np.random.Generator) -> None:
    table = rng.integers(0, 256, 256).astype(made)
    for values in arrays(rng, dtype, 256):
        found = look_up(values, table)
        assert found.dtype == made and found.shape == values.shape
        np.testing.assert_array_equal(found, table[values])
        if values.size == 0:
            continue
        first = int(values.min())
        np.testing.assert_array_equal(
            look_up(values, table[: int(values.max()) + 1 - first], first), table[values - values.min()]
        )
    if dtype is np.uint16:
        values, table = np.array([[65_535, 65_000]], dtype), np.arange(65_536).astype(made)
        np.testing.assert_array_equal(look_up(values, table[65_000:], 65_000), table[values])


@pytest.mark.parametrize("dtype", WHOLE)
def test_each_channel_has_its_table(dtype: type, rng: np.random.Generator) -> None:
    tables = rng.normal(size=(3, 256)).astype(np.float32)
    for picture in arrays(rng, dtype, 256):
        channels = picture if picture.ndim == 3 else picture[:, :, None]
        given = np.broadcast_to(channels, (*channels.shape[:2], 3))
        wanted = np.stack([tables[channel][given[:, :, channel]] for channel in range(3)])
        np.testing.assert_array_equal(look_up_planes(channels, tables), wanted)


@pytest.mark.parametrize("dtype", WHOLE)
def test_counts_are_those_of_numpy(dtype: type, rng: np.random.Generator) -> None:
    most = int(np.iinfo(dtype).max)
    for values in [*arrays(rng, dtype, most + 1), np.full((9, 3), most, dtype), np.empty((0, 4), dtype)]:
        np.testing.assert_array_equal(count_values(values), np.bincount(values.ravel(), minlength=most + 1))


def test_what_has_no_entry_is_refused() -> None:
    values = np.array([[3, 9]], dtype=np.uint8)
    table = np.arange(7, dtype=np.float32)
    assert look_up(values, table, 3).tolist() == [[0.0, 6.0]]
    for wrong, first in ((table[:6], 3), (table, 4), (table, 2), (table[:0], 0)):
        with pytest.raises(ValueError, match=r"no entry|do not fit"):
            look_up(values, wrong, first)
    with pytest.raises(ValueError, match="2 tables of 8 entries do not fit 3 channels"):
        look_up_planes(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 4), np.float32))
    for values in (np.zeros((2, 2), np.int16), np.zeros((2, 2), np.float32)):
        with pytest.raises(TypeError):
            look_up(values, table)
        with pytest.raises(TypeError):
            count_values(values)
