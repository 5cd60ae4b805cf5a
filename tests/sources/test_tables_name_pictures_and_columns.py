"""Rows name pictures or carry more columns; what is ambiguous or identifies a person is refused."""

from __future__ import annotations

import io
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from dicom_files import build
from osler.sources import open_source
from osler.sources.identifiers import IDENTIFYING
from PIL import Image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, name in enumerate(("a/1.png", "a/2.png", "b/1.png", "b/3.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        stream = io.BytesIO()
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(stream, "PNG")
        (tmp_path / name).write_bytes(stream.getvalue())
    (tmp_path / "b" / "scan.dcm").write_bytes(build(np.zeros((4, 4), np.uint8), SOPInstanceUID="1.2.3", PatientID="P1"))
    return tmp_path


def _items(source: Any) -> dict[str, dict[str, Any]]:
    return {entry.locator: dict(source.read(entry).metadata) for entry in source.entries}


def _labels(source: Any) -> dict[str, Any]:
    return {name: row["label"] for name, row in _items(source).items() if "label" in row}


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ({"key": ["x", "y"]}, {"file": ["a/1.png", "3.png"]}),
        ({"path": ["old/a/1.png"]}, {"filename": ["a/1.png"]}),
        ({"file": ["other"]}, {"filename": ["3.png"]}),
    ],
)
def test_a_join_on_the_wrong_column_is_refused(folder: Path, wrong: Any, right: Any) -> None:
    labels = {"label": ["effusion", "none"][: len(next(iter(wrong.values())))]}
    (first,), (second,) = wrong, right
    message = f"joined on its column '{first}', which fits no file, while '{second}' would"
    with pytest.raises(ValueError, match=message):
        open_source(folder, metadata=pl.DataFrame(wrong | right | labels))
    assert "effusion" in _labels(open_source(folder, metadata=pl.DataFrame(right | labels))).values()
    neither = wrong | {second: [f"none{row}" for row in range(len(labels["label"]))]} | labels
    assert open_source(folder, metadata=pl.DataFrame(neither)).unmatched_rows == len(labels["label"])


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_a_table_names_pictures_keys_and_columns(folder: Path, suffix: str) -> None:
    table = pl.DataFrame(
        {
            "key": ["0012", "0013", "0014"],
            "file": ["a/1.png", "./b/1.png", "b/scan.dcm"],
            "label": ["effusion", None, "none"],
            "score": [0.5, 1.5, None],
            "patient_id": ["7", "7", "8"],
        }
    )
    path = folder / f"cases{suffix}"
    if suffix == ".parquet":
        table.write_parquet(path)
    else:
        table.write_csv(path, separator="\t" if suffix == ".tsv" else ",")
    source = open_source(path)
    assert source.root == folder
    items = [source.read(entry) for entry in source.entries]
    assert [item.key for item in items] == ["0012", "0013", "0014"]
    assert [item.locator for item in items] == ["a/1.png", "b/1.png", "b/scan.dcm"]
    assert items[0].metadata["label"] == "effusion" and items[1].metadata["label"] is None
    assert items[0].metadata["rows"] == 4 and items[2].metadata["modality"] == "OT"
    assert items[0].metadata["score"] == 0.5 and items[2].metadata["score"] is None
    assert "patient_id" not in items[0].metadata and items[0].identifiers["patient_id"] == "7"
    # The table's word goes before the header's.
    assert items[2].identifiers["patient_id"] == "8"


