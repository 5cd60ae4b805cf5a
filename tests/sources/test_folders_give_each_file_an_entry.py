"""Every file below a folder has one entry, in a fixed order, and each is read or refused by itself."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from dicom_files import build
from osler.errors import SourceError
from osler.items import Locator
from osler.sources import Source, open_source
from PIL import Image

GREY = np.arange(30, dtype=np.uint8).reshape(5, 6)


def _png(pixels: np.ndarray = GREY) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def _outcomes(source: Source) -> dict[str, str]:
    found = {}
    for entry in source.entries:
        try:
            source.read(entry)
            found[entry.locator] = "read"
        except SourceError as error:
            found[entry.locator] = error.code
            assert "\n" not in str(error) and entry.path.name not in str(error)
    return found


def test_each_kind_of_file_has_its_outcome(tmp_path: Path) -> None:
    folder, outside = tmp_path / "cases", tmp_path / "outside"
    for path in (folder / "b" / "deep", folder / "Ä ö", outside):
        path.mkdir(parents=True)
    (folder / "b" / "deep" / "z.png").write_bytes(_png())
    (folder / "Ä ö" / "a.png").write_bytes(_png())
    (folder / ".hidden.png").write_bytes(_png())
    (folder / "scan").write_bytes(build(GREY))
    (folder / "notes.txt").write_text("to do")
    (folder / "paper.pdf").write_bytes(b"%PDF-1.7")
    (folder / "empty.png").write_bytes(b"")
    (outside / "secret.png").write_bytes(_png())
    (folder / "leads out.png").symlink_to(outside / "secret.png")
    (folder / "leads in.png").symlink_to(folder / "b" / "deep" / "z.png")
    (folder / "leads to folder").symlink_to(outside)
    (folder / "dangling.png").symlink_to(folder / "nothing")
    os.mkfifo(folder / "pipe")
    source = open_source(folder)
    assert source.root == folder
    assert _outcomes(source) == {
        ".hidden.png": "read",
        "b/deep/z.png": "read",
        "dangling.png": "missing",
        "empty.png": "empty",
        "leads in.png": "read",
        "leads out.png": "link_not_followed",
        "leads to folder": "link_not_followed",
        "notes.txt": "not_an_image",
        "paper.pdf": "not_an_image",
        "pipe": "not_a_file",
        "scan": "read",
        "Ä ö/a.png": "read",
    }
    locators = [entry.locator for entry in source.entries]
    assert locators == sorted(locators)
    assert [entry.number for entry in source.entries] == list(range(len(locators)))
    assert all(entry.size == entry.path.stat().st_size for entry in source.entries if entry.path.suffix == ".pdf")


def test_a_folder_of_documents_gives_one_sentence_each(tmp_path: Path) -> None:
    for i in range(5):
        (tmp_path / f"{i}.pdf").write_bytes(b"%PDF-1.4 " + bytes([i]))
    source = open_source(tmp_path)
    messages = set()
    for entry in source.entries:
        with pytest.raises(SourceError) as caught:
            source.read(entry)
        messages.add(str(caught.value))
    assert len(source) == 5
    assert messages == {"the file is a PDF document, not an image; Osler reads PNG, JPEG, TIFF, BMP, DICOM and NIfTI"}


def test_a_picture_is_an_item_named_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(_png())
    source = open_source(tmp_path)
    item = source.read(source.entries[0])
    assert item.key == item.locator == "a/x.png"
    assert item.content == _png()
    assert dict(item.metadata) == {"format": "png", "rows": 5, "columns": 6, "frames": 1}
    assert not item.identifiers and [part.locator for part in item.parts] == [Locator()]
    np.testing.assert_array_equal(item.values[0], GREY)


def test_frames_become_parts(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(build(np.stack([GREY] * 3), NumberOfFrames=3))
    source = open_source(tmp_path / "x")
    item = source.read(source.entries[0])
    assert source.root == tmp_path and source.entries[0].locator == "x"
    assert [(part.position, part.locator.frame) for part in item.parts] == [(0, 0), (1, 1), (2, 2)]
    assert len(item.values) == 3 and item.key is None


def test_several_sources_share_a_root_and_no_file_twice(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(_png())
    source = open_source([tmp_path / "b" / "2.png", tmp_path / "a", tmp_path / "b"])
    assert source.root == tmp_path
    assert [entry.locator for entry in source.entries] == ["b/2.png", "a/1.png", "b/1.png"]
    assert set(_outcomes(source).values()) == {"read"}


def test_names_that_are_no_text_get_a_key(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/bad\xff.png"
    with open(path, "wb") as stream:
        stream.write(_png())
    source = open_source(tmp_path)
    key = source.read(source.entries[0]).key
    assert key == "bad\\xff.png" and key.encode()


def test_a_missing_source_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="'nowhere' is not there"):
        open_source("nowhere")
    with pytest.raises(ValueError, match="no source"):
        open_source([])
    with pytest.raises(ValueError, match="'file' or 'series'"):
        open_source(".", items="study")  # type: ignore[arg-type]


def test_nothing_shows_a_path_unasked(tmp_path: Path) -> None:
    (tmp_path / "Doe_John.png").write_bytes(_png())
    source = open_source(tmp_path)
    item = source.read(source.entries[0])
    for text in (repr(source), repr(source.entries[0]), repr(item)):
        assert "Doe" not in text
