"""A path, a PIL image and an array of one picture give one vector, alone or in a batch; anything else is explained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import osler
import pytest
from dicom_files import path_of
from osler.decode import read_pixels
from PIL import Image


@pytest.fixture(scope="module")
def encoder() -> osler.Encoder:
    return osler.load_encoder("efficientnet-lite0")


def same(encoder: osler.Encoder, *forms: Any) -> np.ndarray:
    vectors = encoder.encode_images(forms)
    for vector in vectors[1:]:
        np.testing.assert_array_equal(vector, vectors[0])
    return vectors[0]


@pytest.mark.parametrize("suffix", ["png", "tiff", "bmp"])
def test_colour_pictures(encoder, tmp_path: Path, rng, suffix: str) -> None:
    array = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(array).save(path)
    with Image.open(path) as opened:
        same(encoder, array, path, str(path), Image.fromarray(array), opened, np.asfortranarray(array))


def test_grey_pictures_equal_their_rgb_copy(encoder, tmp_path: Path, rng) -> None:
    array = rng.integers(0, 256, (40, 60), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    same(encoder, array, array[:, :, None], np.stack([array] * 3, axis=2), tmp_path / "a.png", Image.fromarray(array))


def test_sixteen_bit_and_float_pictures(encoder, tmp_path: Path, rng) -> None:
    array = rng.integers(0, 65536, (40, 60), dtype=np.uint16)
    Image.fromarray(array).save(tmp_path / "a.png")
    Image.fromarray(array).save(tmp_path / "a.tiff")
    vector = same(encoder, array, tmp_path / "a.png", tmp_path / "a.tiff", Image.fromarray(array))
    scaled = array.astype(np.float64) / 65535
    near = encoder.encode_images([scaled, scaled.astype(np.float32), np.rint(array / 257).astype(np.uint8)])
    assert (near @ vector)[:2].min() > 0.999999
    assert (near @ vector)[2] > 0.999


def test_exif_turns_the_picture(encoder, tmp_path: Path, rng) -> None:
    array = rng.integers(0, 256, (16, 32, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(array).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as opened:
        vector = same(encoder, np.rot90(array, 3), tmp_path / "turned.png", opened)
    assert vector @ encoder.encode_images([array])[0] < 0.999


@pytest.mark.parametrize("name", ["CT_small.dcm", "RG1_UNCR.dcm", "US1_UNCR.dcm", "examples_palette.dcm"])
def test_dicom_files(encoder, name: str) -> None:
    same(encoder, path_of(name), str(path_of(name)), read_pixels(path_of(name)).frames[0])


def test_a_batch_equals_single_calls(encoder, rng) -> None:
    pictures = [rng.integers(0, 256, (20 + i, 50 - i, 3), dtype=np.uint8) for i in range(21)]
    single = np.concatenate([encoder.encode_images([picture]) for picture in pictures])
    for size in (None, 1, 4, 100):
        np.testing.assert_array_equal(encoder.encode_images(pictures, batch_size=size), single)
    np.testing.assert_array_equal(encoder.encode_images(iter(pictures)), single)
    np.testing.assert_array_equal(encoder.encode_images(np.stack([pictures[0]] * 3)), single[[0, 0, 0]])


def test_rows_are_unit_float32_and_nothing_is_an_answer(encoder, rng) -> None:
    vectors = encoder.encode_images([rng.random((9, 9)), np.zeros((3, 3), dtype=np.uint8)])
    assert vectors.dtype == np.float32 and vectors.shape == (2, encoder.dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    assert encoder.encode_images([]).shape == (0, encoder.dim)


GOOD = np.zeros((8, 8), dtype=np.uint8)
BAD = [
    (np.zeros((8, 8, 4), dtype=np.uint8), ValueError, r"image 1 has shape \(8, 8, 4\); it must be \(H, W\)"),
    (np.zeros(8, dtype=np.uint8), ValueError, "image 1 has shape"),
    (np.zeros((0, 8), dtype=np.uint8), ValueError, "holds no pixel"),
    (np.full((8, 8), np.nan), ValueError, "image 1 holds NaN or infinity"),
    (np.full((8, 8), np.inf, dtype=np.float32), ValueError, "image 1 holds NaN or infinity"),
    (np.zeros((8, 8), dtype=np.int32), ValueError, "dtype int32; convert"),
    (np.zeros((8, 8), dtype=bool), ValueError, "dtype bool; convert"),
    (None, TypeError, "image 1 is a NoneType"),
    (b"bytes", TypeError, "image 1 is a bytes"),
    ([[0, 1], [2, 3]], TypeError, "image 1 is a list"),
]


@pytest.mark.parametrize(("value", "error", "message"), BAD)
def test_wrong_input_is_named_by_position(encoder, value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        encoder.encode_images([GOOD, value, GOOD])


def test_paths_are_never_in_a_message(encoder, tmp_path: Path) -> None:
    folder = tmp_path / "mrs-smith"
    folder.mkdir()
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.dcm").write_bytes(b"hello mrs-smith, this is no picture at all")
    cases = {folder / "none.png": FileNotFoundError, folder: IsADirectoryError}
    cases |= {folder / "empty.png": osler.SourceError, folder / "text.dcm": osler.SourceError}
    for path, error in cases.items():
        with pytest.raises(error, match="image 1 ") as caught:
            encoder.encode_images([GOOD, path])
        assert "smith" not in str(caught.value)


def test_several_frames_are_sent_elsewhere(encoder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image 0 has 2 frames; pass the frames you want as arrays, or add the file"):
        encoder.encode_images([path_of("OBXXXX1A_2frame.dcm")])
    pages = [Image.fromarray(GOOD), Image.fromarray(GOOD)]
    pages[0].save(tmp_path / "pages.tiff", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match="has 2 frames"):
        encoder.encode_images([tmp_path / "pages.tiff"])


@pytest.mark.parametrize("value", ["a.png", Path("a.png"), b"", GOOD, np.zeros((8, 8, 3)), Image.new("L", (4, 4))])
def test_one_picture_is_not_several(encoder, value: Any) -> None:
    with pytest.raises(TypeError, match="pass a list"):
        encoder.encode_images(value)


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "8"])
def test_batch_sizes_are_whole_and_positive(encoder, size: Any) -> None:
    with pytest.raises(ValueError, match=r"batch_size is .* at least 1"):
        encoder.encode_images([GOOD], batch_size=size)


def test_the_missing_tower_is_named(encoder) -> None:
    with pytest.raises(ValueError, match="efficientnet-lite0 has no text tower; it takes image only"):
        encoder.encode_texts(["lung"])
    with pytest.raises(ValueError, match="minilm has no image tower"):
        osler.load_encoder("minilm").encode_images([GOOD])


def test_progress_counts_and_can_stop(encoder) -> None:
    seen: list[tuple[int, int]] = []
    encoder.encode_images([GOOD] * 5, batch_size=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 5), (4, 5), (5, 5)]
    with pytest.raises(KeyboardInterrupt):
        encoder.encode_images([GOOD] * 5, batch_size=2, progress=lambda done, total: False)