def test_a_table_without_keys_uses_paths(folder: Path) -> None:
    (folder / "t.csv").write_text("path,label\na/1.png,x\nb/scan.dcm,y\nb/nothing.png,z\n")
    source = open_source(folder / "t.csv")
    assert [source.read(entry).key for entry in source.entries[:2]] == ["a/1.png", None]
    assert source.entries[2].size == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("picture,label\na/1.png,x\n", "no column path, file or filename"),
        ("file,label\na/1.png,x\na/1.png,y\n", "rows 1 and 2"),
        ("key,file\nk,a/1.png\nk,a/2.png\n", "rows 1 and 2"),
        ("key,file\n,a/1.png\n", "row 1"),
        ("file,PatientName\na/1.png,Doe\n", "PatientName"),
        ("file,StudyInstanceUID\na/1.png,1.2\n", "rename it to study_id"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(folder: Path, text: str, words: str) -> None:
    (folder / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        open_source(folder / "t.csv")
    assert "Doe" not in str(caught.value) and "1.2" not in str(caught.value)


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("key", ["a/1.png", "b/3.png", "c"], {"a/1.png": 0, "b/3.png": 1}),
        ("path", ["./a/1.png", "b\\3.png", "c"], {"a/1.png": 0, "b/3.png": 1}),
        ("file", ["2.png", "3.png", "c"], {"a/2.png": 0, "b/3.png": 1}),
        ("filename", ["2.png", "b/1.png", "c"], {"a/2.png": 0, "b/1.png": 1}),
        ("SOPInstanceUID", ["1.2.3", "9.9", None], {"b/scan.dcm": 0}),
    ],
)
def test_metadata_joins_on_one_column(folder: Path, column: str, values: list[str], expected: dict[str, int]) -> None:
    frame = pl.DataFrame({column: values, "label": range(3)})
    frame.write_csv(folder.parent / "labels.csv")
    for metadata in (
        frame,
        frame.to_pandas(),
        frame.to_dicts(),
        frame.to_dict(as_series=False),
        folder.parent / "labels.csv",
    ):
        source = open_source(folder, metadata=metadata)
        assert _labels(source) == expected
        assert source.unmatched_rows == 3 - len(expected)


def test_a_pandas_frame_without_arrow_is_taken(folder: Path) -> None:
    source = open_source(folder, metadata=pd.DataFrame({"file": ["2.png"], "label": [3]}))
    assert _labels(source) == {"a/2.png": 3}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"file": "1.png", "label": 1}], "more than one file"),
        ([{"key": "a", "label": 1}, {"key": "a", "label": 2}], "rows 1 and 2"),
        ([{"picture": "a"}], "no column key, path"),
        ([{"file": "2.png", "patient_name": "Doe"}], "patient_name"),
        ([{"file": "2.png", "AccessionNumber": "77"}], "AccessionNumber"),
        ([{"file": "2.png", "box": {"x": 1}}], "box"),
    ],
)
def test_metadata_that_is_ambiguous_or_identifies_is_refused(
    folder: Path, rows: list[dict[str, Any]], words: str
) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        open_source(folder, metadata=rows)
    assert "Doe" not in str(caught.value) and "77" not in str(caught.value)


def test_a_column_that_is_to_be_kept_is_accepted(folder: Path) -> None:
    rows = [{"file": "2.png", "patient_name": "Doe", "PatientID": "4"}]
    source = open_source(folder, metadata=rows, keep=["patient_name", "PatientID"])
    row = _items(source)["a/2.png"]
    assert row["patient_name"] == "Doe" and row["PatientID"] == "4"
    # The same name is a DICOM keyword and is kept from headers too.
    assert _items(source)["b/scan.dcm"]["PatientID"] == "P1"


def test_every_spelling_of_an_identifier_is_caught(folder: Path) -> None:
    for name in ("PatientName", "patient_name", "PATIENT NAME", "patient-name", "Patient.Name"):
        with pytest.raises(ValueError, match="identify a person"):
            open_source(folder, metadata=[{"file": "2.png", name: "x"}])
    assert {"patientname", "patientid", "accessionnumber", "patientbirthdate", "institutionname"} <= IDENTIFYING
    assert not {"modality", "label", "split", "age", "sex", "year", "manufacturer", "rows"} & IDENTIFYING


def test_values_of_any_table_become_plain(folder: Path) -> None:
    frame = pl.DataFrame({"file": ["2.png"], "seen": [date(2020, 1, 2)], "labels": [["a", "b"]], "rows": [9]})
    row = _items(open_source(folder, metadata=frame))["a/2.png"]
    assert row["seen"] == "2020-01-02" and row["labels"] == ["a", "b"] and row["rows"] == 9


def test_a_table_that_is_no_table_is_refused_without_a_word_of_it(folder: Path) -> None:
    (folder / "t.parquet").write_bytes(b"PAR1 Doe^John PAR1")
    (folder / "u.csv").write_bytes(b"file,label\nDoe,1,2,3\n\xff\xfe")
    for name in ("t.parquet", "u.csv"):
        with pytest.raises(ValueError) as caught:
            open_source(folder, metadata=folder / name)
        assert "Doe" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="gone"):
        open_source(folder, metadata=folder / "gone.csv")
    with pytest.raises(ValueError, match="only source"):
        open_source([folder / "u.csv", folder])
