"""The HTML of hits: self-contained, escaped, with pictures where the files still are."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import osler
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

HOSTILE = "<script>alert('x')</script><img src=http://example.org/a onerror=alert(1)>\" ' & %s {}"


class Page(HTMLParser):
    """Tags, attributes and text of a page; void and open tags are matched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def pictures(self) -> list[Image.Image]:
        found = []
        for tag, attributes in self.tags:
            if tag == "img":
                kind, data = str(attributes["src"]).split(",", 1)
                assert kind == "data:image/jpeg;base64"
                found.append(Image.open(io.BytesIO(base64.b64decode(data))))
        return found


def written(hits: osler.collection.Hits, path: Path) -> tuple[str, Page]:
    hits.to_html(path)
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def test_pictures_that_were_moved_are_found_again_once_they_are_added_from_their_new_place(
    tmp_path: Path, pictures: Callable[..., Path], tiny: Any
) -> None:
    folder = pictures(3)
    for name in ("CT_small.dcm", "MR_small.dcm"):
        (folder / name).write_bytes(Path(str(get_testdata_file(name, download=False))).read_bytes())
    page = tmp_path / "hits.html"
    with osler.Collection.create(tmp_path / "cases.osler", encoder=tiny) as cases:
        cases.add(folder / "0.png", progress=False)
        cases.add(folder, progress=False)
        cases.delete(["2.png"])
        commit = cases.info().commit
        copy = tmp_path / "copy"
        copy.mkdir()
        (copy / "1.png").write_bytes((folder / "1.png").read_bytes())
        assert cases.add(copy, progress=False).duplicates == 1
        assert cases.info().commit == commit, "a copy is no move"
        (copy / "1.png").unlink()
        moved = folder.rename(tmp_path / "moved")
        assert not written(cases.search(text="a"), page)[1].pictures()
        (moved / "2.png").rename(tmp_path / "elsewhere.png")
        report = cases.add(moved, progress=False)
        assert (report.added, report.skipped, report.duplicates) == (0, 0, 4)
        assert len(written(cases.search(text="a"), page)[1].pictures()) == 4
        cases.verify()
    with osler.Collection.open(tmp_path / "cases.osler", mode="a", encoder=tiny) as cases:
        again = moved.rename(tmp_path / "again")
        cases.search(text="a")
        (tmp_path / "elsewhere.png").rename(again / "new.png")
        report = cases.add(again, progress=False)
        assert (report.added, report.duplicates) == (1, 4)
        assert len(written(cases.search(text="a"), page)[1].pictures()) == 5
        cases.compact()
        assert len(written(cases.search(text="a"), page)[1].pictures()) == 5
        cases.verify()
    with osler.Collection.open(tmp_path / "cases.osler", encoder=tiny) as reader:
        assert len(written(reader.search(text="a"), page)[1].pictures()) == 5


def test_a_page_has_a_picture_score_and_columns_for_each_hit(
    tmp_path: Path, pictures: Callable[..., Path], tiny: Any
) -> None:
    folder = pictures(3)
    (tmp_path / "t.csv").write_text("file,finding\n0.png,effusion\n1.png,\n2.png,normal\n")
    with osler.Collection.create(tmp_path / "cases.osler", encoder=tiny) as cases:
        cases.add(folder, metadata=tmp_path / "t.csv", progress=False)
        hits = cases.search(image=folder / "0.png")
        text, page = written(hits, tmp_path / "hits.html")
    assert len(page.pictures()) == 4
    assert all(max(picture.size) <= 320 for picture in page.pictures())
    original = np.asarray(Image.open(folder / "0.png"), np.float64)
    shown = np.asarray(page.pictures()[1].convert("L"), np.float64)
    assert shown.shape == original.shape
    assert np.abs(shown - original).mean() < 12
    assert "effusion" in text
    assert f"{hits[0].score:.3f}" in page.text
    assert "3 cases of 3 searched, nearest first" in page.text


def test_a_page_loads_nothing_and_says_so(tmp_path: Path, pictures: Callable[..., Path], tiny: Any) -> None:
    with osler.Collection.create(tmp_path / "cases.osler", encoder=tiny) as cases:
        cases.add(pictures(2), progress=False)
        text, page = written(cases.search(text="effusion"), tmp_path / "hits.html")
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "a", "form", "base"}
    without = re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"//|@import|url\(", without)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "prefers-color-scheme: dark" in text
    assert str(tmp_path) not in text


