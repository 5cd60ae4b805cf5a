"""One item a series: its slices in the order of their positions, its columns those on which the files agree."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import build, path_of
from osler.errors import SourceError
from osler.sources import open_source
from osler.sources import series as series_source

AXIAL = ["1", "0", "0", "0", "1", "0"]


def _slice(i: int, **elements: Any) -> bytes:
    return build(
        np.full((4, 4), 10 * i, np.uint8),
        **{
            "SeriesInstanceUID": "1.2.3",
            "StudyInstanceUID": "1.2",
            "SOPInstanceUID": f"1.2.3.{i + 1}",
            "ImageOrientationPatient": AXIAL,
            "ImagePositionPatient": ["0", "0", str(5 * i)],
            "InstanceNumber": 100 - i,
            "PatientID": "P",
            "Modality": "CT",
            **elements,
        },
    )


def _stack(folder: Path, count: int = 6, **elements: Any) -> Path:
    names = [f"{i:02d}.dcm" for i in range(count)]
    random.Random(7).shuffle(names)
    for i, name in enumerate(names):
        (folder / name).write_bytes(_slice(i, **elements))
    return folder


def _values(source: Any, at: int = 0) -> list[int]:
    return [int(frame[0, 0]) for frame in source.read(source.entries[at]).values]


def test_slices_are_ordered_by_position(tmp_path: Path) -> None:
    source = open_source(_stack(tmp_path), items="series")
    assert len(source) == 1 and len(source.entries[0].members) == 6
    item = source.read(source.entries[0])
    assert _values(source) == [0, 10, 20, 30, 40, 50]
    assert [part.locator.frame for part in item.parts] == list(range(6))
    assert item.key is None and item.metadata["frames"] == 6 and item.metadata["modality"] == "CT"
    assert dict(item.identifiers) == {"patient_id": "P", "study_id": "1.2", "series_id": "1.2.3"}
    assert source.entries[0].size == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert source.entries[0].locator == "00.dcm"


def test_without_geometry_the_number_counts(tmp_path: Path) -> None:
    source = open_source(_stack(tmp_path, ImagePositionPatient=None), items="series")
    assert _values(source) == [50, 40, 30, 20, 10, 0]
    for path in tmp_path.iterdir():
        path.unlink()
    source = open_source(_stack(tmp_path, ImagePositionPatient=None, InstanceNumber=None), items="series")
    assert sorted(_values(source)) == [0, 10, 20, 30, 40, 50]


def test_content_does_not_depend_on_names_and_copies_count_once(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    _stack(one)
    for i, path in enumerate(sorted(one.iterdir())):
        shutil.copy(path, two / f"{99 - i}")
    shutil.copy(one / "00.dcm", two / "copy")
    first, second = (open_source(folder, items="series") for folder in (one, two))
    items = [source.read(source.entries[0]) for source in (first, second)]
    assert items[0].content == items[1].content and len(items[0].content) == 6 * 32
    assert len(items[1].values) == 6
    (two / "more").write_bytes(_slice(9))
    third = open_source(two, items="series")
    assert third.read(third.entries[0]).content != items[0].content


def test_other_files_stay_items_of_their_own(tmp_path: Path) -> None:
    _stack(tmp_path, 3)
    (tmp_path / "other.dcm").write_bytes(_slice(0, SeriesInstanceUID="9"))
    (tmp_path / "none.dcm").write_bytes(_slice(0, SeriesInstanceUID=None))
    shutil.copy(path_of("reportsi.dcm"), tmp_path / "report.dcm")
    (tmp_path / "notes.txt").write_text("text")
    source = open_source(tmp_path, items="series")
    assert {entry.locator: len(entry.members) for entry in source.entries} == {
        "00.dcm": 3,
        "none.dcm": 0,
        "notes.txt": 0,
        "other.dcm": 1,
        "report.dcm": 0,
    }


def test_columns_are_those_on_which_the_files_agree(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / str(i)).write_bytes(_slice(i, BodyPartExamined="HEAD" if i else "NECK", PatientAge="050Y"))
    source = open_source(tmp_path, items="series", keep=["SeriesNumber", "PatientID"])
    metadata = source.read(source.entries[0]).metadata
    assert metadata["age"] == 50 and "body_part" not in metadata and metadata["PatientID"] == "P"


def test_a_bad_slice_fails_its_series_and_says_so(tmp_path: Path) -> None:
    _stack(tmp_path, 3)
    path = tmp_path / "01.dcm"
    path.write_bytes(path.read_bytes()[:-10])
    source = open_source(tmp_path, items="series")
    with pytest.raises(SourceError, match="of the 3 files of a series fails: the file is truncated") as caught:
        source.read(source.entries[0])
    assert caught.value.code == "truncated"


def test_a_series_too_large_to_hold_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(_stack(tmp_path), items="series")
    monkeypatch.setattr(series_source, "KEPT_BYTES", 40)
    item = source.read(source.entries[0])
    assert not isinstance(item.values, tuple)
    assert [int(frame[0, 0]) for frame in item.values] == [0, 10, 20, 30, 40, 50]


def test_metadata_joins_a_series_by_any_of_its_files(tmp_path: Path) -> None:
    _stack(tmp_path, 3)
    for column, values in (("file", ["00.dcm", "02.dcm", "no.dcm"]), ("SOPInstanceUID", ["1.2.3.1", "1.2.3.3", "8"])):
        rows = [{column: value, "label": label} for value, label in zip(values, "xxy", strict=True)]
        source = open_source(tmp_path, items="series", metadata=rows)
        assert source.read(source.entries[0]).metadata["label"] == "x"
        assert source.unmatched_rows == 1


def test_real_series_are_joined() -> None:
    folder = path_of("17106").parent
    source = open_source(folder, items="series")
    assert len(source) == 1
    item = source.read(source.entries[0])
    assert len(item.values) == 4 and item.metadata["modality"] == "CT"