def test_everything_shown_is_escaped(tmp_path: Path, tiny: Any) -> None:
    with osler.Collection.create(tmp_path / "cases.osler", encoder=tiny) as cases:
        cases.add_vectors([HOSTILE], np.ones((1, 16)), metadata=[{HOSTILE: HOSTILE, "list": [HOSTILE, "b"]}])
        for hits in (cases.search(text=HOSTILE), cases.search(vector=np.ones(16)), cases.search(like=HOSTILE)):
            text, page = written(hits, tmp_path / "hits.html")
            assert not {tag for tag, _ in page.tags} & {"script", "img"}
            assert "<script" not in text
        hits = cases.search(text=HOSTILE)
        _, page = written(hits, tmp_path / "hits.html")
        assert sum(HOSTILE in piece for piece in page.text) == 5
        drawn = hits.show()._repr_html_()
        assert "<script" not in drawn
        assert Page(drawn).tags[0][1]["sandbox"] is None


def test_a_file_that_is_gone_leaves_a_placeholder(tmp_path: Path, pictures: Callable[..., Path], tiny: Any) -> None:
    folder = pictures(3)
    with osler.Collection.create(tmp_path / "cases.osler", encoder=tiny) as cases:
        cases.add(folder, progress=False)
        (folder / "1.png").unlink()
        (folder / "2.png").write_bytes(b"no picture any more")
        _, page = written(cases.search(like="0.png"), tmp_path / "hits.html")
        assert len(page.pictures()) == 1
        assert sum("its file is not where it was" in piece for piece in page.text) == 2


def test_the_frame_that_matched_is_shown(tmp_path: Path, tiny: Any) -> None:
    from osler.decode import read_pixels

    path = str(get_testdata_file("emri_small.dcm", download=False))
    frames = read_pixels(path).frames
    with osler.Collection.create(tmp_path / "cases.osler", encoder=tiny) as cases:
        cases.add(path, progress=False)
        hits = cases.search(vector=cases.part_vectors().vectors[6])
        _, page = written(hits, tmp_path / "hits.html")
    shown = np.asarray(page.pictures()[0].convert("L"), np.float64)
    errors = []
    for frame in frames:
        wide = np.asarray(frame, np.float64)
        errors.append(np.abs(255 * (wide - wide.min()) / (wide.max() - wide.min()) - shown).mean())
    assert int(np.argmin(errors)) == 6
    assert "image, frame 7" in page.text


def test_a_slice_of_a_series_is_shown(tmp_path: Path, tiny: Any) -> None:
    import pydicom

    folder = tmp_path / "series"
    folder.mkdir()
    dataset = pydicom.dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
    for number, level in enumerate((200, 900, 1_600)):
        pixels = np.full((dataset.Rows, dataset.Columns), 100, np.int16)
        pixels[:, : 20 + 30 * number] = level
        dataset.PixelData = pixels.tobytes()
        dataset.SOPInstanceUID = f"1.2.3.{number}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.InstanceNumber = number + 1
        dataset.ImagePositionPatient = [0, 0, number]
        dataset.save_as(folder / f"{number}.dcm")
    with osler.Collection.create(tmp_path / "cases.osler", encoder=tiny) as cases:
        assert cases.add(folder, items="series", progress=False).added == 1
        assert cases.info().parts == 3
        for frame in range(3):
            hits = cases.search(vector=cases.part_vectors().vectors[frame])
            _, page = written(hits, tmp_path / "hits.html")
            shown = np.asarray(page.pictures()[0].convert("L"), np.float64)
            assert abs((shown[60] > 128).sum() - (20 + 30 * frame)) <= 3


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, cases: osler.Collection) -> None:
    cases.add_vectors(["a"], np.eye(8)[:1])
    hits = cases.search(vector=np.ones(8))
    with pytest.raises(IsADirectoryError):
        hits.to_html(tmp_path)
    with pytest.raises(FileNotFoundError, match="folder for hits"):
        hits.to_html(tmp_path / "none" / "hits.html")
    hits.to_html(tmp_path / "hits.html")
    hits[:0].to_html(tmp_path / "hits.html")
    assert "0 cases" in (tmp_path / "hits.html").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cases.osler", "hits.html"]
